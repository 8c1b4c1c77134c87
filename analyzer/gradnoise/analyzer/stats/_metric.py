"""The names of what is reported about H and the noise, and the one shape of each report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from gradnoise.analyzer.stats._estimate import Estimate, Status

__all__ = ["Metric", "Name", "missing"]


class Name(StrEnum):
    """What a metric is of. Σ is the covariance of one minibatch's noise, C = B Σ that of one example's.

    ``docs/alignment.md`` has the formula, the null and the source of each.
    """

    GAMMA = "gamma"
    """Exponent of v_iᵀΣv_i ∝ λ_i^γ."""
    SCATTER = "scatter"
    """Standard deviation of ln v_iᵀΣv_i about that line, sampling error taken off."""
    GAMMA_PLAIN = "gamma_plain"
    """Slope of the ordinary regression of ln c_ii on ln λ_i, as others print it."""
    GAMMA_ROBUST = "gamma_robust"
    """The exponent of the squared scales that ``scale2`` reports."""
    SLOPE = "slope"
    """B c_ii/λ_i at γ = 1, geometric mean."""
    PEARSON = "pearson"
    """Correlation of ln c_ii and ln λ_i, sampling error taken off."""
    SPEARMAN = "spearman"
    """Rank correlation of c_ii and λ_i."""
    SPEARMAN_ROBUST = "spearman_robust"
    """Rank correlation of ``scale2`` and λ_i."""
    NEGATIVE_SHARE = "negative_share"
    """Share of the eigenvalues without a logarithm: λ_i ≤ 0."""
    OFF_DIAGONAL = "off_diagonal"
    """Σ_{i≠j} c_ij² / Σ_ij c_ij²."""
    ANISOTROPY_GAIN = "anisotropy_gain"
    """d Tr(HΣ) / (Tr H Tr Σ)."""
    ANISOTROPY_GAIN_SIGN = "anisotropy_gain_sign"
    PROJECTION_COEFFICIENT = "projection_coefficient"
    """v₁ᵀΣv₁ Tr H / (λ₁ Tr Σ)."""
    PROJECTION_COEFFICIENT_SIGN = "projection_coefficient_sign"
    SUBSPACE_OVERLAP = "subspace_overlap"
    """|V_HᵀV_Σ|²_F / k, V_Σ the k leading eigenvectors of the sample covariance."""
    SUBSPACE_OVERLAP_SELF = "subspace_overlap_self"
    """The same between the V_Σ of the two halves of the draws: how well the draws know V_Σ."""
    SUBSPACE_ENERGY = "subspace_energy"
    """Tr(V_HᵀΣV_H) / Tr Σ."""
    SUBSPACE_ENERGY_SIGN = "subspace_energy_sign"
    MATRIX_COSINE = "matrix_cosine"
    """Tr(HΣ) / (‖H‖_F ‖Σ‖_F)."""
    MATRIX_COSINE_SIGN = "matrix_cosine_sign"
    TIC_TRACE = "tic_trace"
    """Tr C / Tr H."""
    TIC_DAMPED = "tic_damped"
    """Tr(C (H + δ)⁻¹) at the coordinates of the dense blocks; index j: δ = 10⁻ʲ of the largest |λ| of the block."""
    MU = "mu"
    """Tr(CG) / (2 F ‖G‖²_F)."""
    B_SIMPLE = "b_simple"
    """Tr C / |∇F|²."""
    B_NOISE = "b_noise"
    """Tr(HC) / (∇Fᵀ H ∇F)."""
    B_TYPICAL = "b_typical"
    """B_simple with the median of |u|² in the place of its mean."""
    TRACE_H = "trace_h"
    FROBENIUS_H = "frobenius_h"
    """‖H‖_F."""
    TRACE_SIGMA = "trace_sigma"
    TRACE_H_SIGMA = "trace_h_sigma"
    """Tr(HΣ)."""
    SIGMA_SQUARED = "sigma_squared"
    """Tr Σ²."""
    EFFECTIVE_RANK = "effective_rank"
    """(Tr Σ)² / Tr Σ²."""
    TYPICAL_NORM2 = "typical_norm2"
    """Median of |u|²."""
    GRADIENT_NORM2 = "gradient_norm2"
    """|∇F|²."""
    EIGENVALUE = "eigenvalue"
    """λ_i, by index."""
    VARIANCE = "variance"
    """c_ii = v_iᵀΣv_i, by index."""
    SCALE2 = "scale2"
    """exp(E ln (u·v_i)²) times what makes it the variance of a normal law, by index."""
    ALPHA = "alpha"
    """Stable index of the projections u·v_i, each on its own scale, pooled."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number about H and the noise, with what it would be without alignment.

    ``estimate.value`` is NaN, and ``reason`` says why, unless ``status`` is ``ok`` or ``at_boundary``.
    """

    name: Name
    index: int | None
    """Of which eigenvalue (from 0, in the measurement's order), or of which damping; None elsewhere."""
    estimate: Estimate
    null: Estimate | None
    """What a sample of the same size reads without alignment, with its 95 % range; None where nothing is to align."""
    status: Status = Status.OK
    reason: str = ""


def missing(
    name: Name, status: Status, reason: str, *, index: int | None = None, n: float = 0.0, method: str = ""
) -> Metric:
    """A row without a value."""
    nan = math.nan
    return Metric(name, index, Estimate(nan, nan, nan, nan, n, method), None, status, reason)
