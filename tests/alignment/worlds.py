"""Models whose H and C are known in closed form, exactly, for the data set at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from .exact import Floats

__all__ = ["Loss", "World", "least_squares", "logistic", "network", "quadratic"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class World:
    """A model, its loss (a mean over examples) and its data set; of those with closed forms, H and C at the model's
    parameters."""

    model: nn.Module
    loss_fn: Loss
    inputs: torch.Tensor
    targets: torch.Tensor
    hessian: Floats
    covariance: Floats


class _Offsets(nn.Module):
    def __init__(self, theta: torch.Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.theta - x


def quadratic(spectrum: Floats, exponent: float, n: int, *, seed: int = 0, away: float = 0.0) -> World:
    """F = mean over i of ½ (θ − a_i)ᵀ H (θ − a_i), the a_i of covariance H^(γ−2): then C = H^γ exactly.

    ``away``: the distance of θ from the minimum, in a random direction; H and C do not depend on it.
    """
    rng = np.random.default_rng(seed)
    d = len(spectrum)
    frame = np.linalg.qr(rng.standard_normal((d, d)))[0]
    # n points of mean 0 and covariance I exactly: orthonormal columns, orthogonal to the ones.
    points = np.linalg.qr(np.column_stack([np.ones(n), rng.standard_normal((n, d))]))[0][:, 1:] * np.sqrt(n)
    offsets = points @ (frame * spectrum ** (exponent / 2 - 1)).T
    hessian = (frame * spectrum) @ frame.T
    theta = rng.standard_normal(d)
    h = torch.tensor(hessian)

    def loss(out: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((out @ h) * out).sum(1).mean()

    return World(
        _Offsets(torch.tensor(away * theta / np.linalg.norm(theta))),
        loss,
        torch.tensor(offsets),
        torch.zeros(n),
        hessian,
        (frame * spectrum**exponent) @ frame.T,
    )


def least_squares(spectrum: Floats, sigma: float, points: int, *, seed: int = 0) -> World:
    """Linear regression at its minimum, F = mean ½ r²: each x twice, with residuals ±σ: H = S, ∇F = 0, C = σ² S.

    S, the second moment of x, has exactly this spectrum; the data set has 2 · ``points`` examples.
    """
    rng = np.random.default_rng(seed)
    d = len(spectrum)
    frame = np.linalg.qr(rng.standard_normal((d, d)))[0]
    x = np.linalg.qr(rng.standard_normal((points, d)))[0] * np.sqrt(points * spectrum) @ frame.T
    theta = rng.standard_normal(d)
    model = nn.Linear(d, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(theta)[None])
    second = (frame * spectrum) @ frame.T
    inputs = np.repeat(x, 2, axis=0)
    targets = inputs @ theta + sigma * np.tile([1.0, -1.0], points)

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * (out.squeeze(-1) - y).square().mean()

    return World(model, loss, torch.tensor(inputs), torch.tensor(targets), second, sigma**2 * second)


def logistic(d: int, n: int, *, seed: int = 0) -> World:
    """Logistic regression on Gaussian inputs of spread scales, labels drawn from the model itself.

    H = mean p(1−p) x xᵀ and C = mean (p−y)² x xᵀ − ∇F ∇Fᵀ: equal in expectation over the labels, up to O(n^−½) here.
    """
    rng = np.random.default_rng(seed)
    frame = np.linalg.qr(rng.standard_normal((d, d)))[0]
    x = (rng.standard_normal((n, d)) * np.geomspace(2, 0.2, d)) @ frame.T
    theta = rng.standard_normal(d) / np.sqrt(d)
    p = 1 / (1 + np.exp(-x @ theta))
    y = (rng.random(n) < p).astype(np.float64)
    model = nn.Linear(d, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(theta)[None])

    def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(out.squeeze(-1), target)

    gradient = x.T @ (p - y) / n
    return World(
        model,
        loss,
        torch.tensor(x),
        torch.tensor(y),
        (x.T * (p * (1 - p))) @ x / n,
        (x.T * (p - y) ** 2) @ x / n - np.outer(gradient, gradient),
    )


def network(n: int = 60, *, seed: int = 0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network of three layers in float64 (79 parameters, smooth), and n examples of three classes."""
    rng = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    inputs = torch.randn(n, 5, generator=rng, dtype=torch.float64)
    return model, inputs, torch.randint(0, 3, (n,), generator=rng)
