"""The block-sum estimator of the published code, and the pitfalls it is known for, in closed form."""

import math
from typing import Any

import numpy as np
import pytest

from gradnoise.analyzer.stats import AllZero, InvalidInput, NonFiniteValues, TooFewValues, estimators, stable


def _published(x: Any) -> float:
    """The formula (Mohammadi et al. 2015, cor. 2.4) with the published choices of m and ε, value by value."""
    n = len(x)
    m = [i for i in range(1, 1 + int(math.sqrt(n))) if n % i == 0][-1]
    y = [math.fsum(x[i * m : (i + 1) * m]) for i in range(n // m)]
    mean_y = math.fsum(math.log(abs(v) + 2.220446049250313e-16) for v in y) / len(y)
    mean_x = math.fsum(math.log(abs(v) + 2.220446049250313e-16) for v in x) / n
    return 1 / ((mean_y - mean_x) / math.log(m))


@pytest.mark.parametrize("n", [30, 36, 100, 997 * 2, 5040])
def test_is_the_published_formula(n: int) -> None:
    x = stable.rvs(1.4, 0.1, n, np.random.default_rng(n))
    x[:2] = 0
    assert estimators.mmo(x).value == pytest.approx(_published(x), rel=1e-12)
    if n % 6 == 0:
        assert estimators.mmo(x.reshape(6, -1)).value == estimators.mmo(x).value


def test_is_right_for_stable_values() -> None:
    rng = np.random.default_rng(1)
    for alpha in (1.1, 1.5, 1.9):
        estimates = [estimators.mmo(stable.rvs(alpha, 1.0, 10_000, rng)) for _ in range(200)]
        inverse = np.array([1 / e.value for e in estimates])
        assert inverse.mean() == pytest.approx(1 / alpha, abs=4 * inverse.std() / math.sqrt(200))
        assert np.mean([e.se for e in estimates]) == pytest.approx(np.std([e.value for e in estimates]), rel=0.2)
        assert np.mean([e.low <= alpha <= e.high for e in estimates]) > 0.88


def test_spread_of_scales_reads_as_tail() -> None:
    # 1/α̂ = ½ + E ln(mean_m s²)/(2 ln m): Gaussian values with lognormal(0, 1) scales read 1.55 at m = 1000.
    rng = np.random.default_rng(2)
    x = rng.normal(size=1_000_000) * np.exp(rng.normal(size=1_000_000))
    assert estimators.mmo(x).value == pytest.approx(1.55, abs=0.06)


def test_order_decides() -> None:
    rng = np.random.default_rng(3)
    scales = np.repeat([1, 0.25, 0.06, 0.016, 0.004, 0.001], 166_666)
    x = rng.normal(size=999_996) * scales
    x = x[:998_001]  # 999²
    assert estimators.mmo(x).value == pytest.approx(2.0, abs=0.06)
    assert estimators.mmo(rng.permutation(x)).value == pytest.approx(1.14, abs=0.06)


def test_correlated_neighbours_read_as_tail() -> None:
    phi, m = 0.9, 1000
    rng = np.random.default_rng(4)
    from scipy.signal import lfilter

    x = lfilter([1.0], [1.0, -phi], rng.normal(size=1_010_000))[10_000:]
    inside = (1 + phi) / (1 - phi) - 2 * phi * (1 - phi**m) / (m * (1 - phi) ** 2)
    assert estimators.mmo(x).value == pytest.approx(1 / (0.5 + math.log(inside) / (2 * math.log(m))), abs=0.05)


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1.82), (0.05, 1.33), (0.2, 0.66)])
def test_zeros_drive_the_estimate_down(share: float, expected: float) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=1_000_000) * (rng.random(1_000_000) >= share)
    estimate = estimators.mmo(x)
    assert estimate.value == pytest.approx(expected, abs=0.05)
    assert any("exactly 0" in warning for warning in estimate.warnings)


def test_prime_length_has_no_value_and_says_so() -> None:
    estimate = estimators.mmo(np.random.default_rng(6).normal(size=1009))
    assert math.isnan(estimate.value)
    assert any("prime" in warning for warning in estimate.warnings)
    short = estimators.mmo(np.random.default_rng(6).normal(size=2 * 1009))
    assert any("short" in warning for warning in short.warnings)


def test_rows_that_sum_to_zero_give_nonsense_with_a_warning() -> None:
    x = np.random.default_rng(7).normal(size=(100, 100))
    x -= x.mean(axis=1, keepdims=True)
    estimate = estimators.mmo(x)
    assert not 0 < estimate.value <= 2
    assert any("not the index" in warning for warning in estimate.warnings)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (["a"] * 40, InvalidInput),
        ([[1.0], [2.0, 3.0]], InvalidInput),
        (np.ones(10), TooFewValues),
        ([], TooFewValues),
        (np.zeros(100), AllZero),
        (np.append(np.ones(50), np.nan), NonFiniteValues),
    ],
)
def test_bad_input(values: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="x:"):
        estimators.mmo(values)
