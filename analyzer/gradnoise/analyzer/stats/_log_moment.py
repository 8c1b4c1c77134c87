"""α and the scale from the mean and variance of ln|X|."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._alpha import AlphaEstimate, few_warning, from_log, nonzero, range_warning, zeros_warning
from gradnoise.analyzer.stats._estimate import Z95

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_ENOUGH = 200
"""Values from which the interval covers about 90 %."""
_REFERENCE = "Ma & Nikias 1995; Zolotarev 1986, §3.6"


def log_moment(x: ArrayLike) -> AlphaEstimate:
    """α and σ from the mean and variance of ln|X|, in closed form.

    For SαS(σ), with Euler's constant γ,

        Var ln|X| = π²/6 (1/α² + ½),   E ln|X| = γ (1/α − 1) + ln σ

    (the cumulants of E|X|^s = Γ(1 − s/α) / (Γ(1 − s) cos(πs/2)) σ^s at s = 0). ``x``: one dimension. Exact
    zeros, whose logarithm does not exist, are left out, counted and said. Values *near* 0 matter as much as large
    ones: rounding and underflow are felt.

    The standard error is that of a variance, from the sample's fourth central moment of ln|X|, by the delta method;
    α's interval is that of 1/α², inverted. Since Var ln|X| is estimated freely, α̂ may exceed 2, and is infinite
    where the variance is below π²/12; both are said in ``warnings``. σ̂ uses the same α̂, then cut at 2.

    Simple, fast and robust to the order of values. Of the efficiency of ``stable.fit`` it has 0.54 at α = 1, 0.31 at
    1.3, 0.10 at 1.7 and 0.03 at 1.9 (in the limit; the same to a tenth at n = 5000).

    The interval takes the fourth moment from the sample and is short in small ones: for α from 0.55 to 1.9 it covers
    76 to 83 % at n = 30, 86 to 90 % at 100, 90 to 93 % at 200, 93 to 95 % at 1000. Below 200 values a warning says so.

    Raises ``InvalidInput``, ``NonFiniteValues``, ``AllZero``, ``TooFewValues`` (fewer than 30 non-zero values),
    ``DegenerateValues`` (all equal).
    """
    values, _, zeros = nonzero(x)
    n = values.size
    logs = np.log(np.abs(values))
    mean = float(logs.mean())
    centred = logs - mean
    squares = centred * centred
    variance = float(squares.mean())
    third, fourth = float(np.mean(squares * centred)), float(np.mean(squares * squares))
    # 1/α² = 6 V/π² − ½, V with its n − 1.
    unbiased = variance * n / (n - 1)
    inverse_square = 6.0 * unbiased / math.pi**2 - 0.5
    se_square = 6.0 / math.pi**2 * math.sqrt(max(fourth - variance**2, 0.0) / n)

    def alpha_at(inverse_square: float) -> float:
        return inverse_square**-0.5 if inverse_square > 0 else math.inf

    alpha = alpha_at(inverse_square)
    low, high = alpha_at(inverse_square + Z95 * se_square), alpha_at(inverse_square - Z95 * se_square)
    # dα/d(1/α²) = −α³/2
    se = 0.5 * alpha**3 * se_square
    # ln σ = mean − γ (1/α − 1); d(1/α)/dV = 3α/π². Cut at 2, where ln σ does not move with V.
    inside = min(alpha, 2.0)
    slope = -np.euler_gamma * 3.0 * inside / math.pi**2
    spread = variance + slope**2 * (fourth - variance**2) + 2.0 * slope * third
    se_log_scale = math.sqrt(max(spread, 0.0) / n)
    method = "variance of ln|x|, delta method"
    scale = from_log(
        mean - np.euler_gamma * (1.0 / inside - 1.0),
        se_log_scale,
        Z95 * se_log_scale,
        n,
        "mean and variance of ln|x|, delta method",
        _REFERENCE,
    )
    warnings = zeros_warning(zeros) + range_warning(alpha) + few_warning(n, _ENOUGH)
    return AlphaEstimate(alpha, se, low, high, n, method, _REFERENCE, warnings, scale=scale, zeros=zeros)
