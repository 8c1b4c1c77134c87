"""Columns divided by a robust scale that the divided value has no part in."""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]


def leave_one_out(noise: np.ndarray[Any, np.dtype[Any]]) -> Floats:
    """u_kj / s_kj with s_kj = (mean over i ≠ k, u_ij ≠ 0, of √|u_ij|)²: float64, rows × columns.

    The half moment is finite for every α above ½, and ln s has variance 0.72/K for Gaussian columns, where the
    median of |u| has 1.36/K: half the noise that the division brings in. Where more than half of a column's
    other values are 0 the result is NaN: such a column has no scale.
    """
    u = np.asarray(noise, dtype=np.float64)
    # In units of each column's largest value the roots neither overflow nor lose the small ones.
    unit = np.abs(u).max(axis=0, initial=0.0)
    scaled = np.abs(u) / np.where(unit > 0, unit, 1.0)
    root, present = np.sqrt(scaled), (scaled > 0).astype(np.float64)
    total, count = root.sum(axis=0) - root, present.sum(axis=0) - present
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.sign(u) * scaled / np.square(total / count)
    return np.where((count > 0) & (2 * count >= len(u) - 1), z, np.nan)


def log_scales(noise: np.ndarray[Any, np.dtype[Any]]) -> Floats:
    """ln (mean over k, u_kj ≠ 0, of √|u_kj|)² of every column; NaN for a column of zeros."""
    u = np.abs(np.asarray(noise, dtype=np.float64))
    unit = u.max(axis=0, initial=0.0)
    scaled = u / np.where(unit > 0, unit, 1.0)
    count = np.count_nonzero(scaled, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs: Floats = np.log(unit) + 2.0 * np.log(np.sqrt(scaled).sum(axis=0) / count)
    return np.where(count > 0, logs, np.nan)


def halves(noise: np.ndarray[Any, np.dtype[Any]]) -> Floats:
    """As ``leave_one_out``, each row over the scales of the other rows of its own half only (even, odd rows)."""
    z = np.empty(noise.shape)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        z[part] = leave_one_out(noise[part])
    return z
