"""Every estimator of α at n = 1000: processor time, and root-mean-square error over the Cramér–Rao bound.

Times are of the calling thread, best of several rounds over the same samples, one call a sample. The bound is that of
an unbiased estimator with the scale unknown; near α = 2 an estimator that is cut at 2 may be better than it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gradnoise.analyzer.stats import estimators, stable

N, SAMPLES, ROUNDS = 1000, 1000, 3
CRAMER_RAO = {1.3: 1.418, 1.7: 1.502, 1.9: 1.127}
"""sd · √n of an efficient estimator of α, σ unknown."""


def _timed(function: Callable[[Any], Any], samples: Any) -> tuple[list[Any], float]:
    best, found = math.inf, []
    for _ in range(ROUNDS):
        start = time.thread_time()
        found = [function(x) for x in samples]
        best = min(best, time.thread_time() - start)
    return found, best / len(samples)


def main() -> None:
    rng = np.random.default_rng(51)
    functions: dict[str, Callable[[Any], Any]] = {
        "stable.fit": lambda x: stable.fit(x).alpha,
        "ecf": estimators.ecf,
        "quantile": estimators.quantile,
        "log_moment": estimators.log_moment,
        "block_sum": lambda x: estimators.block_sum(x, rng=rng),
        "mmo": estimators.mmo,
    }
    samples = {alpha: stable.rvs(alpha, 1.0, (SAMPLES, N), rng) for alpha in CRAMER_RAO}
    for function in functions.values():
        function(samples[1.3][0])  # compile and load
    print(f"n = {N}, {SAMPLES} samples; estimates that are no number (log_moment) are left out\n")
    print("| estimator | " + " | ".join(f"ms at α = {a}" for a in CRAMER_RAO) + " | ", end="")
    print(" | ".join(f"RMSE/bound at {a}" for a in CRAMER_RAO) + " |")
    print("|---|" + "---|" * (2 * len(CRAMER_RAO)))
    for name, function in functions.items():
        times, errors = [], []
        for alpha, bound in CRAMER_RAO.items():
            found, seconds = _timed(function, samples[alpha])
            value = np.array([e.value for e in found])
            value = value[np.isfinite(value)]
            times.append(f"{1e3 * seconds:.3f}")
            errors.append(f"{math.sqrt(np.mean((value - alpha) ** 2) * N) / bound:.2f}")
        print(f"| {name} | " + " | ".join(times + errors) + " |", flush=True)


if __name__ == "__main__":
    main()
