"""False rejections of the normality tests, on Gaussian samples of unknown mean and variance.

Promised, within 4.5 binomial standard errors: rates of Anderson–Darling, Lilliefors and χ² between 0.8 and 1.25 times
the level at 10 % and 5 %, and below 1.4 % at 1 %. Jarque–Bera and D'Agostino's K² are measured only: their limit is far
at these sizes.
"""

from __future__ import annotations

import math

import numpy as np

from gradnoise.analyzer.stats import normality
from gradnoise.analyzer.stats.normality import NormalityMethod

SAMPLES = 8000
MEASURED_ONLY = (NormalityMethod.JARQUE_BERA, NormalityMethod.DAGOSTINO)
BANDS = {0.1: (0.08, 0.125), 0.05: (0.04, 0.0625), 0.01: (0.0, 0.014)}


def main() -> None:
    rng = np.random.default_rng(31)
    print(f"{SAMPLES} samples a row; standard error at 5 %: {math.sqrt(0.0475 / SAMPLES):.4f}\n")
    print("| n | test | " + " | ".join(f"P(p ≤ {level})" for level in BANDS) + " |")
    print("|---|---|" + "---|" * len(BANDS))
    missed = []
    for n in (50, 200, 1000):
        for test in normality.tests_columns(rng.normal(3.0, 2.0, (n, SAMPLES))):
            rates = [float(np.mean(test.p_value <= level)) for level in BANDS]
            print(f"| {n} | {test.method} | " + " | ".join(f"{rate:.4f}" for rate in rates) + " |")
            for rate, (level, (low, high)) in zip(rates, BANDS.items(), strict=True):
                slack = 4.5 * math.sqrt(level * (1 - level) / SAMPLES)
                if test.method not in MEASURED_ONLY and not low - slack <= rate <= high + slack:
                    missed.append(f"{test.method} at n = {n}: {rate:.4f} at {level}")
    assert not missed, "; ".join(missed)


if __name__ == "__main__":
    main()
