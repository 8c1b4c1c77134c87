"""Goodness of fit by parametric bootstrap: statistics against scipy, level, power."""

import math

import numpy as np
import pytest
from scipy import stats

from gradnoise.analyzer.stats import InvalidInput, TooFewValues, _laws, stable
from gradnoise.analyzer.stats.goodness import Distance, Law, goodness_of_fit


def test_distances_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 2, 300)
    found = goodness_of_fit(x, Law.GAUSSIAN, rng=rng, distance="ks", replicates=19)
    half = stats.halfnorm(0, math.sqrt(np.mean(x**2)))
    assert found.value == pytest.approx(stats.kstest(np.abs(x), half.cdf).statistic, rel=1e-9)
    found = goodness_of_fit(x, Law.GAUSSIAN, rng=rng, replicates=19)
    u, i = half.cdf(np.sort(np.abs(x))), np.arange(1, 301)
    by_hand = -300 - np.sum((2 * i - 1) / 300 * (np.log(u) + np.log1p(-u[::-1])))
    assert found.value == pytest.approx(by_hand, rel=1e-9)


def test_p_value_counts_replicates() -> None:
    x = np.random.default_rng(2).standard_t(3, 400)
    first = goodness_of_fit(x, "gaussian", rng=np.random.default_rng(3), replicates=99)
    assert first.p_value == 0.01
    assert first == goodness_of_fit(x, "gaussian", rng=np.random.default_rng(3), replicates=99)
    assert (first.p_value * 100) % 1 == pytest.approx(0)
    assert first.n == 400


@pytest.mark.parametrize("law", list(Law))
def test_each_law_accepts_itself_and_scale_does_not_matter(law: Law) -> None:
    rng = np.random.default_rng(4)
    parameters = {
        Law.STABLE: (1.5, 1.0, 0.0),
        Law.GAUSSIAN: (1.0, 0.0),
        Law.STUDENT_T: (4.0, 1.0, 0.0),
        Law.LAPLACE: (1.0, 0.0),
        Law.GENERALISED_GAUSSIAN: (0.8, 1.0, 0.0),
        Law.GAUSSIAN_MIXTURE: (0.8, 1.0, 4.0, 0.0),
    }[law]
    x = _laws.rvs(law, parameters, 300, rng)
    for distance in Distance:
        one = goodness_of_fit(x, law, rng=np.random.default_rng(5), distance=distance, replicates=39)
        assert one.p_value > 0.02
        scaled = goodness_of_fit(1e-9 * x, law, rng=np.random.default_rng(5), distance=distance, replicates=39)
        assert scaled.value == pytest.approx(one.value, rel=1e-4)
        moved = goodness_of_fit(
            x + 7, law, rng=np.random.default_rng(5), distance=distance, replicates=19, location=True
        )
        assert moved.p_value > 0.02


def test_level_under_the_stable_law() -> None:
    rng = np.random.default_rng(6)
    p = [goodness_of_fit(stable.rvs(1.5, 1.0, 100, rng), rng=rng, replicates=39).p_value for _ in range(150)]
    # 1.96 + 1.5 binomial standard errors at P(p ≤ u) = u
    for u in (0.1, 0.5):
        assert np.mean(np.array(p) <= u) == pytest.approx(u, abs=3.5 * math.sqrt(u * (1 - u) / 150))


def test_power() -> None:
    rng = np.random.default_rng(7)
    p = [goodness_of_fit(rng.standard_t(3, 5000), rng=rng, replicates=39).p_value for _ in range(6)]
    assert np.sum(np.array(p) <= 0.05) >= 5
    for law in (Law.GAUSSIAN, Law.LAPLACE, Law.GENERALISED_GAUSSIAN, Law.GAUSSIAN_MIXTURE):
        assert goodness_of_fit(stable.rvs(1.5, 1.0, 5000, rng), law, rng=rng, replicates=19).p_value == 0.05


def test_zeros_are_left_out() -> None:
    x = np.random.default_rng(8).normal(size=200)
    one = goodness_of_fit(np.concatenate([x, np.zeros(50)]), "gaussian", rng=np.random.default_rng(9), replicates=19)
    assert one.n == 200
    assert one.fit.zeros == 0.2
    assert "exactly 0" in one.warnings[0]


def test_bad_input() -> None:
    rng = np.random.default_rng(10)
    x = rng.normal(size=100)
    with pytest.raises(InvalidInput, match="law: expected one of stable, gaussian"):
        goodness_of_fit(x, "normal", rng=rng)
    with pytest.raises(InvalidInput, match="distance: expected one of ad, ks"):
        goodness_of_fit(x, rng=rng, distance="cvm")
    with pytest.raises(InvalidInput, match="replicates: expected at least 19"):
        goodness_of_fit(x, rng=rng, replicates=5)
    with pytest.raises(InvalidInput, match="rng: expected"):
        goodness_of_fit(x, rng=None)  # type: ignore[arg-type]
    for law in Law:
        with pytest.raises(TooFewValues, match="x:"):
            goodness_of_fit(x[:10], law, rng=rng)
