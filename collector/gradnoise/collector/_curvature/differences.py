"""Central finite differences around the present parameters: moving them, and how far."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gradnoise.collector._curvature.config import CurvatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradnoise.collector._curvature.space import Space

__all__ = ["Steps", "calibrated", "displaced"]

_RUNGS = 10  # of the ladder of steps, each a quarter of the one before
_WORST = 0.5  # relative difference of products at two steps beyond which neither means anything


@dataclass(frozen=True, slots=True)
class Steps:
    """How far central differences go.

    Attributes:
        length: how far the parameters move, as a Euclidean norm.
        error: relative difference of the products with this step and with the one four times as long.
    """

    length: float
    error: float


@contextmanager
def displaced(space: Space, vector: torch.Tensor, step: float) -> Iterator[None]:
    """Run with the parameters moved by ``step`` times a vector, and put them back bit for bit.

    Neither is counted as a change of the parameters (``_version``). Takes a copy of them, of d elements.
    """
    before = [each.data.clone() for each in space.parameters]
    try:
        for each, part in zip(space.parameters, space.tangents(vector), strict=True):
            each.data.add_(part, alpha=step)
        yield
    finally:
        for each, values in zip(space.parameters, before, strict=True):
            each.data.copy_(values)


def calibrated(
    product: Callable[[torch.Tensor, float, torch.Tensor], torch.Tensor], space: Space, generator: torch.Generator
) -> Steps:
    """Return the step at which products change least.

    The error of a central difference is O(e^2) from the third derivative and O(eps / e) from rounding: of the ladder of
    steps ``e, e/4, e/16, ...`` from ``eps^(1/4) max(|theta|, 1)`` down, the pair with the least difference is taken,
    and the shorter of the two. The direction is the product with a random one: where the matrix is large. Two vectors
    of d are needed beside those that products take.

    Args:
        product: (vector, step over its norm, out) -> product.
        space: of the parameters.
        generator: of the random direction.

    Raises:
        CurvatureError: products at no two steps agree within half their norm.
    """
    dtypes = {each.dtype for each in space.parameters}
    eps = max(torch.finfo(dtype).eps for dtype in dtypes)
    size = sum(float(torch.linalg.vector_norm(each.detach(), dtype=space.dtype)) ** 2 for each in space.parameters)
    step = eps**0.25 * max(size**0.5, 1.0)
    # A product needs an argument and a place: three vectors in turn.
    random = torch.randn(space.dimension, generator=generator, dtype=space.dtype, device=generator.device)
    direction = _unit(random.to(space.device))
    longer = _unit(product(direction, step, space.zeros()))
    direction, longer = longer, direction
    if not bool(direction.any()):
        return Steps(step, 0.0)
    product(direction, step, longer)
    best = Steps(step, float("inf"))
    shorter = space.zeros()
    for _ in range(_RUNGS):
        step /= 4
        product(direction, step, shorter)
        norm = float(torch.linalg.vector_norm(shorter))
        error = float(torch.linalg.vector_norm(longer.sub_(shorter))) / norm if norm else float("inf")
        if error >= best.error:
            break
        best = Steps(step, error)
        longer, shorter = shorter, longer
    if best.error > _WORST:
        raise CurvatureError(
            f"finite differences of the gradient do not settle: with {', '.join(map(str, dtypes))} parameters products "
            f"at two steps differ by {best.error:.2g} of their norm at best; use parameters of a higher precision"
        )
    return best


def _unit(vector: torch.Tensor) -> torch.Tensor:
    norm = float(torch.linalg.vector_norm(vector))
    return vector.div_(norm) if norm else vector
