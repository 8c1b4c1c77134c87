"""The aggregation curve: flat for stable laws, climbing for finite variance."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from gradnoise.analyzer.stats import (
    AllZero,
    InvalidInput,
    NonFiniteValues,
    TooFewValues,
    _null,
    stable,
)
from gradnoise.analyzer.stats.aggregation import Trend, aggregation_curve


def trends(draw: Callable[[], np.ndarray], samples: int, rng: np.random.Generator) -> Counter[Trend]:
    return Counter(aggregation_curve(draw(), rng=rng).trend for _ in range(samples))


def test_points_are_fits_of_sums() -> None:
    rng = np.random.default_rng(1)
    x = stable.rvs(1.5, 1.0, 1000, rng)
    curve = aggregation_curve(x, rng=np.random.default_rng(2))
    assert [p.m for p in curve.points] == [1, 2, 4, 8, 16, 32]
    assert [p.sums for p in curve.points] == [1000, 500, 250, 125, 62, 31]
    shuffled = np.random.default_rng(2).permutation(x)
    by_hand = stable.fit(shuffled[:992].reshape(62, 16).sum(axis=1))
    assert curve.points[4].alpha.value == by_hand.alpha.value
    assert curve.points[4].alpha.low == by_hand.alpha.low
    assert curve.points[4].null_alpha == pytest.approx(1 / float(_null.inverse_alpha(62)))
    assert curve.points[0].alpha.value == pytest.approx(stable.fit(x).alpha.value)


def test_matrices_are_summed_in_draw_order() -> None:
    rng = np.random.default_rng(3)
    u = stable.rvs(1.6, 1.0, (256, 12), rng)
    curve = aggregation_curve(u)
    sums = u.reshape(64, 4, 12).sum(axis=1)
    expected = 1 / np.mean(1 / stable.fit_columns(sums).alpha.value)
    assert curve.points[2].alpha.value == pytest.approx(expected)
    assert curve.points[2].columns == 12
    # Neighbours that cancel: only an order can do that.
    alternating = np.repeat(u[:128], 2, axis=0) * np.resize([1.0, -1.0], 256)[:, None]
    cancelled = aggregation_curve(alternating)
    assert len(cancelled.points) == 1
    assert cancelled.trend is Trend.UNCLEAR
    assert "sums of 2 could not be fitted (all_zero)" in cancelled.warnings[0]


def test_flat_for_stable_and_climbing_for_finite_variance() -> None:
    rng = np.random.default_rng(4)
    n = 5000
    found = trends(lambda: stable.rvs(1.3, 1.0, n, rng), 12, rng)
    assert found[Trend.FLAT] >= 8
    assert found[Trend.CLIMBING] <= 1
    for finite in (
        lambda: rng.standard_t(3, n),
        lambda: rng.normal(size=n) * np.exp(rng.normal(size=n)),
        lambda: rng.laplace(size=n),
    ):
        found = trends(finite, 12, rng)
        assert found[Trend.CLIMBING] >= 9
        assert found[Trend.FLAT] == 0
    assert trends(lambda: rng.normal(size=1000), 5, rng)[Trend.UNCLEAR] == 5


def test_trend_of_matrices() -> None:
    rng = np.random.default_rng(5)
    flat = aggregation_curve(stable.rvs(1.5, 1.0, (512, 30), rng))
    assert flat.trend is Trend.FLAT
    assert flat.slope is not None
    assert flat.slope.low < 0.02
    climbing = aggregation_curve(rng.standard_t(3, (512, 30)))
    assert climbing.trend is Trend.CLIMBING
    assert climbing.slope is not None
    assert climbing.slope.value == pytest.approx(0.2, abs=0.08)
    alphas = [p.alpha.value for p in climbing.points]
    assert alphas == sorted(alphas)
    near = aggregation_curve(rng.normal(size=(512, 30)))
    assert near.trend is Trend.UNCLEAR
    assert near.slope is None
    assert "too near to 2" in near.reason
    for point in near.points:
        assert point.alpha.low <= point.null_alpha + 0.02
        assert point.alpha.value == pytest.approx(point.null_alpha, abs=0.03)
    few = aggregation_curve(rng.standard_t(3, (120, 3)))
    assert few.trend is Trend.UNCLEAR
    assert "a trend needs" in few.reason


def test_zeros_and_columns_without_a_fit_are_said() -> None:
    rng = np.random.default_rng(6)
    u = np.column_stack([rng.standard_t(3, 300), np.zeros(300)])
    curve = aggregation_curve(u)
    assert curve.points[0].columns == 1
    assert curve.zeros == 0.5
    assert "exactly 0" in curve.warnings[0]
    assert "1 of 2 columns" in curve.warnings[1]


def test_bad_input() -> None:
    x = np.random.default_rng(7).normal(size=100)
    with pytest.raises(InvalidInput, match="rng:"):
        aggregation_curve(x)
    with pytest.raises(InvalidInput, match="values:"):
        aggregation_curve(np.ones((3, 3, 3)))
    with pytest.raises(NonFiniteValues, match="values:"):
        aggregation_curve([*x, math.nan], rng=np.random.default_rng(1))
    with pytest.raises(TooFewValues, match="at least 30 draws"):
        aggregation_curve(x[:20], rng=np.random.default_rng(1))
    with pytest.raises(TooFewValues):
        aggregation_curve(np.empty((100, 0)))
    with pytest.raises(AllZero):
        aggregation_curve(np.zeros((100, 2)))
