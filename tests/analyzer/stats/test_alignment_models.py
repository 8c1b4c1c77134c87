"""Alignment of real models' noise: where C = H is a theorem, where it fails by a known factor, and heavy tails."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradnoise.analyzer.stats import Status
from gradnoise.analyzer.stats.alignment import Matrix, Measured, Name, Sampling
from tests.analyzer.stats.curvatures import measured, rows, value


def minibatches(gradients: np.ndarray, batch: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of ``draws`` minibatches, with replacement, of per-example gradients (n × d)."""
    at = rng.integers(0, len(gradients), (draws, batch))
    noise: np.ndarray = gradients.mean(axis=0) - gradients[at].mean(axis=1)
    return noise


def test_logistic_regression_at_its_own_labels() -> None:
    """Labels drawn from the model: C = H (the Fisher information) up to n^−½, so γ → 1 and B c_ii/λ_i → 1."""
    rng = np.random.default_rng(1)
    n, d, batch = 20_000, 60, 16
    x = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5
    theta = rng.standard_normal(d)
    p = 1.0 / (1.0 + np.exp(-(x @ theta)))
    label = rng.random(n) < p
    gradients = (p - label)[:, None] * x
    hessian = (x * (p * (1 - p))[:, None]).T @ x / n
    u = minibatches(gradients, batch, 512, rng)
    gradient = gradients.mean(axis=0)
    found = rows(measured(hessian, u, gradient, 40, 64, batch_size=batch, examples=n))
    for name in (Name.GAMMA, Name.GAMMA_ROBUST, Name.SLOPE):
        estimate, null = found[name, None].estimate, found[name, None].null
        assert null is not None
        assert estimate.low < 1.0 < estimate.high, name
        assert estimate.high - estimate.low < 0.3, name
        assert not null.low < estimate.value < null.high, name
    # C = H: everything known from H.
    values = np.linalg.eigvalsh(hessian)
    gain = d * (values**2).sum() / values.sum() ** 2
    assert value(found, Name.ANISOTROPY_GAIN) == pytest.approx(gain, rel=0.1)
    assert value(found, Name.MATRIX_COSINE) == pytest.approx(1.0, abs=0.02)
    assert value(found, Name.TIC_TRACE) == pytest.approx(1.0, abs=0.05)
    assert abs(value(found, Name.OFF_DIAGONAL)) < 0.02
    assert found[Name.PEARSON, None].estimate.high > 0.97


def test_least_squares_has_noise_of_twice_the_loss_times_h() -> None:
    """Residuals independent of the inputs: C = 2F H, so γ = 1, slope and TIC 2F, μ = 1 (Wu, Wang & Su 2022)."""
    rng = np.random.default_rng(2)
    n, d, batch = 20_000, 50, 20
    x = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.6
    residual = 0.7 * rng.standard_normal(n)
    gradients = residual[:, None] * x
    hessian, loss = x.T @ x / n, 0.5 * float((residual**2).mean())
    u = minibatches(gradients, batch, 512, rng)
    found = rows(
        measured(
            hessian,
            u,
            gradients.mean(axis=0),
            30,
            256,
            batch_size=batch,
            examples=n,
            loss=loss,
            matrix=Matrix.GAUSS_NEWTON,
        )
    )
    wanted = {Name.GAMMA: 1.0, Name.SLOPE: 2 * loss, Name.TIC_TRACE: 2 * loss, Name.MU: 1.0}
    for name, truth in wanted.items():
        estimate = found[name, None].estimate
        # The data set's own C is within 2 % of the limit; the intervals are of that C.
        assert estimate.low * 0.98 < truth < estimate.high * 1.02, name
    assert any("square loss" in text for text in found[Name.MU, None].estimate.warnings)


def test_whole_passes_without_replacement_give_the_covariance_of_the_data() -> None:
    """n = 512 in slices of 64: (n−B)/(n−1) is 0.88, and without it every scale is that much off."""
    rng = np.random.default_rng(3)
    n, d, batch = 512, 30, 64
    gradients = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5
    centred = gradients - gradients.mean(axis=0)
    u = np.concatenate([-centred[rng.permutation(n).reshape(-1, batch)].mean(axis=1) for _ in range(150)])
    hessian = np.diag(np.arange(1.0, d + 1) ** -1.0)
    found = rows(
        measured(
            hessian,
            u,
            gradients.mean(axis=0),
            d,
            sampling=Sampling.EPOCH,
            replacement=None,
            batch_size=batch,
            examples=n,
        )
    )
    truth = (centred**2).sum() / n / hessian.trace()
    estimate = found[Name.TIC_TRACE, None].estimate
    assert estimate.value == pytest.approx(truth, rel=0.05)
    assert estimate.low < truth < estimate.high


def stable(alpha: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """SαS(1) by Chambers, Mallows & Stuck (1976)."""
    angle, wait = rng.uniform(-np.pi / 2, np.pi / 2, shape), rng.exponential(1.0, shape)
    x = np.sin(alpha * angle) / np.cos(angle) ** (1 / alpha)
    noise: np.ndarray = x * (np.cos((1 - alpha) * angle) / wait) ** ((1 - alpha) / alpha)
    return noise


def test_heavy_tails_the_robust_exponent_covers_and_the_plain_one_is_warned_of() -> None:
    """SαS(1.7) projections on scales σ_i² = λ_i: warned every time, and the robust exponent holds 1 as often as it
    says."""
    rng = np.random.default_rng(4)
    d, k, draws, repeats = 60, 20, 128, 150
    values = 5.0 * np.arange(1.0, d + 1) ** -1.2
    inside, warned, ranks = 0, 0, []
    for _ in range(repeats):
        u = stable(1.7, (draws, d), rng) * np.sqrt(values)
        given = Measured(d, values[:k], np.zeros(k), u @ u.T, u[:, :k], u**2 @ values)
        found = rows(given)
        estimate = found[Name.GAMMA_ROBUST, None].estimate
        inside += estimate.low <= 1.0 <= estimate.high
        warned += any("heavy tails" in text for text in found[Name.GAMMA, None].estimate.warnings)
        ranks.append(value(found, Name.SPEARMAN_ROBUST))
    assert warned >= 0.95 * repeats
    assert 0.90 * repeats <= inside <= repeats
    assert np.mean(ranks) > 0.9


def test_sign_rows_of_elliptical_noise_with_infinite_variance() -> None:
    """A normal vector over the root of a χ²₁/₁ is a multivariate Cauchy: its signs are those of the normal vector."""
    rng = np.random.default_rng(5)
    d, draws = 50, 256
    values = 5.0 * np.arange(1.0, d + 1) ** -1.2
    normal = rng.standard_normal((draws, d)) * np.sqrt(values)
    cauchy = normal / np.abs(rng.standard_normal((draws, 1)))
    names = (
        Name.ANISOTROPY_GAIN_SIGN,
        Name.PROJECTION_COEFFICIENT_SIGN,
        Name.SUBSPACE_ENERGY_SIGN,
        Name.MATRIX_COSINE_SIGN,
    )
    of_normal, of_cauchy = (
        rows(Measured(d, values, np.zeros(d), u @ u.T, u, u**2 @ values, sampling=Sampling.INDEPENDENT))
        for u in (normal, cauchy)
    )
    for name in names:
        assert of_cauchy[name, None].status in (Status.OK, Status.AT_BOUNDARY)
        assert value(of_cauchy, name) == pytest.approx(value(of_normal, name), rel=1e-9)
        assert math.isfinite(of_cauchy[name, None].estimate.se)
