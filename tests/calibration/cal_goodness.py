"""Goodness of fit by parametric bootstrap: level under the law itself, and power of SαS against other laws.

Level: 500 samples of 200 values with 99 replicates each; P(p ≤ u) within 3 binomial standard errors of u at 0.05, 0.1.
The table that stands for the bootstrap of SαS in a verdict (``Evidence.stable_p``) is held to the same at three sizes,
with and without a location. Power: how often SαS is rejected at 5 %, 100 samples with 99 replicates; t₃ and Gaussian
values on four scales at n = 5000 at least 90 %.
"""

from __future__ import annotations

import math

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, _laws, _null, goodness
from gradnoise.analyzer.stats.goodness import Distance, Law, goodness_of_fit
from tests.calibration.cal_verdict import FINITE, HARD

OUTER, REPLICATES, SIZE = 500, 99, 200
OWN = {
    "SαS, α = 1.5": (Law.STABLE, (1.5, 1.0, 0.0)),
    "SαS, α = 1.95": (Law.STABLE, (1.95, 1.0, 0.0)),
    "Gaussian": (Law.GAUSSIAN, (1.0, 0.0)),
    "Student t, ν = 4": (Law.STUDENT_T, (4.0, 1.0, 0.0)),
    "Laplace": (Law.LAPLACE, (1.0, 0.0)),
}
AGAINST = (
    "Student t, ν = 3",
    "Student t, ν = 5",
    "lognormal(1) scale mixture",
    "Laplace",
    "lognormal(2) scale mixture",
    "Gaussian, scales 1, 4, 16, 64",
    "Gaussian, scales 1, 5, 25",
)
MUST = ("Student t, ν = 3", "Gaussian, scales 1, 4, 16, 64")
TABLE_SAMPLES = {50: 4000, 500: 4000, 5000: 1000}


def tabulated(alpha: float, n: int, location: bool, rng: np.random.Generator) -> np.ndarray:
    """p-values of SαS samples by the table."""
    x = _laws.rvs(Law.STABLE, (alpha, 1.0, 0.0), TABLE_SAMPLES[n] * n, rng).reshape(-1, n)
    rows = _engine.fit_rows(x, located=location, least=2, threads=1)
    p = []
    for u, row in zip(x, rows, strict=True):
        fitted = float(row[_fit.ALPHA]), math.exp(row[_fit.LOG_SCALE]), float(row[_fit.LOCATION]) if location else 0.0
        p.append(_null.stable_p_value(goodness.anderson_darling(Law.STABLE, fitted, u), fitted[0]))
    return np.array(p)


def main() -> None:
    """Print both tables; assert the bands."""
    missed = []
    print(f"Level at n = {SIZE}, {OUTER} samples:\n")
    print("| law | distance | P(p ≤ 0.05) | P(p ≤ 0.1) |")
    print("|---|---|---|---|")
    for index, (name, (law, parameters)) in enumerate(OWN.items()):
        for distance in Distance:
            rng = np.random.default_rng([6, index])
            p = np.empty(OUTER)
            for i in range(OUTER):
                x = _laws.rvs(law, parameters, SIZE, rng)
                p[i] = goodness_of_fit(x, law, rng=rng, distance=distance, replicates=REPLICATES).p_value
            shares = {u: float(np.mean(p <= u)) for u in (0.05, 0.1)}
            print(f"| {name} | {distance} | {shares[0.05]:.3f} | {shares[0.1]:.3f} |", flush=True)
            for u, share in shares.items():
                if abs(share - u) > 3 * math.sqrt(u * (1 - u) / OUTER):
                    missed.append(f"{name}, {distance}: P(p ≤ {u}) = {share:.3f}")
    print("\nThe table of SαS, P(p ≤ 0.05):\n")
    print("| α | location |" + "".join(f" n = {n} |" for n in TABLE_SAMPLES))
    print("|---|---|" + "---|" * len(TABLE_SAMPLES))
    for alpha in (0.8, 1.25, 1.5, 1.75, 1.93):
        for location in (False, True):
            cells = []
            for n, samples in TABLE_SAMPLES.items():
                p = tabulated(alpha, n, location, np.random.default_rng([8, int(100 * alpha), n, location]))
                cells.append(f"{np.mean(p <= 0.05):.3f}")
                # 3 binomial standard errors, and 1 % for what changes with the size
                if abs(np.mean(p <= 0.05) - 0.05) > 0.01 + 3 * math.sqrt(0.05 * 0.95 / samples):
                    missed.append(f"table, α = {alpha}, location {location}, n = {n}: {cells[-1]}")
            print(f"| {alpha} | {'fitted' if location else '0'} | {' | '.join(cells)} |", flush=True)
    print("\nSαS rejected at 5 %, 100 samples:\n")
    print("| truth | n = 1000, ad | n = 1000, ks | n = 5000, ad | n = 5000, ks |")
    print("|---|---|---|---|---|")
    laws = {**FINITE, **HARD}
    for index, name in enumerate(AGAINST):
        cells = []
        for n in (1000, 5000):
            for distance in Distance:
                rng = np.random.default_rng([7, index, n])
                found = [
                    goodness_of_fit(laws[name](n, rng), rng=rng, distance=distance, replicates=REPLICATES).p_value
                    for _ in range(100)
                ]
                cells.append(f"{np.mean(np.array(found) <= 0.05):.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if name in MUST and float(cells[2]) < 0.9:
            missed.append(f"power against {name}: {cells[2]}")
    assert not missed, "; ".join(missed)


if __name__ == "__main__":
    main()
