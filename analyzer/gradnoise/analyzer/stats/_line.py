"""A straight line through points with correlated errors in y, small errors in x, and a scatter of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtri

from gradnoise.analyzer.stats._interval import Part

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["Line", "fit_line", "fit_offset", "jackknife_covariance", "slope_of_noise"]

_PASSES = 50
_TOLERANCE = 1e-10


def jackknife_covariance(values: Floats) -> Floats:
    """Covariance (k, k) of values (K + 1, k), whose rows after the first are each without one draw."""
    apart = values[1:] - values[1:].mean(axis=0)
    n = len(apart)
    result: Floats = (n - 1) / n * (apart.T @ apart)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """The fit, and what its errors are made of."""

    value: float
    """Slope, or offset."""
    coefficients: Floats
    """Of y in the value."""
    sampling: Part
    """From the errors of x and y."""
    scatter: Part
    """From the points' own scatter about the line."""
    scatter_variance: tuple[float, float, float]
    """τ², and its 95 % interval."""


def fit_line(x: Floats, y: Floats, x_variance: Floats, y_covariance: Floats, draws: int) -> Line:
    """y = slope · x + b + scatter + error: maximum likelihood for known ratios of the errors.

    The slope solves York's equations (York et al. 2004, eqs. 13), the general form of Deming's regression, with the
    mean variance of y for every point: a point's own estimated variance moves with its value where tails are heavy, and
    weights made of it would bias. The variance τ² of the scatter is the method of moments' (DerSimonian & Laird 1986),
    with the whole covariance of the errors. The error of the slope is that of the linear form with all of them.
    """
    size = len(x)
    base = float(np.trace(y_covariance)) / size
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    tau2 = 0.0
    for _ in range(_PASSES):
        of_y = tau2 + base
        weight = 1.0 / np.maximum(of_y + slope**2 * x_variance, np.finfo(float).tiny)
        weight /= weight.sum()
        across, along = x - weight @ x, y - weight @ y
        # York's β_i, over the variance of y: where x is exact, x − x̄ itself.
        adjusted = (
            across if not of_y else ((across * of_y + slope * along * x_variance) / (of_y + slope**2 * x_variance))
        )
        under = float((weight * adjusted) @ across)
        form = weight * adjusted / under
        form = form - weight * form.sum()
        new = float(form @ y)
        noise = y_covariance + np.diag(new**2 * x_variance)
        tau2 = _scatter(y, noise, weight, np.outer(across, form))[0]
        done = abs(new - slope) <= _TOLERANCE * max(abs(new), 1.0)
        slope = new
        if done:
            break
    tau2, low, high = _scatter(y, noise, weight, np.outer(across, form))
    sampling = Part(float(form @ noise @ form), draws - 1.0)
    scatter = Part(tau2 * float(form @ form), size - 2.0)
    return Line(slope, form, sampling, scatter, (tau2, low, high))


def fit_offset(y: Floats, y_covariance: Floats, draws: int) -> Line:
    """y = offset + scatter + error: the mean, with the same errors."""
    size = len(y)
    weight = np.full(size, 1.0 / size)
    found = _scatter(y, y_covariance, weight, np.zeros((size, size)))
    sampling = Part(float(weight @ y_covariance @ weight), draws - 1.0)
    return Line(float(y.mean()), weight, sampling, Part(found[0] / size, size - 1.0), found)


def _scatter(y: Floats, noise: Floats, weight: Floats, sloped: Floats) -> tuple[float, float, float]:
    """τ² with rᵀWr = tr(MᵀWM (noise + τ² I)) of the residuals r = My, and the interval of a χ² law of rᵀWr."""
    size = len(y)
    maker = np.eye(size) - weight[None, :] - sloped
    residual = maker @ y
    form = maker.T @ (weight[:, None] * maker)
    found, unit, chance = float(weight @ residual**2), float(np.trace(form)), float(np.sum(form * noise))
    freedom = size - (2 if sloped.any() else 1)
    low, high = (max((found * freedom / float(chdtri(freedom, p)) - chance) / unit, 0.0) for p in (0.025, 0.975))
    return max((found - chance) / unit, 0.0), low, high


def slope_of_noise(line: Line, variances: Floats) -> float:
    """Standard deviation of the fitted slope where the points are independent with these variances."""
    return math.sqrt(float(line.coefficients**2 @ variances))
