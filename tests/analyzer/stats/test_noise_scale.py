"""The noise scale from draws alone: closed forms, unbiasedness, and what draws cannot carry."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradnoise.analyzer.stats import InvalidInput, Status
from gradnoise.analyzer.stats.alignment import Metric, Name
from gradnoise.analyzer.stats.contrasts import Replacement
from gradnoise.analyzer.stats.noise_scale import WHOLE, Gradients, Scale, fieller, noise_scale

RNG = np.random.default_rng(1)
J, K = 50, 40
MEAN = RNG.standard_normal(J)
VALUES = MEAN + RNG.standard_normal((K, J))


def group(
    values: np.ndarray, theta: np.ndarray | None = None, *, name: str = "a", size: int = 0, **more: object
) -> Gradients:
    draws = len(values)
    return Gradients(
        name,
        size or values.shape[1],
        values,
        np.zeros(draws, int) if theta is None else theta,
        np.arange(draws),
        **more,  # type: ignore[arg-type]
    )


def named(scale: Scale) -> dict[Name, Metric]:
    return {metric.name: metric for metric in scale.metrics}


def test_pairs_at_one_theta_are_the_mean_over_all_pairs() -> None:
    (found, whole) = noise_scale([group(VALUES, batch_size=np.full(K, 16))])
    gram = VALUES @ VALUES.T
    off = (gram.sum() - np.trace(gram)) / (K * (K - 1))
    apart = sum(np.square(VALUES[i] - VALUES[j]).sum() for i in range(K) for j in range(i)) / (K * (K - 1) / 2) / 2
    rows = named(found)
    assert rows[Name.GRADIENT_NORM2].estimate.value == pytest.approx(off)
    assert rows[Name.TRACE_SIGMA].estimate.value == pytest.approx(apart)
    assert rows[Name.B_SIMPLE].estimate.value == pytest.approx(16 * apart / off)
    assert found.metrics[1].estimate.method == "pairs of draws, jackknife"
    assert whole.group == WHOLE
    assert named(whole)[Name.B_SIMPLE].estimate == rows[Name.B_SIMPLE].estimate


def test_the_jackknife_is_that_of_draws_left_out_one_by_one() -> None:
    found = named(noise_scale([group(VALUES)])[0])
    for name in (Name.GRADIENT_NORM2, Name.TRACE_SIGMA):
        without = np.array(
            [named(noise_scale([group(np.delete(VALUES, k, axis=0))])[0])[name].estimate.value for k in range(K)]
        )
        se = math.sqrt((K - 1) / K * np.square(without - without.mean()).sum())
        assert found[name].estimate.se == pytest.approx(se)


@pytest.mark.parametrize("count", [3, 20])
def test_several_thetas_are_pooled_by_their_degrees_of_freedom(count: int) -> None:
    """Each θ with its own gradient: neither is mixed up with the other's."""
    rng = np.random.default_rng(2)
    m = rng.integers(8, 12, count)
    theta = np.repeat(np.arange(count), m)
    means = 3.0 * rng.standard_normal((count, J))
    values = means[theta] + rng.standard_normal((len(theta), J))
    order = rng.permutation(len(theta))
    found = named(noise_scale([group(values[order], theta[order])])[0])
    trace = sum(values[theta == i].var(axis=0, ddof=1).sum() * (m[i] - 1) for i in range(count)) / (m - 1).sum()
    assert found[Name.TRACE_SIGMA].estimate.value == pytest.approx(trace)
    truth = np.average(np.square(means).sum(axis=1), weights=m - 1)
    assert found[Name.GRADIENT_NORM2].estimate.value == pytest.approx(truth, rel=0.05)


def test_estimates_are_unbiased_where_noise_hides_the_gradient() -> None:
    """|∇F|² = 0.25 under Tr Σ = 50: the pairs' mean is right, and the square of the mean would read 1.5."""
    rng = np.random.default_rng(3)
    mean = np.zeros(J)
    mean[0] = 0.5
    found = [named(noise_scale([group(mean + rng.standard_normal((K, J)))])[0]) for _ in range(400)]
    for name, truth in ((Name.GRADIENT_NORM2, 0.25), (Name.TRACE_SIGMA, 50.0)):
        values = np.array([rows[name].estimate.value for rows in found])
        assert abs(values.mean() - truth) < 4 * values.std() / 20
    negative = [rows[Name.B_SIMPLE] for rows in found if rows[Name.GRADIENT_NORM2].estimate.value <= 0]
    assert 20 < len(negative) < 250
    for row in negative:
        assert row.status is Status.DEGENERATE
        assert "not told from 0" in row.reason
        assert math.isnan(row.estimate.value)
        assert 0 <= row.estimate.low < math.inf == row.estimate.high
    open_ended = [rows[Name.B_SIMPLE] for rows in found if rows[Name.B_SIMPLE].status is Status.OK]
    assert any(any("no upper end" in text for text in row.estimate.warnings) for row in open_ended)
    inside = [rows[Name.B_SIMPLE].estimate.low <= 200 <= rows[Name.B_SIMPLE].estimate.high for rows in found]
    assert np.mean(inside) > 0.93


def test_sampled_coordinates_are_scaled_to_the_group_and_their_error_counts() -> None:
    part = noise_scale([group(VALUES, size=500)])[0]
    whole = noise_scale([group(VALUES)])[0]
    few, all_of_it = named(part)[Name.TRACE_SIGMA].estimate, named(whole)[Name.TRACE_SIGMA].estimate
    assert few.value == pytest.approx(10 * all_of_it.value)
    squares, sampled = named(part)[Name.GRADIENT_NORM2].estimate, named(whole)[Name.GRADIENT_NORM2].estimate
    # Squared gradients of 50 coordinates with their own spread: 500² (1 − 0.1) Var/50 on top of the draws' error.
    extra = math.sqrt(500**2 * 0.9 / 50 * np.var(MEAN**2, ddof=1))
    assert squares.se == pytest.approx(math.hypot(10 * sampled.se, extra), rel=0.15)


def test_the_whole_model_sums_its_groups_over_the_same_draws() -> None:
    sizes = (500, 80)
    groups = [group(VALUES[:, :30], name="a", size=sizes[0]), group(VALUES[:, 30:], name="b", size=sizes[1])]
    one, two, whole = noise_scale(groups)
    for name in (Name.TRACE_SIGMA, Name.GRADIENT_NORM2):
        parts = [named(scale)[name].estimate.value for scale in (one, two)]
        assert named(whole)[name].estimate.value == pytest.approx(sum(parts))
    both = noise_scale([group(VALUES)])[0]
    joined = noise_scale([group(VALUES[:, :30], name="a"), group(VALUES[:, 30:], name="b")])[-1]
    for name in (Name.B_SIMPLE, Name.TRACE_SIGMA):
        assert named(joined)[name].estimate.low == pytest.approx(named(both)[name].estimate.low)


def test_a_draw_that_a_group_lacks_is_left_out_of_the_model() -> None:
    short = group(VALUES[1:, 30:], name="b")
    short = dataclasses.replace(short, draw=np.arange(1, K))
    whole = noise_scale([group(VALUES[:, :30], name="a"), short])[-1]
    wanted = noise_scale([group(VALUES[1:])])[-1]
    assert named(whole)[Name.B_SIMPLE].estimate.value == pytest.approx(named(wanted)[Name.B_SIMPLE].estimate.value)
    assert any("1 draws left out" in text for text in named(whole)[Name.B_SIMPLE].estimate.warnings)
    empty = group(np.empty((0, 3)), name="c")
    with_empty = noise_scale([group(VALUES, name="a"), empty])
    assert named(with_empty[1])[Name.B_SIMPLE].status is Status.TOO_FEW_DRAWS
    assert any("1 of 2 groups" in text for text in named(with_empty[2])[Name.B_SIMPLE].estimate.warnings)


def test_bursts_compare_neighbours_and_say_so() -> None:
    found = noise_scale([group(VALUES, np.arange(K))])[0]
    rows = named(found)
    assert found.metrics[1].estimate.method == "neighbouring draws, jackknife"
    assert rows[Name.TRACE_SIGMA].estimate.value == pytest.approx(
        0.5 * np.square(np.diff(VALUES, axis=0)).sum(1).mean()
    )
    assert rows[Name.GRADIENT_NORM2].estimate.value == pytest.approx((VALUES[1:] * VALUES[:-1]).sum(1).mean())
    assert any("neighbouring" in text for text in rows[Name.B_SIMPLE].estimate.warnings)


def test_batch_sizes() -> None:
    sizes = np.where(np.arange(K) % 2, 8, 24)
    known = named(noise_scale([group(VALUES, batch_size=sizes)])[0])[Name.B_SIMPLE].estimate
    unknown = named(noise_scale([group(VALUES)])[0])[Name.B_SIMPLE].estimate
    assert known.value == pytest.approx(12 * unknown.value)  # harmonic mean of 8 and 24
    assert any("in units of batches" in text for text in unknown.warnings)
    assert not known.warnings
    sizes[3] = 0
    partly = named(noise_scale([group(VALUES, batch_size=sizes)])[0])[Name.B_SIMPLE].estimate
    assert partly.value == pytest.approx(unknown.value)


def test_slices_of_one_pass_are_corrected_for_the_examples_they_share_out() -> None:
    """All slices of one pass: their mean is ∇F, exactly."""
    rng = np.random.default_rng(4)
    n, b = 640, 16
    examples = MEAN * 0.3 + rng.standard_normal((n, J))
    full = examples.mean(axis=0)
    trace = np.square(examples - full).sum() / n
    found = []
    for _ in range(200):
        values = examples[rng.permutation(n).reshape(-1, b)].mean(axis=1)
        scales = noise_scale(
            [group(values, batch_size=np.full(len(values), b))], examples=n, replacement=Replacement.EPOCH
        )
        found.append({name: row.estimate.value for name, row in named(scales[0]).items()})
    for name, truth in ((Name.TRACE_SIGMA, trace / b), (Name.GRADIENT_NORM2, full @ full)):
        values = np.array([rows[name] for rows in found])
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(200) + 1e-9, name


@pytest.mark.parametrize(
    ("values", "theta", "status"),
    [
        (VALUES[:1], None, Status.TOO_FEW_DRAWS),
        (VALUES[:7], None, Status.TOO_FEW_DRAWS),
        (VALUES[:12], np.arange(12), Status.TOO_FEW_DRAWS),
        (np.empty((0, 5)), None, Status.TOO_FEW_DRAWS),
        (np.full((K, 5), np.nan), None, Status.TOO_FEW_DRAWS),
        (np.zeros((K, 5)), None, Status.ALL_ZERO),
        (1e200 * VALUES, None, Status.NON_FINITE),
    ],
)
def test_what_draws_cannot_carry(values: np.ndarray, theta: np.ndarray | None, status: Status) -> None:
    for scale in noise_scale([group(values, theta)]):
        assert [metric.name for metric in scale.metrics] == [Name.B_SIMPLE, Name.TRACE_SIGMA, Name.GRADIENT_NORM2]
        for metric in scale.metrics:
            assert metric.status is status
            assert metric.reason
            assert math.isnan(metric.estimate.value)


def test_gradients_without_noise() -> None:
    rows = named(noise_scale([group(np.tile(MEAN, (K, 1)))])[0])
    assert rows[Name.B_SIMPLE].estimate.value == pytest.approx(0.0, abs=1e-12)
    assert rows[Name.GRADIENT_NORM2].estimate.value == pytest.approx(MEAN @ MEAN)


def test_nothing_of_nothing() -> None:
    assert noise_scale([]) == ()


def test_wrong_input_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="theta"):
        Gradients("w", 5, VALUES[:, :5], np.zeros(3), np.arange(K))
    with pytest.raises(InvalidInput, match="50 coordinates of a group of 5"):
        Gradients("w", 5, VALUES, np.zeros(K), np.arange(K))
    with pytest.raises(InvalidInput, match="names must differ"):
        noise_scale([group(VALUES), group(VALUES)])


@settings(max_examples=300, deadline=None)
@given(st.floats(0.01, 100), st.floats(-10, 10), st.floats(0.001, 5), st.floats(0.001, 5), st.floats(-0.99, 0.99))
def test_fieller_holds_what_the_inequality_does(over: float, under: float, a: float, b: float, rho: float) -> None:
    """Inside the ends (over − ρ under)² ≤ t² Var holds, and just outside it fails, where the estimate is above 0."""
    covariance = np.array([[a * a, rho * a * b], [rho * a * b, b * b]])
    low, high = fieller(over, under, covariance, 2.0)
    assert 0 <= low <= high

    def beyond(ratio: float) -> float:
        lean = np.array([1.0, -ratio])
        return float((over - ratio * under) ** 2 - 4.0 * lean @ covariance @ lean)

    if under > 0:
        middle = over / under
        assert low <= middle * (1 + 1e-9)
        assert middle <= high * (1 + 1e-9)
        if low > 1e-6:
            assert beyond(low * 0.999) > -1e-6 * (1 + over**2)
        if math.isfinite(high):
            assert beyond(high * 1.001) > -1e-6 * (1 + over**2 + high**2 * under**2)
        if covariance[0, 0] * 4.0 >= over**2:
            assert low == 0.0
    else:
        assert high == math.inf


@pytest.mark.parametrize(
    ("over", "under", "variances", "ends"),
    [
        (1.0, 1.0, (1.0, 0.25, 0.0), (0.0, math.inf)),  # no square term: all above -1.5
        (0.875, 1.0, (0.25, 1.0, 0.4375), (0.0, math.inf)),  # up to 0.208 and from 0.375
        (3.0, 1.0, (1.0, 0.25, 0.0), (5.0 / 6.0, math.inf)),  # no square term: 6 rho >= 5
        (3.0, 1.0, (1.0, 1.0, 0.0), ((math.sqrt(24.0) - 3.0) / 3.0, math.inf)),  # 3 rho^2 + 6 rho >= 5
        (3.0, -1.0, (1.0, 1.0, 0.0), ((math.sqrt(24.0) + 3.0) / 3.0, math.inf)),  # 3 rho^2 - 6 rho >= 5
        (3.0, -1.0, (1.0, 0.25, 0.0), (0.0, math.inf)),  # no positive ratio
    ],
)
def test_fieller_where_the_gradient_is_not_told_from_zero(
    over: float, under: float, variances: tuple[float, float, float], ends: tuple[float, float]
) -> None:
    """By hand, with t = 2: an interval in two pieces is held by its ends."""
    one, other, both = variances
    assert fieller(over, under, np.array([[one, both], [both, other]]), 2.0) == pytest.approx(ends)


@settings(max_examples=20, deadline=None)
@given(st.floats(-6, 6))
def test_gradients_in_other_units_have_the_same_scale(log: float) -> None:
    one = named(noise_scale([group(VALUES)])[0])[Name.B_SIMPLE].estimate
    other = named(noise_scale([group(VALUES * 10.0**log)])[0])[Name.B_SIMPLE].estimate
    for end in ("value", "se", "low", "high"):
        assert getattr(other, end) == pytest.approx(getattr(one, end), rel=1e-6)
