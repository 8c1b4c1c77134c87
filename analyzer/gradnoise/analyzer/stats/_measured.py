"""What the statistics of curvature work on: one measurement of a matrix H and of the noise on it, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._estimate import InvalidInput

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["Matrix", "Measured", "NoiseReference", "Sampling"]


class Matrix(StrEnum):
    """Which matrix H is."""

    HESSIAN = "hessian"
    GAUSS_NEWTON = "gauss_newton"


class Sampling(StrEnum):
    """How the minibatches of the draws come about."""

    EPOCH = "epoch"
    """Slices of whole passes over the data: no two of a pass share an example."""
    INDEPENDENT = "independent"
    """Each minibatch anew."""


class NoiseReference(StrEnum):
    """What the noise u_k is measured against."""

    FULL = "full"
    """The exact gradient of the loss that H belongs to."""
    MEAN = "mean"
    """The mean of the draws: the u_k sum to 0."""


def _none() -> Floats:
    return np.empty(0)


def _no_matrix() -> Floats:
    return np.empty((0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """H and gradient noise on it at one θ, with ``k`` eigenpairs, ``K`` draws, ``m`` probe vectors.

    Arrays are float64; what was not measured is an empty array, or None. NaN is allowed anywhere: what rests on it gets
    a status.

    Raises:
        InvalidInput: shapes that do not fit together (the message names which); a dimension, batch size or number of
            examples below 1.
    """

    dimension: int
    """d."""
    eigenvalues: Floats = field(default_factory=_none)
    """λ_i, (k,)."""
    residuals: Floats = field(default_factory=_none)
    """|H v_i − λ_i v_i|, (k,)."""
    gram: Floats = field(default_factory=_no_matrix)
    """u_i · u_j, (K, K)."""
    projections: Floats = field(default_factory=_no_matrix)
    """u_k · v_i, (K, k)."""
    quadratic: Floats = field(default_factory=_none)
    """u_k · H u_k, (K,)."""
    gradient_norm2: float | None = None
    """|∇F|²."""
    gradient_quadratic: float | None = None
    """∇F · H ∇F."""
    gradient_projections: Floats = field(default_factory=_none)
    """∇F · v_i, (k,)."""
    trace_samples: Floats = field(default_factory=_none)
    """z · H z of probe vectors made orthogonal to the v_i, (m,)."""
    square_samples: Floats = field(default_factory=_none)
    """|H z|², (m,)."""
    batch_size: int | None = None
    """B, examples in the minibatch of a draw; None where unknown."""
    examples: int | None = None
    """n, examples behind F; None where unknown."""
    sampling: Sampling | None = None
    replacement: bool | None = None
    """Whether the examples of a minibatch are drawn with replacement; None where unknown."""
    reference: NoiseReference = NoiseReference.FULL
    loss: float = float("nan")
    """F."""
    matrix: Matrix = Matrix.HESSIAN
    block: Floats = field(default_factory=_no_matrix)
    """H at p chosen coordinates, (p, p)."""
    block_noise: Floats = field(default_factory=_no_matrix)
    """u_k at those coordinates, (K, p)."""

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise InvalidInput(f"dimension: expected at least 1, got {self.dimension}")
        pairs, draws, width = len(self.eigenvalues), self.draws, len(self.block)
        if pairs > self.dimension:
            raise InvalidInput(f"eigenvalues: expected at most {self.dimension}, as many as dimensions, got {pairs}")
        wanted = {
            "eigenvalues": (pairs,),
            "residuals": (pairs,),
            "gram": (draws, draws),
            "projections": (draws, pairs),
            "quadratic": (draws,),
            "gradient_projections": (pairs,),
            "trace_samples": (len(self.trace_samples),),
            "square_samples": (len(self.trace_samples),),
            "block": (width, width),
            "block_noise": (draws, width),
        }
        for name, shape in wanted.items():
            found = getattr(self, name)
            if found.size and found.shape != shape:
                raise InvalidInput(
                    f"{name}: expected shape {shape} beside {pairs} eigenvalues, {draws} draws and blocks of {width}, "
                    f"got {found.shape}"
                )

        for name in ("batch_size", "examples"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InvalidInput(f"{name}: expected at least 1, or None where unknown, got {count}")

    @property
    def draws(self) -> int:
        """K."""
        parts = (self.gram, self.projections, self.quadratic, self.block_noise)
        return max(len(part) if part.size else 0 for part in parts)
