"""What a measurement of curvature must find, from dense matrices in float64: the outside truth of these tests.

Nothing of gradnoise is used here: H by ``torch.func``, per-example gradients by ``vmap``, everything else by numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.func import functional_call, grad, jacrev, vmap

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Dense", "Floats", "dense", "minibatch_noise"]

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Dense:
    """One model at one theta on a data set of n examples; d parameters in the order of ``named_parameters``.

    Attributes:
        loss: F, the mean over the examples.
        hessian: H (d, d).
        gradients: one a row (n, d).
    """

    loss: float
    hessian: Floats
    gradients: Floats

    @cached_property
    def gradient(self) -> Floats:
        return np.asarray(self.gradients.mean(0))

    @cached_property
    def covariance(self) -> Floats:
        """C = (1/n) Σ ∇f_i ∇f_iᵀ − ∇F ∇Fᵀ."""
        centred = self.gradients - self.gradient
        return np.asarray(centred.T @ centred / len(centred))

    def noise(self, batch_size: int, *, replacement: bool = False) -> Floats:
        """Σ of a minibatch: C/B, without replacement (n − B)/(n − 1) of it."""
        n = len(self.gradients)
        return self.covariance / batch_size * (1.0 if replacement else (n - batch_size) / (n - 1))

    def pairs(self, k: int, *, magnitude: bool = False) -> tuple[Floats, Floats]:
        """The k largest eigenvalues of H, descending, and the eigenvectors (d, k)."""
        values, vectors = np.linalg.eigh(self.hessian)
        order = np.argsort(-np.abs(values) if magnitude else -values, kind="stable")[:k]
        return values[order], vectors[:, order]


def dense(
    model: torch.nn.Module,
    loss_fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    matrix: str = "hessian",
) -> Dense:
    """Return H (or the Gauss-Newton matrix) and the gradient of every example; ``loss_fn`` is a mean over examples."""
    parameters = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    names, sizes = list(parameters), [value.numel() for value in parameters.values()]
    theta = torch.cat([value.reshape(-1) for value in parameters.values()])

    def outputs(vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        pieces = zip(names, vector.split(sizes), parameters.values(), strict=True)
        weights = {name: piece.view(like.shape) for name, piece, like in pieces}
        result: torch.Tensor = functional_call(model, weights, (x,))
        return result

    def loss(vector: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss_fn(outputs(vector, x), y)

    def of_one(vector: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss(vector, x[None], y[None])

    if matrix == "hessian":
        h = jacrev(grad(loss), chunk_size=64)(theta, inputs, targets)
    else:
        # The mean over examples of Jᵀ (∂²ℓ/∂z²) J, Schraudolph 2002.
        def of_example(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            z = outputs(theta, x[None])
            jacobian = jacrev(outputs)(theta, x[None]).reshape(z.numel(), -1)
            return jacobian, jacrev(grad(loss_fn))(z, y[None]).reshape(z.numel(), z.numel()) @ jacobian

        h = torch.zeros(len(theta), len(theta), dtype=theta.dtype)
        for x, y in zip(inputs.split(64), targets.split(64), strict=True):
            left, right = vmap(of_example)(x, y)
            h += left.flatten(0, 1).T @ right.flatten(0, 1) / len(inputs)
    rows = vmap(grad(of_one), (None, 0, 0))(theta, inputs, targets)
    return Dense(float(loss(theta, inputs, targets)), _array((h + h.T) / 2), _array(rows))


def minibatch_noise(truth: Dense, minibatches: list[list[int]]) -> Floats:
    """The noise ∇F − g of the minibatches of these examples, one a row."""
    return np.stack([truth.gradient - truth.gradients[rows].mean(0) for rows in minibatches])


def _array(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.detach().numpy(), np.float64)
