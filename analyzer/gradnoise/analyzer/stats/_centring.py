"""Skewness, and α read against three centres: evidence that noise is not a law symmetric about its centre."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats import contrasts
from gradnoise.analyzer.stats._column_forms import MIN_ROWS_PER_PARAMETER, per_parameter
from gradnoise.analyzer.stats._columns import root
from gradnoise.analyzer.stats._estimate import Estimate, Status, TooFewValues, as_real
from gradnoise.analyzer.stats._jackknife import GROUPS, T95, groups, standard_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

DISAGREEMENT = 0.05
"""Difference of α between centres that is said, if it is beyond its error."""


@dataclass(frozen=True, slots=True)
class Centring:
    """α of the same draws against three centres, and their skewness."""

    mean: Estimate
    """α̂ per parameter of draws less their mean,"""
    median: Estimate
    """less their median,"""
    pair: Estimate
    """and in half-differences of pairs, which are symmetric whatever the law."""
    spread: Estimate
    """Largest less smallest of the three; interval by jackknife over draws, of those two readings."""
    skewness: Estimate
    """Root mean square over columns of the moment skewness E(x − μ)³/sd³, without what chance brings to it."""
    octile_skewness: Estimate
    """The same of (q₇/₈ + q₁/₈ − 2 q½) / (q₇/₈ − q₁/₈), between −1 and 1, which no single value can move (Hinkley
    1975)."""
    status: Status
    reason: str = ""
    warnings: tuple[str, ...] = ()


def centring(draws: ArrayLike) -> Centring:
    """Read draws (K × J, at one θ) per parameter against mean, median and pairs, and measure their skewness.

    For a symmetric stable law, α well above 1, the three agree; where they disagree beyond their errors no SαS law
    about one centre describes the draws, and a warning says so: skewed noise does that, and so does any law of finite
    variance whose pairs are lighter-tailed than single draws. Skewness is a product of two estimates of it, from the
    even and from the odd draws, averaged over columns: columns may be skewed to either side, and symmetric ones average
    to 0. Takes three times as long as ``per_parameter``.

    Raises as ``contrasts.pair``, and ``TooFewValues`` below 60 finite draws (30 pairs).
    """
    array = as_real(draws, "draws", 2)
    array = array[np.isfinite(array).all(axis=1)]
    if len(array) < 2 * MIN_ROWS_PER_PARAMETER:
        raise TooFewValues(f"draws: expected at least {2 * MIN_ROWS_PER_PARAMETER} finite draws, got {len(array)}")
    # An even number, so that pairs rest on the same draws as the others.
    array = array[: len(array) // 2 * 2]
    median = (np.median(array, axis=0) - array).astype(array.dtype)
    results = [per_parameter(noise) for noise in (contrasts.mean(array), median, contrasts.pair(array))]
    failed = [r for r in results if not math.isfinite(r.alpha.value)]
    nan = math.nan
    if failed:
        none = Estimate(nan, nan, nan, nan, 0, "none")
        alphas = [r.alpha for r in results]
        return Centring(alphas[0], alphas[1], alphas[2], none, none, none, failed[0].status, failed[0].reason)
    values = [r.alpha.value for r in results]
    high, low = results[int(np.argmax(values))], results[int(np.argmin(values))]
    value = high.alpha.value - low.alpha.value
    # dα = −α² d(1/α), of both from the same draws.
    se = standard_error(high.alpha.value**2 * high.replicates - low.alpha.value**2 * low.replicates)
    spread = Estimate(
        value,
        se,
        max(value - T95 * se, 0.0),
        value + T95 * se,
        len(array),
        "largest less smallest; jackknife over draws",
    )
    warnings: tuple[str, ...] = ()
    if value > DISAGREEMENT and spread.low > 0:
        warnings = (
            f"α is {values[0]:.2f} about the mean, {values[1]:.2f} about the median and {values[2]:.2f} in pairs: no "
            "SαS law about one centre describes these draws",
        )
    group = groups(len(array))
    return Centring(
        mean=results[0].alpha,
        median=results[1].alpha,
        pair=results[2].alpha,
        spread=spread,
        skewness=_beyond_chance(array, group, _moment_skewness, "third moment"),
        octile_skewness=_beyond_chance(array, group, _octile_skewness, "octiles"),
        status=Status.OK,
        warnings=warnings,
    )


def _moment_skewness(x: Floats) -> Floats:
    centred = x - x.mean(axis=0)
    # In units of the largest deviation no cube overflows.
    unit = np.abs(centred).max(axis=0)
    centred = centred / np.where(unit > 0, unit, 1.0)
    variance = np.mean(centred**2, axis=0)
    third = np.mean(centred**3, axis=0)
    return np.asarray(np.divide(third, variance**1.5, out=np.zeros_like(third), where=variance > 0))


def _octile_skewness(x: Floats) -> Floats:
    low, middle, high = np.quantile(x, [0.125, 0.5, 0.875], axis=0)
    width = high - low
    return np.asarray(np.divide(high + low - 2.0 * middle, width, out=np.zeros_like(width), where=width > 0))


def _beyond_chance(
    array: Floats, group: np.ndarray[tuple[int], np.dtype[np.int64]], measure: Callable[[Floats], Floats], what: str
) -> Estimate:
    """Root of the mean over columns of measure(even draws) · measure(odd draws): independent errors average to 0."""

    def square(x: Floats) -> float:
        return float(np.mean(measure(x[::2]) * measure(x[1::2])))

    values = array.astype(np.float64)
    replicates = np.array([square(values[group != g]) for g in range(GROUPS)])
    method = f"root mean square over columns, {what}; jackknife over draws"
    return root(square(values), replicates, 1.0, len(array), method)
