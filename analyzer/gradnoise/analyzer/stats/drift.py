"""Does the scale of the noise drift over a window? Drift in time reads as tail in every per-parameter fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]

__all__ = ["DRIFT_LIMIT", "row_log_scales", "row_spread", "scale_drift"]

DRIFT_LIMIT = 0.25
"""Drift above which a per-parameter reading is not taken as of one law: Gaussian noise above it reads 1.93 or less."""

BLOCKS = 8
"""Stretches of the window whose mean log scales are compared."""


def row_log_scales(noise: Floats) -> Floats:
    """Log of each draw's scale relative to its columns' own: ln median_j |u_kj| / s_j, s_j = median_k |u_kj|.

    Args:
        noise: draws x coordinates, finite.

    Returns:
        float64, one a draw; NaN for a draw whose median is 0. Columns that are mostly zero are left out.
    """
    magnitude = np.abs(np.asarray(noise, np.float64))
    scale = np.median(magnitude, axis=0)
    magnitude = magnitude[:, scale > 0] / scale[scale > 0]
    if magnitude.shape[1] == 0:
        return np.full(len(magnitude), np.nan)
    rows = np.median(magnitude, axis=1)
    logs: Floats = np.log(rows, out=np.full(len(rows), np.nan), where=rows > 0)
    return logs


def row_spread(noise: Floats) -> float:
    """Standard deviation over draws of the log scale that all coordinates share, whatever its order in time.

    The covariance over draws of :func:`row_log_scales` of the even and of the odd columns: independent coordinates
    bring sampling error to each, but not to their covariance.

    Args:
        noise: draws x coordinates, finite.

    Returns:
        In units of ln(scale); 0 where the covariance is not positive, NaN for fewer than 2 usable draws.
    """
    even, odd = row_log_scales(noise[:, ::2]), row_log_scales(noise[:, 1::2])
    usable = np.isfinite(even) & np.isfinite(odd)
    if usable.sum() < 2:
        return math.nan
    return math.sqrt(max(float(np.cov(even[usable], odd[usable])[0, 1]), 0.0))


def scale_drift(noise: Floats) -> float:
    """Standard deviation over time of the slow part of the log row scale; 0 where it is within what chance explains.

    One-way analysis of variance of :func:`row_log_scales` over eight consecutive stretches of the window:
    drift² = (MS_between - MS_within) / rows a stretch, and 0 unless the F test rejects at 1 %. What differs from
    draw to draw without order, such as a few minibatches of hard examples, is noise, not drift, and does not count.

    Args:
        noise: draws x coordinates in time order, finite.

    Returns:
        The drift, in units of ln(scale); NaN for fewer than 16 usable draws.
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
