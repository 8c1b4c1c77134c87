"""Score, distribution function, quantiles and random numbers of the stable law against values from elsewhere."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from scipy import stats as scipy_stats

from gradnoise.analyzer.stats import InvalidInput, stable
from gradnoise.analyzer.stats._cumulative import mass
from gradnoise.analyzer.stats._table import X_TAIL
from tests.analyzer.stats import zolotarev

NOLAN = Path(__file__).resolve().parents[2] / "reference" / "nolan_quantiles.csv"
ALPHAS = (0.5, 0.7, 1.0, 1.02, 1.3, 1.7, 1.95, 1.9999, 2.0 - 1e-12, 2.0)
SHAPED: tuple[Callable[..., Any], ...] = (stable.logpdf, stable.pdf, stable.sf, stable.cdf)
QUANTILES: tuple[Callable[..., Any], ...] = (stable.ppf, stable.isf)

alphas = st.one_of(st.floats(0.5, 2.0), st.sampled_from([1.0, 2.0, 0.5]))
scales = st.floats(1e-6, 1e6)
points = st.floats(-1e9, 1e9)


# Outside values.


def test_quantiles_agree_with_nolans_program() -> None:
    rows = [line.split(",") for line in NOLAN.read_text().splitlines() if line[:1].isdigit()]
    alpha, p, x = np.array(rows, dtype=float).T
    assert len(alpha) == 80
    np.testing.assert_allclose(stable.ppf(p, alpha), x, rtol=1e-11)
    np.testing.assert_allclose(stable.cdf(x, alpha), p, rtol=1e-11)
    np.testing.assert_allclose(stable.sf(-x, alpha), p, rtol=1e-11)


def test_quantile_ratios_agree_with_mcculloch() -> None:
    """McCulloch, Commun. Statist. Simul. 15 (1986): tables of ν_α and ν_c at β = 0, α = 2, 1.9, ..., 0.5.

    Tables of their time: right to 0.13 % down to α = 1 and to 1 % below.
    """
    alpha = np.linspace(2.0, 0.5, 16).round(1)
    nu_alpha = [2.439, 2.512, 2.608, 2.737, 2.912, 3.148, 3.464, 3.882, 4.447, 5.217, 6.314, 7.910]
    nu_alpha += [10.448, 14.838, 23.483, 44.281]
    nu_c = [1.908, 1.914, 1.921, 1.927, 1.933, 1.939, 1.946, 1.955, 1.965, 1.980, 2.000, 2.040, 2.098, 2.189, 2.337]
    nu_c += [2.588]
    near = np.where(alpha >= 1, 1.3e-3, 1e-2)
    got = stable.isf(0.05, alpha) / stable.isf(0.25, alpha)
    assert (np.abs(got / nu_alpha - 1) < near).all()
    assert (np.abs(2 * stable.isf(0.25, alpha) / nu_c - 1) < near).all()


def test_the_72_percent_point_hardly_depends_on_alpha() -> None:
    """Fama & Roll, JASA 66 (1971): 0.827 ± 0.003 for 1 ≤ α ≤ 2, their estimator of the scale."""
    assert np.abs(stable.ppf(0.72, np.linspace(1, 2, 101)) - 0.827).max() < 0.003


@pytest.mark.parametrize(
    ("x", "alpha"),
    [
        (0.05, 0.55),
        (3.0, 0.9),
        (200.0, 0.75),
        (0.3, 1.3),
        (9.0, 1.7),
        (31.9, 1.5),
        (4.0, 1.9),
        (7.0, 1.999),
        (1e5, 1.2),
    ],
)
def test_tails_agree_with_zolotarev_integral(x: float, alpha: float) -> None:
    expected = zolotarev.tail(x, alpha)
    assert stable.sf(x, alpha) == pytest.approx(expected, rel=1e-11)
    assert stable.cdf(x, alpha) == pytest.approx(1 - expected, rel=1e-12)
    assert stable.isf(expected, alpha) == pytest.approx(x, rel=1e-10)


@pytest.mark.parametrize("alpha", [1.2, 1.5, 1.8])
def test_distribution_function_agrees_with_scipy(alpha: float) -> None:
    x = np.linspace(-7, 7, 15)
    np.testing.assert_allclose(stable.cdf(x, alpha), scipy_stats.levy_stable.cdf(x, alpha, 0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("alpha", [0.5, 0.9, 1.4, 1.9, 1.9999])
def test_far_tail_is_the_power_law(alpha: float) -> None:
    """P(X > x) → c_α x^(−α), c_α = Γ(α) sin(πα/2)/π."""
    c = math.gamma(alpha) * math.sin(math.pi * alpha / 2) / math.pi
    for x in (1e25, 1e60, 1e120):
        assert stable.sf(x, alpha) == pytest.approx(c * x**-alpha, rel=1e-9)
        assert stable.isf(c * x**-alpha, alpha) == pytest.approx(x, rel=1e-9)


def test_gaussian_and_cauchy_are_exact() -> None:
    x = np.concatenate([np.linspace(-50, 50, 401), [1e-9, 1e3]])
    q = np.concatenate([np.geomspace(1e-300, 0.5, 60), 1 - np.geomspace(1e-12, 0.4, 30)])
    for law, alpha, scale in (
        (scipy_stats.norm(scale=1.5 * math.sqrt(2)), 2.0, 1.5),
        (scipy_stats.cauchy(scale=0.4), 1.0, 0.4),
    ):
        np.testing.assert_allclose(stable.sf(x, alpha, scale), law.sf(x), rtol=2e-13)
        np.testing.assert_allclose(stable.cdf(x, alpha, scale), law.cdf(x), rtol=2e-13)
        np.testing.assert_allclose(stable.isf(q, alpha, scale), law.isf(q), rtol=2e-13)
        np.testing.assert_allclose(stable.ppf(q, alpha, scale), law.ppf(q), rtol=2e-13)


@pytest.mark.parametrize(
    ("x", "alpha"), [(0.1, 0.6), (5.0, 0.85), (0.7, 1.2), (2.5, 1.6), (40.0, 1.5), (6.0, 1.95), (3.0, 1.999)]
)
def test_score_agrees_with_zolotarev_integral(x: float, alpha: float) -> None:
    in_alpha, in_scale = zolotarev.score(x, alpha)
    got = stable.score(x, alpha)
    assert got.alpha == pytest.approx(in_alpha, rel=1e-8, abs=1e-8)
    assert got.scale == pytest.approx(in_scale, abs=1e-7)


def test_score_of_gaussian_and_cauchy() -> None:
    x = np.array([0.0, 0.5, -3.0, 20.0, 33.0, -40.0])
    gaussian, cauchy = stable.score(x, 2.0, 1.3), stable.score(x, 1.0, 1.3)
    z = x / 1.3
    np.testing.assert_allclose(gaussian.scale, (z * z / 2 - 1) / 1.3, rtol=1e-13)
    np.testing.assert_allclose(cauchy.scale, (z * z - 1) / (z * z + 1) / 1.3, atol=2e-8)
    np.testing.assert_array_equal(gaussian.logpdf, stable.logpdf(x, 2.0, 1.3))
    np.testing.assert_array_equal(cauchy.logpdf, stable.logpdf(x, 1.0, 1.3))


# From below: f_α(x; 2) = −(1/π) ∫_0^∞ w² ln w cos(wx) exp(−w²) dw.
@pytest.mark.parametrize("x", [0.0, 0.5, 2.0, 5.0])
def test_score_in_alpha_at_two(x: float) -> None:
    w = np.linspace(0, 12, 400_001)[1:]
    derivative = -(w * w * np.log(w) * np.cos(w * x) * np.exp(-w * w)).sum() * 12 / 400_000 / math.pi
    assert stable.score(x, 2.0).alpha == pytest.approx(derivative / stable.pdf(x, 2.0), rel=1e-6)
    assert stable.score(x, 2.0).alpha == pytest.approx(stable.score(x, 2.0 - 1e-9).alpha, rel=1e-6, abs=1e-7)


def test_score_far_out_at_two() -> None:
    """−T/f with T → Σ b_k x^(−2k−1), b_1 = 1: like −2√π exp(x²/4)/x³ until that overflows."""
    assert stable.score(50.0, 2.0).alpha == pytest.approx(-2 * math.sqrt(math.pi) * math.exp(625) / 50**3, rel=0.01)
    assert stable.score(60.0, 2.0).alpha == -math.inf


def test_score_is_the_slope_of_the_log_density() -> None:
    x = np.concatenate([np.linspace(-30, 30, 61) + 0.017, [100.0, -1e6]])  # not across the edges of cells
    h = 1e-6
    for alpha in (0.55, 0.9, 1.1, 1.5, 1.9):
        for scale in (0.3, 2.0):
            got = stable.score(x, alpha, scale)
            up, down = stable.logpdf(x, alpha + h, scale), stable.logpdf(x, alpha - h, scale)
            np.testing.assert_allclose(got.alpha, (up - down) / (2 * h), rtol=1e-5, atol=1e-5)
            up, down = stable.logpdf(x, alpha, scale + h), stable.logpdf(x, alpha, scale - h)
            np.testing.assert_allclose(got.scale, (up - down) / (2 * h), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(got.logpdf, stable.logpdf(x, alpha, scale), rtol=1e-14)


# Laws.


@settings(max_examples=200, deadline=None)
@given(points, alphas, scales)
def test_tails_are_symmetric(x: float, alpha: float, scale: float) -> None:
    assert stable.sf(-x, alpha, scale) == stable.cdf(x, alpha, scale)
    assert stable.sf(x, alpha, scale) + stable.cdf(x, alpha, scale) == pytest.approx(1.0, abs=1e-15)
    assert stable.pdf(-x, alpha, scale) == stable.pdf(x, alpha, scale)


@settings(max_examples=200, deadline=None)
@given(points, alphas, scales)
def test_scale_is_a_scale(x: float, alpha: float, scale: float) -> None:
    assert stable.logpdf(x * scale, alpha, scale) + math.log(scale) == pytest.approx(
        stable.logpdf(x, alpha), rel=1e-12, abs=1e-9
    )  # x·σ/σ may fall into the neighbouring cell
    assert stable.sf(x * scale, alpha, scale) == pytest.approx(stable.sf(x, alpha), rel=1e-11)
    one, other = stable.score(x, alpha), stable.score(x * scale, alpha, scale)
    assert other.alpha == pytest.approx(one.alpha, rel=1e-8, abs=1e-6)
    assert other.scale * scale == pytest.approx(one.scale, rel=1e-8, abs=1e-6)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.floats(1e-290, 0.5), st.floats(0.4, 0.5), st.floats(-280, -1).map(lambda e: 10**e)), alphas, scales)
def test_quantiles_invert_the_tails(q: float, alpha: float, scale: float) -> None:
    upper, unit = stable.isf(q, alpha, scale), stable.isf(q, alpha)
    assert stable.ppf(q, alpha, scale) == -upper
    if max(upper, unit) < 1e300:
        assert unit * scale == pytest.approx(upper, rel=1e-12)
        assert stable.sf(upper, alpha, scale) == pytest.approx(q, rel=1e-11)
        assert stable.cdf(stable.ppf(1 - q, alpha, scale), alpha, scale) == pytest.approx(1 - q, rel=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_tails_are_monotone(alpha: float) -> None:
    edges = np.array([1 / 16 * 2.0**k - 1 / 16 for k in range(10)])
    x = np.sort(np.concatenate([np.geomspace(1e-6, 1e8, 20_000), *(edges * f for f in (1 - 1e-9, 1, 1 + 1e-9))]))
    assert (np.diff(stable.sf(x, alpha)) <= 0).all()
    assert (np.diff(stable.cdf(np.concatenate([-x[::-1], x]), alpha)) >= 0).all()
    q = np.concatenate([np.geomspace(1e-140, 0.4999, 5000), np.linspace(0.4999, 0.5001, 5001)])
    assert (np.diff(stable.ppf(np.sort(q), alpha)) >= 0).all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_quantiles_near_the_median(alpha: float) -> None:
    """x ≈ (q − ½)/f(0), where sf itself has no digits left."""
    h = np.array([0.0, 2.0**-50, 2.0**-40, 2.0**-30])
    expected = h / stable.pdf(0.0, alpha)
    np.testing.assert_allclose(stable.isf(0.5 - h, alpha), expected, rtol=1e-9)
    assert stable.sf(0.0, alpha) == pytest.approx(0.5, abs=2e-16)


def test_tails_are_continuous_into_gaussian_and_through_cauchy() -> None:
    x = np.linspace(-8, 8, 200)
    for delta in (1e-6, 1e-9, 1e-12, 4.5e-16):
        assert np.abs(stable.sf(x, 2 - delta) - stable.sf(x, 2.0)).max() < delta + 1e-15
    for delta in (1e-6, 1e-9, 1e-12):
        for side in (-1, 1):
            assert np.abs(stable.sf(x, 1 + side * delta) / stable.sf(x, 1.0) - 1).max() < 3 * delta + 1e-11
    for alpha in np.linspace(0.5, 1.999, 40):
        below, above = stable.sf([np.nextafter(X_TAIL, 0), X_TAIL], alpha)
        assert below == pytest.approx(above, rel=1e-12)


def test_integral_of_the_table_is_close_to_zero() -> None:
    """R of ``_cumulative``, by the size of the step that would be seen at the median."""
    m = mass()
    assert m.beyond.shape[2] == m.cells.max() + 1
    for alpha in np.linspace(0.5, 1.99, 50):
        assert stable.cdf(1e-12, alpha) == pytest.approx(0.5, abs=1e-11)
        assert stable.isf(0.5 - 1e-6, alpha) * stable.pdf(0.0, alpha) == pytest.approx(1e-6, rel=1e-9)


# Shapes, types, extremes.


def test_arguments_broadcast() -> None:
    x, alpha, scale = np.linspace(-40, 40, 9)[:, None], np.array([0.7, 1.0, 1.3, 2.0]), np.array([[[1.0]], [[3.0]]])
    q = np.linspace(0.01, 0.99, 9)[:, None]
    for function, first in [*((f, x) for f in SHAPED), *((f, q) for f in QUANTILES)]:
        out = function(first, alpha, scale)
        assert out.shape == (2, 9, 4)
        assert out.dtype == np.float64
        for i, j, k in [(0, 0, 0), (1, 4, 2), (1, 8, 3), (0, 3, 1)]:
            one = function(float(first[j, 0]), float(alpha[k]), float(scale[i, 0, 0]))
            assert isinstance(one, float)
            assert out[i, j, k] == pytest.approx(one, rel=1e-14)
        assert function(np.empty((0, 1)), alpha).shape == (0, 4)
    got = stable.score(x, alpha, scale)
    assert got.alpha.shape == got.scale.shape == got.logpdf.shape == (2, 9, 4)
    assert got.scale[1, 2, 0] == pytest.approx(stable.score(float(x[2, 0]), 0.7, 3.0).scale, rel=1e-13)
    assert isinstance(stable.score(0, 1.5).alpha, float)


def test_integers_and_strided_arrays_are_numbers() -> None:
    for function in SHAPED:
        np.testing.assert_array_equal(function(np.arange(6)[::2], 1.5), function([0.0, 2.0, 4.0], 1.5))
    assert stable.ppf(True, 1.5) == math.inf
    with pytest.raises(InvalidInput, match="shapes that broadcast"):
        stable.sf(np.zeros(3), np.full(2, 1.5))


def test_float32_is_the_rounded_double() -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=400) * 5, 10 ** rng.uniform(-40, 38, 400)]).astype(np.float32)
    q = np.concatenate([rng.random(400), 10 ** rng.uniform(-38, 0, 400)]).astype(np.float32)
    for function, first in [*((f, x) for f in SHAPED), *((f, q) for f in QUANTILES)]:
        for alpha in (0.6, 1.0, 1.7, 2.0):
            got = function(first, np.float64(alpha), np.full(800, 0.7))
            assert got.dtype == np.float32
            with np.errstate(over="ignore", under="ignore"):
                expected = function(first.astype(np.float64), alpha, 0.7).astype(np.float32)
            np.testing.assert_array_equal(got, expected)
            assert isinstance(function(first[0], alpha), np.float32)
    got = stable.score(x[:5], 1.5)
    assert got.alpha.dtype == got.scale.dtype == got.logpdf.dtype == np.float32
    np.testing.assert_array_equal(got.alpha, stable.score(x[:5].astype(float), 1.5).alpha.astype(np.float32))


def test_values_that_are_not_finite() -> None:
    x = [np.nan, np.inf, -np.inf]
    for alpha in (0.8, 1.0, 1.5, 2.0):
        for function, expected in ((stable.pdf, (0, 0)), (stable.sf, (0, 1)), (stable.cdf, (1, 0))):
            out = function(x, alpha)
            assert np.isnan(out[0])
            assert tuple(out[1:]) == expected
        assert np.isnan(stable.ppf(np.nan, alpha))
        assert tuple(stable.ppf([0.0, 1.0], alpha)) == (-math.inf, math.inf)
        assert tuple(stable.isf([0.0, 1.0], alpha)) == (math.inf, -math.inf)
        got = stable.score(x, alpha, 2.0)
        assert np.isnan([got.alpha[0], got.scale[0], got.logpdf[0]]).all()
        assert (got.alpha[1:] == -math.inf).all()
        assert (got.scale[1:] == (alpha / 2 if alpha < 2 else math.inf)).all()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_quotients_beyond_the_largest_number(alpha: float) -> None:
    """x/σ overflows, ln(x/σ) does not; and scales down to the smallest subnormal."""
    c = math.gamma(alpha) * math.sin(math.pi * alpha / 2) / math.pi
    log_z = math.log(1e308) - math.log(1e-10)
    assert stable.logpdf(1e308, alpha, 1e-10) == pytest.approx(
        math.log(alpha * c) - (1 + alpha) * log_z + math.log(1e10), rel=1e-11
    )
    assert stable.sf(1e308, alpha, 1e-10) == pytest.approx(math.exp(math.log(c) - alpha * log_z), rel=1e-9)
    got = stable.score(1e308, alpha, 1e-10)
    assert got.scale == pytest.approx(alpha * 1e10, rel=1e-12)
    assert got.alpha == pytest.approx(stable.score(1e300, alpha).alpha - math.log(1e18), rel=1e-11)
    smallest = 5e-324
    assert stable.logpdf(0.0, alpha, smallest) == pytest.approx(stable.logpdf(0.0, alpha) - math.log(smallest))
    assert stable.pdf(0.0, alpha, smallest) == math.inf
    assert stable.sf(0.0, alpha, smallest) == 0.5
    assert stable.logpdf(smallest, alpha, 1e300) == pytest.approx(stable.logpdf(0.0, alpha) - math.log(1e300))
    # A quantile of SαS(1) that is too large, yet not at this scale.
    q = 1e-200 if alpha == 0.5 else 1e-310
    if alpha < 1.5:
        assert stable.isf(q, alpha) == math.inf
        expected = math.exp((math.log(c) - math.log(q)) / alpha + math.log(1e-150))
        assert stable.isf(q, alpha, 1e-150) == pytest.approx(expected, rel=1e-9)


def test_points_on_every_cell_edge() -> None:
    """A point on an edge belongs to the cell on its right; the answers join."""
    x = np.array([(2.0**k * (1 + j / 16) - 1) / 16 for k in range(9) for j in range(16)])[1:]
    for alpha in (0.55, 1.1, 1.5, 1.97):
        for function in (stable.pdf, stable.sf):
            near = function(np.nextafter(x, 0), alpha)
            np.testing.assert_allclose(near, function(x, alpha), rtol=1e-9)


@pytest.mark.parametrize("function", [*SHAPED, stable.score, *QUANTILES])
def test_bad_arguments_are_named(function: Callable[..., Any]) -> None:
    first = "q" if function in QUANTILES else "x"
    for values in ("text", [1j], [None], [[0.1], [0.1, 0.2]]):
        with pytest.raises(InvalidInput, match=f"{first}: expected"):
            function(values, 1.5)
    for alpha in (0.49, 2.0001, math.nan, math.inf, -1.0, "two", [1.5, 0.1]):
        with pytest.raises(InvalidInput, match="alpha: expected"):
            function(0.5, alpha)
    for scale in (0.0, -1.0, math.inf, math.nan, None):
        with pytest.raises(InvalidInput, match="scale: expected"):
            function(0.5, 1.5, scale)
    if function in QUANTILES:
        for q in (-1e-9, 1.0001, [0.5, 2.0], -math.inf):
            with pytest.raises(InvalidInput, match=r"q: expected probabilities in \[0, 1\]"):
                function(q, 1.5)


# Random numbers.


@pytest.mark.parametrize("alpha", [0.5, 0.8, 0.9999, 1.0, 1.0001, 1.3, 1.9, 1.999, 2.0])
def test_rvs_follow_the_distribution_function(alpha: float) -> None:
    n = 100_000
    x = np.sort(stable.rvs(alpha, 3.0, n, np.random.default_rng(17)))
    u = stable.cdf(x, alpha, 3.0)
    distance = max((np.arange(1, n + 1) / n - u).max(), (u - np.arange(n) / n).max())
    assert special.kolmogorov(distance * math.sqrt(n)) > 1e-3
    for p in (1e-2, 1e-3, 1e-4):  # |X| beyond its tail points, as often as a binomial law allows
        beyond = int((np.abs(x) > stable.isf(p / 2, alpha, 3.0)).sum())
        assert abs(beyond - n * p) < 4 * math.sqrt(n * p)


def test_rvs_take_parameters_by_element() -> None:
    alpha = np.repeat([0.7, 1.0, 1.5, 2.0], 5000)
    x = stable.rvs(alpha, np.tile([1.0, 4.0], 10_000), None, np.random.default_rng(3))
    assert x.shape == (20_000,)
    u = stable.cdf(x, alpha, np.tile([1.0, 4.0], 10_000))
    for part in u.reshape(4, 5000):
        assert scipy_stats.kstest(part, "uniform").pvalue > 1e-3
    assert stable.rvs([0.7, 2.0], 1.0, (3, 2), np.random.default_rng(3)).shape == (3, 2)
    assert isinstance(stable.rvs(2.0, rng=np.random.default_rng(3)), float)
    for size in ((3,), "many", -1):
        with pytest.raises(InvalidInput, match="size"):
            stable.rvs([1.2, 1.3], 1.0, size, np.random.default_rng(3))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="alpha"):
        stable.rvs(2.5, 1.0, 3, np.random.default_rng(3))
    with pytest.raises(InvalidInput, match="rng"):
        stable.rvs(1.5, 1.0, 3)
