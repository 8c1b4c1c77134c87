"""Noise scales against the exact gradient, and the typical size of the noise where means do not settle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr

from gradnoise.analyzer.stats._curved import Known, Unknown
from gradnoise.analyzer.stats._estimate import Z95, Estimate, Status
from gradnoise.analyzer.stats._metric import Metric, Name, missing
from gradnoise.analyzer.stats._ratios import row
from gradnoise.analyzer.stats._unaligned import of_matrix

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._setting import Setting

__all__ = ["batch_scales"]

_SOURCE = "McCandlish et al. 2018, eqs. 2.8 and 2.9"
_RATIO = "mean over draws over the exact gradient, delete-one jackknife"


def batch_scales(given: Setting) -> list[Metric]:
    """B_simple = Tr C/|∇F|², B_noise = Tr(HC)/(∇FᵀH∇F), the median of |u|² and B_simple of it."""
    typical = _typical(given)
    return [_b_simple(given), _b_noise(given), typical, _b_typical(given, typical)]


def _norm2(given: Setting) -> float | Unknown:
    value = given.measured.gradient_norm2
    if value is None:
        return Unknown(Status.NOT_MEASURED, "the gradient of F was not measured")
    if not math.isfinite(value):
        return Unknown(Status.NON_FINITE, f"|∇F|² is {value}")
    if value <= 0:
        return Unknown(Status.DEGENERATE, "the gradient of F is 0: every batch is too small")
    return value


def _b_simple(given: Setting) -> Metric:
    norm2, trace = _norm2(given), given.trace
    if isinstance(norm2, Unknown):
        return missing(Name.B_SIMPLE, norm2.status, norm2.reason)
    if isinstance(trace, Unknown):
        return missing(Name.B_SIMPLE, trace.status, trace.reason)
    warnings = given.warnings + given.factor_warnings
    values = given.scale * trace / norm2
    return row(Name.B_SIMPLE, values, method=_RATIO, reference=_SOURCE, null=None, warnings=warnings)


def _b_noise(given: Setting) -> Metric:
    name, product, under = Name.B_NOISE, given.product, given.measured.gradient_quadratic
    if isinstance(product, Unknown):
        return missing(name, product.status, product.reason)
    if under is None:
        return missing(name, Status.NOT_MEASURED, "∇FᵀH∇F was not measured")
    if not math.isfinite(under):
        return missing(name, Status.NON_FINITE, f"∇FᵀH∇F is {under}")
    if under <= 0:
        return missing(name, Status.DEGENERATE, f"∇FᵀH∇F = {under:.3g} is not above 0: no step along ∇F is too long")
    if product[0] <= 0:
        return missing(name, Status.DEGENERATE, f"Tr(HΣ) = {product[0]:.3g} is not above 0: noise costs nothing")
    null = None
    trace, trace_h, square_h = given.trace, given.trace_h, given.square_h
    if isinstance(trace_h, Known) and isinstance(square_h, Known) and not isinstance(trace, Unknown):
        value = given.scale * trace_h.value * float(trace[0]) / (given.measured.dimension * under)
        if value > 0:
            null = of_matrix(given, value, trace_h, square_h)
    warnings = given.warnings + given.factor_warnings
    values = given.scale * product / under
    return row(name, values, method=_RATIO, reference=_SOURCE, null=null, warnings=warnings)


def _typical(given: Setting) -> Metric:
    """Median of |u|², with the interval of order statistics: binomial, whatever the law."""
    if isinstance(given.trace, Unknown):
        return missing(Name.TYPICAL_NORM2, given.trace.status, given.trace.reason)
    norms = np.sort(np.diagonal(given.measured.gram))
    n = len(norms)
    # The largest r with P(Binomial(n, ½) < r) ≤ 2.5 %: from the r-th smallest to the r-th largest.
    below = bdtr(np.arange(n), n, 0.5)
    rank = max(int(np.searchsorted(below, 0.025, side="right")), 1)
    low, high = float(norms[rank - 1]), float(norms[n - rank])
    value = float(np.median(norms))
    method = "median, interval of order statistics"
    found = Estimate(value, (high - low) / (2 * Z95), low, high, n, method, "", given.warnings)
    return Metric(Name.TYPICAL_NORM2, None, found, None)


def _b_typical(given: Setting, typical: Metric) -> Metric:
    norm2 = _norm2(given)
    if isinstance(norm2, Unknown):
        return missing(Name.B_TYPICAL, norm2.status, norm2.reason)
    if typical.status is not Status.OK:
        return missing(Name.B_TYPICAL, typical.status, typical.reason)
    of, unit = typical.estimate, given.scale / norm2
    warnings = given.warnings + given.factor_warnings
    found = Estimate(of.value * unit, of.se * unit, of.low * unit, of.high * unit, of.n, of.method, "", warnings)
    return Metric(Name.B_TYPICAL, None, found, None)
