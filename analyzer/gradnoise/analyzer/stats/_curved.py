"""The matrix H alone: eigenvalues that can be used, and its trace and norm with their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._estimate import Status
from gradnoise.analyzer.stats._interval import Part

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._measured import Measured

__all__ = ["Known", "Unknown", "curved", "eigenvalue_errors"]


@dataclass(frozen=True, slots=True)
class Known:
    """A number with the error of the probe vectors behind it (none where it is exact)."""

    value: float
    error: Part
    n: int
    method: str

    def relative(self, power: float = 1.0) -> Part:
        """Error of the power of it, relative to the power."""
        share = power * math.sqrt(self.error.variance) / self.value
        return Part(share * share, self.error.freedom)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why there is no number."""

    status: Status
    reason: str


def _probed(exact: float, samples: Floats, whole: bool, what: str) -> Known | Unknown:
    """``exact``, the share of the eigenvectors, plus the mean of ``samples`` over probe vectors."""
    if not math.isfinite(exact):
        return Unknown(Status.NON_FINITE, f"NaN or infinity among the eigenpairs behind {what}")
    if whole:
        return Known(exact, Part(0.0, math.inf), 0, "sum over all eigenpairs")
    if samples.size == 0:
        return Unknown(Status.NOT_MEASURED, f"{what} needs probe vectors; none were measured")
    finite = samples[np.isfinite(samples)]
    if finite.size < samples.size:
        return Unknown(Status.NON_FINITE, f"NaN or infinity among the products behind {what}")
    if finite.size < 2:
        return Unknown(Status.TOO_FEW_VALUES, f"{what} from 1 probe vector has no error; take 2 or more, better 16")
    value, variance = exact + float(finite.mean()), float(finite.var(ddof=1)) / finite.size
    if not (math.isfinite(value) and math.isfinite(variance)):
        return Unknown(Status.NON_FINITE, f"{what} is beyond the range of numbers")
    return Known(
        value,
        Part(variance, finite.size - 1),
        finite.size,
        f"eigenpairs + {finite.size} probe vectors off them",
    )


def curved(measured: Measured) -> tuple[Known | Unknown, Known | Unknown]:
    """Tr H and ‖H‖²_F.

    Both exact for any orthonormal V, converged or not, by splitting off the span of V (Hutch++: Meyer, Musco, Musco &
    Woodruff 2021): Tr H = Σ v_iᵀHv_i + E zᵀHz and ‖H‖²_F = Σ |Hv_i|² + E |Hz|², z = (I − VVᵀ) of random signs,
    |Hv_i|² = λ_i² + residual_i².
    """
    values, residuals = measured.eigenvalues, measured.residuals
    whole = len(values) == measured.dimension
    trace = _probed(float(values.sum()), measured.trace_samples, whole, "Tr H")
    if len(values) and not residuals.size:
        return trace, Unknown(Status.NOT_MEASURED, "‖H‖_F needs the residuals of the eigenpairs")
    squares = float((values**2).sum() + (residuals**2).sum())
    return trace, _probed(squares, measured.square_samples, whole, "‖H‖_F")


def eigenvalue_errors(values: Floats, residuals: Floats) -> Floats:
    """Bound on the error of each eigenvalue: min(r, r²/gap), gap the distance to the next one at hand (Parlett 1998,
    theorem 11.7.1); 0 where no residuals are known."""
    if not residuals.size:
        return np.zeros(len(values))
    distance = np.abs(np.subtract.outer(values, values))
    np.fill_diagonal(distance, np.inf)
    gap = distance.min(axis=1) if len(values) > 1 else np.full(len(values), np.inf)
    # The neighbour at the end of the list may be just beyond it: its gap is not known.
    gap[-1] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = np.where(gap > 0, residuals**2 / gap, np.inf)
    result: Floats = np.minimum(residuals, bound)
    return result
