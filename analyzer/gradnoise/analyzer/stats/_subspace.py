"""Do H and the noise share their leading eigenvectors? The overlap of two subspaces, from the Gram matrix alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

from gradnoise.analyzer.stats._curved import Unknown
from gradnoise.analyzer.stats._estimate import Z95, Estimate, Status
from gradnoise.analyzer.stats._metric import Metric, Name, missing
from gradnoise.analyzer.stats._unaligned import FRAME

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._setting import Setting

__all__ = ["overlaps"]

_GUR_ARI = "Gur-Ari et al. 2018"
_SINGLE = 1e-3
"""Smallest eigenvalue wanted, over the largest, that single precision (6e-8 of the largest) gives well enough."""


def overlaps(given: Setting) -> list[Metric]:
    """|V_HᵀV_Σ|²_F/k, V_Σ the k leading eigenvectors of the sample covariance, and what V_Σ itself is worth."""
    names = (Name.SUBSPACE_OVERLAP, Name.SUBSPACE_OVERLAP_SELF)
    for part in (given.variances, given.trace):
        if isinstance(part, Unknown):
            return [missing(name, part.status, part.reason) for name in names]
    measured, k = given.measured, len(given.values)
    draws, d = measured.draws, measured.dimension
    if not k:
        return [missing(name, Status.NON_FINITE, "no finite direction") for name in names]
    if draws <= k:
        reason = f"{draws} draws span at most {draws} directions; the overlap of {k} needs more draws than that"
        return [missing(name, Status.TOO_FEW_DRAWS, reason) for name in names]
    projections = measured.projections[:, given.finite]
    null = _null(k, d)
    return [_overlap(measured.gram, projections, given, null), _self_overlap(measured.gram, k, given, null)]


def _null(k: int, d: int) -> Estimate:
    """k/d, of a random subspace: Tr(PQ)/k of two projectors, with variance 2 (1−k/d)²/((d−1)(d+2))."""
    value = k / d
    se = math.sqrt(2.0 / ((d - 1.0) * (d + 2.0))) * (1.0 - value) if d > 1 else 0.0
    return Estimate(value, se, max(value - Z95 * se, 0.0), min(value + Z95 * se, 1.0), k, FRAME)


def _leading(gram: Floats, count: int) -> tuple[Floats, Floats]:
    """The largest eigenvalues of a Gram matrix, descending, and their eigenvectors as columns.

    In single precision, in half the time, where the last of them stands well above its rounding.
    """
    size = len(gram)
    unit = float(np.diagonal(gram).max())
    last = [size - count, size - 1]
    single = (gram / unit).astype(np.float32)
    values, vectors = eigh(single, subset_by_index=last, check_finite=False, overwrite_a=True)
    if len(values) < count or values[0] < _SINGLE * values[-1]:
        values, vectors = eigh(gram / unit, subset_by_index=last, check_finite=False, overwrite_a=True)
    if len(values) < count:  # LAPACK's way with numbers at the end of their range
        return np.zeros(count), np.zeros((size, count))
    return unit * values[::-1].astype(np.float64), vectors[:, ::-1].astype(np.float64)


def _overlap(gram: Floats, projections: Floats, given: Setting, null: Estimate) -> Metric:
    """The overlap: v_Σa = Uᵀw_a/√l_a of the Gram matrix's eigenpairs (l, w), so V_Hᵀv_Σa = Pᵀw_a/√l_a.

    Its error is the infinitesimal jackknife's (Jaeckel 1972): a draw's weight moves the projector on V_Σ by
    Σ_ab √(l_a l_b) w_ka w_kb/(l_a−l_b) (v_a v_bᵀ + v_b v_aᵀ), a within and b beyond the leading k. Of the b only the
    next k/2 are taken one by one; the small ones beyond go with their mean eigenvalue.
    """
    name, (draws, k) = Name.SUBSPACE_OVERLAP, projections.shape
    count = min(k + k // 2 + 5, draws)
    values, vectors = _leading(gram, count)
    if not values[k - 1] > 1e-12 * values[0]:
        reason = f"the draws span fewer than {k} directions"
        return missing(name, Status.TOO_FEW_DRAWS, reason, n=draws)
    along = vectors.T @ projections  # w_aᵀP, (count, k)
    value = float((along[:k] ** 2 / values[:k, None]).sum()) / k
    inner = along[:k] @ along[k:].T  # w_aᵀPPᵀw_b
    gap = values[:k, None] - values[None, k:]
    with np.errstate(divide="ignore", invalid="ignore"):
        mixed = np.where(gap > 0, inner / gap, 0.0)
    influence = np.einsum("ka,ab,kb->k", vectors[:, :k], mixed, vectors[:, k:], optimize=True)
    if draws > count:
        others = max(float(np.trace(gram)) - float(values.sum()), 0.0) / (draws - count)
        beyond = projections @ along[:k].T - vectors @ (along @ along[:k].T)  # of PPᵀw_a, what lies beyond; (K, k)
        influence += (vectors[:, :k] * beyond / np.maximum(values[:k] - others, np.finfo(float).tiny)).sum(axis=1)
    se = float(np.sqrt((influence**2).sum())) * 2.0 / k
    low, high = max(value - Z95 * se, 0.0), min(value + Z95 * se, 1.0)
    warnings = (
        *given.warnings,
        "leading directions of few draws are noisy: the overlap reads low; see the self overlap",
    )
    method = "Gram matrix, infinitesimal jackknife; of the reading at this number of draws"
    return Metric(name, None, Estimate(value, se, low, high, draws, method, _GUR_ARI, warnings), null)


def _self_overlap(gram: Floats, k: int, given: Setting, null: Estimate) -> Metric:
    """Between the V_Σ of even and of odd draws."""
    name, draws = Name.SUBSPACE_OVERLAP_SELF, len(gram)
    if draws // 2 <= k:
        reason = f"halves of {draws // 2} draws span at most as many directions; {k} need more draws"
        return missing(name, Status.TOO_FEW_DRAWS, reason, n=draws)
    (l_even, even), (l_odd, odd) = _leading(gram[::2, ::2], k), _leading(gram[1::2, 1::2], k)
    if not (l_even[-1] > 1e-12 * l_even[0] and l_odd[-1] > 1e-12 * l_odd[0]):
        return missing(name, Status.TOO_FEW_DRAWS, f"half of the draws span fewer than {k} directions", n=draws)
    cross = even.T @ gram[::2, 1::2] @ odd
    value = float((cross**2 / np.outer(l_even, l_odd)).sum()) / k
    nan = math.nan
    method = "leading directions of even and of odd draws; one split, no interval"
    return Metric(name, None, Estimate(value, nan, nan, nan, draws, method, "", given.warnings), null)
