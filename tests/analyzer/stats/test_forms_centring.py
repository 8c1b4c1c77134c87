"""Skewness and the three centres."""

import numpy as np
import pytest

from gradnoise.analyzer.stats import InvalidInput, Status, TooFewValues, forms, stable


def test_symmetric_stable_draws_read_the_same_about_every_centre() -> None:
    draws = stable.rvs(1.7, 1.0, (400, 60), np.random.default_rng(1)) + 5.0
    result = forms.centring(draws)
    for alpha in (result.mean, result.median, result.pair):
        assert alpha.value == pytest.approx(1.7, abs=0.05)
    assert result.status is Status.OK
    assert not result.warnings
    assert result.spread.value < 0.05
    assert result.octile_skewness.low == 0


def test_skewed_draws_disagree_and_say_so() -> None:
    rng = np.random.default_rng(2)
    sides = np.where(rng.random(60) < 0.5, 1.0, -1.0)
    result = forms.centring(rng.lognormal(size=(400, 60)) * sides)
    readings = [result.mean.value, result.median.value, result.pair.value]
    assert result.spread.value == pytest.approx(max(readings) - min(readings))
    assert result.spread.low > 0
    assert "about the median" in result.warnings[0]
    # Octiles of the standard lognormal law: (e^z + e^−z − 2)/(e^z − e^−z) at z = 1.1503.
    assert result.octile_skewness.value == pytest.approx(np.tanh(1.1503494 / 2), abs=0.05)
    assert result.octile_skewness.low < np.tanh(1.1503494 / 2) < result.octile_skewness.high


def test_skewness_has_a_closed_form_for_gamma_draws() -> None:
    draws = np.random.default_rng(3).gamma(4.0, size=(2000, 40))
    result = forms.centring(draws)
    assert result.skewness.value == pytest.approx(1.0, abs=0.07)  # 2/√4
    assert result.skewness.low < 1.0 < result.skewness.high


def test_bad_draws() -> None:
    rng = np.random.default_rng(4)
    with pytest.raises(TooFewValues, match="at least 60"):
        forms.centring(rng.normal(size=(59, 4)))
    with pytest.raises(TooFewValues, match="got 59"):
        forms.centring(np.where(np.arange(60)[:, None] == 3, np.nan, rng.normal(size=(60, 4))))
    with pytest.raises(InvalidInput, match="draws"):
        forms.centring(np.ones(60))
    dead = forms.centring(np.ones((80, 4)))
    assert dead.status is Status.ALL_ZERO
    assert np.isnan(dead.spread.value)
    assert dead.reason
