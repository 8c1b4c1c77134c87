"""Does the scale of the noise drift over a window? Drift in time reads as tail in every per-parameter fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from gradnoise.analyzer.stats._estimate import as_real

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["DRIFT_LIMIT", "row_log_scales", "row_spread", "scale_drift"]

DRIFT_LIMIT = 0.25
"""Drift above which a per-parameter reading is not taken as of one law: Gaussian noise above it reads 1.93 or less."""

BLOCKS = 8
"""Stretches of the window whose mean log scales are compared."""


def row_log_scales(noise: ArrayLike) -> Floats:
    """Log of each draw's scale relative to its columns' own: ln median_j |u_kj| / s_j, s_j = median_k |u_kj|.

    Args:
        noise: draws x coordinates, finite.

    Returns:
        float64, one a draw; NaN for a draw whose median is 0. Columns that are mostly zero are left out.

    Raises:
        InvalidInput: for something that is not a real matrix.
    """
    values = as_real(noise, "noise", 2)
    if len(values) == 0:
        return np.empty(0)
    with np.errstate(divide="ignore"):  # ln 0
        logs = np.log(np.abs(values, dtype=np.float64))
    scale = _log_median(logs, 0)
    logs = logs[:, np.isfinite(scale)] - scale[np.isfinite(scale)]
    if logs.shape[1] == 0:
        return np.full(len(logs), np.nan)
    rows = _log_median(logs, 1)
    return np.where(np.isfinite(rows), rows, np.nan)


def _log_median(logs: Floats, axis: int) -> Floats:
    """ln median of values given by their logarithms: neither quotients nor sums of them leave the range of numbers."""
    n = logs.shape[axis]
    middle = ((n - 1) // 2, n // 2)
    lower, upper = np.take(np.partition(logs, middle, axis), middle, axis).swapaxes(0, axis)
    result: Floats = np.logaddexp(lower, upper) - math.log(2.0)
    return result


def row_spread(noise: ArrayLike) -> float:
    """Standard deviation over draws of the log scale that all coordinates share, whatever its order in time.

    The covariance over draws of :func:`row_log_scales` of the even and of the odd columns: independent coordinates
    bring sampling error to each, but not to their covariance.

    Args:
        noise: draws x coordinates, finite.

    Returns:
        In units of ln(scale); 0 where the covariance is not positive, NaN for fewer than 2 usable draws.

    Raises:
        InvalidInput: for something that is not a real matrix.
    """
    values = as_real(noise, "noise", 2)
    even, odd = row_log_scales(values[:, ::2]), row_log_scales(values[:, 1::2])
    usable = np.isfinite(even) & np.isfinite(odd)
    if usable.sum() < 2:
        return math.nan
    return math.sqrt(max(float(np.cov(even[usable], odd[usable])[0, 1]), 0.0))


def scale_drift(noise: ArrayLike) -> float:
    """Standard deviation over time of the slow part of the log row scale; 0 where it is within what chance explains.

    One-way analysis of variance of :func:`row_log_scales` over eight consecutive stretches of the window:
    drift² = (MS_between - MS_within) / rows a stretch, and 0 unless the F test rejects at 1 %. What differs from
    draw to draw without order, such as a few minibatches of hard examples, is noise, not drift, and does not count.

    Args:
        noise: draws x coordinates in time order, finite.

    Returns:
        The drift, in units of ln(scale); NaN for fewer than 16 usable draws.

    Raises:
        InvalidInput: for something that is not a real matrix.
    """
    scales = row_log_scales(noise)
    scales = scales[np.isfinite(scales)]
    length = len(scales) // BLOCKS
    if length < 2:
        return math.nan
    blocks = scales[: BLOCKS * length].reshape(BLOCKS, length)
    within = float(np.mean(np.var(blocks, axis=1, ddof=1)))
    between = float(length * np.var(blocks.mean(axis=1), ddof=1))
    if between <= within * float(special.fdtri(BLOCKS - 1, BLOCKS * (length - 1), 0.99)):
        return 0.0
    return math.sqrt((between - within) / length)
