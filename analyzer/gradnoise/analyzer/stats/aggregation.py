"""The aggregation curve α̂(m): the stable index of sums of m draws.

Sums of m draws of SαS(σ) are SαS(m^{1/α} σ): α̂ is flat in m. Sums of draws with a finite variance become Gaussian,
whatever their law: α̂ climbs to 2. So the curve tells a stable law from a law that one sample size alone mistakes for
one, without naming a rival.

``aggregation_curve`` takes a vector, whose order it removes by a random permutation, or a matrix of draws × columns,
summed in the order of the draws; then 1/α̂ is averaged over columns, and its intervals resample draws. The trend of the
whole curve is the slope of 1/α̂ in log₂ m, by least squares with weights 1/m (the variance of a point grows with m), in
units of the way from 1/α̂(1) to ½: the *share of the way climbed per doubling*, with a delete-a-group jackknife
interval. t₃ climbs 0.19, t₂.₅ 0.16, a lognormal mixture of scales 0.20, a Laplace law 0.26, a stable law 0.

- ``climbing``: the interval lies above ``CLIMBED``;
- ``flat``: it lies below ``FLAT``, which a wide mixture of scales does too;
- ``unclear``: else, or where α̂(1) is so near to 2 that the way is less than ``LEAST_WAY`` standard errors long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, _null
from gradnoise.analyzer.stats._estimate import (
    MIN_VALUES,
    Estimate,
    InvalidInput,
    NonFiniteValues,
    Status,
    TooFewValues,
    as_real,
)
from gradnoise.analyzer.stats._form_result import Trend
from gradnoise.analyzer.stats._jackknife import GROUPS, T95, alpha_estimate, groups, standard_error
from gradnoise.analyzer.stats._stable_fit import fits_from_rows, raise_unfit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["AggregationCurve", "AggregationPoint", "Trend", "aggregation_curve"]

CLIMBED, FLAT = 0.05, 0.15
"""Shares of the way per doubling that the interval of a climbing curve is above, and that of a flat curve below."""
LEAST_WAY = 4.0
"""Standard errors of 1/α̂(1) that it must be above ½ for sums to show a way."""
TREND_SUMS = 100
"""Fewest sums of a point that counts for the trend: with fewer, α̂ = 2 is common by chance."""
LEAST_SUMS = MIN_VALUES
"""Fewest sums a point is given for."""


@dataclass(frozen=True, slots=True)
class AggregationPoint:
    """α of sums of ``m`` draws."""

    m: int
    alpha: Estimate
    null_alpha: float
    """What Gaussian draws read here: a little below 2, the more so the fewer the sums."""
    sums: int
    """Disjoint sums, of each column."""
    columns: int
    """Columns that could be fitted."""


@dataclass(frozen=True, slots=True)
class AggregationCurve:
    """α̂(m) for m = 1, 2, 4, … and what it says."""

    points: tuple[AggregationPoint, ...]
    trend: Trend
    slope: Estimate | None
    """Share of the way from 1/α̂(1) to ½ climbed per doubling of m; ``None`` without a way or with too few draws."""
    reason: str
    """Why the trend is what it is."""
    zeros: float
    """Share of exact zeros: left out at m = 1, part of the sums beyond."""
    warnings: tuple[str, ...] = ()


def aggregation_curve(values: ArrayLike, *, rng: np.random.Generator | None = None) -> AggregationCurve:
    """α̂ of sums of 1, 2, 4, … values while at least 30 sums are left.

    ``values``: a vector, permuted by ``rng`` (required then: sums of neighbours would keep whatever order there is); or
    a matrix of draws × columns, in draw order. A matrix averages 1/α̂ over columns; a point's interval is that of the
    profile likelihood for one column and a delete-a-group jackknife over draws for more.

    Columns that cannot be fitted are left out and counted. Raises ``InvalidInput`` (no generator, wrong dimension),
    ``NonFiniteValues``, ``TooFewValues`` (fewer than 30 draws), ``AllZero``, ``DegenerateValues``.

    Calibrated on vectors of 1000 and 5000 values (``tests/calibration/cal_aggregation.py``). SαS is called climbing in
    at most 2 % for α from 1.2 to 1.5, in 5 to 7 % at 1.9 and 1.95 and n = 5000. There t₂.₂ climbs in 70 %, t₂.₅ in
    87 %, t₃ in 90 %, t₅ in 98 %, a Laplace law and lognormal mixtures of scales in all, and at most 2 % of them are
    flat; at n = 1000 a quarter to a half of the t laws climb. **Flat is no proof of infinite variance: a wide mixture
    of scales is flat as well**: Gaussian values on scales 1, 4, 16 and 64 in all samples at n = 5000 and in nine of ten
    at 1000. t₂.₅ plus N(0, 4) is unclear in three of four.
    """
    dimensions = np.ndim(values)
    u = as_real(values, "values", 1 if dimensions < 2 else 2).astype(np.float64)
    if not np.isfinite(u).all():
        raise NonFiniteValues(f"values: expected finite values, got NaN or infinity among {u.size}; drop or mend them")
    if u.ndim == 1:
        if not isinstance(rng, np.random.Generator):
            raise InvalidInput(f"rng: a vector is permuted by a numpy.random.Generator, got {rng!r}")
        u = rng.permutation(u)[:, None]
    if len(u) < LEAST_SUMS or u.shape[1] == 0:
        raise TooFewValues(f"values: expected at least {LEAST_SUMS} draws and one column, got shape {u.shape}")
    points, inverses, replicates = [], [], []
    warnings: tuple[str, ...] = ()
    m = 1
    while len(u) // m >= LEAST_SUMS:
        made = _point(u, m)
        if isinstance(made, Status):
            warnings += (f"sums of {m} could not be fitted ({made}): the curve ends before",)
            break
        point, inverse, left_out = made
        points.append(point)
        inverses.append(inverse)
        replicates.append(left_out)
        m *= 2
    zeros = float(np.mean(u == 0))
    if zeros > 0:
        warnings += (f"{zeros:.3g} of the values are exactly 0: left out at m = 1, part of the sums beyond",)
    if points[0].columns < u.shape[1]:
        warnings += (f"{u.shape[1] - points[0].columns} of {u.shape[1]} columns could not be fitted",)
    trend, slope, reason = _trend(points, np.array(inverses), np.array(replicates))
    return AggregationCurve(tuple(points), trend, slope, reason, zeros, warnings)


def _point(u: Floats, m: int) -> tuple[AggregationPoint, float, Floats] | Status:
    """One point, its mean 1/α̂, and that without each tenth of the sums; why not, if no column can be fitted."""
    count = len(u) // m
    sums = np.ascontiguousarray(u[: count * m].reshape(count, m, -1).sum(axis=1).T)
    rows = _engine.fit_rows(sums, intervals=len(sums) == 1)
    fitted = np.isin(rows[:, _fit.CODE].astype(int), _engine.FITTED)
    fits = fits_from_rows(rows, False, len(sums) == 1)
    if not fitted.any():
        if m == 1:
            raise_unfit(fits.status[0], "values", float(fits.n[0]), u.size)
        return fits.status[0]
    good = rows[fitted]
    inverse = 1.0 / good[:, _fit.ALPHA]
    warm = np.column_stack([good[:, _fit.ALPHA], good[:, _fit.LOG_SCALE], np.zeros(len(good))])
    group = groups(count)
    replicates = np.empty(GROUPS)
    for g in range(GROUPS):
        again = _engine.fit_rows(sums[fitted][:, group != g], least=2, warm=warm)
        ok = np.isin(again[:, _fit.CODE].astype(int), _engine.FITTED)
        replicates[g] = np.where(ok, 1.0 / again[:, _fit.ALPHA], inverse).mean()
    mean, n = float(inverse.mean()), good[:, _fit.N_USED]
    if len(sums) == 1:
        alpha = fits.alpha.at(0)
    else:
        floor = float(np.sqrt(np.sum(_null.inverse_alpha_sd(n) ** 2))) / len(n)
        method = f"1 / mean over columns of 1/α̂ of sums of {m} draws; delete-a-group jackknife over draws"
        alpha = alpha_estimate(mean, replicates, floor, count, method)
    null_alpha = 1.0 / float(_null.inverse_alpha(n).mean())
    return AggregationPoint(m, alpha, null_alpha, count, len(good)), mean, replicates


def _slope(inverses: Floats) -> Floats:
    """Fall of 1/α̂ per doubling, of one curve or of many (curves × points): least squares with weights 1/m."""
    doublings = np.arange(inverses.shape[-1], dtype=np.float64)
    weight = 2.0**-doublings
    centred = doublings - np.average(doublings, weights=weight)
    return np.asarray(-(inverses * weight) @ centred / np.sum(weight * centred**2))


def _trend(points: list[AggregationPoint], inverses: Floats, replicates: Floats) -> tuple[Trend, Estimate | None, str]:
    count = sum(point.sums >= TREND_SUMS for point in points)
    if count < 2:
        reason = (
            f"a trend needs sums of 2 and {2 * TREND_SUMS} draws, got {len(points)} point(s), {points[0].sums} draws"
        )
        return Trend.UNCLEAR, None, reason
    way = float(inverses[0]) - 0.5
    if not way > LEAST_WAY * standard_error(replicates[0]):
        return Trend.UNCLEAR, None, f"draws read {1 / inverses[0]:.3g}, too near to 2 for sums to show a way"
    value = float(_slope(inverses[:count])) / way
    margin = T95 * standard_error(_slope(replicates[:count].T)) / way
    low, high = value - margin, value + margin
    method = "weighted least squares of 1/α̂ in log₂ m; delete-a-group jackknife"
    slope = Estimate(value, margin / T95, low, high, points[0].sums, method)
    said = f"sums climb {value:.2f} of the way to 2 per doubling, 95 % interval {low:.2f} to {high:.2f}"
    if low > CLIMBED:
        return Trend.CLIMBING, slope, said
    return (Trend.FLAT if high < FLAT else Trend.UNCLEAR), slope, said
