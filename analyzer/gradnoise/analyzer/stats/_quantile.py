"""McCulloch's quantile estimator for symmetric laws."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats import _law
from gradnoise.analyzer.stats._alpha import AlphaEstimate, few_warning, from_log, nonzero, zeros_warning
from gradnoise.analyzer.stats._estimate import Z95, DegenerateValues
from gradnoise.analyzer.stats._table import ALPHA_MIN

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

_REFERENCE = "McCulloch 1986"
_ENOUGH = 100
"""Values from which the interval covers 90 %."""
_LEVELS = (0.05, 0.25, 0.75, 0.95)


@functools.cache
def curve() -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """α ascending; at each ln of the 75 % point of SαS(1) and of the 95 % point over it; and their slopes in α.

    McCulloch's ν_α at β = 0 is the ratio, his ν_c twice the 75 % point; his tables have three decimals at steps of 0.1
    in α, here it is 0.01.
    """
    alphas = np.linspace(ALPHA_MIN, 2.0, 151)
    inner, outer = np.log(_law.ppf(np.array([[0.75], [0.95]]), alphas))
    ratio = outer - inner
    return alphas, inner, ratio, np.gradient(inner, alphas), np.gradient(ratio, alphas)


def quantile(x: ArrayLike) -> AlphaEstimate:
    """α and σ from four quantiles: ν = (q95 − q05)/(q75 − q25) gives α, q75 − q25 then σ.

    McCulloch 1986, for β = 0, with his interpolated quantiles (x_(i) stands at (2i − 1)/2n) and, instead of his
    table, the quantiles of the law itself. It needs no location, and what lies beyond the 5 % and 95 % points does
    not matter. ``x``: one dimension. Exact zeros are left out, counted and said.

    α̂ is cut: at 2 where ν is below the Gaussian's 2.439, at 0.5 above 44.64, with a warning. Standard errors are
    those of the quantiles (asymptotic, with the densities of the fitted law) by the delta method; α's interval is
    that of ln ν mapped to α, with the same cuts. It covers 90 % or more from 100 values on, for α from 0.55 to 1.9; of
    30 values 85 % at α = 0.55, 89 % at 0.8 and 90 % or more from 1 on. Below 100 a warning says so.

    Raises ``InvalidInput``, ``NonFiniteValues``, ``AllZero``, ``TooFewValues`` (fewer than 30 non-zero values),
    ``DegenerateValues`` (constant, or half of the values equal).
    """
    values, _, zeros = nonzero(x)
    n = values.size
    q05, q25, q75, q95 = np.quantile(values, _LEVELS, method="hazen")
    inner, outer = 0.5 * q75 - 0.5 * q25, 0.5 * q95 - 0.5 * q05
    if not inner > 0:
        raise DegenerateValues(f"x: the middle half of the {n} values are equal; quantiles say nothing about their law")
    alphas, log_inner, log_ratio, slopes_inner, slopes_ratio = curve()  # the ratio falls with α

    def alpha_at(log_nu: Any) -> Any:
        return np.interp(-log_nu, -log_ratio, alphas)

    log_nu = math.log(outer) - math.log(inner)
    alpha = float(alpha_at(log_nu))
    at = math.exp(np.interp(alpha, alphas, log_inner)) * np.array([1.0, math.exp(np.interp(alpha, alphas, log_ratio))])
    f75, f95 = (float(f) for f in at * _law.pdf(at, alpha))  # densities of ln|X|, halved
    # Half differences of symmetric quantiles have the covariance of quantiles of |X| at ½ and 0.9.
    var_inner, var_outer, both = 0.0625 / f75**2 / n, 0.0225 / f95**2 / n, 0.0125 / (f75 * f95) / n
    se_nu = math.sqrt(var_inner + var_outer - 2.0 * both)
    slope = float(np.interp(alpha, alphas, slopes_ratio))
    se = se_nu / -slope
    # ln σ = ln inner − log_inner(α)
    gain = float(np.interp(alpha, alphas, slopes_inner)) / slope  # d log_inner / d ln ν
    se_log_scale = math.sqrt((1 + gain) ** 2 * var_inner + gain**2 * var_outer - 2.0 * gain * (1 + gain) * both)
    method = "ratio of quantile differences"
    scale = from_log(math.log(inner / at[0]), se_log_scale, Z95 * se_log_scale, n, "quantile difference", _REFERENCE)
    warnings = zeros_warning(zeros) + few_warning(n, _ENOUGH)
    if alpha in (ALPHA_MIN, 2.0):
        warnings += (f"the quantiles' ratio, {math.exp(log_nu):.4g}, is at or beyond that of α = {alpha:g}",)
    low, high = float(alpha_at(log_nu + Z95 * se_nu)), float(alpha_at(log_nu - Z95 * se_nu))
    return AlphaEstimate(alpha, se, low, high, n, method, _REFERENCE, warnings, scale=scale, zeros=zeros)
