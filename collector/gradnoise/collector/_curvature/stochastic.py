"""Traces and spectral density of a matrix from random vectors, with the known eigenvectors taken out.

The eigenvectors at hand serve as the subspace of Hutch++ (Meyer, Musco, Musco & Woodruff, "Hutch++: Optimal Stochastic
Trace Estimation", SOSA 2021, algorithm 1). With V of k orthonormal rows v_i, P = I - V^T V, z of independent random
signs and z' = P z::

    Tr H    = sum_i v_i . H v_i   + E[z' . H z']
    |H|_F^2 = sum_i |H v_i|^2     + E[|H z'|^2]

Both hold for *any* orthonormal V, not only for exact eigenvectors: the first because Tr H = Tr V H V^T + Tr P H P, the
second because |H|_F^2 = |H V^T|_F^2 + |H P|_F^2. The terms of V are known: v_i . H v_i = lambda_i, and |H v_i|^2 =
lambda_i^2 + residual_i^2. What is recorded is z' . H z' and |H z'|^2, one a probe vector; the estimates and their
standard errors are made from them by who reads.

The density is that of stochastic Lanczos quadrature (Golub & Meurant, "Matrices, Moments and Quadrature with
Applications", 2010, chapters 6 and 7; Ubaru, Chen & Saad, SIAM J. Matrix Anal. Appl. 38, 2017, algorithm 1): Lanczos
from q = z' / |z'| gives a tridiagonal T whose eigenvalues are nodes, and the squared first components of whose
eigenvectors are weights, of q . f(PHP) q for any f. The basis is not kept and so not reorthogonalised, except against
V: eigenvalues that have converged come back as copies ("ghosts"). A ghost shares the weight of its eigenvalue, so that
the density stays right (Greenbaum, Linear Algebra Appl. 113, 1989); only the number of nodes means nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from gradnoise.collector._curvature.dots import dots, norm2, project_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["WORK", "Multiply", "Samples", "sample", "signs"]

WORK = 3  # vectors of work space


class Multiply(Protocol):
    """A product with the matrix."""

    def __call__(self, vector: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Write the product with ``vector`` into ``out``, and return it."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What the probe vectors gave.

    Attributes:
        traces, squares: z' . H z' and |H z'|^2, float64 (m,).
        nodes, weights: of the quadrature, float64 (vectors, steps); the weights of a vector sum to 1. A vector whose
            Krylov space was exhausted before has nodes of weight 0 at its end.
    """

    traces: NDArray[np.float64]
    squares: NDArray[np.float64]
    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]


def signs(out: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Fill a vector with independent random signs and return it."""
    return out.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)


def sample(
    multiply: Multiply,
    vectors: torch.Tensor,
    work: torch.Tensor,
    *,
    probes: int,
    densities: int,
    steps: int,
    generator: torch.Generator,
) -> Samples:
    """Take the samples: ``probes`` products, and ``steps - 1`` more for each vector that gives a density.

    Args:
        multiply: product with H.
        vectors: V, (k, d), orthonormal rows; ``k = 0`` for plain Hutchinson samples.
        work: (3, d) of work space.
        probes: random vectors, m.
        densities: how many of them, from the first, give a density.
        steps: nodes of each, at most d - k; 0 gives none.
        generator: of the signs, on the device of ``work``.
    """
    if steps == 0:
        densities = 0
    traces, squares = np.empty(probes), np.empty(probes)
    nodes, weights = np.zeros((densities, steps)), np.zeros((densities, steps))
    before, here, product = work[:WORK].unbind()
    for index in range(probes):
        project_out(vectors, signs(here, generator))
        multiply(here, product)
        traces[index] = float(dots(here[None], product))
        squares[index] = norm2(product)
        if index < densities:
            nodes[index], weights[index] = _quadrature(multiply, vectors, before, here, product, steps)
    return Samples(traces, squares, nodes, weights)


def _quadrature(
    multiply: Multiply,
    vectors: torch.Tensor,
    before: torch.Tensor,
    here: torch.Tensor,
    product: torch.Tensor,
    steps: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes and weights of the Gauss quadrature from ``here``, of which ``product`` is the product with H."""
    size = math.sqrt(norm2(here))
    here.div_(size)
    product.div_(size)
    diagonal, beside, largest = [], [], 0.0
    while True:
        project_out(vectors, product)
        alpha = float(dots(here[None], product))
        diagonal.append(alpha)
        product.add_(here, alpha=-alpha)
        beta = math.sqrt(norm2(product))
        largest = max(largest, abs(alpha), beta)
        # Below rounding nothing is left but noise: the Krylov space is exhausted.
        if len(diagonal) == steps or beta <= 10 * torch.finfo(here.dtype).eps * largest:
            break
        beside.append(beta)
        product.div_(beta)
        before, here, product = here, product, before
        multiply(here, product)
        product.add_(before, alpha=-beta)
    values, states = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    nodes, weights = np.full(steps, values[-1]), np.zeros(steps)
    nodes[: len(values)] = values
    weights[: len(values)] = states[0] ** 2
    return nodes, weights
