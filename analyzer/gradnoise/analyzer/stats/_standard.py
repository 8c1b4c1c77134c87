"""Columns divided by a robust scale that the divided value has no part in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats


def leave_one_out(noise: np.ndarray[Any, np.dtype[Any]]) -> Floats:
    """u_kj over the median of |u_ij|, i ≠ k: float64, rows × columns.

    With the K values of a column sorted, the median of the others depends on k only through the side of the
    middle on which |u_kj| stands: it is one of two (K even) or three (K odd) numbers. Where that median is 0
    the value is NaN: the column has no scale.
    """
    u = np.asarray(noise, dtype=np.float64)
    k = u.shape[0]
    a = np.abs(u)
    half = k // 2
    if k % 2 == 0:
        part = np.partition(a, (half - 1, half), axis=0)
        low, high = part[half - 1], part[half]
        # Taking out one of the lower half makes the (half)-th smallest of the rest the upper middle value, and
        # vice versa.
        scale = np.where(a <= low, high, low)
    else:
        part = np.partition(a, (half - 1, half, min(half + 1, k - 1)), axis=0)
        low, mid, high = part[half - 1], part[half], part[min(half + 1, k - 1)]
        scale = np.where(a < mid, (mid + high) / 2, np.where(a > mid, (low + mid) / 2, (low + high) / 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(scale > 0, u / scale, np.nan))
