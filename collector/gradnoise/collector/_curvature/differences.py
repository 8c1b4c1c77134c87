"""Central finite differences around the present parameters: moving them, and how far."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gradnoise.collector._curvature.config import CurvatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradnoise.collector._curvature.space import Space

__all__ = ["Trial", "calibrated", "displaced"]

_RUNGS = 10  # of the ladder of steps, each a quarter of the one before
_SETTLED = 0.1  # relative difference of products at two steps that says something
_WORST = 0.5  # relative difference of products at two steps beyond which neither means anything


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """How far central differences go, and what was found with that.

    Attributes:
        step: how far the parameters move, as a Euclidean norm.
        error: relative difference of the products with this step and with the one four times as long.
        direction: (d,), of norm 1 (of zeros where the matrix is zero).
        product: (d,), with the direction.
    """

    step: float
    error: float
    direction: torch.Tensor
    product: torch.Tensor


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
) -> Trial:
    """Return the step at which products change least.

    The error of a central difference is O(e^2) from the third derivative and O(eps / e) from rounding: of the ladder of
    steps ``e, e/4, e/16, ...`` from ``eps^(1/4) max(|theta|, 1)`` down, the pair with the least difference is taken,
    and the shorter of the two. The direction is the product with a random one: where the matrix is large. Four
    vectors of d are needed meanwhile.

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
    random = torch.randn(space.dimension, generator=generator, dtype=space.dtype, device=space.device)
    direction = _unit(product(_unit(random), step / 4 ** (_RUNGS // 2), space.zeros()))
    del random
    best, error = step, math.inf
    chosen, shorter = space.zeros(), space.zeros()
    longer = product(direction, step, space.zeros())
    for _ in range(_RUNGS):
        step /= 4
        product(direction, step, shorter)
        norm = float(torch.linalg.vector_norm(shorter))
        found = float(torch.linalg.vector_norm(longer.sub_(shorter))) / (norm or 1.0)
        if found < error:
            best, error = step, found
            chosen.copy_(shorter)
        # Of steps that are too long the difference may be anything; once it is small, it rises by rounding only.
        elif error < _SETTLED and found > 4 * error:
            break
        longer, shorter = shorter, longer
    if error > _WORST:
        raise CurvatureError(
            f"finite differences of the gradient do not settle: with {', '.join(map(str, dtypes))} parameters products "
            f"at two steps differ by {error:.2g} of their norm at best; use parameters of a higher precision"
        )
    return Trial(best, error, direction, chosen)


def _unit(vector: torch.Tensor) -> torch.Tensor:
    norm = float(torch.linalg.vector_norm(vector))
    return vector.div_(norm) if norm else vector
