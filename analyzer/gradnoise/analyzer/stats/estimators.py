"""Estimators of α other than maximum likelihood.

``mmo`` is the one that the first papers on heavy-tailed gradient noise used; it is here to reproduce them, bias
and all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._estimate import (
    MIN_VALUES,
    Z95,
    AllZero,
    Estimate,
    InvalidInput,
    NonFiniteValues,
    TooFewValues,
    as_real,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["mmo"]

_EPS = float(np.spacing(1.0))  # the published code's guard inside the logarithm, 2.2e-16
_SMALL_BLOCK = 0.25


def mmo(x: ArrayLike) -> Estimate:
    """Block-sum estimator of α, as the code published with Simsekli et al. 2019 and Zhou et al. 2020 computes it.

    Mohammadi, Mohammadpour & Ogata 2015, corollary 2.4. ``x``: N values, flattened in row-major order (draws ×
    parameters, pooled, in that code; subtracting the mean gradient is the caller's part). m is the largest
    divisor of N not above √N, Y_i the N/m sums of m consecutive values, and with ε = 2.2e-16

        1/α̂ = (mean ln(|Y| + ε) − mean ln(|X| + ε)) / ln m.

    Computed in float64 (the published code works in the dtype of its gradients). The standard error takes
    blocks as independent; the interval is that of 1/α̂, inverted, and infinite or negative where the estimate
    is so poor.

    What it cannot know, and this function says in ``warnings``: N prime makes m = 1 and the value NaN; an N
    without a divisor near √N makes blocks short; exact zeros enter as ln ε = −36 and drive α̂ down. What it
    cannot even say: α̂ depends on the order of the values; a spread of scales or correlated neighbours read as
    a heavy tail; and Gaussian values exceed 2 half the time.

    Raises ``InvalidInput`` (not numbers), ``NonFiniteValues``, ``TooFewValues`` (fewer than 30), ``AllZero``.
    """
    try:
        dimensions = np.ndim(x)
    except ValueError:
        raise InvalidInput("x: expected an array of numbers, got a ragged sequence") from None
    values = as_real(x, "x", dimensions).astype(np.float64).ravel()
    n = values.size
    if n < MIN_VALUES:
        raise TooFewValues(f"x: expected at least {MIN_VALUES} values, got {n}")
    if not np.isfinite(values).all():
        raise NonFiniteValues(f"x: expected finite values, got NaN or infinity among {n}; drop or mend them first")
    zeros = float(np.mean(values == 0))
    if zeros == 1.0:
        raise AllZero(f"x: all {n} values are exactly 0; there is no noise to estimate from")
    m = max(i for i in range(1, math.isqrt(n) + 1) if n % i == 0)
    reference = "Mohammadi, Mohammadpour & Ogata 2015, cor. 2.4"
    method = f"block sums of {m} values, published code"
    warnings: tuple[str, ...] = ()
    if zeros > 0:
        warnings += (f"{zeros:.3g} of the values are exactly 0 and enter as ln {_EPS:.2g}: the estimate is too low",)
    if m == 1:
        warnings += (f"N = {n} is prime: the block length is 1 and the estimator divides by ln 1; drop a few values",)
        nan = float("nan")
        return Estimate(nan, nan, nan, nan, n, method, reference, warnings)
    if m < _SMALL_BLOCK * math.sqrt(n):
        warnings += (f"N = {n} has no divisor between {m} and its square root: blocks are short, drop a few values",)
    blocks = values.reshape(n // m, m)
    log_sum = np.log(np.abs(blocks.sum(axis=1)) + _EPS)
    log_value = np.log(np.abs(blocks) + _EPS)
    inverse = float(log_sum.mean() - log_value.mean()) / math.log(m)
    se = float((log_sum - log_value.mean(axis=1)).std(ddof=1)) / math.sqrt(n // m) / math.log(m)
    value = 1.0 / inverse if inverse != 0 else math.inf
    ends = [1.0 / end if end > 0 else math.inf for end in (inverse + Z95 * se, inverse - Z95 * se)]
    if value < 0:
        ends = [-math.inf, math.inf]
    if not 0 < value <= 2:
        warnings += (f"the estimate, {value:.4g}, is not the index of any stable law",)
    return Estimate(value, value * value * se, ends[0], ends[1], n, method, reference, warnings)
