"""The Gaussian fit."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from gradnoise.analyzer.stats import InvalidInput, Status, gaussian, stable


def test_agrees_with_scipy() -> None:
    x = np.random.default_rng(1).normal(3.0, 2.0, 200)
    mean, std = scipy_stats.norm.fit(x)
    fit = gaussian.fit(x, location=True)
    assert fit.location is not None
    assert fit.location.value == pytest.approx(mean)
    assert fit.std.value == pytest.approx(std)
    assert fit.scale.value == pytest.approx(std / math.sqrt(2))
    assert fit.loglik == pytest.approx(scipy_stats.norm.logpdf(x, mean, std).sum())
    centred = gaussian.fit(x)
    assert centred.location is None
    assert centred.std.value == pytest.approx(math.sqrt(np.mean(x**2)))
    assert gaussian.logpdf(x, 1.3) == pytest.approx(scipy_stats.norm.logpdf(x, scale=1.3 * math.sqrt(2)))


def test_is_the_stable_law_at_its_boundary() -> None:
    x = np.random.default_rng(2).uniform(-1, 1, 100)
    one, other = gaussian.fit(x), stable.fit(x)
    assert other.status is Status.AT_BOUNDARY
    assert other.scale.value == pytest.approx(one.scale.value)
    assert other.scale.low == pytest.approx(one.scale.low)
    assert other.loglik == pytest.approx(one.loglik)


def test_interval_covers() -> None:
    fits = gaussian.fit_columns(np.random.default_rng(3).normal(0, 5, (200, 2000)))
    assert 0.93 < np.mean((fits.std.low < 5) & (fits.std.high > 5)) < 0.97


def test_columns_weights_and_zeros() -> None:
    rng = np.random.default_rng(4)
    u, w = rng.normal(size=(120, 3)), rng.integers(0, 3, 120)
    u[::5, 1] = 0
    fits = gaussian.fit_columns(u, w, location=True)
    assert fits.location is not None
    for j in range(3):
        one = gaussian.fit(np.repeat(u[:, j], w), location=True)
        assert fits[j].std.value == pytest.approx(one.std.value)
        assert fits[j].loglik == pytest.approx(one.loglik)
        assert fits[j].zeros == pytest.approx(one.zeros)
    assert fits[1].zeros > 0
    assert fits[1].warnings


def test_bad_columns_have_a_status() -> None:
    u = np.random.default_rng(5).normal(size=(50, 5))
    u[:, 0], u[:, 1], u[3, 2], u[:40, 3] = 0, 1e-3, np.nan, 0
    fits = gaussian.fit_columns(u, location=True)
    assert fits.status == (
        Status.ALL_ZERO,
        Status.DEGENERATE,
        Status.NON_FINITE,
        Status.TOO_FEW_VALUES,
        Status.OK,
    )
    assert np.isnan(fits.std.value[:4]).all()
    assert fits[4].std.value == pytest.approx(np.std(u[:, 4]))


def test_extreme_units() -> None:
    x = np.random.default_rng(6).normal(size=100)
    for unit in (1e-200, 1e200):
        assert gaussian.fit(unit * x).std.value == pytest.approx(unit * gaussian.fit(x).std.value)


def test_density_of_extreme_and_of_bad_values() -> None:
    with np.errstate(all="raise"):
        far = gaussian.logpdf([1e300, -np.inf, np.nan, 0.0], [1e-300, 1.0, 1.0, 1e-300])
        assert gaussian.logpdf(0.0, 1.7e308) == pytest.approx(-math.log(2 * math.sqrt(math.pi)) - math.log(1.7e308))
    assert far[:2].tolist() == [-math.inf, -math.inf]
    assert math.isnan(far[2])
    assert far[3] == pytest.approx(-math.log(2 * math.sqrt(math.pi) * 1e-300))
    for x, scale, word in (
        (0.0, 0.0, "scale: expected finite values above 0"),
        (0.0, "1", "scale: expected real numbers"),
        ("x", 1.0, "x: expected real numbers"),
        ([1j], 1.0, "x: expected real numbers"),
        (np.zeros(3), np.ones(2), r"x, scale: expected shapes that broadcast, got \(3,\) and \(2,\)"),
    ):
        with pytest.raises(InvalidInput, match=word):
            gaussian.logpdf(x, scale)
