"""p-values of the Gaussian null: P(p ≤ u) at sample sizes that the table was not made from.

Gaussian samples are fitted and their likelihood ratios turned into p-values by the shipped table. Every share must be
within binomial limits (3.5 standard errors) of u, and the randomised
p-value, uniform on (1 − atom, 1) where LR = 0, must pass Kolmogorov–Smirnov. Sizes beyond the table take its last one
and may only be conservative.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from gradnoise.analyzer.stats import _engine, _fit, _null

LEVELS = (0.1, 0.05, 0.01, 0.001)
CASES = (
    # n, samples, located
    (150, 120_000, False),
    (777, 40_000, False),
    (2500, 20_000, False),
    (40, 120_000, True),
    (150, 60_000, True),
    (777, 20_000, True),
    (100_000, 400, False),
    (1_000_000, 60, False),
)
KS_SAMPLES = 20_000


def p_values(n: int, samples: int, located: bool, rng: np.random.Generator) -> np.ndarray:
    """p-values of Gaussian samples."""
    step = max(1, 2_000_000 // n)
    ratios = []
    for low in range(0, samples, step):
        x = rng.standard_normal((min(step, samples - low), n))
        rows = _engine.fit_rows(x, located=located, threads=1)
        ratios.append(np.maximum(2 * (rows[:, _fit.LOGLIK] - rows[:, _fit.GAUSS_LOGLIK]), 0.0))
    return _null.p_value(np.concatenate(ratios), n, located=located)


def main() -> None:
    """Print the table; assert the bands."""
    print("| n | location | samples | P(p = 1) |" + "".join(f" P(p ≤ {u}) |" for u in LEVELS) + " KS p |")
    print("|---|---|---|---|" + "---|" * (len(LEVELS) + 1))
    missed = []
    for index, (n, samples, located) in enumerate(CASES):
        rng = np.random.default_rng([1, index])
        p = p_values(n, samples, located, rng)
        beyond = n > _null.null().n[-1]
        shares = [float(np.mean(p <= u)) for u in LEVELS]
        above = float(_null.p_value(1e-300, n, located=located))  # 1 − atom
        randomised = np.where(p < 1, p, rng.uniform(above, 1.0, samples))
        ks = float(stats.kstest(randomised[:KS_SAMPLES], "uniform").pvalue)
        cells = " ".join(f"{share:.4f} |" for share in shares)
        print(
            f"| {n} | {'fitted' if located else '0'} | {samples} | {np.mean(p == 1):.4f} | {cells} {ks:.3f} |",
            flush=True,
        )
        for u, share in zip(LEVELS, shares, strict=True):
            limit = 3.5 * math.sqrt(u * (1 - u) / samples)
            if share - u > limit or (u - share > limit and not beyond):
                missed.append(f"n = {n}, location {located}: P(p ≤ {u}) = {share:.5f}")
        if ks < 0.001 and not beyond:
            missed.append(f"n = {n}, location {located}: KS p = {ks:.2g}")
    assert not missed, "; ".join(missed)


if __name__ == "__main__":
    main()
