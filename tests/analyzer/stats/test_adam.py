"""ADAM's noise: the transform, and the law of what comes out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradnoise.analyzer.stats import InvalidInput, NonFiniteValues, TooFewValues, adam, dependence, stable


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 40), beta1=st.floats(0, 0.999))
@settings(max_examples=30, deadline=None)
def test_is_the_formula(seed: int, rows: int, beta1: float) -> None:
    u = np.random.default_rng(seed).normal(size=(rows, 3))
    for t in range(1, rows + 1):
        weights = (1 - beta1) / (1 - beta1**t) * beta1 ** np.arange(t - 1, -1, -1)
        assert weights.sum() == pytest.approx(1.0)
        assert adam.adam_noise(u, beta1)[t - 1] == pytest.approx(weights @ u[:t])


def test_is_what_torchs_adam_divides_by_the_root() -> None:
    # β₂ = 0 makes Adam's step lr · m̂/(|g| + ε): its first moment, seen from outside.
    torch = pytest.importorskip("torch")
    u = np.random.default_rng(1).normal(size=(20, 4))
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=1.0, betas=(0.9, 0.0), eps=0.0)
    for row, expected in zip(u, adam.adam_noise(u, 0.9), strict=True):
        before = parameter.detach().clone()
        parameter.grad = torch.as_tensor(row)
        optimizer.step()
        step = (before - parameter.detach()).numpy() * np.abs(row)
        assert step == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("t", [1, 4, 30, 400])
def test_marginal_law_is_stable_with_the_predicted_scale(alpha: float, t: int) -> None:
    rng = np.random.default_rng(2)
    n = adam.adam_noise(stable.rvs(alpha, 2.0, (t, 4000), rng), 0.9)[-1]
    fit = stable.fit(n)
    factor = adam.scale_factor(alpha, 0.9, None if t == 400 else t)
    assert fit.alpha.value == pytest.approx(alpha, abs=max(4.5 * fit.alpha.se, 0.02))
    assert fit.scale.value == pytest.approx(2.0 * factor, rel=4.5 * fit.scale.se / fit.scale.value)


def test_scale_factor_is_smaller_equal_or_larger() -> None:
    assert adam.scale_factor(1.0) == pytest.approx(1.0)
    assert adam.scale_factor(1.5) < 1 < adam.scale_factor(0.8)
    assert adam.scale_factor(2.0, 0.9) == pytest.approx(np.sqrt(0.1 / 1.9))  # √((1−β)/(1+β))
    assert adam.scale_factor(1.5, 0.9) == pytest.approx(0.1 / (1 - 0.9**1.5) ** (1 / 1.5))
    assert adam.scale_factor(1.3, 0.0, 7) == 1.0
    for alpha in (0.7, 1.0, 1.6, 2.0):
        assert adam.scale_factor(alpha, 0.9, 1) == pytest.approx(1.0)
        assert adam.scale_factor(alpha, 0.9, 10_000) == pytest.approx(adam.scale_factor(alpha, 0.9))
        assert adam.scale_factor(alpha, 1 - 1e-12, 5) == pytest.approx(5 ** (1 / alpha - 1), rel=1e-6)


def test_rows_are_serially_dependent() -> None:
    n = adam.adam_noise(np.random.default_rng(3).normal(size=(2000, 40)), 0.9)[100:]
    found = dependence.autocorrelation(n, 5)
    assert found.value == pytest.approx(0.9 ** np.arange(1, 6), abs=0.03)
    effective = dependence.effective_sample_size(n).value
    assert effective == pytest.approx(1900 * 0.1 / 1.9, rel=0.2)


def test_dtype_is_kept_and_sums_are_not_lost() -> None:
    u = np.random.default_rng(4).normal(size=(3000, 2)).astype(np.float32)
    found = adam.adam_noise(u, 0.999)
    assert found.dtype == np.float32
    assert found == pytest.approx(adam.adam_noise(u.astype(np.float64), 0.999), rel=1e-5, abs=1e-7)
    assert adam.adam_noise(np.array([[1], [3]]), 0.5).dtype == np.float64


@pytest.mark.parametrize(
    ("noise", "beta1", "error"),
    [
        (np.ones(5), 0.9, InvalidInput),
        ([["a"]], 0.9, InvalidInput),
        (np.ones((5, 2)), 1.0, InvalidInput),
        (np.ones((5, 2)), -0.1, InvalidInput),
        (np.ones((5, 2)), float("nan"), InvalidInput),
        (np.empty((0, 2)), 0.9, TooFewValues),
        (np.array([[1.0], [np.nan]]), 0.9, NonFiniteValues),
    ],
)
def test_bad_input(noise: Any, beta1: float, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"noise:|beta1:"):
        adam.adam_noise(noise, beta1)


@pytest.mark.parametrize(
    ("alpha", "beta1", "t"), [(0.0, 0.9, 1), (2.1, 0.9, 1), (1.5, 1.0, 1), (1.5, 0.9, 0), (1.5, 0.9, 1.5)]
)
def test_bad_scale_factor(alpha: float, beta1: float, t: Any) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        adam.scale_factor(alpha, beta1, t)
