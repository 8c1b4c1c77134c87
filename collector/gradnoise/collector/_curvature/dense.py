"""The dense block of the matrix at a few coordinates: one product each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradnoise.collector._curvature.stochastic import Multiply

__all__ = ["block_of", "coordinates_of"]


def coordinates_of(dimension: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Return ascending coordinates: all of them where there are no more than wanted, else a seeded sample."""
    if dimension <= wanted:
        return np.arange(dimension)
    chosen = np.random.default_rng(seed).choice(dimension, wanted, replace=False)
    return np.sort(chosen).astype(np.int64)


def block_of(multiply: Multiply, coordinates: NDArray[np.int64], work: torch.Tensor) -> NDArray[np.float64]:
    """Return the matrix at the coordinates, (p, p), from products with p unit vectors; row i is that of coordinate i.

    Args:
        multiply: product with H.
        coordinates: (p,).
        work: (2, d) or more of work space.
    """
    width = len(coordinates)
    block = np.empty((width, width))
    if not width:
        return block
    unit, product = work[0].zero_(), work[1]
    where = torch.from_numpy(coordinates).to(unit.device)
    for index, coordinate in enumerate(coordinates.tolist()):
        unit[coordinate] = 1
        block[index] = multiply(unit, product)[where].cpu().double().numpy()
        unit[coordinate] = 0
    return block
