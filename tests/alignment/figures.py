"""``make alignment-figures``: the studies of ``docs/alignment.md`` anew, tables into the page, pictures beside it.

Every measured number stands beside the one of the dense matrices in float64. Needs matplotlib (the group ``bench``).
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image
from torch import nn

from gradnoise.studies import anisotropic_noise, hessian_covariance

from .data import Data, digits, disc, fashion
from .exact import Dense, dense

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradnoise.analyzer.report import AlignmentRow
    from gradnoise.studies import Measurement

    from .exact import Floats

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "alignment.md"
IMAGES = DOCS / "images"
STEPS = (0, 30, 100, 300, 1000, 3000, 10000)
STATES = (0, 1000, 3000)
BATCHES = (1, 8, 64)
TOP, DRAWS = 20, 512
NAMES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton"}


@dataclass(frozen=True)
class Hidden:
    """One of the two trainings of the network of 100 hidden units."""

    title: str
    model: nn.Module
    loss_fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def hidden() -> tuple[Hidden, Hidden]:
    """100 ReLU units: fixed output weights and a clipped square loss; everything trained, with the logistic loss."""

    def layers() -> tuple[nn.Module, nn.Linear]:
        torch.manual_seed(0)
        last = nn.Linear(100, 1).double()
        return nn.Sequential(nn.Linear(2, 100).double(), nn.ReLU(), last), last

    fixed, last = layers()
    with torch.no_grad():
        last.weight.copy_(torch.tensor([1.0, -1.0]).repeat(50)[None] / 10)
        last.bias.fill_(0.5)
    last.requires_grad_(False)

    def clipped(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (out.squeeze(-1).clamp(0.1, 0.9) - y).square().mean()

    def logistic(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(out.squeeze(-1), y)

    return Hidden("output layer fixed, square loss", fixed, clipped), Hidden(
        "all trained, logistic loss", layers()[0], logistic
    )


def anisotropic() -> str:
    """Zhu et al. 2019: the tables, and the picture."""
    data, size = disc(), 50
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), constrained_layout=True)
    text = []
    for line, case in zip(axes, hidden(), strict=True):
        exact: dict[int, Dense] = {}
        found: dict[int, Measurement] = {}
        optimizer = torch.optim.SGD([p for p in case.model.parameters() if p.requires_grad], lr=0.1)
        before = 0
        for step in STEPS:
            # One study of one step each: the dense matrices are of the same parameters.
            (measured,) = anisotropic_noise(
                case.model,
                case.loss_fn,
                *data,
                optimizer,
                steps=(step - before,),
                batch_size=size,
                top=10,
                draws=DRAWS,
                vectors=DRAWS + 16,
                seed=step,
            ).values()
            found[step], exact[step], before = measured, dense(case.model, case.loss_fn, *data), step
        text.append(f"**{case.title}**, d = {found[0].row.dimension}\n\n{_anisotropic_table(found, exact, size)}")
        _anisotropic_picture(line, case.title, found, exact, size)
    _save(figure, "anisotropic")
    return "\n\n".join(text)


def _isotropic(truth: Dense, size: int) -> tuple[float, float]:
    """Tr(HΣ), and Tr H Tr Σ / d."""
    sigma = truth.noise(size, replacement=True)
    h = truth.hessian
    return float(np.trace(h @ sigma)), float(np.trace(h) * np.trace(sigma) / len(h))


def _anisotropic_table(found: dict[int, Measurement], exact: dict[int, Dense], size: int) -> str:
    head = (
        "step",
        "F",
        "Tr(HΣ)",
        "dense",
        "isotropic, dense",
        "gain",
        "dense",
        "null",
        "projection 1",
        "overlap of 10",
        "γ",
    )
    rows = []
    for step, each in found.items():
        mixed, flat = _isotropic(exact[step], size)
        gain = each["anisotropy_gain"]
        rows.append(
            (
                str(step),
                f"{each.row.loss:.3f}",
                shown(each["trace_h_sigma"], ".2e"),
                f"{mixed:.2e}",
                f"{flat:.1e}",
                shown(gain, ".0f"),
                f"{mixed / flat:.0f}",
                f"{gain.null_low:.1f} to {gain.null_high:.1f}",
                shown(each["projection_coefficient"]),
                shown(each["subspace_overlap"]),
                shown(each["gamma"]),
            )
        )
    held = sum(
        each[metric].low <= number <= each[metric].high
        for step, each in found.items()
        for metric, number in zip(("trace_h_sigma", "anisotropy_gain"), _exact_pair(exact[step], size), strict=True)
    )
    return (
        f"{table(head, rows)}\n\n{held} of {2 * len(found)} intervals of Tr(HΣ) and of the gain hold the dense value."
    )


def _exact_pair(truth: Dense, size: int) -> tuple[float, float]:
    """Tr(HΣ) and the gain."""
    mixed, flat = _isotropic(truth, size)
    return mixed, mixed / flat


def _anisotropic_picture(
    axes: Any, title: str, found: dict[int, Measurement], exact: dict[int, Dense], size: int
) -> None:
    steps = [max(step, 10) for step in found]  # the first stands at 10
    both = np.array([_isotropic(truth, size) for truth in exact.values()])
    left, middle, right = axes
    left.loglog(steps, both[:, 0], color="C0", label="Tr(HΣ), dense")
    left.loglog(steps, both[:, 1], ":", color="C0", label="Tr H Tr Σ / d, dense")
    _bars(left, steps, [each["trace_h_sigma"] for each in found.values()], "C1", f"measured, {DRAWS} draws")
    left.set_title(title, fontsize=9)
    middle.semilogx(steps, both[:, 0] / both[:, 1], color="C0", label="gain, dense")
    gains = [each["anisotropy_gain"] for each in found.values()]
    _bars(middle, steps, gains, "C1", "measured")
    middle.fill_between(steps, [g.null_low for g in gains], [g.null_high for g in gains], color="0.8", label="null")
    middle.set_ylim(bottom=0)
    _bars(right, steps, [each["projection_coefficient"] for each in found.values()], "C1", "projection coefficient 1")
    _bars(right, steps, [each["subspace_overlap"] for each in found.values()], "C2", "subspace overlap, 10")
    right.axhline(1, color="0.7", lw=0.8)
    right.set_xscale("log")
    right.set_ylim(bottom=0)
    for each in axes:
        each.set_xlabel("step (0 drawn at 10)")
        each.legend(fontsize=7)


def covariance(data: Data, name: str, widths: tuple[int, ...], batches: tuple[int, ...], *, exactly: bool) -> str:
    """Xie et al. 2022, figure 1: the table, and the picture."""
    torch.manual_seed(0)
    inputs, targets = data
    sizes = (inputs.shape[1], *widths, 10)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    states = STATES if exactly else STATES[:2]
    figure, axes = plt.subplots(len(states), 2, figsize=(9, 3.2 * len(states)), constrained_layout=True)
    rng, rows, taken = torch.Generator().manual_seed(1), [], 0
    held = np.zeros(2, int)
    for step, line in zip(states, axes, strict=True):
        for _ in range(step - taken):
            batch = torch.randint(len(inputs), (32,), generator=rng)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
        taken = step
        for axis, matrix in zip(line, NAMES, strict=True):
            found = hessian_covariance(
                model,
                nn.functional.cross_entropy,
                inputs,
                targets,
                batch_sizes=batches,
                top=TOP,
                draws=DRAWS,
                matrix=matrix,
                vectors=TOP + DRAWS + 6 if exactly else None,
            )
            truth = None
            if exactly:
                double = nn.Sequential(*layers[:-1]).double()
                truth = dense(double, nn.functional.cross_entropy, inputs.double(), targets, matrix=matrix)
                model.float()
            rows += _covariance_rows(step, matrix, found, truth)
            held += _held(found, truth)
            _covariance_picture(axis, f"{name}, {NAMES[matrix]}, step {step}", found, truth)
            print(f"{name} {matrix} {step}: {time.process_time():.0f} s", file=sys.stderr, flush=True)
    _save(figure, f"covariance_{name}")
    head = ["θ", "matrix", "B", "γ", *(["dense"] if exactly else []), "slope B c/λ", *(["dense"] if exactly else [])]
    head += ["off-diagonal", *(["dense"] if exactly else []), "Pearson of logs", "gain", "cosine"]
    said = f"\n\n{held[0]} of {held[1]} intervals of c_ii hold the dense value." if exactly else ""
    return table(head, rows) + said


def _held(found: dict[int, Measurement], truth: Dense | None) -> tuple[int, int]:
    """How many intervals of c_ii hold the dense value, and of how many."""
    if truth is None:
        return 0, 0
    c = np.diag(_inside(truth, TOP)[1])
    inside = [
        reading.low <= exact / size <= reading.high
        for size, each in found.items()
        for reading, exact in zip(each.each("variance"), c, strict=True)
    ]
    return sum(inside), len(inside)


def _covariance_rows(
    step: int, matrix: str, found: dict[int, Measurement], truth: Dense | None
) -> list[tuple[str, ...]]:
    exact = None if truth is None else _exactly(truth)
    rows = []
    for size, each in found.items():
        dense_cells = [""] * 3 if exact is None else [f"{number:.2f}" for number in exact]
        cells = [shown(each[metric]) for metric in ("gamma", "slope", "off_diagonal")]
        both = [cell for pair in zip(cells, dense_cells, strict=True) for cell in (pair if exact else pair[:1])]
        rows.append(
            (
                "initial" if step == 0 else f"step {step}",
                NAMES[matrix],
                str(size),
                *both,
                shown(each["pearson"]),
                shown(each["anisotropy_gain"], ".0f"),
                shown(each["matrix_cosine"]),
            )
        )
    return rows


def _inside(truth: Dense, k: int) -> tuple[Floats, Floats]:
    """The k leading eigenvalues, and C in the basis of their eigenvectors."""
    values, vectors = truth.pairs(k)
    return values, vectors.T @ truth.covariance @ vectors


def _exactly(truth: Dense) -> tuple[float, float, float]:
    """γ by regression of the logs, the geometric mean of B c_ii / λ_i, the share of squares off the diagonal."""
    values, inside = _inside(truth, TOP)
    c = np.diag(inside)
    gamma = np.polyfit(np.log(values), np.log(c), 1)[0]
    return float(gamma), float(np.exp(np.log(c / values).mean())), float(1 - (c**2).sum() / (inside**2).sum())


def _covariance_picture(axis: Any, title: str, found: dict[int, Measurement], truth: Dense | None) -> None:
    if truth is not None:
        values, inside = _inside(truth, 100)
        axis.loglog(values, np.diag(inside), "x", color="0.6", ms=3, label="dense, first 100", zorder=0)
    for number, (size, each) in enumerate(found.items()):
        x, readings = each.row.eigenvalues, each.each("variance")
        scaled = [(size * r.value, size * r.low, size * r.high) for r in readings]
        value, low, high = (np.array(part) for part in zip(*scaled, strict=True))
        gamma = shown(each["gamma"])
        axis.errorbar(
            x * 1.03 ** (number - 1),
            value,
            [value - low, high - value],
            fmt=".",
            ms=3,
            lw=0.7,
            color=f"C{number}",
            label=f"B = {size}, γ = {gamma}",
        )
    ends = np.array(axis.get_xlim())
    axis.plot(ends, ends, color="k", lw=0.6, label="C = H")
    axis.set(xscale="log", yscale="log", xlabel="λ", ylabel="B c", title=title)
    axis.title.set_fontsize(9)
    axis.legend(fontsize=6)


def _bars(axis: Any, steps: list[int], readings: list[AlignmentRow], color: str, label: str) -> None:
    value, low, high = (np.array([getattr(r, end) for r in readings]) for end in ("value", "low", "high"))
    axis.errorbar(steps, value, [value - low, high - value], fmt="o", ms=3, lw=1, color=color, label=label)


def shown(reading: AlignmentRow, form: str = ".2f") -> str:
    """A reading with its interval, which may be cut at the end of its range; its status where there is no value."""
    if reading.status not in ("ok", "at_boundary"):
        return reading.status
    cut = " (cut)" if reading.status == "at_boundary" else ""
    return f"{reading.value:{form}} [{reading.low:{form}}, {reading.high:{form}}]{cut}"


def table(head: Any, rows: Any) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _save(figure: Any, name: str) -> None:
    """Write a picture of few colours: a fraction of the bytes of an SVG with this many marks."""
    IMAGES.mkdir(exist_ok=True)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=110)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(64).save(IMAGES / f"{name}.png", optimize=True)


def _insert(name: str, text: str) -> None:
    """Put a text between its marks in the page."""
    page = PAGE.read_text()
    begin, end = f"<!-- {name}: made by make alignment-figures -->", f"<!-- end of {name} -->"
    if begin not in page or end not in page:
        raise SystemExit(f"{PAGE} has no marks {begin} and {end}")
    head, rest = page.split(begin)
    _, tail = rest.split(end)
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def main(names: list[str]) -> None:
    mpl.rcParams["font.size"] = 8
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], str]] = {
        "anisotropic": anisotropic,
        "digits": lambda: covariance(digits(), "digits", (24, 24), BATCHES, exactly=True),
        "fashion": lambda: covariance(fashion(), "fashion", (32, 32), (64,), exactly=False),
    }
    unknown = set(names) - set(parts)
    if unknown:
        raise SystemExit(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(parts)}")
    for name in names or ["anisotropic", "digits"]:
        begun = time.perf_counter()
        text = parts[name]()
        machine = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} shared cores, PyTorch {torch.__version__}"
        _insert(
            name,
            f"{machine}, {time.perf_counter() - begun:.0f} s: `python -m tests.alignment.figures {name}`\n\n{text}",
        )


if __name__ == "__main__":
    main(sys.argv[1:])
