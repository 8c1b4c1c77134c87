"""Tests of normality: against the libraries, under the null, and where the libraries give up."""

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
    Status,
    TooFewValues,
    normality,
    stable,
)
from gradnoise.analyzer.stats.normality import NormalityMethod, NormalityTest

SINGLE: dict[NormalityMethod, Callable[[Any], NormalityTest]] = {
    NormalityMethod.ANDERSON_DARLING: normality.anderson_darling,
    NormalityMethod.JARQUE_BERA: normality.jarque_bera,
    NormalityMethod.DAGOSTINO: normality.dagostino,
    NormalityMethod.LILLIEFORS: normality.lilliefors,
    NormalityMethod.CHI_SQUARE: normality.chi_square,
}


@pytest.mark.parametrize("law", ["normal", "laplace", "skewed"])
def test_agrees_with_the_libraries(law: str) -> None:
    from statsmodels.stats.diagnostic import lilliefors, normal_ad

    rng = np.random.default_rng(1)
    x = {"normal": rng.normal(5, 2, 150), "laplace": rng.laplace(size=150), "skewed": rng.gamma(9, size=150)}[law]
    anderson = normality.anderson_darling(x)
    assert (anderson.statistic, anderson.p_value) == pytest.approx(normal_ad(x))
    jarque = scipy_stats.jarque_bera(x)
    assert normality.jarque_bera(x).statistic == pytest.approx(jarque.statistic)
    assert normality.jarque_bera(x).p_value == pytest.approx(jarque.pvalue)
    assert normality.dagostino(x).p_value == pytest.approx(scipy_stats.normaltest(x).pvalue)
    found = normality.lilliefors(x)
    statistic, p = lilliefors(x, pvalmethod="approx")
    assert found.p_value == pytest.approx(p)
    z = (x - x.mean()) / x.std()  # maximum likelihood; statsmodels divides by n − 1
    assert found.statistic == pytest.approx(statistic, abs=0.003)
    cells = np.bincount((scipy_stats.norm.cdf(z) * 10).astype(int), minlength=10)
    pearson = normality.chi_square(x, cells=10)
    assert pearson.statistic == pytest.approx(scipy_stats.chisquare(cells).statistic)
    low, high = (scipy_stats.chi2.sf(pearson.statistic, df) for df in (7, 9))
    assert low < pearson.p_value < high  # Chernoff & Lehmann


@pytest.mark.parametrize("cells", [4, 5, 10, 30])
def test_chi_square_has_the_law_of_chernoff_and_lehmann(cells: int) -> None:
    # E X² = c − 3 + λ₁ + λ₂: with 5 cells 2.635, not 2; simulated here, computed there.
    z = np.random.default_rng(2).normal(size=(400, 8000))
    statistic, p = normality._chi_square((z - z.mean(axis=0)) / z.std(axis=0), cells)
    expected = cells - 3 + sum(normality._information_lost(cells))
    assert statistic.mean() == pytest.approx(expected, abs=4 * statistic.std() / math.sqrt(8000) + 3 / 400)
    for level in (0.1, 0.05, 0.01):
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * math.sqrt(level / 8000)), level


def test_false_rejections() -> None:
    # A smoke test; the figures are in tests/calibration/cal_normality.py.
    for test in normality.tests_columns(np.random.default_rng(3).normal(2, 3, (200, 2000))):
        assert np.mean(test.p_value <= 0.05) == pytest.approx(0.05, abs=0.02), test.method
        assert np.mean(test.p_value <= 0.5) == pytest.approx(0.5, abs=0.09), test.method


@pytest.mark.parametrize("method", list(NormalityMethod))
def test_heavy_tails_are_seen(method: NormalityMethod) -> None:
    x = stable.rvs(1.3, 1.0, 300, np.random.default_rng(4))
    assert SINGLE[method](x).p_value < 1e-3


def test_far_outliers_leave_a_small_p_value() -> None:
    # Beyond 38 standard deviations ln Φ underflows, and beyond A² = 153 the published polynomial turns up again.
    x = np.random.default_rng(5).normal(size=4000)
    x[0] = 1e6
    found = normality.anderson_darling(x)
    assert math.isfinite(found.statistic)
    assert found.statistic > 153
    assert found.p_value < 1e-30
    assert all(test.p_value < 1e-6 for test in normality.tests(x))
    both = normality.tests_columns(np.column_stack([x, x[::-1]]))
    assert all((test.p_value < 1e-6).all() for test in both)


def test_columns_are_vectors() -> None:
    u = np.random.default_rng(6).standard_t(5, (120, 4)).astype(np.float32)
    together = normality.tests_columns(u)
    assert [test.method for test in together] == list(NormalityMethod)
    for j in range(4):
        for test, one in zip(together, normality.tests(u[:, j]), strict=True):
            assert (test.statistic[j], test.p_value[j]) == pytest.approx((one.statistic, one.p_value))
            assert one == SINGLE[one.method](u[:, j])
            assert len(test) == 4
            assert one.n == test.n == 120


@given(seed=st.integers(0, 10**6), n=st.integers(30, 200), shift=st.floats(-3, 3), power=st.integers(-300, 300))
@settings(max_examples=20, deadline=None)
def test_location_scale_and_order_do_not_matter(seed: int, n: int, shift: float, power: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, n)
    for one, other in zip(normality.tests(x), normality.tests((rng.permutation(x) + shift) * 2.0**power), strict=True):
        assert 0 <= one.p_value <= 1
        if one.method is not NormalityMethod.CHI_SQUARE:  # rounding may carry a value across a cell's edge
            assert other.statistic == pytest.approx(one.statistic, rel=1e-6, abs=1e-9)
            assert other.p_value == pytest.approx(one.p_value, rel=1e-5, abs=1e-9)


def test_zeros_are_evidence() -> None:
    x = np.random.default_rng(7).normal(size=400)
    x[::4] = 0
    for test in normality.tests(x):
        assert any("25.0% of the values are exactly 0" in warning for warning in test.warnings)
    assert normality.anderson_darling(x).p_value < 1e-6
    assert normality.chi_square(x).p_value < 1e-12


def test_bad_columns_have_a_status() -> None:
    u = np.random.default_rng(8).normal(size=(50, 4))
    u[:, 0], u[:, 1], u[3, 2] = 0, 7.0, np.inf
    for test in normality.tests_columns(u):
        assert test.status == (Status.ALL_ZERO, Status.DEGENERATE, Status.NON_FINITE, Status.OK)
        assert np.isnan(test.p_value).tolist() == [True, True, True, False]
    few = normality.tests_columns(u[:20])
    assert few[0].status == (Status.ALL_ZERO, Status.TOO_FEW_VALUES, Status.NON_FINITE, Status.TOO_FEW_VALUES)
    assert len(normality.tests_columns(np.empty((0, 2)))[0]) == 2
    assert len(normality.tests_columns(np.empty((50, 0)))[0]) == 0


@pytest.mark.parametrize("function", [*SINGLE.values(), normality.tests])
def test_bad_input(function: Callable[[Any], Any]) -> None:
    good = np.random.default_rng(9).normal(size=40)
    for values, error in (
        (["a"] * 40, InvalidInput),
        (np.ones((10, 10)), InvalidInput),
        (good[:29], TooFewValues),
        ([], TooFewValues),
        (np.zeros(40), AllZero),
        (np.full(40, 2.5), DegenerateValues),
        (np.append(good, np.nan), NonFiniteValues),
    ):
        with pytest.raises(error, match="x:"):
            function(values)


@pytest.mark.parametrize("cells", [3, 9, 4.5])
def test_cells_are_checked(cells: Any) -> None:
    with pytest.raises(InvalidInput, match="cells"):
        normality.chi_square(np.random.default_rng(10).normal(size=40), cells)
    with pytest.raises(InvalidInput, match="U:"):
        normality.tests_columns(np.ones(40))
