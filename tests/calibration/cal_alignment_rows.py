"""Coverage of the 95 % intervals of alignment the whole way: ``analyse()`` on rows of curvature, two laws of noise.

The noise is Gaussian or SαS(1.7), of dimension 100, independent along the eigenvectors of H, with scales λ_i^(γ/2); 16
eigenpairs and 16 probe vectors are measured, with 128 or 512 draws. For α < 2 there is no covariance: counted is how
often the rows say so, and whether the robust ones hold what they are of: scales (``scale2``, ``gamma_robust``) and
directions of draws (``…_sign``). Promised: all intervals of Gaussian noise, and the robust ones of both, cover 90 to
99.5 %; SαS(1.7) is warned of in 99 % of the measurements or more, Gaussian noise in at most 8 %. Five cells miss
the band (``docs/alignment.md`` names them): the assertion at the end says so until they do not.
"""

from __future__ import annotations

import collections
import math

import numpy as np
from numpy.typing import NDArray

from gradnoise.analyzer.analysis import analyse
from gradnoise.analyzer.report import AlignmentRow
from gradnoise.analyzer.stats import stable
from gradnoise.analyzer.windows import ClosedWindow, Window
from gradnoise.wire import CurvatureKind, CurvatureRow, Mode, ProductMethod, WindowKind

REPEATS = 200
D, TOP, PROBES, BATCH = 100, 16, 16, 32
VALUES: NDArray[np.float64] = np.asarray(10.0 * np.arange(1, D + 1) ** -0.8, np.float64)
CELLS = tuple((alpha, draws, gamma) for alpha in (2.0, 1.7) for draws in (128, 512) for gamma in (1.0, 1.5))
SHOWN = (
    "gamma",
    "slope",
    "variance",
    "anisotropy_gain",
    "projection_coefficient",
    "subspace_energy",
    "matrix_cosine",
    "tic_trace",
    "b_simple",
    "b_noise",
    "gamma_robust",
    "scale2",
    "anisotropy_gain_sign",
    "subspace_energy_sign",
)
ROBUST = ("gamma_robust", "scale2", "anisotropy_gain_sign", "subspace_energy_sign")

Floats = NDArray[np.float64]


def noise(alpha: float, draws: int, gamma: float, rng: np.random.Generator) -> Floats:
    """Draws × D; of Gaussian noise the variance along v_i is λ_i^γ, of SαS the scale is λ_i^(γ/2)."""
    x = rng.standard_normal((draws, D)) if alpha == 2.0 else stable.rvs(alpha, 1.0, (draws, D), rng)
    found: Floats = x * VALUES ** (gamma / 2)
    return found


def measured(u: Floats, gradient: Floats, basis: Floats, rng: np.random.Generator) -> CurvatureRow:
    """What a collector writes of these draws; signs of the probe vectors are those of another basis than H's."""
    z = rng.choice([-1.0, 1.0], (PROBES, D)) @ basis
    z[:, :TOP] = 0.0
    return CurvatureRow(
        part="*",
        kind=CurvatureKind.HESSIAN,
        dimension=D,
        method=ProductMethod.DOUBLE_BACKWARD,
        mode=Mode.EVAL,
        loss=1.0,
        minibatches=1,
        products=0,
        seconds=0.0,
        window=-1,
        examples=10**6,
        eigenvalues=VALUES[:TOP],
        residuals=np.zeros(TOP),
        draws=len(u),
        batch_size=BATCH,
        sampling="independent",
        replacement=True,
        gram=u @ u.T,
        projections=u[:, :TOP],
        quadratic=u**2 @ VALUES,
        gradient_norm2=float(gradient @ gradient),
        gradient_quadratic=float(gradient**2 @ VALUES),
        gradient_projections=gradient[:TOP],
        trace_samples=z**2 @ VALUES,
        square_samples=z**2 @ VALUES**2,
    )


def rows(row: CurvatureRow) -> tuple[AlignmentRow, ...]:
    """The analysis of a window that holds this measurement."""
    closed = ClosedWindow("cal", "cal", -1, WindowKind.CURVATURE, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    return analyse(Window(closed, 0, (), curvature=(row,))).alignment


def truths(alpha: float, gamma: float, gradient: Floats, rng: np.random.Generator) -> dict[str, float]:
    """What the intervals must hold; NaN where there is nothing to be held."""
    c = VALUES**gamma
    direction = noise(alpha, 100_000, gamma, rng)
    direction **= 2
    direction /= direction.sum(axis=1, keepdims=True)
    shares = direction.mean(axis=0)
    # E ln X² of SαS(σ) is 2 ln σ + 2 C (1/α − 1), of N(0, v) it is ln v − C − ln 2; C is Euler's constant.
    log_scale = 0.0 if alpha == 2.0 else 2 * np.euler_gamma * (1 / alpha - 1) + np.euler_gamma + math.log(2.0)
    found = {
        "gamma": gamma,
        "gamma_robust": gamma,
        "scale2": float(c[0]) * math.exp(log_scale),
        "anisotropy_gain_sign": D * float(shares @ VALUES) / float(VALUES.sum()),
        "subspace_energy_sign": float(shares[:TOP].sum()),
    }
    if alpha < 2.0:
        return dict.fromkeys(SHOWN, math.nan) | found
    trace, product = float(c.sum()), float(c @ VALUES)
    return found | {
        "slope": BATCH * math.exp(float(np.log(c[:TOP] / VALUES[:TOP]).mean())),
        "variance": float(c[0]),
        "anisotropy_gain": D * product / float(VALUES.sum()) / trace,
        "projection_coefficient": float(c[0] / VALUES[0] * VALUES.sum()) / trace,
        "subspace_energy": float(c[:TOP].sum()) / trace,
        "matrix_cosine": product / float(np.linalg.norm(VALUES) * np.linalg.norm(c)),
        "tic_trace": BATCH * trace / float(VALUES.sum()),
        "b_simple": BATCH * trace / float(gradient @ gradient),
        "b_noise": BATCH * product / float(gradient**2 @ VALUES),
    }


def cell(alpha: float, draws: int, gamma: float, repeats: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Metric -> (covered, of), and in how many measurements a row of the covariance warns of heavy tails."""
    rng = np.random.default_rng([11, int(10 * alpha), draws, int(10 * gamma)])
    gradient = 0.1 * rng.standard_normal(D)
    basis = np.linalg.qr(rng.standard_normal((D, D)))[0]
    truth = truths(alpha, gamma, gradient, rng)
    covered: collections.Counter[str] = collections.Counter()
    there: collections.Counter[str] = collections.Counter()
    warned = 0
    for _ in range(repeats):
        found = rows(measured(noise(alpha, draws, gamma, rng), gradient, basis, rng))
        first = {row.metric: row for row in reversed(found) if row.status in ("ok", "at_boundary")}
        warned += any("heavy tails" in text for text in first["trace_sigma"].warnings)
        for name in SHOWN:
            row = first.get(name)
            if row is not None and math.isfinite(truth[name]):
                there[name] += 1
                covered[name] += row.low - 1e-9 <= truth[name] <= row.high + 1e-9  # a cosine of 1 is at the end
    return {name: (covered[name], there[name]) for name in SHOWN}, warned


def main() -> None:
    """Print the table; assert the bands."""
    missed = []
    found = {each: cell(*each, REPEATS) for each in CELLS}
    print(f"covered, in % of {REPEATS} measurements a cell\n")
    heads = [f"{'Gaussian' if a == 2.0 else f'SαS({a})'}, K = {k}, γ = {g}" for a, k, g in CELLS]
    print(f"| number | {' | '.join(heads)} |\n|---|{'---|' * len(CELLS)}")
    for name in SHOWN:
        line = []
        for (alpha, draws, gamma), (counts, _) in found.items():
            covered, of = counts[name]
            line.append(f"{100 * covered / of:.0f}" if of else "–")
            promised = (alpha == 2.0 or name in ROBUST) and of
            if promised and not 0.90 <= covered / of <= 0.995:
                missed.append(f"{name}, α = {alpha}, K = {draws}, γ = {gamma}: {covered / of:.3f}")
        print(f"| `{name}` | {' | '.join(line)} |")
    print(f"| warned of heavy tails | {' | '.join(f'{100 * warned / REPEATS:.0f}' for _, warned in found.values())} |")
    for (alpha, draws, gamma), (_, warned) in found.items():
        share = warned / REPEATS
        if (alpha < 2.0 and share < 0.99) or (alpha == 2.0 and share > 0.08):
            missed.append(f"warned at α = {alpha}, K = {draws}, γ = {gamma}: {share:.3f}")
    assert not missed, "; ".join(missed)


if __name__ == "__main__":
    main()
