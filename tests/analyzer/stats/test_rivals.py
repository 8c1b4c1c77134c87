"""Finite-variance rivals: against scipy's fits, brute force and closed forms."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from gradnoise.analyzer.stats import (
    AllZero,
    DegenerateValues,
    InvalidInput,
    NonFiniteValues,
    StatsError,
    Status,
    TooFewValues,
    _laws,
    _rival_kernels,
    compare,
    rivals,
    stable,
)
from gradnoise.analyzer.stats.rivals import Law


def samples(n: int = 1000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    return {
        "t3": 2 * rng.standard_t(3, n),
        "t8": 1e-6 * rng.standard_t(8, n),
        "laplace": rng.laplace(0, 3.0, n),
        "ggd": rng.gamma(1 / 0.7, size=n) ** (1 / 0.7) * rng.choice([-1, 1], n),
        "light": stats.gennorm.rvs(4.0, size=n, random_state=rng),
        "gauss": rng.normal(0, 1e6, n),
        "mixture": rng.normal(size=n) * np.where(rng.random(n) < 0.1, 5.0, 1.0),
    }


def numpy_mixture_loglik(x: np.ndarray, share: float, narrow: float, wide: float) -> float:
    return float(np.log(share * stats.norm.pdf(x, 0, narrow) + (1 - share) * stats.norm.pdf(x, 0, wide)).sum())


def test_digamma() -> None:
    at = np.array([1e-3, 0.1, 0.5, 1.0, 3.7, 6.0, 50.0, 5000.5])
    np.testing.assert_allclose([_rival_kernels.digamma(v) for v in at], special.digamma(at), rtol=1e-11)


def scipys(law: stats.rv_continuous, x: np.ndarray, location: bool) -> float:
    found = law.fit(x) if location else law.fit(x, floc=0)
    return float(law.logpdf(x, *found).sum())


@pytest.mark.parametrize("location", [False, True])
def test_at_least_as_likely_as_scipys_fits(location: bool) -> None:
    for name, x in samples().items():
        values = x + 3 * np.std(x) if location else x
        t, laplace, ggd, _ = rivals.fit_all(values, location=location)
        if t.status is Status.OK:  # scipy knows no bound at ν = 2 and no Gaussian end
            assert t.loglik >= scipys(stats.t, values, location) - 1e-4, name
        assert laplace.loglik >= scipys(stats.laplace, values, location) - 1e-6, name
        # With a location and β below 1 the likelihood has a cusp at every value, and scipy may stand on another.
        assert ggd.loglik >= scipys(stats.gennorm, values, location) - (0.05 if location else 1e-4), name


def test_parameters_are_those_of_scipy() -> None:
    x = samples()["t3"]
    nu, _, scale = stats.t.fit(x, floc=0)
    fit = rivals.student_t(x)
    assert fit.nu.value == pytest.approx(nu, rel=1e-3)
    assert fit.scale.value == pytest.approx(scale, rel=1e-3)
    assert fit.nu.low < 3 < fit.nu.high
    beta, _, a = stats.gennorm.fit(samples()["ggd"], floc=0)
    ggd = rivals.generalised_gaussian(samples()["ggd"])
    assert ggd.beta.value == pytest.approx(beta, rel=1e-3)
    assert ggd.scale.value == pytest.approx(a, rel=1e-3)
    laplace = rivals.laplace(x)
    assert laplace.scale.value == pytest.approx(np.abs(x).mean(), rel=1e-12)


def test_mixture_reaches_the_best_of_many_starts() -> None:
    rng = np.random.default_rng(12)
    for name in ("t3", "mixture", "laplace"):
        x = samples()[name]
        unit = np.median(np.abs(x))

        def lost(theta: np.ndarray, x: np.ndarray = x, unit: float = unit) -> float:
            share = 1 / (1 + math.exp(-theta[0]))
            return -numpy_mixture_loglik(x, share, unit * math.exp(theta[1]), unit * math.exp(theta[2]))

        starts = rng.normal([0, 0, 1], [1, 0.5, 0.5], (4, 3))
        best = min(optimize.minimize(lost, start, method="Nelder-Mead", tol=1e-6).fun for start in starts)
        fit = rivals.gaussian_mixture(x)
        assert fit.loglik >= -best - 0.01, name
        again = numpy_mixture_loglik(x, fit.share.value, fit.narrow.value, fit.wide.value)
        assert again == pytest.approx(fit.loglik, abs=1e-6)
    # A spike in the middle of a Gaussian sample, which starts with small wide components do not see.
    fit = rivals.gaussian_mixture(np.random.default_rng(7).normal(size=300))
    assert fit.loglik == pytest.approx(-398.416, abs=0.01)
    assert fit.share.value == pytest.approx(0.0813, abs=1e-3)
    assert (fit.narrow.value, fit.wide.value) == pytest.approx((0.0776, 0.9717), abs=2e-3)
    fit = rivals.gaussian_mixture(samples()["mixture"])
    assert fit.share.low < 0.9 < fit.share.high
    assert fit.narrow.low < 1.0 < fit.narrow.high
    assert fit.wide.low < 5.0 < fit.wide.high


def test_standard_errors_are_the_spread_of_estimates() -> None:
    rng = np.random.default_rng(13)
    fits = [rivals.fit_all(rng.standard_t(5, 1000)) for _ in range(60)]
    log_nu = np.log([f[0].nu.value for f in fits])
    claimed = np.median([f[0].nu.se / f[0].nu.value for f in fits])
    assert log_nu.std() == pytest.approx(claimed, rel=0.3)
    ggds = [rivals.generalised_gaussian(stats.gennorm.rvs(0.8, size=1000, random_state=rng)) for _ in range(60)]
    claimed = np.median([f.beta.se / f.beta.value for f in ggds])
    assert np.log([f.beta.value for f in ggds]).std() == pytest.approx(claimed, rel=0.3)
    covered = np.mean([f[0].nu.low < 5 < f[0].nu.high for f in fits])
    assert covered > 0.85


def test_infinite_variance_ends_at_two() -> None:
    x = stable.rvs(1.0, 1.0, 2000, np.random.default_rng(14))
    fit = rivals.student_t(x)
    assert fit.status is Status.AT_BOUNDARY
    assert fit.nu.value == 2.0
    assert "lower" in fit.warnings[0]
    free = rivals.student_t(x, finite_variance=False)
    assert free.status is Status.OK
    assert free.nu.low < 1 < free.nu.high
    assert free.loglik > fit.loglik
    # The Cauchy law is SαS(1): both families hold it.
    assert free.loglik == pytest.approx(stable.fit(x).loglik, abs=3)


def test_gaussian_and_light_tails() -> None:
    x = samples()["gauss"]
    t, _, ggd, mixture = rivals.fit_all(x)
    normal = stats.norm.logpdf(x, 0, math.sqrt(np.mean(x**2))).sum()
    assert t.loglik == pytest.approx(normal, abs=0.5)
    assert ggd.beta.low < 2 < ggd.beta.high
    assert mixture.loglik >= normal - 0.01
    uniform = np.random.default_rng(15).uniform(-1, 1, 1000)
    t, _, ggd, mixture = rivals.fit_all(uniform)
    assert t.status is Status.AT_BOUNDARY
    assert t.nu.value == rivals.NU_MAX
    assert ggd.status is Status.AT_BOUNDARY
    assert ggd.beta.value == _rival_kernels.BETA_MAX
    assert math.isnan(mixture.wide.se)
    assert "flat" in mixture.warnings[0]


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(-12, 12).map(lambda e: 10.0**e), seed=st.integers(0, 50))
def test_scale_and_sign(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, 200)
    one = rivals.fit_all(x)
    other = rivals.fit_all(-scale * x[::-1])
    for a, b in zip(one, other, strict=True):
        assert b.loglik == pytest.approx(a.loglik - 200 * math.log(scale), abs=1e-3)
        assert b.law is a.law


@settings(max_examples=10, deadline=None)
@given(shift=st.floats(-100, 100), seed=st.integers(0, 50))
def test_shift(shift: float, seed: int) -> None:
    x = np.random.default_rng(seed).laplace(size=201)
    for a, b in zip(rivals.fit_all(x, location=True), rivals.fit_all(x + shift, location=True), strict=True):
        assert b.loglik == pytest.approx(a.loglik, abs=0.02)
        assert b.location is not None
        assert a.location is not None
        assert b.location - a.location == pytest.approx(shift, abs=0.02)
        assert b.k == a.k
        assert b.aic == pytest.approx(2 * b.k - 2 * b.loglik)
        assert b.bic == pytest.approx(b.k * math.log(201) - 2 * b.loglik)


def test_zeros_are_left_out_and_counted() -> None:
    x = np.random.default_rng(16).standard_t(3, 300)
    for plain, fit in zip(rivals.fit_all(x), rivals.fit_all(np.concatenate([x, np.zeros(100)])), strict=True):
        assert fit.zeros == 0.25
        assert fit.n == 300
        assert fit.loglik == pytest.approx(plain.loglik)
        assert any("exactly 0" in warning for warning in fit.warnings)


def test_densities_tails_and_draws_belong_together() -> None:
    rng = np.random.default_rng(17)
    for law, parameters in {
        Law.STABLE: (1.6, 2.0, 0.5),
        Law.GAUSSIAN: (1.5, -1.0),
        Law.STUDENT_T: (3.5, 2.0, 0.0),
        Law.LAPLACE: (0.7, 1.0),
        Law.GENERALISED_GAUSSIAN: (0.8, 1.3, 0.2),
        Law.GAUSSIAN_MIXTURE: (0.8, 1.0, 4.0, -0.3),
    }.items():
        grid = np.linspace(0, 6, 4001)
        mu = parameters[-1]
        density = np.exp(_laws.logpdf(law, parameters, mu + grid))
        np.testing.assert_allclose(density, np.exp(_laws.logpdf(law, parameters, mu - grid)), rtol=1e-12)
        mass = np.trapezoid(density, grid)
        ends = _laws.tail(law, parameters, np.array([0.0, 6.0]))
        assert ends[0] == pytest.approx(0.5, abs=1e-12)
        assert ends[0] - ends[1] == pytest.approx(mass, abs=1e-5)
        draws = _laws.rvs(law, parameters, 20_000, rng)
        p = stats.kstest(2 * _laws.tail(law, parameters, np.abs(draws - mu)), "uniform").pvalue
        assert p > 1e-4, law
        assert np.mean(draws > mu) == pytest.approx(0.5, abs=0.02)


def test_atoms_do_not_break_the_fits() -> None:
    x = np.round(np.random.default_rng(18).standard_t(3, 500), 1) + 0.05
    many = np.concatenate([np.full(300, 1.0), np.random.default_rng(19).normal(size=100)])
    for values in (x, many):
        for fit in rivals.fit_all(values, location=True):
            assert math.isfinite(fit.loglik)


FITS: tuple[Callable[..., rivals.RivalFit], ...] = (
    rivals.student_t,
    rivals.laplace,
    rivals.generalised_gaussian,
    rivals.gaussian_mixture,
)


@pytest.mark.parametrize("fit", FITS)
def test_bad_input(fit: Callable[..., rivals.RivalFit]) -> None:
    with pytest.raises(InvalidInput, match="x:"):
        fit(["a"])
    with pytest.raises(InvalidInput, match="dimension"):
        fit(np.ones((3, 3)))
    with pytest.raises(NonFiniteValues, match="x:"):
        fit([*range(1, 50), math.nan])
    with pytest.raises(TooFewValues, match="got 5 of 8"):
        fit([1, 2, 3, 4, 5, 0, 0, 0])
    with pytest.raises(TooFewValues):
        fit([])
    with pytest.raises(AllZero):
        fit(np.zeros(40))
    with pytest.raises(DegenerateValues):
        fit(np.full(40, 2.0))


@pytest.mark.parametrize("location", [False, True])
def test_magnitudes_beyond_what_squares_can_hold_are_refused_by_name(location: bool) -> None:
    x = np.random.default_rng(3).normal(size=200)
    for bad in (x * 1e-300, x * 1e200, np.append(x * 1e-100, 1e100)):
        with pytest.raises(DegenerateValues, match="sizes between"):
            rivals.fit_all(bad, location=location)
        with pytest.raises(StatsError, match=r"sizes between|could not be maximised"):
            compare.stable_vs_gaussian(bad, location=location)
    one_bad = compare.stable_vs_gaussian_columns(np.stack([x, x * 1e-300], axis=1), rivals=True, location=location)
    assert np.isfinite(one_bad.margin).tolist() == [True, False]


def test_a_flat_likelihood_has_no_interval() -> None:
    for fit in rivals.fit_all(np.append(np.full(99, 1.0), 2.0), location=True):
        for name in ("scale", "narrow", "wide"):
            if (estimate := getattr(fit, name, None)) is not None:
                assert math.isnan(estimate.low) or estimate.low <= estimate.value <= estimate.high
