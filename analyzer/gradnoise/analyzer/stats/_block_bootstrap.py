"""The stationary bootstrap of rows, and how long its blocks have to be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._alpha import any_shape
from gradnoise.analyzer.stats._estimate import (
    DegenerateValues,
    Estimate,
    InvalidInput,
    as_generator,
)
from gradnoise.analyzer.stats._series import draw_matrix, log_magnitude, mean_acf, standardised

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats


def length_of(z: Floats) -> float:
    n = len(z)
    few = max(5, math.ceil(math.sqrt(math.log10(n))))
    most = min(math.ceil(math.sqrt(n)) + few, n - 1 - few)
    r = mean_acf(z, most + few)
    small = np.abs(r[1:]) < 2.0 * math.sqrt(math.log10(n) / n)
    runs = np.array([small[m : m + few].all() for m in range(most + 1)])
    lag = int(runs.argmax()) if runs.any() else most
    window = min(max(2 * lag, 1), most)
    k = np.arange(1, window + 1)
    flat = np.minimum(1.0, 2.0 * (1.0 - k / window)) * r[1 : window + 1]
    long_run = 1.0 + 2.0 * float(flat.sum())
    slope = 2.0 * float((k * flat).sum())
    if long_run <= 0:
        return 1.0
    longest = min(3.0 * math.sqrt(n), n / 3.0)
    return min(max((slope / long_run) ** (2 / 3) * n ** (1 / 3) if slope > 0 else 1.0, 1.0), longest)


def block_length(U: ArrayLike) -> float:
    """Mean block length for the stationary bootstrap of ``U``, in draws, by the rule of Politis & White 2004.

    b = (2 G²/D)^{1/3} K^{1/3}, D = 2 g² (as corrected by Patton, Politis & White 2009), G = Σ λ(k/M) |k| R_k and
    g = Σ λ(k/M) R_k over lags −M … M with the flat-top window λ(t) = min(1, 2(1 − |t|)). M is twice the lag after which
    max(5, √log₁₀ K) autocorrelations stay below 2 √(log₁₀ K/K). Of a matrix R is averaged over columns. The longer of
    the lengths for the values and for ln|U| is taken, at least 1 and at most min(3 √K, K/3).

    Raises as ``autocorrelation``.
    """
    matrix = draw_matrix(U, "U")
    logs, _ = log_magnitude(matrix)
    lengths = [length_of(standardised(matrix))]
    if logs.shape[1] > 0:
        lengths.append(length_of(standardised(logs)))
    return max(lengths)


def _stationary_rows(n: int, block: float, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Row numbers of one replicate: blocks from random starts, geometric lengths, wrapping around the end."""
    new = rng.random(n) * block < 1.0
    new[0] = True
    starts = rng.integers(n, size=n)
    place = np.arange(n)
    last = np.maximum.accumulate(np.where(new, place, 0))
    rows: np.ndarray[Any, np.dtype[np.int64]] = (starts[last] + place - last) % n
    return rows


def block_bootstrap(
    statistic: Callable[[Any], Any],
    U: ArrayLike,
    *,
    block: float | None = None,
    replicates: int = 500,
    rng: np.random.Generator,
) -> Estimate:
    """``statistic(U)`` with an interval from resampling blocks of rows: for draws that are serially correlated.

    The stationary bootstrap of Politis & Romano 1994: rows are drawn in blocks of geometric length with mean ``block``
    (``None``: ``block_length(U)``; 1 is the ordinary bootstrap), wrapping around the end. All columns of a row stay
    together, so that what columns share is kept. ``U``: a series or draws × columns; ``statistic`` gets an array of the
    same shape and returns a number, or an array: then the fields of the estimate are arrays.

    The interval is that of the percentiles, 2.5 and 97.5 %, the standard error the replicates' standard deviation.
    Both are a little short, the more so the longer the blocks: for the mean of AR(1) draws, K = 1000 and φ = 0, 0.5,
    0.8, the interval covers 94, 92 and 90 % (resampling single draws: 94, 75, 47 %).

    Raises as ``autocorrelation``, ``InvalidInput`` also for ``block`` below 1 or above K and fewer than 100
    ``replicates``; ``DegenerateValues`` where the statistic is not finite for ``U`` or for more than 5 % of the
    replicates (fewer are left out, with a warning). What the statistic raises passes through.
    """
    values = any_shape(U, "U")
    draw_matrix(values, "U")
    n = len(values)
    if block is None:
        block = block_length(values)
    if not 1 <= block <= n:
        raise InvalidInput(f"block: expected a mean block length from 1 to the number of draws, {n}, got {block!r}")
    if not (isinstance(replicates, int | np.integer) and replicates >= 100):
        raise InvalidInput(f"replicates: expected a whole number from 100, got {replicates!r}")
    as_generator(rng)
    value = np.asarray(statistic(values), dtype=np.float64)
    found = np.array([statistic(values[_stationary_rows(n, block, rng)]) for _ in range(replicates)], dtype=np.float64)
    finite = np.isfinite(found.reshape(replicates, -1)).all(axis=1)
    lost = replicates - int(finite.sum())
    if not np.isfinite(value).all() or lost > 0.05 * replicates:
        raise DegenerateValues(
            f"statistic: expected finite numbers, got {value} for U and others in {lost} of {replicates} replicates"
        )
    low, high = np.quantile(found[finite], [0.025, 0.975], axis=0)
    spread = found[finite].std(axis=0, ddof=1)

    def given_back(field: Floats) -> Any:
        return float(field) if value.ndim == 0 else field

    warnings = (f"{lost} of {replicates} replicates had no finite value and were left out",) if lost else ()
    return Estimate(
        given_back(value),
        given_back(spread),
        given_back(low),
        given_back(high),
        n,
        f"stationary bootstrap of draws, mean block {block:.3g}, {replicates} replicates",
        "Politis & Romano 1994; Politis & White 2004",
        warnings,
    )
