"""Sharpness and barriers of losses that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gradnoise.analyzer._landscape import Found, Landscape, barrier, sharpness
from gradnoise.analyzer.stats import Status

from . import measuring


def by_name(found: tuple[Found, ...]) -> dict[str, Found]:
    return {str(each.name): each for each in found}


def test_the_sharpness_of_a_quadratic_is_half_its_trace() -> None:
    # F = lambda/2 |theta|^2 at 0 in d dimensions: E[F(eps)] = lambda d radius^2 / 2, and a pair has two equal losses.
    rng = np.random.default_rng(0)
    epsilon = 0.1 * rng.standard_normal((400, 50))
    rise = 1.5 * (epsilon**2).sum(axis=1)
    row = measuring.sharpness(np.repeat(1.0 + rise, 2).tolist(), radius=0.1)
    (found,) = sharpness(row)
    truth = 1.5 * 50 * 0.01
    assert found.status is Status.OK
    assert found.estimate.low < truth < found.estimate.high
    expected = stats.ttest_1samp(rise, 0.0)
    assert found.estimate.se == pytest.approx(rise.mean() / expected.statistic)
    low, high = expected.confidence_interval(0.95)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((low, high))
    assert "radius 0.1" in found.estimate.method


def test_what_is_odd_in_epsilon_cancels_within_a_pair() -> None:
    steps = np.random.default_rng(1).standard_normal(16)
    losses = np.stack([1.0 + 100 * steps + 0.5, 1.0 - 100 * steps + 0.5], axis=1).ravel()
    (found,) = sharpness(measuring.sharpness(losses.tolist()))
    assert found.estimate.value == pytest.approx(0.5)
    assert found.estimate.se == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("losses", "loss", "status"),
    [
        ([], 1.0, Status.TOO_FEW_DRAWS),
        ([1.0, 2.0], 1.0, Status.TOO_FEW_DRAWS),
        ([1.0, math.inf, 2.0, 2.0], 1.0, Status.NON_FINITE),
        ([1.0, 2.0, 2.0, 2.0], math.nan, Status.NON_FINITE),
    ],
)
def test_a_sharpness_that_the_losses_do_not_carry_says_why(losses: list[float], loss: float, status: Status) -> None:
    (found,) = sharpness(measuring.sharpness(losses, loss=loss))
    assert (found.status, bool(found.reason), math.isnan(found.estimate.value)) == (status, True, True)


def test_the_barrier_of_a_known_segment() -> None:
    t = np.linspace(0.0, 1.0, 11)
    loss = 1.0 + t + np.where(np.isclose(t, 0.3), 2.0, 0.0)  # the line from 1 to 2, and a spike of 2 at 0.3
    shuffled = np.random.default_rng(0).permutation(11)
    found = by_name(barrier(measuring.barrier(t[shuffled].tolist(), loss[shuffled].tolist())))
    assert found["barrier"].estimate.value == pytest.approx(2.0)
    assert found["barrier_position"].estimate.value == pytest.approx(0.3)
    assert found["barrier_over_ends"].estimate.value == pytest.approx(3.3 - 2.0)
    assert found["barrier_over_ends_position"].estimate.value == pytest.approx(0.3)
    assert {each.status for each in found.values()} == {Status.OK}


def test_a_valley_has_no_barrier() -> None:
    t = np.linspace(0.0, 1.0, 5)
    found = by_name(barrier(measuring.barrier(t.tolist(), ((t - 0.5) ** 2).tolist())))
    assert found["barrier"].estimate.value == 0.0
    assert found["barrier_over_ends"].estimate.value == 0.0
    assert found["barrier_position"].estimate.value in (0.0, 1.0)


@pytest.mark.parametrize(
    ("positions", "losses", "status"),
    [
        ([], [], Status.TOO_FEW_VALUES),
        ([0.0, 1.0], [1.0, 2.0], Status.TOO_FEW_VALUES),
        ([0.0, 0.5, 0.9], [1.0, 2.0, 3.0], Status.TOO_FEW_VALUES),
        ([0.0, math.nan, 1.0], [1.0, 2.0, 3.0], Status.TOO_FEW_VALUES),
        ([0.0, 0.5, 1.0], [1.0, math.inf, 3.0], Status.NON_FINITE),
        ([0.0, 0.5, 1.0], [1.0, 2.0], Status.DEGENERATE),
    ],
)
def test_a_barrier_that_the_losses_do_not_carry_says_why(
    positions: list[float], losses: list[float], status: Status
) -> None:
    found = barrier(measuring.barrier(positions, losses))
    assert {str(each.name) for each in found} == {str(name) for name in Landscape} - {"sharpness"}
    assert {each.status for each in found} == {status}
    assert all(each.reason and math.isnan(each.estimate.value) for each in found)
