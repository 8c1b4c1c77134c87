"""Tail indices: exact on exact tails, and what they say of laws without one."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from gradnoise.analyzer.stats import (
    AllZero,
    DegenerateValues,
    InvalidInput,
    NonFiniteValues,
    TooFewValues,
    stable,
    tail_index,
)
from gradnoise.analyzer.stats.tail_index import TailIndex, TailPlot

SINGLE: dict[str, Callable[[Any, int], TailIndex]] = {
    "hill": tail_index.hill,
    "moment": tail_index.moment,
    "pickands": tail_index.pickands,
}
PLOT: dict[str, Callable[..., TailPlot]] = {
    "hill": tail_index.hill_plot,
    "moment": tail_index.moment_plot,
    "pickands": tail_index.pickands_plot,
}


@pytest.mark.parametrize("index", [0.7, 1.5, 4.0])
def test_hill_is_scipys_pareto_fit_above_the_threshold(index: float) -> None:
    x = stable.rvs(1.2, 1.0, 2000, np.random.default_rng(1)) if index == 1.5 else None
    x = np.random.default_rng(2).pareto(index, 2000) + 1 if x is None else x
    found = tail_index.hill(x, 150)
    ordered = np.sort(np.abs(x))[::-1]
    shape, _, _ = scipy_stats.pareto.fit(ordered[:150], floc=0, fscale=ordered[150])
    assert found.tail_index.value == pytest.approx(shape)
    assert found.threshold == ordered[150]
    assert found.extreme_value_index.se == pytest.approx(1 / shape / math.sqrt(150))


@pytest.mark.parametrize("gamma", [-0.5, 0.25, 1.0])
def test_pickands_is_exact_on_generalised_pareto_quantiles(gamma: float) -> None:
    # With X_(i) = Q(1 − i/n) the two differences are 2^γ to one, at every k.
    n = 4000
    x = scipy_stats.genpareto.isf(np.arange(1, n + 1) / (n + 1), gamma)
    plot = tail_index.pickands_plot(x, [10, 50, 500])
    assert plot.extreme_value_index == pytest.approx(np.full(3, gamma), abs=1e-9)
    # Dekkers & de Haan 1989: k Var = γ² (2^(2γ+1) + 1)/(2 (2^γ − 1) ln 2)².
    variance = gamma**2 * (2 ** (2 * gamma + 1) + 1) / (2 * (2**gamma - 1) * math.log(2)) ** 2
    assert plot.se * np.sqrt(plot.k) == pytest.approx(np.full(3, math.sqrt(variance)))
    at_zero = tail_index.pickands(scipy_stats.expon.isf(np.arange(1, n + 1) / (n + 1)), 100)
    assert at_zero.extreme_value_index.value == pytest.approx(0, abs=1e-9)
    assert at_zero.extreme_value_index.se * 10 == pytest.approx(math.sqrt(3 / (4 * math.log(2) ** 4)))


def test_pickands_of_values_that_span_the_numbers() -> None:
    top = [1e308, 9e307, 1e300, 1e299, 1e298]
    found = tail_index.pickands(np.concatenate([np.linspace(1, 2, 100), top]), 3).extreme_value_index
    assert found.value == pytest.approx(300 * math.log2(10), rel=0.01)
    # (2^(2γ+1) + 1)^½/(2^γ − 1) → √2
    assert found.se == pytest.approx(found.value / (math.sqrt(2) * math.log(2)) / math.sqrt(3))
    wide = np.concatenate([np.linspace(1, 1 + 1e-12, 100), top])
    assert tail_index.pickands(wide, 3).extreme_value_index.value > found.value


@pytest.mark.parametrize(
    ("name", "law", "gamma"),
    [
        ("hill", scipy_stats.pareto(1.5), 1 / 1.5),
        ("moment", scipy_stats.pareto(1.5), 1 / 1.5),
        ("pickands", scipy_stats.pareto(1.5), 1 / 1.5),
        ("moment", scipy_stats.expon(), 0.0),
        ("moment", scipy_stats.uniform(), -1.0),
        ("pickands", scipy_stats.uniform(), -1.0),
        ("hill", scipy_stats.t(3), 1 / 3),
    ],
)
def test_value_and_error_on_known_tails(name: str, law: Any, gamma: float) -> None:
    samples = law.rvs(size=(250, 10_000), random_state=np.random.default_rng(3))
    found = [SINGLE[name](x, 100).extreme_value_index for x in samples]
    value = np.array([e.value for e in found])
    assert value.mean() == pytest.approx(gamma, abs=0.06 * max(1, abs(gamma)))
    # 250 samples give the spread to 4.5 %.
    assert 0.85 < np.mean([e.se for e in found]) / value.std() < 1.18
    assert np.mean([e.low <= gamma <= e.high for e in found]) > 0.88


def test_it_is_not_the_stable_index() -> None:
    rng = np.random.default_rng(4)
    # Far from 2 the tail begins soon, near 2 it hardly begins: SαS(1.9) reads far above 2.
    assert tail_index.hill(stable.rvs(1.5, 1.0, 50_000, rng), 300).tail_index.value == pytest.approx(1.5, abs=0.25)
    assert tail_index.hill(stable.rvs(1.9, 1.0, 50_000, rng), 1000).tail_index.value > 2.3
    # A Gaussian has no index: the reading grows with the sample, and the moment estimator sees no power law.
    readings = [tail_index.hill(rng.normal(size=n), n // 100).tail_index.value for n in (1000, 10_000, 1_000_000)]
    assert readings[0] > 3
    assert readings[2] > readings[1] > 5
    none = tail_index.moment(rng.normal(size=100_000), 1000)
    assert none.tail_index.value == math.inf
    assert none.extreme_value_index.value < 0
    assert any("no power-law tail" in warning for warning in none.warnings)


@pytest.mark.parametrize("name", sorted(SINGLE))
@given(seed=st.integers(0, 10**6), n=st.integers(40, 200), power=st.integers(-200, 200), zeros=st.integers(0, 10))
@settings(max_examples=25, deadline=None)
def test_plots_hold_the_single_values_in_any_unit_order_and_sign(
    name: str, seed: int, n: int, power: int, zeros: int
) -> None:
    rng = np.random.default_rng(seed)
    x = np.append(stable.rvs(1.3, 1.0, n, rng), np.zeros(zeros))
    plot = PLOT[name](x)
    assert plot.k[0] == 2
    assert plot.k[-1] == (n // 4 if name == "pickands" else n - 1)
    other = PLOT[name](rng.permutation(x) * rng.choice([-1, 1], x.size) * 2.0**power)
    assert other.extreme_value_index == pytest.approx(plot.extreme_value_index, rel=1e-6, abs=1e-9, nan_ok=True)
    assert other.threshold == pytest.approx(plot.threshold * 2.0**power)
    for i in rng.integers(0, len(plot.k), 3):
        one = SINGLE[name](x, int(plot.k[i]))
        assert one.tail_index.value == pytest.approx(plot.tail_index[i])
        assert (one.tail_index.low, one.tail_index.high) == (plot.low[i], plot.high[i])
        assert one.threshold == plot.threshold[i]


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_bad_input(name: str) -> None:
    good = np.random.default_rng(5).normal(size=100)
    for values, error in (
        (["a"] * 40, InvalidInput),
        (np.ones((10, 10)), InvalidInput),
        (good[:29], TooFewValues),
        ([], TooFewValues),
        (np.zeros(100), AllZero),
        (np.append(good, np.inf), NonFiniteValues),
    ):
        with pytest.raises(error, match="x:"):
            SINGLE[name](values, 5)
    k: Any
    for k in (0, 1, 100, 2.5, -3):
        with pytest.raises(InvalidInput, match="k:"):
            SINGLE[name](good, k)
    with pytest.raises(InvalidInput, match="ks:"):
        PLOT[name](good, [2, 500])
    with pytest.raises(InvalidInput, match="ks:"):
        PLOT[name](good, [])
    with pytest.raises(DegenerateValues, match="equal"):
        SINGLE[name](np.full(100, 3.0), 10)
    assert np.isnan(PLOT[name](np.full(100, 3.0), [5, 10]).extreme_value_index).all()
    with pytest.raises(InvalidInput, match="not 0"):
        SINGLE[name](np.append(good[:10], np.zeros(50)), 12)
