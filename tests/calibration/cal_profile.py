"""Maximum likelihood of SαS: coverage of the profile-likelihood interval of α, and RMSE against the Cramér–Rao bound.

4000 samples a cell. Coverage must be 92 to 97 % (nominal 95 %), also near the boundary α = 2. RMSE of α̂ must be within
5 % of the bound at n = 1000; the bound's sd·√n of α with unknown scale is 1.418, 1.502 and 1.127 at α = 1.3, 1.7 and
1.9, from the expected information of the exact density.
"""

from __future__ import annotations

import math

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, stable

SAMPLES = 4000
SIZES = (500, 1000, 5000)
COVERED = (1.5, 1.8, 1.95)
BOUND = {1.3: 1.418, 1.7: 1.502, 1.9: 1.127}


def fits(alpha: float, n: int, intervals: bool, rng: np.random.Generator) -> np.ndarray:
    """Rows of fits to samples of SαS(α), σ = 1."""
    step = max(1, 2_000_000 // n)
    parts = []
    for low in range(0, SAMPLES, step):
        x = stable.rvs(alpha, 1.0, (min(step, SAMPLES - low), n), rng)
        parts.append(_engine.fit_rows(x, intervals=intervals, threads=1))
    return np.concatenate(parts)


def main() -> None:
    """Print both tables; assert the bands."""
    missed = []
    print("Coverage of the 95 % interval of α; missed low (interval above α) + missed high:\n")
    print("| α |" + "".join(f" n = {n} |" for n in SIZES))
    print("|---|" + "---|" * len(SIZES))
    for i, alpha in enumerate(COVERED):
        cells = []
        for j, n in enumerate(SIZES):
            rows = fits(alpha, n, True, np.random.default_rng([2, i, j]))
            above, below = np.mean(rows[:, _fit.LOW] > alpha), np.mean(rows[:, _fit.HIGH] < alpha)
            covered = 1 - above - below
            cells.append(f"{100 * covered:.1f} % ({100 * above:.1f} + {100 * below:.1f})")
            if not 0.92 <= covered <= 0.97:
                missed.append(f"α = {alpha}, n = {n}: {covered:.4f}")
        print(f"| {alpha} | {' | '.join(cells)} |", flush=True)
    print("\nRMSE of α̂ over the Cramér–Rao bound, n = 1000:\n")
    print("| α | RMSE / bound | bias |")
    print("|---|---|---|")
    for i, (alpha, bound) in enumerate(BOUND.items()):
        found = fits(alpha, 1000, False, np.random.default_rng([3, i]))[:, _fit.ALPHA]
        ratio = math.sqrt(np.mean((found - alpha) ** 2)) / (bound / math.sqrt(1000))
        print(
            f"| {alpha} | {ratio:.3f} ± {ratio / math.sqrt(2 * SAMPLES):.3f} | {found.mean() - alpha:+.4f} |",
            flush=True,
        )
        if abs(ratio - 1) > 0.05:
            missed.append(f"RMSE at α = {alpha}: {ratio:.3f} of the bound")
    assert not missed, "; ".join(missed)


if __name__ == "__main__":
    main()
