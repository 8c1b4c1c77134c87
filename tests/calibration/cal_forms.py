"""Coverage of the group-level 95 % intervals of α on noise matrices whose columns share draws.

Each matrix is read per parameter, across parameters and standardised; a replicate covers if the interval holds what the
form reads in the long run. That is α for columns and rows that are SαS(α); elsewhere it is the α fitted to 200 000
values of a column, or, of rows, the mean of 1/α̂ over all matrices of the case. The last case says which forms see a
tail that all coordinates of a draw share (sub-Gaussian rows √A G are SαS per parameter and Gaussian within a row).

Promised, within 4.5 binomial standard errors: 92 % or more, except where the result itself warns that its interval is
too short. Intervals of Gaussian noise end at 2 and hold the value, so that they cover more often than 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradnoise.analyzer.stats import contrasts, forms, stable

MATRICES = 400
LEAST = 0.92
SCALES = np.exp(np.random.default_rng(1).standard_normal(256))
FORMS = (forms.per_parameter, forms.across_parameter, forms.standardized)


def sub_gaussian(alpha: float, shape: tuple[int, int], rng: np.random.Generator) -> Any:
    """Rows √A G with A positive stable(α/2) (Kanter 1975): every linear combination of the columns is SαS(α)."""
    h = alpha / 2
    angle, waiting = rng.uniform(0, math.pi, (shape[0], 1)), rng.exponential(size=(shape[0], 1))
    positive = np.sin(h * angle) / np.sin(angle) ** (1 / h) * (np.sin((1 - h) * angle) / waiting) ** ((1 - h) / h)
    return np.sqrt(positive) * rng.standard_normal(shape)


def ar1(shape: tuple[int, int], phi: float, rng: np.random.Generator) -> Any:
    """Gaussian rows whose columns are an AR(1) series along the row."""
    noise = rng.standard_normal(shape)
    for j in range(1, shape[1]):
        noise[:, j] = phi * noise[:, j - 1] + math.sqrt(1 - phi**2) * noise[:, j]
    return noise


Make = Callable[[np.random.Generator, tuple[int, int]], Any]
Case = tuple[str, Make, tuple[float | None, float | None, float | None]]

# Name, draws, and what the three forms read: α, or None for the mean over the matrices.
CASES: tuple[Case, ...] = (
    ("SαS(1.7) iid", lambda rng, shape: stable.rvs(1.7, 1.0, shape, rng), (1.7, 1.7, 1.7)),
    (
        "SαS(1.7), lognormal(1) scales",
        lambda rng, shape: stable.rvs(1.7, 1.0, shape, rng) * SCALES[: shape[1]],
        (1.7, None, 1.7),
    ),
    (
        "SαS(1.7), every column four times, common lognormal(0.3) factor of the row",
        lambda rng, shape: (
            np.repeat(stable.rvs(1.7, 1.0, (shape[0], shape[1] // 4), rng), 4, axis=1)
            * np.exp(0.3 * rng.standard_normal((shape[0], 1)))
        ),
        (None, 1.7, 1.7),
    ),
    (
        "Gaussian, lognormal(1) scales",
        lambda rng, shape: rng.standard_normal(shape) * SCALES[: shape[1]],
        (2.0, None, 2.0),
    ),
    (
        "Gaussian, common lognormal(0.5) factor of the row",
        lambda rng, shape: rng.standard_normal(shape) * np.exp(0.5 * rng.standard_normal((shape[0], 1))),
        (None, 2.0, 2.0),
    ),
    (
        "Gaussian, correlation 0.3 between columns",
        lambda rng, shape: (
            math.sqrt(0.3) * rng.standard_normal((shape[0], 1)) + math.sqrt(0.7) * rng.standard_normal(shape)
        ),
        (2.0, 2.0, 2.0),
    ),
    ("Gaussian, AR(1) along the row, 0.8", lambda rng, shape: ar1(shape, 0.8, rng), (2.0, 2.0, 2.0)),
    ("sub-Gaussian rows, α = 1.7", lambda rng, shape: sub_gaussian(1.7, shape, rng), (1.7, 2.0, 2.0)),
)


def main() -> None:
    missed = []
    print(f"{MATRICES} matrices a row; pairs of draws; standard error of a coverage of 95 %: 0.011")
    for draws, columns in ((64, 256), (256, 64)):
        print(f"\n{draws} draws × {columns} columns\n")
        print("| noise | form | reads | in the long run | covered | mean width |\n|---|---|---|---|---|---|")
        for name, make, truths in CASES:
            rng = np.random.default_rng(7)
            noises = [contrasts.pair(make(rng, (draws, columns))) for _ in range(MATRICES)]
            for form, law in zip(FORMS, truths, strict=True):
                results = [form(noise) for noise in noises]
                warned = np.mean([any("too short" in note for note in result.warnings) for result in results]) > 0.5
                readings = [result.alpha for result in results]
                values = np.array([alpha.value for alpha in readings])
                lows, highs = (np.array([getattr(alpha, end) for alpha in readings]) for end in ("low", "high"))
                if not np.isfinite(values).all():
                    print(f"| {name} | {form.__name__} | needs more draws | | | |")
                    continue
                long_run = 1 / float(np.mean(1 / values))
                truth = long_run if law is None else law
                if law is None and form is forms.per_parameter:
                    truth = stable.fit(contrasts.pair(make(rng, (400_000, 4))).noise[:, 0]).alpha.value
                share = float(np.mean((lows <= truth) & (truth <= highs)))
                covers = f"{share:.3f}{', warned' if warned else ''}"
                label = f"{long_run:.3f}" if law is None else f"{long_run:.3f} (law: {law:g})"
                width = float(np.mean(highs - lows))
                print(f"| {name} | {form.__name__} | {label} | {truth:.3f} | {covers} | {width:.3f} |", flush=True)
                if not warned and share < LEAST - 4.5 * math.sqrt(LEAST * (1 - LEAST) / MATRICES):
                    missed.append(f"{form.__name__} of {name}, {draws} draws: {share:.3f}")
    assert not missed, "; ".join(missed)


if __name__ == "__main__":
    main()
