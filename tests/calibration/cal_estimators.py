"""Standard errors and intervals of the estimators of α against simulation, and their error over the Cramér–Rao bound.

A second table has the coverage of intervals of few values, where warnings are given, 1000 samples an entry; promised is
86 % or more from the number of values on from which there is no warning.

4000 samples a row. Promised at n = 1000 and α = 1.3, 1.7: the mean standard error is 0.9 to 1.15 times the spread of
the estimates and 95 % intervals cover 92 to 97 %. α = 1.9, n = 200 and n = 5000 are measured only: asymptotic intervals
fail near α = 2 (``stable.fit`` has profile intervals).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradnoise.analyzer.stats import DegenerateValues, estimators, stable
from gradnoise.analyzer.stats.estimators import AlphaEstimate

SAMPLES = 4000
CRAMER_RAO = {1.3: 1.418, 1.7: 1.502, 1.9: 1.127}
"""sd · √n of an efficient estimator of α, σ unknown."""


def main() -> None:
    rng = np.random.default_rng(42)

    def block_sum(x: Any) -> AlphaEstimate:
        return estimators.block_sum(x, rng=rng)

    functions: list[Callable[[Any], AlphaEstimate]] = [
        estimators.ecf, estimators.quantile, estimators.log_moment, block_sum, estimators.mmo
    ]  # fmt: skip
    print("| n | α | estimator | mean | RMSE/bound | mean se/sd | covers | σ: mean se/sd | σ: covers |")
    print("|---|---|---|---|---|---|---|---|---|")
    missed = []
    for n in (200, 1000, 5000):
        for alpha, bound in CRAMER_RAO.items():
            if n == 5000 and alpha == 1.3:
                continue
            samples = stable.rvs(alpha, 1.0, (SAMPLES, n), rng)
            for function in functions:
                found = [function(x) for x in samples]
                found = [e for e in found if math.isfinite(e.value) and 0 < e.value < 10]
                value, se = np.array([e.value for e in found]), np.array([e.se for e in found])
                ratio, cover = se.mean() / value.std(), np.mean([e.low <= alpha <= e.high for e in found])
                error = math.sqrt(np.mean((value - alpha) ** 2) * n) / bound
                scales = [e.scale for e in found if e.scale is not None]
                scale = "| – | – |"
                if scales:
                    spread = np.std([math.log(s.value) for s in scales])
                    scale = f"| {np.mean([s.se / s.value for s in scales]) / spread:.3f} "
                    scale += f"| {np.mean([s.low <= 1 <= s.high for s in scales]):.3f} |"
                name = function.__name__
                print(
                    f"| {n} | {alpha} | {name} | {value.mean():.3f} | {error:.2f} | {ratio:.3f} | {cover:.3f} {scale}"
                )
                promised = n == 1000 and alpha < 1.9
                if promised and not (0.9 <= ratio <= 1.15 and 0.92 <= cover <= 0.97):
                    missed.append(f"{name} at α = {alpha}: se/sd {ratio:.3f}, covers {cover:.3f}")
    missed += _few(rng)
    assert not missed, "; ".join(missed)


def _few(rng: np.random.Generator) -> list[str]:
    """Coverage in small samples, and where it falls short of the promise."""
    enough = {estimators.log_moment: 200, estimators.quantile: 100, estimators.ecf: 1000}
    alphas = (0.55, 0.8, 1.0, 1.5, 1.7, 1.9)
    print("\n| n | estimator | " + " | ".join(f"α = {alpha}" for alpha in alphas) + " |")
    print("|---|---|" + "---|" * len(alphas))
    missed = []
    for n in (30, 100, 200, 300, 500, 1000):
        samples = {alpha: stable.rvs(alpha, 1.0, (1000, n), rng) for alpha in alphas}
        for function, least in enough.items():
            covers = []
            for alpha in alphas:
                found = []
                for x in samples[alpha]:
                    with contextlib.suppress(DegenerateValues):
                        found.append(function(x))
                covers.append(float(np.mean([e.low <= alpha <= e.high for e in found])))
            print(f"| {n} | {function.__name__} | " + " | ".join(f"{c:.3f}" for c in covers) + " |", flush=True)
            if n >= least and min(covers) < 0.86:
                missed.append(f"{function.__name__} at n = {n}: covers {min(covers):.3f}")
    return missed


if __name__ == "__main__":
    main()
