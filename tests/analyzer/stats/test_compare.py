"""The calibrated likelihood ratio."""

import math

import numpy as np
import pytest

from gradnoise.analyzer.stats import TooFewValues, Verdict, _engine, _fit, _null, compare, gaussian, stable


@pytest.mark.parametrize(("n", "samples", "location"), [(75, 20_000, False), (270, 10_000, False), (270, 6000, True)])
def test_p_values_are_calibrated_between_the_tables_sizes(n: int, samples: int, location: bool) -> None:
    x = np.random.default_rng(n).normal(0, 2.0, (n, samples))
    rows = _engine.fit_rows(x, located=location, columns=True, threads=1)
    ratio = 2 * (rows[:, _fit.LOGLIK] - rows[:, _fit.GAUSS_LOGLIK])
    p = _null.p_value(ratio, n)
    for u in (0.1, 0.05, 0.01, 0.001):
        share, error = np.mean(p <= u), math.sqrt(u * (1 - u) / samples)
        assert abs(share - u) < 4 * error + (0.1 * u if location else 0), u
    assert np.mean(p == 1) == pytest.approx(0.845, abs=0.02)


def test_null_agrees_with_published_tail() -> None:
    # P(LR > t) at n = 200 from 96 000 draws, and P(LR = 0) at n = 200 and 1000.
    t = np.array([2.7, 3.84, 6.63, 8.0, 10.83])
    expected = np.array([0.0147, 0.0073, 0.00154, 0.00084, 0.00018])
    np.testing.assert_allclose(_null.p_value(t, 200), expected, rtol=0.25)
    tab = _null.null()
    assert np.interp(math.log(200), np.log(tab.n), tab.atom) == pytest.approx(0.837, abs=0.006)
    assert np.interp(math.log(1000), np.log(tab.n), tab.atom) == pytest.approx(0.844, abs=0.006)


def test_p_values_fall_with_the_ratio_everywhere() -> None:
    ratio = np.linspace(0, 60, 4001)
    for n in (10, 16, 50, 333, 5000, 20_000, 10**6):
        p = _null.p_value(ratio, n)
        assert p[0] == 1
        assert (np.diff(p) < 0).all()
        assert (p > 0).all()
    assert np.isnan(_null.p_value(np.nan, 100))


def test_small_sample_bias_table() -> None:
    rng = np.random.default_rng(2)
    for n in (40, 500):
        inverse = 1 / stable.fit_columns(rng.normal(size=(n, 8000)), intervals=False, threads=1).alpha.value
        assert float(_null.inverse_alpha(n)) == pytest.approx(inverse.mean(), abs=5 * inverse.std() / math.sqrt(8000))
    assert 0.5 < float(_null.inverse_alpha(10**7)) < float(_null.inverse_alpha(20_000))


def test_verdicts() -> None:
    rng = np.random.default_rng(3)
    heavy = compare.stable_vs_gaussian(stable.rvs(1.5, 1.0, 1000, rng))
    assert heavy.verdict is Verdict.NOT_GAUSSIAN
    assert heavy.p_value < 1e-6
    assert heavy.likelihood_ratio == pytest.approx(2 * (heavy.stable.loglik - heavy.gaussian.loglik))
    many = compare.stable_vs_gaussian_columns(rng.normal(size=(1000, 200)))
    verdicts = [many.verdict.count(v) for v in Verdict]
    assert many.verdict.count(Verdict.GAUSSIAN) > 150, verdicts
    assert many.verdict.count(Verdict.NOT_GAUSSIAN) < 10
    assert many.rejected_share() < 0.02
    assert compare.stable_vs_gaussian(rng.normal(size=30)).verdict is not Verdict.NOT_GAUSSIAN
    small = [compare.stable_vs_gaussian(rng.normal(size=40)).verdict for _ in range(20)]
    assert small.count(Verdict.UNDECIDED) > 10  # forty values cannot tell 1.6 from 2


def test_columns_agree_with_vectors() -> None:
    rng = np.random.default_rng(4)
    u = np.column_stack([stable.rvs(a, 1.0, 150, rng) for a in (1.4, 1.9, 2.0)] + [np.zeros(150)])
    both = compare.stable_vs_gaussian_columns(u, location=False)
    for j in range(3):
        one = compare.stable_vs_gaussian(u[:, j])
        assert one.p_value == both.p_value[j]
        assert one.verdict is both.verdict[j]
        assert one.stable == stable.fit(u[:, j])
        assert one.gaussian == gaussian.fit(u[:, j])
    assert np.isnan(both.p_value[3])
    assert np.isnan(both.adjusted[3])
    assert both.verdict[3] is Verdict.UNDECIDED
    assert (both.adjusted[:3] >= both.p_value[:3]).all()


def test_location() -> None:
    x = 5 + stable.rvs(1.6, 1.0, 400, np.random.default_rng(5))
    one = compare.stable_vs_gaussian(x, location=True)
    assert one.stable.location is not None
    assert one.stable.location.value == pytest.approx(5, abs=0.3)
    assert one.gaussian.location is not None
    assert one.verdict is Verdict.NOT_GAUSSIAN


def test_bad_input() -> None:
    with pytest.raises(TooFewValues, match="x:"):
        compare.stable_vs_gaussian([])
    with pytest.raises(TooFewValues, match="got 10"):
        compare.stable_vs_gaussian(np.arange(1, 11))
    none = compare.stable_vs_gaussian_columns(np.zeros((50, 2)))
    assert math.isnan(none.rejected_share())
