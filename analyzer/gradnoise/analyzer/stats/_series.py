"""A matrix of draws as time series: what the questions of ``dependence`` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._alpha import any_shape, require_finite
from gradnoise.analyzer.stats._estimate import MIN_VALUES, AllZero, DegenerateValues, InvalidInput, TooFewValues

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats


def draw_matrix(x: ArrayLike, name: str = "x") -> Floats:
    """Finite draws × columns with at least 30 draws, as float64, columns that are constant left out; raises."""
    values = any_shape(x, name)
    if values.ndim not in (1, 2):
        raise InvalidInput(f"{name}: expected a series or draws × columns, got shape {values.shape}")
    require_finite(values, name)
    if len(values) < MIN_VALUES:
        raise TooFewValues(f"{name}: expected at least {MIN_VALUES} draws, got {len(values)}")
    if not values.any():
        raise AllZero(f"{name}: all {values.size} values are exactly 0")
    matrix = values.astype(np.float64).reshape(len(values), -1)
    matrix = matrix[:, (matrix != matrix[0]).any(axis=0)]
    if matrix.shape[1] == 0:
        raise DegenerateValues(f"{name}: every column is constant; it has no autocorrelation")
    return matrix


def standardised(matrix: Floats) -> Floats:
    """Columns with mean 0 and variance 1."""
    z = matrix / np.abs(matrix).max(axis=0)
    z = z - z.mean(axis=0)
    spread = np.sqrt(np.mean(z**2, axis=0))
    return np.asarray(z[:, spread > 0] / spread[spread > 0])


def log_magnitude(matrix: Floats) -> tuple[Floats, float]:
    """ln|u| and the share of exact zeros. A zero, which has none, gets its column's mean: it correlates with nothing.
    Columns of which more than half is zero, or whose magnitude is constant, are left out."""
    present = matrix != 0
    keep = 2 * present.sum(axis=0) >= len(matrix)
    present, magnitude = present[:, keep], np.abs(matrix[:, keep])
    logs = np.log(np.where(present, magnitude, 1.0))
    mean = logs.sum(axis=0) / present.sum(axis=0)
    logs = np.where(present, logs, mean)
    return logs[:, np.ptp(logs, axis=0) > 1e-12], float(np.mean(matrix == 0))


def mean_acf(z: Floats, lags: int) -> Floats:
    """Autocorrelation at lags 0 … ``lags``, averaged over columns."""
    from statsmodels.tsa.stattools import acf  # 2 s to import: only where it is used

    return np.asarray(np.mean([acf(column, nlags=lags, fft=True) for column in z.T], axis=0))
