"""Block-sum estimators of α (Mohammadi, Mohammadpour & Ogata 2015): as published with the first papers, and repaired.

A sum of m iid SαS(σ) values is SαS(m^{1/α} σ), so that 1/α = (E ln|Y| − E ln|X|) / ln m.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._alpha import (
    AlphaEstimate,
    any_shape,
    range_warning,
    require_count,
    require_finite,
    zeros_warning,
)
from gradnoise.analyzer.stats._estimate import (
    MIN_VALUES,
    Z95,
    AllZero,
    DegenerateValues,
    InvalidInput,
    TooFewValues,
    as_generator,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

EPS = float(np.spacing(1.0))  # the published code's guard inside the logarithm, 2.2e-16
_SMALL_BLOCK = 0.25
_LEAST_BLOCKS = 5
_REFERENCE = "Mohammadi, Mohammadpour & Ogata 2015, cor. 2.4"


def _from_inverse(
    inverse: float, se: float, factor: float, n: int, method: str, zeros: float, warnings: tuple[str, ...]
) -> AlphaEstimate:
    """α = 1/``inverse``; its interval is that of 1/α, ± ``factor`` standard errors, inverted."""
    value = 1.0 / inverse if inverse != 0 else math.inf
    low, high = (1.0 / end if end > 0 else math.inf for end in (inverse + factor * se, inverse - factor * se))
    if value < 0:
        low, high = -math.inf, math.inf
    warnings += range_warning(value)
    return AlphaEstimate(value, value * value * se, low, high, n, method, _REFERENCE, warnings, scale=None, zeros=zeros)


def mmo(x: ArrayLike) -> AlphaEstimate:
    """Block-sum estimator of α, as the code published with Simsekli et al. 2019 and Zhou et al. 2020 computes it.

    Mohammadi, Mohammadpour & Ogata 2015, corollary 2.4. ``x``: N values, flattened in row-major order (draws ×
    parameters, pooled, in that code; subtracting the mean gradient is the caller's part). m is the largest
    divisor of N not above √N, Y_i the N/m sums of m consecutive values, and with ε = 2.2e-16

        1/α̂ = (mean ln(|Y| + ε) − mean ln(|X| + ε)) / ln m.

    Computed in float64, whatever the dtype of ``x``. The published code works in the dtype of its gradients;
    in float32 its answer differs by rounding only, less than 1e-6 (measured on 1e4 … 4e6 values): ε is a float32
    number too, so that zeros count the same. The standard error takes blocks as independent; the interval is
    that of 1/α̂, inverted, and infinite or negative where the estimate is so poor.

    What it cannot know, and this function says in ``warnings``: N prime makes m = 1 and the value NaN; an N
    without a divisor near √N makes blocks short; exact zeros enter as ln ε = −36 and drive α̂ down. What it
    cannot even say: α̂ depends on the order of the values; a spread of scales or correlated neighbours read as
    a heavy tail; and Gaussian values exceed 2 half the time.

    Raises ``InvalidInput`` (not numbers), ``NonFiniteValues``, ``TooFewValues`` (fewer than 30), ``AllZero``.
    """
    values = any_shape(x).astype(np.float64).ravel()
    n = values.size
    if n < MIN_VALUES:
        raise TooFewValues(f"x: expected at least {MIN_VALUES} values, got {n}")
    require_finite(values)
    zeros = float(np.mean(values == 0))
    if zeros == 1.0:
        raise AllZero(f"x: all {n} values are exactly 0; there is no noise to estimate from")
    m = block_length(n)
    blocks = values.reshape(n // m, m)
    log_sum = np.log(np.abs(blocks.sum(axis=1)) + EPS)
    log_value = np.log(np.abs(blocks) + EPS)
    se = float((log_sum - log_value.mean(axis=1)).std(ddof=1)) / math.sqrt(n // m)
    return published(n, m, zeros, float(log_sum.mean() - log_value.mean()), se)


def block_length(n: int) -> int:
    """The largest divisor of ``n`` not above √n: the published code's block."""
    return next(m for m in range(math.isqrt(n), 0, -1) if n % m == 0)


def published(n: int, m: int, zeros: float, difference: float, se: float) -> AlphaEstimate:
    """``mmo`` of ``n`` values in blocks of ``m`` from mean ln|Y| − mean ln|X| and its standard error."""
    method = f"block sums of {m} values, published code"
    warnings: tuple[str, ...] = ()
    if zeros > 0:
        warnings += (f"{zeros:.1%} of the values are exactly 0 and enter as ln {EPS:.2g}: the estimate is too low",)
    if m == 1:
        warnings += (f"N = {n} is prime: the block length is 1 and the estimator divides by ln 1; drop a few values",)
        nan = math.nan
        return AlphaEstimate(nan, nan, nan, nan, n, method, _REFERENCE, warnings, scale=None, zeros=zeros)
    if m < _SMALL_BLOCK * math.sqrt(n):
        warnings += (f"N = {n} has no divisor between {m} and its square root: blocks are short, drop a few values",)
    log_m = math.log(m)
    return _from_inverse(difference / log_m, se / log_m, Z95, n, method, zeros, warnings)


def block_sum(x: ArrayLike, m: int | None = None, *, rng: np.random.Generator) -> AlphaEstimate:
    """Block-sum estimator of α without the faults of ``mmo``.

    ``x``: N values, or N × d, N vectors of dimension d, of which norms are taken. Exact zeros (vectors of norm 0) are
    left out, counted and said; the others are randomly permuted, so that neither their order nor N's divisors matter,
    and the remainder of N/m is dropped. With blocks b of ``m`` values (``None``: ⌊√N⌋) and Y_b their sums,

        1/α̂ = mean_b D_b / ln m,   D_b = ln‖Y_b‖ − mean_{i in b} ln‖X_i‖.

    Blocks of independent values are independent, so the standard error of 1/α̂ is sd(D_b)/(√B ln m) over the B
    blocks; the interval is Student's t of 1/α̂, inverted. It covers for independent values; where rows of a matrix
    share draws, flatten nothing and resample draws.

    What remains: values of different scales still read as a heavy tail (Gaussian values of lognormal(0, s) scales as
    1/α̂ → ½ + s²/ln m), which sums of whole *vectors* hardly do; finite variance is read as α < 2 if the sums have
    not converged; and at 1000 values and α = 1.7 the error is four times that of maximum likelihood (``stable.fit``),
    and more for more values.

    Memory: two float64 copies of ``x``. Raises ``InvalidInput`` (``x`` not one- or two-dimensional real, ``m``
    below 2 or leaving fewer than 5 blocks), ``NonFiniteValues``, ``AllZero``, ``TooFewValues`` (fewer than 30
    non-zero), ``DegenerateValues`` (sums cancel exactly in all but a few blocks).
    """
    from scipy import special  # 0.1 s to import: only where it is used

    given = any_shape(x)
    if given.ndim not in (1, 2):
        raise InvalidInput(f"x: expected N values or N × d vectors, got shape {given.shape}")
    require_finite(given)
    require_count(len(given), len(given))
    # In units of the largest value no sum overflows.
    unit = float(np.abs(given).max(initial=0.0)) or 1.0
    values = (given.astype(np.float64) / unit).reshape(len(given), math.prod(given.shape[1:]))
    norms = np.hypot.reduce(values, axis=1)
    keep = norms > 0
    n = int(keep.sum())
    require_count(n, len(values))
    zeros = 1.0 - n / len(values)
    if (values[keep] == values[keep][0]).all():
        raise DegenerateValues(f"x: all {n} values (zeros aside) are equal; a constant has no law to estimate")
    rng = as_generator(rng)
    length = math.isqrt(n) if m is None else m
    if not (isinstance(length, int | np.integer) and 2 <= length <= n // _LEAST_BLOCKS):
        raise InvalidInput(
            f"m: expected a whole number of values a block, from 2 to {n // _LEAST_BLOCKS} ({n} non-zero values in at"
            f" least {_LEAST_BLOCKS} blocks), got {m!r}"
        )
    count = n // length
    order = rng.permutation(np.flatnonzero(keep))[: count * length]
    sums = values[order].reshape(count, length, -1).sum(axis=1)
    norm = np.hypot.reduce(sums, axis=1)
    used = norm > 0
    warnings = zeros_warning(zeros)
    if not used.all():
        if used.sum() < _LEAST_BLOCKS:
            raise DegenerateValues(f"x: {count - int(used.sum())} of {count} block sums cancel to exactly 0")
        warnings += (f"{count - int(used.sum())} of {count} block sums are exactly 0 and were left out",)
    within = np.log(norms[order]).reshape(count, length).mean(axis=1)
    gain = (np.log(norm[used]) - within[used]) / math.log(length)
    blocks = int(used.sum())
    se = float(gain.std(ddof=1)) / math.sqrt(blocks)
    method = f"{blocks} block sums of {length} values, zeros dropped, permuted"
    factor = float(special.stdtrit(blocks - 1, 0.975))
    return _from_inverse(float(gain.mean()), se, factor, n, method, zeros, warnings)
