"""Are the tails of the noise along H's eigenvectors so heavy that a covariance does not settle?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats import _jackknife
from gradnoise.analyzer.stats._curved import Unknown
from gradnoise.analyzer.stats._ecf import _ALPHA_RANGE, _DESIGN, _cosines, _covariance
from gradnoise.analyzer.stats._estimate import Z95, Estimate, StatsError, Status
from gradnoise.analyzer.stats._metric import Metric, Name, missing
from gradnoise.analyzer.stats.estimators import ecf

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._setting import Setting

__all__ = ["MIN_TAIL_DRAWS", "heavy_warning", "is_heavy", "projection_alpha"]

MIN_TAIL_DRAWS = 32
"""Fewest draws for α: below it a direction's own scale is known too badly."""
_MOST_VALUES = 4096
"""Values that are pooled: enough for an error of 0.02 in α, and a fit of a few milliseconds."""
_FEWEST = 3
"""Frequencies of the regression."""


def projection_alpha(given: Setting) -> Metric:
    """α of the projections, each direction divided by its median size, pooled; jackknife over tenths of the draws."""
    if isinstance(given.variances, Unknown):
        return missing(Name.ALPHA, given.variances.status, given.variances.reason)
    projections = given.measured.projections[:, given.finite]
    draws = len(projections)
    if draws < MIN_TAIL_DRAWS:
        reason = f"{draws} draws; the tails of projections need {MIN_TAIL_DRAWS}"
        return missing(Name.ALPHA, Status.TOO_FEW_DRAWS, reason, n=draws)
    scale = np.median(np.abs(projections), axis=0)
    columns = np.flatnonzero(scale > 0)[: max(_MOST_VALUES // draws, 1)]
    if not columns.size:
        return missing(Name.ALPHA, Status.DEGENERATE, "half of the projections are 0 in every direction", n=draws)
    values = projections[:, columns] / scale[columns]
    try:
        whole = ecf(values.ravel())
    except StatsError as error:
        return missing(Name.ALPHA, error.status, str(error), n=draws)
    assert whole.scale is not None  # ecf fits one
    without = _without_groups(np.abs(values) / whole.scale.value, whole.value)
    if not np.isfinite(without).all():
        reason = "without some tenths of the draws the characteristic function is no stable law's"
        return missing(Name.ALPHA, Status.DEGENERATE, reason, n=draws)
    se = _jackknife.standard_error(without)
    margin = _jackknife.T95 * se
    method = f"characteristic function of {columns.size} directions on their own scales, jackknife over draws"
    ends = (whole.value - margin, whole.value + margin)
    found = Estimate(whole.value, se, *ends, values.size, method, whole.reference, given.warnings)
    return Metric(Name.ALPHA, None, found, _normal_reading(draws, columns.size))


def _without_groups(z: Floats, alpha: float) -> Floats:
    """α̂ without each tenth of the draws: sums of cosines are differences of those of the tenths, and the weights of
    the regression stay."""
    group = _jackknife.groups(len(z))
    none = np.empty(0)
    counts = np.array([float(z[group == i].size) for i in range(_jackknife.GROUPS)])
    parts = np.array([_cosines(z[group == i].ravel(), none) for i in range(_jackknife.GROUPS)]) * counts[:, None]
    phi = (parts.sum(axis=0) - parts) / (counts.sum() - counts)[:, None]
    usable = int(np.append(((phi > 0) & (phi < 1)).all(axis=0), False).argmin())
    if usable < _FEWEST:
        return np.full(_jackknife.GROUPS, np.nan)
    covariance = _covariance(float(np.clip(alpha, *_ALPHA_RANGE)), usable)
    design = _DESIGN[:usable]
    weighted = np.linalg.solve(covariance, design)
    form = np.linalg.solve(design.T @ weighted, weighted.T)[0]
    result: Floats = np.log(-np.log(phi[:, :usable])) @ form
    return result


def _normal_reading(draws: int, directions: int) -> Estimate:
    """What independent normal projections read: 2 − 1.2/K, for their own scales are estimates, ± 6/(K√k).

    By simulation of K = 32 to 512 and k = 1 to 128; skewed to below for few values, which the lower end allows for.
    """
    value, se = 2.0 - 1.2 / draws, 6.0 / (draws * math.sqrt(directions))
    method = "independent normal projections, simulated"
    return Estimate(value, se, value - 2.4 * se, value + Z95 * se, draws * directions, method)


def is_heavy(alpha: Metric) -> bool:
    """Whether the tails are heavier than normal projections of as many draws would read."""
    if alpha.status is not Status.OK or alpha.null is None:
        return False
    return bool(alpha.estimate.high < alpha.null.low)


def heavy_warning(alpha: Metric) -> str:
    """What to say then of whatever needs a covariance."""
    of, null = alpha.estimate, alpha.null
    assert null is not None
    return (
        f"heavy tails: projections read alpha {of.value:.2f} ({of.low:.2f} to {of.high:.2f}) where normal ones read "
        f"{null.value:.2f}; for alpha below 2 there is no covariance and this number does not settle: see robust rows"
    )
