"""Rows that hold H against Σ as a whole: gain, projection coefficient, energy, cosine, TIC, μ, off-diagonal mass.

Each is a ratio of means over draws, with the errors of the probe vectors as an independent part. The rows of the
spatial signs are the same of u/|u|, which exist whatever the tails.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._curved import Known, Unknown
from gradnoise.analyzer.stats._estimate import Estimate, Status
from gradnoise.analyzer.stats._interval import Part, replicated
from gradnoise.analyzer.stats._measured import Matrix
from gradnoise.analyzer.stats._metric import Metric, Name, missing
from gradnoise.analyzer.stats._setting import unknown_of
from gradnoise.analyzer.stats._unaligned import of_matrix, off_diagonal_null, positive_null, relative_variance

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._setting import Setting

__all__ = ["ratios", "row"]

_ZHU = "Zhu et al. 2019"
_GUR_ARI = "Gur-Ari et al. 2018"
_THOMAS = "Thomas et al. 2020"
_TAKEUCHI = "Takeuchi 1976; Thomas et al. 2020"
_WU = "Wu, Wang & Su 2022"
_RATIO = "ratio of means over draws, delete-one jackknife"
_SIGN = "of u/|u|: ratio of means over draws, delete-one jackknife"


def row(
    name: Name,
    values: Floats,
    *others: Part,
    method: str,
    reference: str,
    null: Estimate | None,
    warnings: tuple[str, ...],
    index: int | None = None,
    log: bool = True,
    most: float = math.inf,
) -> Metric:
    """A row of replicates; one without a value where they are not finite, cut at ``most``."""
    if not np.isfinite(values).all():
        reason = "a square of Σ is estimated as 0 or below: with this effective rank it needs more draws"
        return missing(name, Status.DEGENERATE, reason, index=index, n=len(values) - 1, method=method)
    found = replicated(values, *others, method=method, reference=reference, warnings=warnings, log=log)
    if found.value <= most:
        return Metric(name, index, dataclasses.replace(found, high=min(found.high, most)), null)
    reason = f"estimated as {found.value:.4g} and cut: more than {most:g} is not possible"
    found = dataclasses.replace(found, value=most, low=min(found.low, most), high=most)
    return Metric(name, index, found, null, Status.AT_BOUNDARY, reason)


def _gone(name: Name, *parts: object) -> Metric:
    part = unknown_of(*parts)
    return missing(name, part.status, part.reason)


def _positive(part: Known | Unknown) -> Known | Unknown:
    """Tr H, which a ratio over it needs above 0 and told from it."""
    if isinstance(part, Unknown):
        return part
    se = math.sqrt(part.error.variance)
    if part.value - 2.0 * se <= 0:
        reason = f"Tr H = {part.value:.3g} ± {se:.2g} is not above 0: over it a ratio has no meaning"
        return Unknown(Status.DEGENERATE, reason)
    return part


def ratios(given: Setting) -> list[Metric]:
    """All of them."""
    return [
        *_gains(given),
        *_coefficients(given),
        *_energies(given),
        *_cosines(given),
        _off_diagonal(given),
        _tic_trace(given),
        _mu(given),
    ]


def _signed(given: Setting, of: str) -> Floats | Unknown:
    if isinstance(given.signed, Unknown):
        return given.signed
    found: Floats | None = getattr(given.signed, of)
    if found is None:
        whole = {"product": given.product, "variances": given.variances}[of]
        return whole if isinstance(whole, Unknown) else Unknown(Status.NOT_MEASURED, "not measured")
    if not np.isfinite(found).all():
        return Unknown(Status.NON_FINITE, "NaN or infinity")
    return found


def _gains(given: Setting) -> list[Metric]:
    """d Tr(HΣ) / (Tr H Tr Σ); 1 for isotropic noise (Zhu et al. 2019)."""
    rows, d = [], given.measured.dimension
    ones = np.ones(1)
    for name, product, trace, method in (
        (Name.ANISOTROPY_GAIN, given.product, given.trace, _RATIO),
        (Name.ANISOTROPY_GAIN_SIGN, _signed(given, "product"), ones, _SIGN),
    ):
        trace_h = _positive(given.trace_h)
        if isinstance(product, Unknown) or isinstance(trace, Unknown) or isinstance(trace_h, Unknown):
            rows.append(_gone(name, trace_h, product, trace))
            continue
        null = None
        if isinstance(given.square_h, Known) and not isinstance(given.trace, Unknown):
            null = of_matrix(given, 1.0, trace_h, given.square_h)
        values = d * product / (trace_h.value * trace)
        rows.append(
            row(
                name,
                values,
                trace_h.relative(),
                method=method,
                reference=_ZHU,
                null=null,
                warnings=given.warnings,
            )
        )
    return rows


def _coefficients(given: Setting) -> list[Metric]:
    """v₁ᵀΣv₁ Tr H / (λ₁ Tr Σ), v₁ of the largest eigenvalue (Zhu et al. 2019)."""
    rows, d, values = [], given.measured.dimension, given.values
    for name, part, trace, method in (
        (Name.PROJECTION_COEFFICIENT, given.variances, given.trace, _RATIO),
        (Name.PROJECTION_COEFFICIENT_SIGN, _signed(given, "variances"), np.ones(1), _SIGN),
    ):
        trace_h = _positive(given.trace_h)
        if isinstance(part, Unknown) or isinstance(trace, Unknown) or isinstance(trace_h, Unknown):
            rows.append(_gone(name, trace_h, part, trace))
            continue
        if not len(values) or values.max() <= 0:
            rows.append(missing(name, Status.DEGENERATE, "the largest eigenvalue is not above 0"))
            continue
        first = int(values.argmax())
        unit = trace_h.value / float(values[first])
        null = positive_null(unit / d, relative_variance(given, 1.0, 1.0), len(part) - 1)
        rows.append(
            row(
                name,
                part[:, first] * unit / trace,
                trace_h.relative(),
                method=method,
                reference=_ZHU,
                null=null,
                warnings=given.warnings,
            )
        )
    return rows


def _energies(given: Setting) -> list[Metric]:
    """Tr(VᵀΣV) / Tr Σ; k/d in a random frame (Gur-Ari et al. 2018)."""
    rows, d, k = [], given.measured.dimension, len(given.values)
    for name, part, trace, method in (
        (Name.SUBSPACE_ENERGY, given.variances, given.trace, _RATIO),
        (Name.SUBSPACE_ENERGY_SIGN, _signed(given, "variances"), np.ones(1), _SIGN),
    ):
        if isinstance(part, Unknown) or isinstance(trace, Unknown):
            rows.append(_gone(name, part, trace))
            continue
        if not k:
            rows.append(missing(name, Status.NON_FINITE, "no finite direction"))
            continue
        null = positive_null(k / d, relative_variance(given, k, k), len(part) - 1)
        values = part.sum(axis=1) / trace
        rows.append(row(name, values, method=method, reference=_GUR_ARI, null=null, warnings=given.warnings))
    return rows


def _cosines(given: Setting) -> list[Metric]:
    """Tr(HΣ) / (‖H‖_F ‖Σ‖_F) (Thomas et al. 2020)."""
    rows, d = [], given.measured.dimension
    signed: tuple[Floats | Unknown, Floats | Unknown] = (
        (given.signed, given.signed)
        if isinstance(given.signed, Unknown)
        else (_signed(given, "product"), _signed(given, "square"))
    )
    for name, product, square, method in (
        (Name.MATRIX_COSINE, given.product, given.square, _RATIO),
        (Name.MATRIX_COSINE_SIGN, *signed, _SIGN),
    ):
        square_h = given.square_h
        if isinstance(product, Unknown) or isinstance(square, Unknown) or isinstance(square_h, Unknown):
            rows.append(_gone(name, square_h, product, square))
            continue
        if square_h.value <= 0:
            rows.append(missing(name, Status.ALL_ZERO, "H is 0"))
            continue
        norms = np.sqrt(square_h.value * np.where(square > 0, square, np.nan))
        null = None
        if isinstance(given.trace_h, Known) and not isinstance(given.trace, Unknown) and given.trace_h.value > 0:
            trace = given.trace if name is Name.MATRIX_COSINE else np.ones(1)
            value = given.trace_h.value * float(trace[0]) / (d * float(norms[0]))
            null = of_matrix(given, value, given.trace_h, square_h)
        rows.append(
            row(
                name,
                product / norms,
                square_h.relative(0.5),
                method=method,
                reference=_THOMAS,
                null=null,
                warnings=given.warnings,
                most=1.0,
            )
        )
    return rows


def _off_diagonal(given: Setting) -> Metric:
    """Σ_{i≠j} c_ij² / Σ_ij c_ij² in the k × k block."""
    name, k = Name.OFF_DIAGONAL, len(given.values)
    if isinstance(given.inner, Unknown):
        return _gone(name, given.inner)
    if k < 2:
        return missing(name, Status.TOO_FEW_VALUES, f"{k} direction(s): nothing off the diagonal")
    whole, diagonal = given.inner
    if (whole <= 0).any():
        reason = "Σ c_ij² is estimated as 0 or below: take more draws"
        return missing(name, Status.DEGENERATE, reason, n=len(whole) - 1)
    null = off_diagonal_null(given, k)
    method = "pairs of different draws, delete-one jackknife"
    values = 1.0 - diagonal / whole
    source = "Xie et al. 2022, figure 1"
    # The estimate of what is near 0 is symmetric, and may fall below.
    return row(name, values, method=method, reference=source, null=null, warnings=given.warnings, log=False)


def _tic_trace(given: Setting) -> Metric:
    """Tr C / Tr H."""
    name, trace, trace_h = Name.TIC_TRACE, given.trace, _positive(given.trace_h)
    if isinstance(trace, Unknown) or isinstance(trace_h, Unknown):
        return _gone(name, trace_h, trace)
    warnings = given.warnings + given.factor_warnings
    values = given.scale * trace / trace_h.value
    return row(name, values, trace_h.relative(), method=_RATIO, reference=_TAKEUCHI, null=None, warnings=warnings)


def _mu(given: Setting) -> Metric:
    """μ = Tr(CG) / (2 F ‖G‖²_F), of the square loss F = mean ½ residual² (Wu, Wang & Su 2022)."""
    name, measured = Name.MU, given.measured
    if measured.matrix is not Matrix.GAUSS_NEWTON:
        return missing(name, Status.NOT_MEASURED, "is of the Gauss-Newton matrix; this is the Hessian")
    if not measured.loss > 0:
        return missing(name, Status.DEGENERATE, f"F = {measured.loss:.3g}: expected a loss above 0")
    product, square_h = given.product, given.square_h
    if isinstance(product, Unknown) or isinstance(square_h, Unknown):
        return _gone(name, square_h, product)
    if square_h.value <= 0:
        return missing(name, Status.ALL_ZERO, "G is 0")
    warnings = given.warnings + given.factor_warnings
    if not math.isfinite(given.factor):
        return missing(name, Status.NOT_MEASURED, given.factor_warnings[0])
    unit = given.factor / (2.0 * measured.loss * square_h.value)
    null = None
    if isinstance(given.trace_h, Known) and not isinstance(given.trace, Unknown) and given.trace_h.value > 0:
        value = unit * given.trace_h.value * float(given.trace[0]) / measured.dimension
        null = of_matrix(given, value, given.trace_h, square_h)
    warnings += ("defined for the square loss only, times any constant",)
    return row(name, unit * product, square_h.relative(), method=_RATIO, reference=_WU, null=null, warnings=warnings)
