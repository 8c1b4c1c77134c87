"""From the model to the metric where H, C and every number are known in closed form.

In the first worlds every example is one draw, so that moments of second order are those of the data set exactly: what
rests on them must come out to rounding, not within an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from .exact import dense
from .readings import each_once, everything
from .worlds import Loss, World, least_squares, logistic, quadratic

if TYPE_CHECKING:
    from .readings import Measurement

SPECTRUM = np.geomspace(3.0, 0.05, 7)


def value(found: Measurement, metric: str) -> float:
    reading = found[metric]
    assert reading.status == "ok", (metric, reading.status, reading.reason)
    return reading.value


def covers(found: Measurement, metric: str, truth: float) -> bool:
    reading = found[metric]
    assert reading.status == "ok", (metric, reading.status, reading.reason)
    return bool(reading.low <= truth <= reading.high)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_quadratic_with_minibatch_offsets(exponent: float) -> None:
    """C = H^γ: γ = 0 is isotropic noise, 1 the claim of Adai, 2 the other end of what arXiv 2602.05600 finds."""
    world = quadratic(SPECTRUM, exponent, 60, away=1.5)
    theta = next(world.model.parameters()).detach().numpy()
    found = each_once(world.model, world.loss_fn, world.inputs, world.targets, top=7, tolerance=1e-9)
    c = SPECTRUM**exponent
    gradient = world.hessian @ theta
    closed = {
        "trace_h": SPECTRUM.sum(),
        "frobenius_h": np.sqrt((SPECTRUM**2).sum()),
        "trace_sigma": c.sum(),
        "trace_h_sigma": (SPECTRUM * c).sum(),
        "gradient_norm2": gradient @ gradient,
        "anisotropy_gain": 7 * (SPECTRUM * c).sum() / SPECTRUM.sum() / c.sum(),
        "projection_coefficient": c[0] * SPECTRUM.sum() / SPECTRUM[0] / c.sum(),
        "subspace_energy": 1.0,
        "tic_trace": c.sum() / SPECTRUM.sum(),
        "b_simple": c.sum() / (gradient @ gradient),
        "b_noise": (SPECTRUM * c).sum() / (gradient @ world.hessian @ gradient),
        "gamma_plain": exponent,
        "negative_share": 0.0,
    }
    assert {name: value(found, name) for name in closed} == pytest.approx(closed, rel=1e-8, abs=1e-8)
    assert [reading.value for reading in found.each("eigenvalue")] == pytest.approx(SPECTRUM, rel=1e-9)
    assert [reading.value for reading in found.each("variance")] == pytest.approx(c, rel=1e-8)
    # Logarithms are freed of their bias, squares of Σ come from pairs of draws: within the interval.
    others = {
        "gamma": exponent,
        "slope": np.exp(np.mean(np.log(c / SPECTRUM))),
        "sigma_squared": (c**2).sum(),
    }
    assert [name for name, truth in others.items() if not covers(found, name, truth)] == []
    assert value(found, "gamma") == pytest.approx(exponent, abs=0.05)


def test_isotropic_noise_reads_as_its_null() -> None:
    found = each_once(*_parts(quadratic(SPECTRUM, 0.0, 60, away=1.5)), top=4)
    for metric in ("anisotropy_gain", "projection_coefficient", "subspace_energy", "matrix_cosine"):
        reading = found[metric]
        assert reading.low <= reading.null_value <= reading.high, metric
        assert reading.null_low <= reading.value <= reading.null_high, metric


def test_least_squares_at_its_minimum() -> None:
    """H = S, C = σ² S: γ = 1, slope σ², every share as H's own."""
    sigma = 0.3
    world = least_squares(SPECTRUM, sigma, 40)
    found = each_once(*_parts(world), top=5, tolerance=1e-9, probes=4)
    s = SPECTRUM
    closed = {
        "trace_sigma": sigma**2 * s.sum(),
        "trace_h_sigma": sigma**2 * (s**2).sum(),
        "subspace_energy": s[:5].sum() / s.sum(),
        "gamma_plain": 1.0,
        "loss": sigma**2 / 2,
    }
    assert {name: value(found, name) for name in closed} == pytest.approx(closed, rel=1e-8)
    assert value(found, "gamma") == pytest.approx(1.0, abs=0.05)
    assert covers(found, "slope", sigma**2)
    assert found["pearson"].status == "at_boundary"
    assert found["pearson"].value == 1.0
    assert value(found, "off_diagonal") < 0.02


def test_least_squares_with_the_gauss_newton_matrix_has_mu_1() -> None:
    """Wu, Wang & Su 2022: with F = ½ mean r² and C = 2 F G, μ = Tr(CG) / (2 F |G|²) = 1."""
    world = least_squares(SPECTRUM, 0.3, 40)
    found = each_once(*_parts(world), top=7, matrix="gauss_newton", tolerance=1e-9)
    assert value(found, "mu") == pytest.approx(1.0, rel=1e-8)


def test_gaussian_design_away_from_the_minimum() -> None:
    """x ~ N(0, S), residual noise σ, θ = θ* + δ: C = (σ² + δᵀSδ) S + Sδ δᵀS (Isserlis), H = S, |∇F|² = |Sδ|²."""
    rng = np.random.default_rng(5)
    n, size, sigma = 8000, 16, 0.5
    frame = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    s = (frame * SPECTRUM) @ frame.T
    delta = frame @ np.full(7, 0.3)
    x = rng.standard_normal((n, 7)) * np.sqrt(SPECTRUM) @ frame.T
    y = sigma * rng.standard_normal(n)
    model = nn.Linear(7, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(delta)[None])
    inputs, targets = torch.tensor(x), torch.tensor(y)

    def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 0.5 * (out.squeeze(-1) - target).square().mean()

    def draw() -> tuple[torch.Tensor, int]:
        rows = torch.randint(n, (size,))
        return loss(model(inputs[rows]), targets[rows]), size

    found = everything(model, loss, [(inputs, targets)], draw=draw, draws=400, top=7, vectors=416)
    c = (sigma**2 + delta @ s @ delta) * s + np.outer(s @ delta, s @ delta)
    closed = {
        "trace_sigma": np.trace(c) / size,
        "trace_h_sigma": np.trace(s @ c) / size,
        "anisotropy_gain": 7 * np.trace(s @ c) / np.trace(s) / np.trace(c),
        "b_simple": np.trace(c) / (delta @ s @ s @ delta),
        "b_noise": np.trace(s @ c) / (delta @ s @ s @ s @ delta),
        "matrix_cosine": np.trace(s @ c) / np.linalg.norm(s) / np.linalg.norm(c),
        "off_diagonal": 1 - (np.diag(frame.T @ c @ frame) ** 2).sum() / (c**2).sum(),
    }
    # 4 standard errors, and 3 % for what a data set of this size differs from its law.
    for metric, truth in closed.items():
        reading = found[metric]
        assert abs(reading.value - truth) < 4 * reading.se + 0.03 * truth, (metric, reading.value, reading.se, truth)


def test_logistic_regression_with_labels_from_the_model() -> None:
    """C = H up to O(n^-½): γ and the slope are 1 inside their intervals, and each c_ii is the data set's own."""
    world = logistic(10, 6000)
    model, loss_fn, inputs, targets = _parts(world)

    def draw() -> tuple[torch.Tensor, int]:
        rows = torch.randint(len(inputs), (8,))
        return loss_fn(model(inputs[rows]), targets[rows]), 8

    found = everything(model, loss_fn, [(inputs, targets)], draw=draw, draws=512, top=10, vectors=530)
    values, vectors = dense(model, loss_fn, inputs, targets).pairs(10)
    own = np.diag(vectors.T @ world.covariance @ vectors)
    ratio = own / values
    assert np.abs(ratio - 1).max() < 0.08  # the data set's own C and H are as near as n^-½ says
    assert covers(found, "gamma", 1.0)
    assert covers(found, "slope", 1.0)
    assert covers(found, "slope", float(np.exp(np.log(ratio).mean())))
    assert covers(found, "gamma", float(np.polyfit(np.log(values), np.log(own), 1)[0]))
    readings = found.each("variance")
    assert sum(r.low <= truth / 8 <= r.high for r, truth in zip(readings, own, strict=True)) >= 8
    assert found["off_diagonal"].value < 0.05


def _parts(world: World) -> tuple[nn.Module, Loss, torch.Tensor, torch.Tensor]:
    return world.model, world.loss_fn, world.inputs, world.targets
