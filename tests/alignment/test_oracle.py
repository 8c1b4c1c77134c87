"""The oracle of these tests against closed forms: what it finds dense is what the formulas say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from .exact import dense, minibatch_noise
from .worlds import World, least_squares, logistic, network, quadratic

SPECTRUM = np.geomspace(3.0, 0.05, 7)


@pytest.mark.parametrize(
    "world",
    [
        quadratic(SPECTRUM, 2.0, 40, away=1.0),
        quadratic(SPECTRUM, 0.0, 40),
        least_squares(SPECTRUM, 0.3, 25),
        logistic(5, 300),
    ],
    ids=["quadratic 2", "quadratic 0", "least squares", "logistic"],
)
def test_dense_matrices_are_the_closed_forms(world: World) -> None:
    for matrix in ("hessian", "gauss_newton"):  # the same, where the model is linear in its parameters
        found = dense(world.model, world.loss_fn, world.inputs, world.targets, matrix=matrix)
        np.testing.assert_allclose(found.hessian, world.hessian, atol=1e-12)
        np.testing.assert_allclose(found.covariance, world.covariance, atol=1e-12)


def test_dense_hessian_is_the_derivative_of_the_gradient() -> None:
    model, x, y = network()
    found = dense(model, nn.functional.cross_entropy, x, y)
    assert found.hessian.shape == (79, 79)
    theta = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    direction = torch.randn(79, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def gradient(at: torch.Tensor) -> torch.Tensor:
        nn.utils.vector_to_parameters(at, model.parameters())
        loss = nn.functional.cross_entropy(model(x), y)
        return torch.cat([piece.reshape(-1) for piece in torch.autograd.grad(loss, list(model.parameters()))])

    step = 1e-5
    central = (gradient(theta + step * direction) - gradient(theta - step * direction)) / (2 * step)
    np.testing.assert_allclose(found.hessian @ direction.numpy(), central.numpy(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.gradient, gradient(theta).numpy(), atol=1e-12)


def test_noise_of_all_minibatches_has_the_covariance_with_its_finite_population_factor() -> None:
    """All 45 pairs of 10 examples: E u uᵀ = C/B · (n − B)/(n − 1), and C/B over all ordered pairs with repetition."""
    model, x, y = network(10)
    found = dense(model, nn.functional.cross_entropy, x, y)
    without = minibatch_noise(found, [[i, j] for i in range(10) for j in range(i)])
    np.testing.assert_allclose(without.T @ without / 45, found.noise(2), atol=1e-14)
    replaced = minibatch_noise(found, [[i, j] for i in range(10) for j in range(10)])
    np.testing.assert_allclose(replaced.T @ replaced / 100, found.noise(2, replacement=True), atol=1e-14)
