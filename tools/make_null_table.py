"""Make ``analyzer/gradnoise/analyzer/stats/_data/null.npz``: what Gaussian noise reads when an SαS law is
fitted to it.

Run ``python tools/make_null_table.py`` (about ten minutes on one core). The table is committed.

Contents
    n              sample sizes
    atom           P(LR = 0), LR = twice the log-likelihood ratio of SαS against Gaussian (both at location 0)
    levels, t      LR exceeds t[i, j] with probability levels[j] at n[i]
    rate           exponential rate of the tail beyond the last level, pooled over n (it does not depend on n visibly)
    located_n, located_atom, located_t, located_rate
                   the same for fits with a location, up to the size from which the location does not matter
    inverse_alpha  mean of 1/α̂ at n (what the per-parameter and across-parameter forms of Gaussian noise average to)
    inverse_sd     standard deviation of 1/α̂ over such samples
    rows, coordinates, standardised
                   mean of 1/α̂ over the rows of a Gaussian matrix (rows x coordinates) whose columns are
                   divided by a scale of their other rows (``leave_one_out``)
    standardised_above, standardised_levels, standardised_t
                   P(LR > 0) of such rows, and the LR they exceed with probability levels[j]
    fit_alpha, fit_levels, fit_distance, fit_rate
                   A² (Anderson-Darling, of sizes) of a sample of SαS(fit_alpha[i]) against the law fitted to it exceeds
                   fit_distance[i, j] with probability fit_levels[j]; exponential rate of the tail beyond the last
Simulation noise is smoothed in n by a polynomial of degree 4 in ln n where that fits (see ``smooth``).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, _law, goodness
from gradnoise.analyzer.stats._laws import Law
from gradnoise.analyzer.stats._standard import leave_one_out

Array = np.ndarray[Any, np.dtype[np.float64]]

TARGET = Path(__file__).resolve().parent.parent / "analyzer/gradnoise/analyzer/stats/_data/null.npz"
SIZES = np.array([16, 20, 25, 32, 45, 64, 90, 128, 200, 350, 600, 1000, 1800, 3500, 8000, 20000, 60000, 200000])
LOCATED_SIZES = SIZES[SIZES <= 1000]
LEVELS = np.array([0.1, 0.07, 0.05, 0.035, 0.025, 0.018, 0.013, 0.009, 0.0065, 0.0045, 0.003, 0.002, 0.0014, 0.001])
ROWS = np.array([8, 16, 24, 32, 48, 64, 96, 128, 256, 512])
COORDINATES = np.array([30, 50, 100, 200, 400, 1000, 4000])
STANDARDISED_LEVELS = np.array([0.3, 0.2, 0.1, 0.05, 0.02])
FIT_ALPHA = np.array([0.5, 0.55, 0.6, 0.7, 0.85, 1.0, 1.2, 1.35, 1.5, 1.6, 1.7, 1.8, 1.85, 1.9, 1.95, 2.0])
FIT_LEVELS = np.array([0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.07, 0.05, 0.035, 0.02, 0.01, 0.005])
FIT_SIZE, FIT_SAMPLES = 1000, 20_000
VALUES_PER_SIZE = 60_000_000
VALUES_PER_SHAPE = 4_000_000
MOST_SAMPLES, LEAST_SAMPLES, MOST_VALUES = 250_000, 12_000, 150_000_000


def ratios(n: int, samples: int, located: bool, rng: np.random.Generator) -> tuple[Array, Array]:
    """LR and 1/α̂ of ``samples`` standard normal samples of size ``n``."""
    lr: list[Array] = []
    inverse: list[Array] = []
    chunk = max(1, 4_000_000 // n)
    for low in range(0, samples, chunk):
        x = rng.standard_normal((min(chunk, samples - low), n))
        for result, values in zip((lr, inverse), ratios_of(x, located), strict=True):
            result.append(values)
    return np.concatenate(lr), np.concatenate(inverse)


def ratios_of(x: Array, located: bool = False) -> tuple[Array, Array]:
    """LR and 1/α̂ of every row."""
    rows = _engine.fit_rows(x, located=located, least=2, threads=1)
    return np.maximum(2 * (rows[:, _fit.LOGLIK] - rows[:, _fit.GAUSS_LOGLIK]), 0), 1 / rows[:, _fit.ALPHA]


def smooth(sizes: Array, values: Array, errors: Array, degree: int = 4) -> Array:
    """Weighted polynomial in ln n through noisy simulated values."""
    u = np.log(sizes)
    u = (u - u.mean()) / np.ptp(u) * 2
    polynomial = np.polynomial.polynomial
    return np.asarray(polynomial.polyval(u, polynomial.polyfit(u, values, degree, w=1 / errors)))


class Simulated(NamedTuple):
    """Null of the likelihood ratio and of 1/α̂ at some sizes, smoothed in n."""

    atom: Array
    t: Array
    rate: float
    inverse: Array
    spread: Array


def simulate(sizes: Array, located: bool, rng: np.random.Generator) -> Simulated:
    """Samples of every size; ``located`` fits a location too."""
    start = time.perf_counter()
    counts, atom, t, excess, inverse, spread = [], [], [], [], [], []
    for n in sizes:
        samples = int(min(MOST_SAMPLES, max(LEAST_SAMPLES, VALUES_PER_SIZE // n), MOST_VALUES // n))
        lr, inv = ratios(int(n), samples, located, rng)
        q = np.quantile(lr, 1 - LEVELS)
        counts.append(samples)
        atom.append(np.mean(lr <= 0))
        t.append(q)
        excess.append(lr[lr > q[-1]] - q[-1])
        inverse.append(inv.mean())
        spread.append(inv.std())
        print(f"{'located, ' if located else ''}n {n}: {samples}, atom {atom[-1]:.4f}, t(.05) {q[2]:.3f},"
              f" t(.001) {q[-1]:.2f}, rate {1 / excess[-1].mean():.3f}, 1/mean(1/alpha) {1 / inverse[-1]:.4f},"
              f" {time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
    rate = 1 / np.concatenate(excess).mean()
    print(f"rate of the tail {rate:.3f}, from {sum(map(len, excess))} samples beyond the last level")
    samples_of = np.array(counts)
    # se of a quantile: sqrt(p / N) / density, with a density of about p / 2 in an exponential tail of rate 1/2.
    raw, t_error = np.array(t), 2 / np.sqrt(LEVELS * samples_of[:, None])
    smoothed = np.stack([smooth(sizes, raw[:, j], t_error[:, j]) for j in range(len(LEVELS))], axis=1)
    print("largest change of t by smoothing, in standard errors:", np.abs((smoothed - raw) / t_error).max())
    smooth_atom = smooth(sizes, np.array(atom), np.sqrt(0.13 / samples_of))
    return Simulated(
        atom=smooth_atom,
        t=np.maximum(smoothed, 0),
        rate=float(rate),
        inverse=smooth(sizes, np.array(inverse), np.array(spread) / np.sqrt(samples_of)),
        spread=np.array(spread),
    )


def distances(rng: np.random.Generator) -> tuple[Array, Array]:
    """Quantiles of A² of refitted SαS samples at each α, and the rate of the tail beyond.

    One size serves: from 50 to 5000 values, with a fitted location or without, the quantiles hardly change.
    """
    quantiles, rates = [], []
    for alpha in FIT_ALPHA.tolist():
        found: list[float] = []
        while len(found) < FIT_SAMPLES:
            x = _law.rvs(alpha, 1.0, (2000, FIT_SIZE), rng)
            rows = _engine.fit_rows(x, least=2, threads=1)
            fitted = zip(rows[:, _fit.ALPHA].tolist(), np.exp(rows[:, _fit.LOG_SCALE]).tolist(), strict=True)
            found += [goodness.anderson_darling(Law.STABLE, (*f, 0.0), u) for u, f in zip(x, fitted, strict=True)]
        a2 = np.array(found)
        quantiles.append(np.quantile(a2, 1 - FIT_LEVELS))
        rates.append(1 / np.mean(a2[a2 > quantiles[-1][-1]] - quantiles[-1][-1]))
        print(f"alpha {alpha}: A2(.05) {quantiles[-1][7]:.3f}, rate {rates[-1]:.2f}", flush=True)
    return np.array(quantiles), np.array(rates)


def main() -> None:
    """Simulate, smooth and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--seed", type=int, default=20240611)
    options = parser.parse_args()
    start = time.perf_counter()
    # Streams of their own, so that a part can be made anew alone.
    plain = simulate(SIZES, False, np.random.default_rng(options.seed))
    located = simulate(LOCATED_SIZES, True, np.random.default_rng(options.seed + 2))
    standardised = np.empty((len(ROWS), len(COORDINATES)))
    standardised_above = np.empty((len(ROWS), len(COORDINATES)))
    standardised_t = np.empty((len(ROWS), len(COORDINATES), len(STANDARDISED_LEVELS)))
    rng = np.random.default_rng(options.seed + 1)
    for i, k in enumerate(ROWS):
        for j, width in enumerate(COORDINATES):
            repeats = int(max(1, VALUES_PER_SHAPE // (k * width)))
            z = np.concatenate([leave_one_out(rng.standard_normal((k, width))) for _ in range(repeats)])
            lr, inv = ratios_of(z)
            standardised[i, j] = inv.mean()
            standardised_above[i, j] = np.mean(lr > 0)
            standardised_t[i, j] = np.quantile(lr, 1 - STANDARDISED_LEVELS)
        seconds = time.perf_counter() - start
        print(f"standardised, {k} rows: {np.round(1 / standardised[i], 3)}, {seconds:.0f} s", flush=True)
    fit_distance, fit_rate = distances(np.random.default_rng(options.seed + 3))
    np.savez_compressed(
        options.out,
        n=SIZES,
        atom=plain.atom,
        levels=LEVELS,
        t=plain.t,
        rate=np.full(len(SIZES), plain.rate),
        located_n=LOCATED_SIZES,
        located_atom=located.atom,
        located_t=located.t,
        located_rate=np.full(len(LOCATED_SIZES), located.rate),
        inverse_alpha=plain.inverse,
        inverse_sd=plain.spread,
        rows=ROWS,
        coordinates=COORDINATES,
        standardised=standardised,
        standardised_above=standardised_above,
        standardised_levels=STANDARDISED_LEVELS,
        standardised_t=standardised_t,
        fit_alpha=FIT_ALPHA,
        fit_levels=FIT_LEVELS,
        fit_distance=fit_distance,
        fit_rate=fit_rate,
    )
    print(f"{options.out}: {options.out.stat().st_size / 1e3:.1f} kB, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
