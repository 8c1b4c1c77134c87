"""Contrasts: what noise is measured against."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradnoise.analyzer.stats import InvalidInput, NonFiniteValues, TooFewValues, contrasts, stable
from gradnoise.analyzer.stats.contrasts import Minibatches, Replacement


@settings(max_examples=40, deadline=None)
@given(k=st.integers(2, 60), seed=st.integers(0, 10**6), shift=st.floats(-1e3, 1e3))
def test_the_gradient_cancels(k: int, seed: int, shift: float) -> None:
    draws = np.random.default_rng(seed).normal(size=(k, 4))
    for make in (contrasts.pair, contrasts.mean, contrasts.difference):
        one, other = make(draws), make(draws + shift)
        np.testing.assert_allclose(one.noise, other.noise, atol=1e-10)
        assert one.noise.shape[1] == 4
        assert one.draws == k


def test_pairs_are_disjoint_half_differences() -> None:
    draws = np.arange(14.0).reshape(7, 2) ** 2
    c = contrasts.pair(draws)
    np.testing.assert_array_equal(c.noise, (draws[[0, 2, 4]] - draws[[1, 3, 5]]) / 2)
    assert (c.reference, c.draws, c.draws_used, c.draws_per_row, c.row_stride) == ("pair", 7, 6, 2, 1)
    assert not c.warnings
    assert contrasts.pair(draws.astype(np.float32)).noise.dtype == np.float32


def test_pairs_stay_inside_one_theta() -> None:
    draws = np.random.default_rng(1).normal(size=(9, 2))
    c = contrasts.pair(draws, [0, 0, 0, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(c.noise, (draws[[0, 3, 5, 7]] - draws[[1, 4, 6, 8]]) / 2)
    assert c.draws_used == 8
    assert not c.warnings


def test_a_burst_is_paired_in_time_and_says_so() -> None:
    draws = np.random.default_rng(2).normal(size=(8, 2))
    c = contrasts.pair(draws, np.arange(8))
    np.testing.assert_array_equal(c.noise, contrasts.pair(draws).noise)
    assert any("drift" in warning for warning in c.warnings)


def test_mean_rows_sum_to_zero_and_have_the_sign_of_noise() -> None:
    draws = np.random.default_rng(3).normal(5.0, 1.0, (20, 3))
    c = contrasts.mean(draws)
    np.testing.assert_allclose(c.noise.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(c.noise, draws.mean(axis=0) - draws)
    assert c.covariance_factor == pytest.approx(20 / 19)


def test_difference_is_of_neighbours() -> None:
    draws = np.random.default_rng(4).normal(size=(6, 3))
    c = contrasts.difference(draws)
    np.testing.assert_array_equal(c.noise, draws[:-1] - draws[1:])
    assert (c.draws_per_row, c.row_stride) == (2, 2)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.2, 1.7, 2.0])
def test_scale_factors_lead_back_to_one_draw(alpha: float) -> None:
    draws = stable.rvs(alpha, 1.0, (40, 20_000), np.random.default_rng(5))
    for make in (contrasts.pair, contrasts.mean, contrasts.difference):
        c = make(draws)
        fitted = stable.fit(c.noise[0])  # one row: the values of a row are independent, rows of `mean` are not
        assert c.scale_factor(alpha) * fitted.scale.value == pytest.approx(1.0, abs=0.04), c.reference


def test_mean_centring_grows_heavy_tails_as_published() -> None:
    # K = 100: 1.73 at α = 1.05, 1.31 at 1.2.
    c = contrasts.mean(np.random.default_rng(6).normal(size=(100, 2)))
    assert 1 / c.scale_factor(1.05) == pytest.approx(1.73, abs=0.01)
    assert 1 / c.scale_factor(1.2) == pytest.approx(1.31, abs=0.01)


def test_covariance_factors() -> None:
    draws = np.random.default_rng(7).normal(0, 3.0, (50, 4000))
    for make in (contrasts.pair, contrasts.mean, contrasts.difference):
        c = make(draws)
        assert c.covariance_factor * np.mean(c.noise**2) == pytest.approx(9.0, rel=0.02), c.reference


def test_draws_that_are_not_finite_are_dropped_first() -> None:
    draws = np.random.default_rng(8).normal(size=(11, 3))
    bad = draws.copy()
    bad[4, 1], bad[7, 0] = np.nan, np.inf
    good = np.delete(draws, [4, 7], axis=0)
    for make in (contrasts.pair, contrasts.mean, contrasts.difference):
        c = make(bad)
        np.testing.assert_array_equal(c.noise, make(good).noise)
        assert c.non_finite == 2
        assert any("2 of 11" in warning for warning in c.warnings)
    with_theta = contrasts.pair(bad, [0] * 5 + [1] * 6)
    np.testing.assert_array_equal(with_theta.noise, contrasts.pair(good, [0] * 4 + [1] * 5).noise)


def test_bad_input() -> None:
    with pytest.raises(TooFewValues, match="2 finite draws"):
        contrasts.pair(np.ones((1, 3)))
    with pytest.raises(TooFewValues, match="got 1 of 3"):
        contrasts.mean([[1.0], [np.nan], [np.inf]])
    with pytest.raises(InvalidInput, match="shape"):
        contrasts.difference(np.ones(5))
    with pytest.raises(InvalidInput, match="dtype"):
        contrasts.pair(np.array([["a"], ["b"]]))
    with pytest.raises(InvalidInput, match="one entry a draw"):
        contrasts.pair(np.ones((4, 2)), [1, 2])


def test_full_is_noise_as_defined() -> None:
    rng = np.random.default_rng(9)
    gradient, draws = rng.normal(size=5), rng.normal(size=(7, 5))
    c = contrasts.full(draws, gradient)
    np.testing.assert_allclose(c.noise, gradient - draws)
    assert (c.reference, c.draws_per_row, c.row_stride, c.covariance_factor) == ("full", 1, 1, 1.0)
    assert c.scale_factor(1.3) == 1.0
    assert contrasts.full(draws.astype(np.float32), gradient).noise.dtype == np.float32
    assert len(contrasts.full(draws[:1], gradient).noise) == 1
    with pytest.raises(InvalidInput, match="one entry a coordinate"):
        contrasts.full(draws, gradient[:4])
    with pytest.raises(NonFiniteValues, match="gradient"):
        contrasts.full(draws, np.where(np.arange(5) == 2, np.nan, gradient))
    with pytest.raises(TooFewValues, match="got 0 of 1"):
        contrasts.full(np.full((1, 5), np.nan), gradient)


def test_ema_is_the_bias_corrected_average_before_less_the_draw() -> None:
    draws = np.random.default_rng(10).normal(size=(12, 3))
    c = contrasts.ema(draws, 0.5)
    assert len(c.noise) == 12 - 4  # 0.5^4 < 0.1
    for row, t in enumerate(range(4, 12)):
        weights = 0.5 ** np.arange(t)[::-1]
        np.testing.assert_allclose(c.noise[row], weights @ draws[:t] / weights.sum() - draws[t], atol=1e-14)
    np.testing.assert_allclose(contrasts.ema(draws + 100.0, 0.5).noise, c.noise, atol=1e-12)
    assert any("drift" in warning for warning in c.warnings)
    assert c.row_stride == 5
    with pytest.raises(InvalidInput, match="beta"):
        contrasts.ema(draws, 1.0)
    with pytest.raises(TooFewValues, match="at least 23"):
        contrasts.ema(draws)


@pytest.mark.parametrize("beta", [0.5, 0.9])
@pytest.mark.parametrize("alpha", [0.9, 1.4, 2.0])
def test_ema_leads_back_to_one_draw(alpha: float, beta: float) -> None:
    draws = stable.rvs(alpha, 1.0, (60, 20_000), np.random.default_rng(11))
    c = contrasts.ema(draws, beta)
    fitted = stable.fit(c.noise[-1])
    assert c.scale_factor(alpha) * fitted.scale.value == pytest.approx(1.0, abs=0.04)
    closed = (1 + (1 - beta) ** alpha / (1 - beta**alpha)) ** (-1 / alpha)
    assert c.scale_factor(alpha) == pytest.approx(closed, rel=2e-3)
    if alpha == 2.0:
        assert c.covariance_factor * np.mean(c.noise**2) == pytest.approx(2.0, rel=0.02)
        lag = np.mean(c.noise[1:] * c.noise[:-1]) / np.mean(c.noise**2)
        assert lag == pytest.approx(-(1 - beta) / 2, abs=0.01)


@pytest.mark.parametrize("replacement", list(Replacement))
def test_covariance_factor_of_minibatches(replacement: Replacement) -> None:
    # 24 examples with a gradient of variance 1 (over the dataset), minibatches of 6, 20 000 independent repeats as
    # coordinates: every contrast leads back to C/B = 1/6.
    rng = np.random.default_rng(12)
    n, b, repeats = 24, 6, 20_000
    examples = rng.normal(size=n)
    examples = (examples - examples.mean()) / examples.std()
    order = np.argsort(rng.random((8, repeats, n)), axis=2)
    if replacement is Replacement.WITH:
        picked = rng.integers(n, size=(8, repeats, b))
    elif replacement is Replacement.WITHOUT:
        picked = order[:, :, :b]
    else:
        picked = np.moveaxis(order[0].reshape(repeats, n // b, b), 1, 0)
    draws = examples[picked].mean(axis=2)
    source = Minibatches(n, b, replacement)
    made = [
        contrasts.full(draws, np.zeros(repeats), minibatches=source),
        contrasts.pair(draws, minibatches=source),
        contrasts.mean(draws, minibatches=source),
        contrasts.difference(draws, minibatches=source),
        contrasts.ema(draws, 0.2, minibatches=source),
    ]
    for c in made:
        assert c.covariance_factor * np.mean(c.noise**2) == pytest.approx(1 / b, rel=0.03), c.reference


def test_minibatches_refuse_what_has_no_noise() -> None:
    for n, b in ((10, 10), (10, 0), (0, 1)):
        with pytest.raises(InvalidInput, match="batch_size"):
            Minibatches(n, b, Replacement.WITH)


def test_noise_that_lies_off_its_centre_is_said() -> None:
    rng = np.random.default_rng(13)
    skewed = rng.exponential(size=(200, 50)) * np.where(rng.random(50) < 0.5, 1.0, -1.0)
    assert any("skewed" in warning for warning in contrasts.mean(skewed).warnings)
    assert any("skewed" in warning for warning in contrasts.full(skewed, np.sign(skewed[0])).warnings)
    assert not contrasts.pair(skewed).warnings
    symmetric = rng.standard_t(3, (200, 50))
    assert not contrasts.mean(symmetric).warnings
    symmetric[:, 7:] *= rng.random((200, 43)) < 0.5
    symmetric[:, 0] = 0
    assert not contrasts.full(symmetric, np.zeros(50)).warnings  # zeros do not count, dead columns neither
    assert any("atom" in warning for warning in contrasts.mean(symmetric).warnings)  # now they lie off 0
    assert not contrasts.full(np.ones((3, 2)), np.ones(2)).warnings


def test_more_draws_than_one_pass_holds_are_said() -> None:
    draws = np.random.default_rng(30).normal(size=(30, 4))
    for make in (contrasts.mean, contrasts.ema):
        for batch_size, said in ((2, False), (12, True)):
            c = make(draws, minibatches=Minibatches(60, batch_size, Replacement.EPOCH))
            assert any("more than one pass" in warning for warning in c.warnings) is said
        c = make(draws, minibatches=Minibatches(60, 12, Replacement.WITHOUT))
        assert not any("one pass" in warning for warning in c.warnings)


def test_half_differences_of_the_largest_values_are_finite() -> None:
    signs = np.where(np.random.default_rng(0).random((64, 40)) < 0.5, -1, 1).astype(np.float32)
    result = contrasts.pair(signs * np.float32(3e38))
    assert np.isfinite(result.noise).all()
    assert result.noise.dtype == np.float32
    assert np.abs(result.noise).max() == np.float32(3e38)


@pytest.mark.parametrize("coordinates", [1, 40])
def test_pairs_of_draws_that_are_not_alike_are_named(coordinates: int) -> None:
    """The backward passes of two losses look like microbatches: as the halves of a GAN's discriminator step."""
    rng = np.random.default_rng(3)
    draws = rng.standard_normal((128, coordinates)) + rng.exponential(size=(128, 1))
    theta = np.arange(128) // 2
    for numbers in (theta, None, np.arange(128)):
        assert not any("not of one law" in warning for warning in contrasts.pair(draws, numbers).warnings)
    draws[::2] += 2.0
    (warning,) = contrasts.pair(draws, theta).warnings
    assert "not of one law" in warning


def test_pairs_of_alike_draws_are_seldom_named() -> None:
    """At worst all coordinates are one."""
    rng = np.random.default_rng(4)
    for pairs in (6, 32, 256):
        named = sum(bool(contrasts.pair(rng.standard_normal((2 * pairs, 1))).warnings) for _ in range(1000))
        assert named <= 8
