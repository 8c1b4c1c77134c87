"""Rows of the plain quantities: traces, norms, eigenvalues, variances."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._curved import Unknown
from gradnoise.analyzer.stats._estimate import Estimate, Status
from gradnoise.analyzer.stats._interval import combined, replicated
from gradnoise.analyzer.stats._metric import Metric, Name, missing
from gradnoise.analyzer.stats._setting import unknown_of
from gradnoise.analyzer.stats._unaligned import direction_null, isotropic_rank, isotropic_square

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._setting import Setting

__all__ = ["eigenvalues", "traces", "variances"]

_HUTCHPP = "Hutchinson 1990; Meyer, Musco, Musco & Woodruff 2021"
_JACKKNIFE = "mean over draws, delete-one jackknife"
_PAIRS = "mean over pairs of draws, delete-one jackknife"


def traces(given: Setting) -> list[Metric]:
    """Tr H, ‖H‖_F, Tr Σ, Tr(HΣ), Tr Σ², the effective rank, |∇F|²."""
    rows = [_trace_h(given), _frobenius(given)]
    for name, part, method in (
        (Name.TRACE_SIGMA, given.trace, _JACKKNIFE),
        (Name.TRACE_H_SIGMA, given.product, _JACKKNIFE),
        (Name.SIGMA_SQUARED, given.square, _PAIRS),
    ):
        if isinstance(part, Unknown):
            rows.append(missing(name, part.status, part.reason))
        elif name is Name.SIGMA_SQUARED and part[0] <= 0:
            rows.append(missing(name, Status.DEGENERATE, _lost(part[0]), n=len(part) - 1, method=method))
        else:
            null = isotropic_square(given) if name is Name.SIGMA_SQUARED else None
            rows.append(Metric(name, None, replicated(part, method=method, warnings=given.warnings), null))
    return [*rows, _effective_rank(given), _gradient(given)]


def _lost(square: float) -> str:
    return f"Tr Σ² is estimated as {square:.3g}: with this effective rank it needs more draws"


def _trace_h(given: Setting) -> Metric:
    part = given.trace_h
    if isinstance(part, Unknown):
        return missing(Name.TRACE_H, part.status, part.reason)
    found = combined(part.value, (part.error,), n=part.n, method=part.method, reference=_HUTCHPP)
    return Metric(Name.TRACE_H, None, found, None)


def _frobenius(given: Setting) -> Metric:
    part = given.square_h
    if isinstance(part, Unknown):
        return missing(Name.FROBENIUS_H, part.status, part.reason)
    if part.value <= 0:
        return missing(Name.FROBENIUS_H, Status.ALL_ZERO, "H is 0", n=part.n, method=part.method)
    norm = math.sqrt(part.value)
    found = combined(norm, (part.relative(0.5),), n=part.n, method=part.method, reference=_HUTCHPP, log=True)
    return Metric(Name.FROBENIUS_H, None, found, None)


def _effective_rank(given: Setting) -> Metric:
    trace, square = given.trace, given.square
    if isinstance(trace, Unknown) or isinstance(square, Unknown):
        gone = unknown_of(trace, square)
        return missing(Name.EFFECTIVE_RANK, gone.status, gone.reason)
    if square[0] <= 0:
        return missing(Name.EFFECTIVE_RANK, Status.DEGENERATE, _lost(square[0]), n=len(square) - 1, method=_PAIRS)
    ratio = trace**2 / np.where(square > 0, square, np.nan)
    if not np.isfinite(ratio).all():
        return missing(Name.EFFECTIVE_RANK, Status.DEGENERATE, _lost(float(square.min())), n=len(square) - 1)
    found = replicated(ratio, method=_PAIRS, warnings=given.warnings)
    return Metric(Name.EFFECTIVE_RANK, None, found, isotropic_rank(given))


def _gradient(given: Setting) -> Metric:
    norm2 = given.measured.gradient_norm2
    if norm2 is None:
        return missing(Name.GRADIENT_NORM2, Status.NOT_MEASURED, "the gradient of F was not measured")
    if not math.isfinite(norm2):
        return missing(Name.GRADIENT_NORM2, Status.NON_FINITE, f"|∇F|² is {norm2}")
    return Metric(Name.GRADIENT_NORM2, None, Estimate(norm2, 0.0, norm2, norm2, 1, "exact, of all the data"), None)


def eigenvalues(given: Setting) -> list[Metric]:
    """λ_i with the residual: an eigenvalue of H lies within it."""
    measured = given.measured
    rows = []
    for i, value in enumerate(measured.eigenvalues):
        error = float(measured.residuals[i]) if measured.residuals.size else math.nan
        if not math.isfinite(value) or (measured.residuals.size and not math.isfinite(error)):
            rows.append(missing(Name.EIGENVALUE, Status.NON_FINITE, "NaN or infinity in the eigenpair", index=i))
            continue
        method = "Ritz value; an eigenvalue lies within the residual norm"
        if math.isnan(error):
            method = "Ritz value; residual unknown"
        ends = (float(value) - error, float(value) + error)
        found = Estimate(float(value), error, *ends, 1, method, "Parlett 1998, theorem 4.5.1")
        rows.append(Metric(Name.EIGENVALUE, i, found, None))
    return rows


def variances(given: Setting) -> list[Metric]:
    """c_ii, each against what noise without a preferred direction has there."""
    part, places = given.variances, given.finite
    if isinstance(part, Unknown):
        return [missing(Name.VARIANCE, part.status, part.reason, index=i) for i in range(len(places))]
    null = direction_null(given)
    rows, column = [], 0
    for i, usable in enumerate(places):
        if not usable:
            rows.append(missing(Name.VARIANCE, Status.NON_FINITE, "NaN or infinity in the direction", index=i))
            continue
        values = part[:, column]
        column += 1
        if values[0] <= 0:
            rows.append(missing(Name.VARIANCE, Status.ALL_ZERO, "no noise in this direction", index=i))
            continue
        found = replicated(values, method="mean square, delete-one jackknife", warnings=given.warnings)
        rows.append(Metric(Name.VARIANCE, i, found, null))
    return rows
