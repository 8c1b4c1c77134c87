"""Goodness of fit by parametric bootstrap: level under the law itself, and power of SαS against other laws.

Level: 500 samples of 200 values with 99 replicates each; P(p ≤ u) within 3 binomial standard errors of u at 0.05, 0.1.
Power: how often SαS is rejected at 5 %, 100 samples with 99 replicates; t₃ at n = 5000 at least 90 %.
"""

from __future__ import annotations

import math

import numpy as np

from gradnoise.analyzer.stats import _laws
from gradnoise.analyzer.stats.goodness import Distance, Law, goodness_of_fit
from tests.calibration.cal_verdict import FINITE

OUTER, REPLICATES, SIZE = 500, 99, 200
OWN = {
    "SαS, α = 1.5": (Law.STABLE, (1.5, 1.0, 0.0)),
    "SαS, α = 1.95": (Law.STABLE, (1.95, 1.0, 0.0)),
    "Gaussian": (Law.GAUSSIAN, (1.0, 0.0)),
    "Student t, ν = 4": (Law.STUDENT_T, (4.0, 1.0, 0.0)),
    "Laplace": (Law.LAPLACE, (1.0, 0.0)),
}
AGAINST = ("Student t, ν = 3", "Student t, ν = 5", "lognormal(1) scale mixture", "Laplace")


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
    print("\nSαS rejected at 5 %, 100 samples:\n")
    print("| truth | n = 1000, ad | n = 1000, ks | n = 5000, ad | n = 5000, ks |")
    print("|---|---|---|---|---|")
    for index, name in enumerate(AGAINST):
        cells = []
        for n in (1000, 5000):
            for distance in Distance:
                rng = np.random.default_rng([7, index, n])
                found = [
                    goodness_of_fit(FINITE[name](n, rng), rng=rng, distance=distance, replicates=REPLICATES).p_value
                    for _ in range(100)
                ]
                cells.append(f"{np.mean(np.array(found) <= 0.05):.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if name == "Student t, ν = 3" and float(cells[2]) < 0.9:
            missed.append(f"power against {name}: {cells[2]}")
    assert not missed, "; ".join(missed)


if __name__ == "__main__":
    main()
