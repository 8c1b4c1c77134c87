"""The calibrated likelihood ratio."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gradnoise.analyzer.stats import (
    AllZero,
    DegenerateValues,
    InvalidInput,
    NonFiniteValues,
    TooFewValues,
    Verdict,
    _engine,
    _fit,
    _laws,
    _multiple,
    _null,
    _signs,
    compare,
    gaussian,
    goodness,
    rivals,
    stable,
)


@pytest.mark.parametrize(("n", "samples", "location"), [(75, 20_000, False), (270, 10_000, False), (35, 20_000, True)])
def test_p_values_are_calibrated_between_the_tables_sizes(n: int, samples: int, location: bool) -> None:
    x = np.random.default_rng(n).normal(0, 2.0, (n, samples))
    rows = _engine.fit_rows(x, located=location, columns=True, threads=1)
    ratio = 2 * (rows[:, _fit.LOGLIK] - rows[:, _fit.GAUSS_LOGLIK])
    p = _null.p_value(ratio, n, located=location)
    for u in (0.1, 0.05, 0.01, 0.001):
        share, error = np.mean(p <= u), math.sqrt(u * (1 - u) / samples)
        assert abs(share - u) < 4 * error, u
    assert np.mean(p == 1) == pytest.approx(0.855, abs=0.03)


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
    for n, located in itertools.product((10, 16, 50, 333, 5000, 20_000, 10**6, 10**9), (False, True)):
        p = _null.p_value(ratio, n, located=located)
        assert p[0] == 1
        assert (np.diff(p) < 0).all()
        assert (p > 0).all()
    assert np.isnan(_null.p_value(np.nan, 100))
    assert 0 < _null.p_value(1e6, 100) < 1e-290


def test_small_sample_bias_table() -> None:
    rng = np.random.default_rng(2)
    for n in (40, 500):
        inverse = 1 / stable.fit_columns(rng.normal(size=(n, 8000)), intervals=False, threads=1).alpha.value
        assert float(_null.inverse_alpha(n)) == pytest.approx(inverse.mean(), abs=5 * inverse.std() / math.sqrt(8000))
    assert 0.5 < float(_null.inverse_alpha(10**7)) < float(_null.inverse_alpha(20_000))


def verdicts(draw: Callable[[], np.ndarray], samples: int) -> Counter[Verdict]:
    return Counter(compare.stable_vs_gaussian(draw()).verdict for _ in range(samples))


def test_verdicts_on_known_laws() -> None:
    rng = np.random.default_rng(3)
    n = 5000
    assert verdicts(lambda: stable.rvs(1.6, 1.0, n, rng), 20)[Verdict.STABLE] >= 19
    assert verdicts(lambda: stable.rvs(1.0, 1.0, n, rng), 10)[Verdict.STABLE] >= 9
    assert verdicts(lambda: rng.normal(size=n), 20)[Verdict.GAUSSIAN] >= 16
    for finite in (
        lambda: rng.standard_t(3, n),
        lambda: rng.normal(size=n) * np.exp(rng.normal(size=n)),
        lambda: rng.laplace(size=n),
        lambda: np.exp(rng.normal(size=n)) * rng.choice([-1, 1], n),
    ):
        found = verdicts(finite, 20)
        assert found[Verdict.STABLE] == 0
        assert found[Verdict.HEAVY_FINITE_VARIANCE] >= 18
    # Not called stable: of infinite variance, but no stable law.
    assert verdicts(lambda: rng.standard_t(1.5, n), 20)[Verdict.STABLE] <= 4


def test_small_samples_are_undecided_rather_than_wrong() -> None:
    rng = np.random.default_rng(4)
    small = verdicts(lambda: rng.normal(size=40), 40)
    assert small[Verdict.UNDECIDED] > 20  # forty values cannot tell 1.6 from 2
    assert small[Verdict.STABLE] == 0
    assert verdicts(lambda: rng.standard_t(3, 200), 60)[Verdict.STABLE] <= 2
    assert verdicts(lambda: stable.rvs(1.8, 1.0, 200, rng), 60)[Verdict.HEAVY_FINITE_VARIANCE] <= 5


def test_margins_are_those_found_before() -> None:
    # SαS less the best rival at n = 5000, found by an independent implementation: −19 ± 6 nats for t₃, −64 ± 19 for a
    # lognormal(1) mixture of scales (± one standard deviation of a sample).
    rng = np.random.default_rng(9)
    n, samples = 5000, 40
    t = compare.stable_vs_gaussian_columns(rng.standard_t(3, (n, samples)), rivals=True)
    assert t.margin.mean() == pytest.approx(-19, abs=3)
    assert t.margin.std() == pytest.approx(6, abs=2)
    mixed = rng.normal(size=(n, samples)) * np.exp(rng.normal(size=(n, samples)))
    mixture = compare.stable_vs_gaussian_columns(mixed, rivals=True)
    assert mixture.margin.mean() == pytest.approx(-64, abs=9)
    assert mixture.margin.std() == pytest.approx(19, abs=6)
    assert (compare.stable_vs_gaussian_columns(stable.rvs(1.6, 1.0, (n, 20), rng), rivals=True).margin > 0).all()


def test_profile_intervals_cover_near_the_boundary() -> None:
    rng = np.random.default_rng(10)
    fits = stable.fit_columns(stable.rvs(1.9, 1.0, (500, 600), rng))
    covered = (fits.alpha.low <= 1.9) & (fits.alpha.high >= 1.9)
    assert covered.mean() == pytest.approx(0.95, abs=0.035)


def test_evidence() -> None:
    x = stable.rvs(1.5, 1.0, 2000, np.random.default_rng(5))
    one = compare.stable_vs_gaussian(x)
    assert one.gaussian_rejected
    assert one.likelihood_ratio == pytest.approx(2 * (one.stable.loglik - one.gaussian.loglik))
    assert one.evidence is not None
    assert one.vuong is not None
    assert [c.aic for c in one.criteria] == sorted(c.aic for c in one.criteria)
    assert {c.law for c in one.criteria} == set(compare.Law)
    by_law = {c.law: c for c in one.criteria}
    best = one.evidence.best
    assert one.evidence.margin == pytest.approx((by_law[best].aic - by_law[compare.Law.STABLE].aic) / 2)
    assert by_law[compare.Law.STABLE].bic == pytest.approx(2 * math.log(2000) - 2 * one.stable.loglik)
    assert best in one.reason
    # Vuong's statistic by hand, through scipy's density of the best rival.
    assert best is compare.Law.STUDENT_T
    (t,) = (rival for rival in one.rivals if isinstance(rival, rivals.StudentFit))
    d = stable.logpdf(x, one.stable.alpha.value, one.stable.scale.value)
    d = d - stats.t.logpdf(x, t.nu.value, 0, t.scale.value)
    assert d.sum() == pytest.approx(one.evidence.margin, abs=0.01)  # both have two parameters
    assert one.vuong.statistic == pytest.approx(d.sum() / (d.std() * math.sqrt(2000)), rel=1e-6)
    assert one.vuong.p_value == pytest.approx(2 * stats.norm.sf(abs(one.vuong.statistic)))
    assert compare.stable_vs_gaussian(np.random.default_rng(0).uniform(-1, 1, 500)).vuong is None


def test_without_rivals_a_verdict_is_gaussian_or_undecided() -> None:
    rng = np.random.default_rng(6)
    many = compare.stable_vs_gaussian_columns(rng.normal(size=(1000, 200)))
    assert many.verdict.count(Verdict.GAUSSIAN) > 150
    assert set(many.verdict) <= {Verdict.GAUSSIAN, Verdict.UNDECIDED}
    assert many.rejected_share() < 0.02
    assert np.isnan(many.margin).all()
    heavy = compare.stable_vs_gaussian(stable.rvs(1.5, 1.0, 1000, rng), rivals=False)
    assert heavy.verdict is Verdict.UNDECIDED
    assert heavy.gaussian_rejected
    assert heavy.p_value < 1e-6
    assert heavy.rivals == ()
    assert heavy.evidence is None
    assert "not fitted" in heavy.reason


def test_lighter_tails_are_not_gaussian() -> None:
    one = compare.stable_vs_gaussian(np.random.default_rng(7).uniform(-1, 1, 1000))
    assert one.p_value == 1
    assert one.verdict is Verdict.UNDECIDED
    assert "generalised_gaussian" in one.reason


def test_rule() -> None:
    plain = compare.Evidence(
        best=compare.Law.STUDENT_T,
        margin=5.0,
        free_t=0.0,
        free_nu=3.0,
        over_gaussian=50.0,
        stable_p=0.5,
        skew_p=0.5,
    )

    def heavier(**changes: Any) -> Verdict:
        """With the Gaussian rejected."""
        return compare.decide(1e-4, 1.6, 1.5, 1.7, plain._replace(**changes))[0]

    assert compare.decide(0.5, 1.95, 1.9, 2.0, plain._replace(over_gaussian=0.0))[0] is Verdict.GAUSSIAN
    assert compare.decide(0.5, 1.95, 1.8, 2.0, plain._replace(over_gaussian=0.0))[0] is Verdict.UNDECIDED
    assert compare.decide(0.5, 1.95, 1.9, 2.0, plain._replace(over_gaussian=4.0))[0] is Verdict.UNDECIDED
    assert compare.decide(0.03, 1.95, 1.9, 2.0, plain)[0] is Verdict.UNDECIDED
    assert compare.decide(1e-4, 1.95, 1.9, 1.99, plain)[0] is Verdict.UNDECIDED
    assert compare.decide(1e-4, 1.6, 1.5, 1.7, None)[0] is Verdict.UNDECIDED
    assert heavier(margin=2.1) is Verdict.STABLE
    assert heavier(margin=1.9) is Verdict.UNDECIDED
    assert heavier(free_t=-0.5) is Verdict.UNDECIDED
    assert heavier(stable_p=0.04) is Verdict.UNDECIDED
    assert heavier(skew_p=0.009) is Verdict.UNDECIDED
    assert heavier(margin=-2.9) is Verdict.UNDECIDED
    assert heavier(margin=-3.1) is Verdict.HEAVY_FINITE_VARIANCE
    assert heavier(margin=-3.1, stable_p=0.0, skew_p=0.0) is Verdict.HEAVY_FINITE_VARIANCE
    assert heavier(margin=-3.1, free_nu=1.9, free_t=-3.2) is Verdict.UNDECIDED
    assert heavier(margin=-3.1, free_nu=1.9, free_t=-3.0) is Verdict.HEAVY_FINITE_VARIANCE
    for margin in (5.0, -5.0):
        edge, reason = compare.decide(1e-4, 0.5, 0.5, 0.51, plain._replace(margin=margin))
        assert edge is Verdict.UNDECIDED
        assert "the end of what is fitted" in reason


def layers(n: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian values on four scales: finite variance, and no rival of that many scales."""
    return np.asarray(rng.normal(size=n) * rng.choice([1.0, 4.0, 16.0, 64.0], n, p=[0.7, 0.21, 0.065, 0.025]))


def test_what_sas_does_not_fit_is_not_stable() -> None:
    rng = np.random.default_rng(12)
    one = compare.stable_vs_gaussian(layers(5000, rng))
    assert one.evidence is not None
    assert one.evidence.margin > compare.STABLE_MARGIN
    assert one.verdict is Verdict.UNDECIDED
    assert "SαS itself does not fit" in one.reason
    assert one.evidence.stable_p < 0.01
    assert verdicts(lambda: layers(5000, rng), 15)[Verdict.STABLE] <= 1
    lognormal = [rng.normal(size=5000) * np.exp(s * rng.normal(size=5000)) for s in (2, 3) for _ in range(8)]
    found = compare.stable_vs_gaussian_columns(np.column_stack(lognormal), rivals=True)
    assert Verdict.STABLE not in found.verdict


def test_the_table_is_the_bootstrap() -> None:
    rng = np.random.default_rng(13)
    for alpha, location in ((1.1, True), (1.93, False)):
        x = stable.rvs(alpha, 1.0, (200, 300), rng)
        found = compare.stable_vs_gaussian_columns(x, rivals=True, location=location)
        for u in (0.05, 0.3):
            assert np.mean(found.stable_p <= u) == pytest.approx(u, abs=3.5 * math.sqrt(u * (1 - u) / 300))
    x = rng.standard_t(3, 800)
    one = compare.stable_vs_gaussian(x)
    bootstrap = goodness.goodness_of_fit(x, rng=rng, replicates=399)
    assert one.evidence is not None
    assert one.evidence.stable_p == pytest.approx(bootstrap.p_value, rel=0.3, abs=0.02)
    p = [_null.stable_p_value(distance, 1.55) for distance in np.linspace(0, 30, 400)]
    assert p[0] == pytest.approx(1)
    assert (np.diff(p) < 0).all()
    assert p[-1] > 0


def test_skewed_values_are_not_stable() -> None:
    rng = np.random.default_rng(14)
    for location in (False, True):
        one = compare.stable_vs_gaussian(np.exp(rng.normal(size=5000)) - 1, location=location)
        assert one.verdict is not Verdict.STABLE
        assert one.evidence is not None
        assert one.evidence.skew_p < 1e-6
        assert any("skewed" in warning for warning in one.warnings)
    x = stable.rvs(1.4, 1.0, (200, 150), rng)
    assert np.sum(compare.stable_vs_gaussian_columns(x, rivals=True, location=True).skew_p < 0.05) <= 5
    signs = [_signs.skew_p_value(column) for column in stable.rvs(1.4, 1.0, (2000, 200), rng)]
    assert np.mean(np.array(signs) < 0.05) == pytest.approx(0.045, abs=0.02)


def test_balance_of_signs() -> None:
    # 4 P(X <= 1) of ten coins, worked by hand; zeros are left out.
    x = np.concatenate([np.resize([1.0, -1.0], 10), np.full(9, 2.0), [-2.0], np.zeros(7)])
    assert _signs.skew_p_value(x) == pytest.approx(4 * 11 / 1024)
    assert _signs.skew_p_value(-x) == pytest.approx(4 * 11 / 1024)
    assert _signs.skew_p_value(np.zeros(5)) == 1


def test_the_end_of_what_is_fitted_is_undecided() -> None:
    rng = np.random.default_rng(15)
    one = compare.stable_vs_gaussian(rng.normal(size=1000) * np.exp(4 * rng.normal(size=1000)))
    assert one.stable.alpha.value == 0.5
    assert one.verdict is Verdict.UNDECIDED
    assert "at or below 0.5" in one.reason


def test_infinite_variance_is_not_called_finite() -> None:
    rng = np.random.default_rng(16)
    assert verdicts(lambda: rng.standard_t(1.8, 5000), 15)[Verdict.HEAVY_FINITE_VARIANCE] <= 1
    blurred = verdicts(lambda: stable.rvs(1.5, 1.0, 5000, rng) * np.exp(0.5 * rng.normal(size=5000)), 15)
    assert blurred[Verdict.HEAVY_FINITE_VARIANCE] <= 1
    assert verdicts(lambda: rng.standard_t(2.5, 5000), 15)[Verdict.HEAVY_FINITE_VARIANCE] >= 13


def test_columns_agree_with_vectors() -> None:
    rng = np.random.default_rng(4)
    u = np.column_stack([stable.rvs(a, 1.0, 150, rng) for a in (1.4, 1.9, 2.0)] + [np.zeros(150)])
    both = compare.stable_vs_gaussian_columns(u, rivals=True)
    for j in range(3):
        one = compare.stable_vs_gaussian(u[:, j])
        assert one.evidence is not None
        assert one.evidence.margin == pytest.approx(both.margin[j], abs=1e-9)
        assert one.evidence.best is both.best_rival[j]
        assert one.p_value == both.p_value[j]
        assert one.verdict is both.verdict[j]
        assert one.stable == stable.fit(u[:, j])
        assert one.gaussian == gaussian.fit(u[:, j])
    assert np.isnan(both.p_value[3])
    assert np.isnan(both.adjusted[3])
    assert both.verdict[3] is Verdict.UNDECIDED
    assert both.best_rival[3] is None
    assert (both.adjusted[:3] >= both.p_value[:3]).all()


def test_location() -> None:
    x = 5 + stable.rvs(1.6, 1.0, 400, np.random.default_rng(5))
    one = compare.stable_vs_gaussian(x, location=True)
    assert one.stable.location is not None
    assert one.stable.location.value == pytest.approx(5, abs=0.3)
    assert one.gaussian.location is not None
    assert one.gaussian_rejected
    assert one.criteria[0].k == 3
    assert all(rival.location is not None for rival in one.rivals)
    assert all(c.k == 1 + _laws.PARAMETERS[c.law] for c in one.criteria)


def test_bad_input() -> None:
    with pytest.raises(TooFewValues, match="x:"):
        compare.stable_vs_gaussian([])
    with pytest.raises(TooFewValues, match="got 10"):
        compare.stable_vs_gaussian(np.arange(1, 11))
    with pytest.raises(NonFiniteValues, match="x:"):
        compare.stable_vs_gaussian([*range(1, 60), math.inf])
    with pytest.raises(AllZero, match="x:"):
        compare.stable_vs_gaussian(np.zeros(100))
    with pytest.raises(DegenerateValues, match="x:"):
        compare.stable_vs_gaussian(np.ones(100))
    with pytest.raises(InvalidInput, match="U:"):
        compare.stable_vs_gaussian_columns(np.ones(100))
    none = compare.stable_vs_gaussian_columns(np.zeros((50, 2)))
    assert math.isnan(none.rejected_share())


@pytest.mark.filterwarnings("ignore")  # of statsmodels' own imports
def test_false_discovery_control_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p = np.concatenate([np.random.default_rng(8).random(50) ** 3, np.ones(30)])
    np.testing.assert_allclose(_multiple.benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1], rtol=1e-12)
    assert _multiple.benjamini_hochberg(np.empty(0)).size == 0
