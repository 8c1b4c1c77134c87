"""The noise of minibatch gradients along the eigenvectors, in the quadratic form of H, and among itself.

The noise of draw k is u_k = grad F - g_k. Taken of it: the projections V u_k on the eigenvectors, u_k . H u_k (one
product each), and the Gram matrix u_i . u_j. Long sums are
kept in double precision.

**Memory.** The draws are never all there, unless there is room for them: while projections and products are taken, V,
grad F, u and H u fill k + 3 vectors of the work space, and what is left holds the first draws, of which the first
columns of the Gram matrix come at the same time. Then V is given up, and the further columns come in blocks: each block
of draws is held while the draws after it come again, from a temporary file (:mod:`.scratch`), or where there is none by
taking their gradients again. With work space of ``k + K + 3`` vectors neither is needed. A gradient taken again costs
what the gradient of a minibatch costs; u . H u costs a product over all data.
"""

from __future__ import annotations

import itertools
import math
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.data import blaming
from gradnoise.collector._curvature.differentiable import differentiable
from gradnoise.collector._curvature.dots import dots, norm2, quick_dots
from gradnoise.collector._curvature.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from gradnoise.collector._curvature.data import Minibatch
    from gradnoise.collector._curvature.sources import Source
    from gradnoise.collector._curvature.space import Space
    from gradnoise.collector._curvature.stochastic import Multiply

__all__ = ["BESIDE", "Noise", "take"]

BESIDE = 3  # vectors beside V: grad F, u, H u
_SAME = 1e-3  # relative difference of |u|^2 of one draw, taken twice


def _none() -> NDArray[np.float64]:
    return np.empty((0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """What was taken of the draws; K of them, k eigenvectors, p coordinates. By default none were.

    Attributes:
        draws, batch_size: K, and the examples of each; None where unknown, or not the same.
        sampling, replacement: their source's.
        gram, projections, quadratic, block: (K, K), (K, k), (K,), (K, p), float64; ``gram`` is empty where the
            minibatches could not be taken again.
        gradients: minibatch gradients that were taken.
        notes: what is to be said.
    """

    draws: int = 0
    batch_size: int | None = None
    sampling: str | None = None
    replacement: bool | None = None
    gram: NDArray[np.float64] = field(default_factory=_none)
    projections: NDArray[np.float64] = field(default_factory=_none)
    quadratic: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    block: NDArray[np.float64] = field(default_factory=_none)
    gradients: int = 0
    notes: tuple[str, ...] = ()


class _Held:
    """Draws that are held, in the rows of one or more blocks of work space."""

    def __init__(self, *blocks: torch.Tensor) -> None:
        self._blocks = blocks
        self._count = 0
        self.room = sum(len(block) for block in blocks)

    def add(self, vector: torch.Tensor) -> None:
        """Hold a copy of a vector, if there is room."""
        place = self._count
        for block in self._blocks:
            if place < len(block):
                block[place].copy_(vector)
                self._count += 1
                return
            place -= len(block)

    def dots(self, vector: torch.Tensor) -> NDArray[np.float64]:
        """Return the inner products with those that are held, in their order."""
        left, found = self._count, [np.empty(0)]
        for block in self._blocks:
            found.append(quick_dots(block[: max(0, left)], vector).cpu().numpy())
            left -= len(block)
        return np.concatenate(found)

    def clear(self) -> None:
        """Hold none."""
        self._count = 0


def take(
    source: Source,
    space: Space,
    model: torch.nn.Module,
    multiply: Multiply,
    vectors: torch.Tensor,
    free: torch.Tensor,
    *,
    draws: int,
    coordinates: NDArray[np.int64],
    release: Callable[[], None],
) -> Noise:
    """Take the noise of up to ``draws`` minibatches.

    Args:
        source: of the minibatches.
        space: the parameters.
        model: theirs.
        multiply: product with H.
        vectors: V, (k, d); overwritten.
        free: (3, d) or more of work space with grad F in its first row; overwritten.
        draws: K, at most.
        coordinates: of the dense block; may be none.
        release: called after the last product, before gradients are taken again.

    Raises:
        CurvatureError: a minibatch cannot be evaluated, or its gradient is not finite.
    """
    mean, here, product = free[:BESIDE].unbind()
    held = _Held(free[BESIDE:])
    where = torch.from_numpy(coordinates).to(here.device)
    gram = np.full((draws, draws), np.nan)
    projections, block = np.empty((draws, len(vectors))), np.empty((draws, len(coordinates)))
    quadratic = np.empty(draws)
    sizes, losses = set(), set()
    count = 0
    with Scratch(len(here), here.dtype, draws if draws > held.room + 1 else 0) as scratch:
        for number, minibatch in enumerate(_some(source, 0, draws)):
            sizes.add(minibatch.size)
            losses.add(float(minibatch.loss.detach()))
            _noise(minibatch, space, model, mean, here, number)
            del minibatch
            scratch.add(here)
            _enter(gram, number, 0, held, here)
            gram[number, number] = norm2(here)
            projections[number] = quick_dots(vectors, here).cpu().numpy()
            block[number] = here[where].cpu().double().numpy()
            quadratic[number] = float(dots(here[None], multiply(here, product)))
            count = number + 1
        release()
        gram = gram[:count, :count]
        again = _Again(source, space, model, mean, here, scratch, gram.diagonal())
        complete = _finish(gram, again, here, _Held(vectors, free[2:]), begin=held.room)
    notes = list(source.notes)
    if count > 1 and len(losses) == 1:
        notes.append("every draw has the same loss; a draw must be a fresh minibatch each time")
    if len(sizes) > 1:
        notes.append(f"the draws are of {len(sizes)} different sizes, so that no batch size is given")
    if not complete:
        notes.append(
            "no Gram matrix: the minibatches of the draws came out differently when they were taken again, which they "
            "are because they fit neither into memory nor into a temporary file; give "
            f"vectors={len(vectors) + BESIDE + draws}, or draw them with the random numbers of torch, numpy or random "
            "alone"
        )
        gram = _none()
    return Noise(
        draws=count,
        batch_size=sizes.pop() if len(sizes) == 1 else None,
        sampling=source.sampling,
        replacement=source.replacement,
        gram=gram,
        projections=projections[:count],
        quadratic=quadratic[:count],
        block=block[:count],
        gradients=count + again.gradients,
        notes=tuple(notes),
    )


class _Again:
    """The draws once more, one after the other: from the file, else by taking their gradients again.

    Attributes:
        gradients: that were taken again.
    """

    def __init__(
        self,
        source: Source,
        space: Space,
        model: torch.nn.Module,
        mean: torch.Tensor,
        out: torch.Tensor,
        scratch: Scratch,
        squares: NDArray[np.float64],
    ) -> None:
        self.gradients = 0
        self._source, self._space, self._model, self._mean, self._out = source, space, model, mean, out
        self._scratch = scratch
        self._squares = squares

    def since(self, begin: int) -> Iterator[int]:
        """Yield the numbers of the draws from ``begin`` on, each while its noise is in ``out``; ends at a wrong one."""
        number = begin
        while number < len(self._squares) and self._scratch.read(number, self._out):
            yield number
            number += 1
        for later, minibatch in enumerate(_some(self._source, number, len(self._squares) - number), number):
            _noise(minibatch, self._space, self._model, self._mean, self._out, later)
            del minibatch
            self.gradients += 1
            if not math.isclose(norm2(self._out), self._squares[later], rel_tol=_SAME):
                return
            yield later


def _finish(gram: NDArray[np.float64], again: _Again, here: torch.Tensor, held: _Held, *, begin: int) -> bool:
    """Complete the Gram matrix, whose columns from ``begin`` on have nothing below the diagonal.

    Returns False if the draws came out differently.
    """
    while begin < len(gram) - 1:
        held.clear()
        last = begin - 1
        for last in again.since(begin):
            _enter(gram, last, begin, held, here)
        if last < len(gram) - 1:
            return False
        begin += held.room
    upper = np.triu_indices(len(gram), 1)
    gram[upper] = gram.T[upper]
    return True


def _enter(gram: NDArray[np.float64], number: int, begin: int, held: _Held, noise: torch.Tensor) -> None:
    """Write the inner products of draw ``number`` with the held ones, which begin at draw ``begin``, and hold it."""
    found = held.dots(noise)
    gram[number, begin : begin + len(found)] = found
    held.add(noise)


def _some(source: Source, begin: int, count: int) -> Iterator[Minibatch]:
    """Yield ``count`` minibatches at most; what the source has open is closed with this."""
    minibatches = source.minibatches(begin)
    with closing(minibatches):  # type: ignore[type-var]
        yield from itertools.islice(minibatches, count)


def _noise(
    minibatch: Minibatch, space: Space, model: torch.nn.Module, mean: torch.Tensor, out: torch.Tensor, number: int
) -> None:
    """Write the noise of a minibatch, ``mean`` minus its gradient, to ``out``."""
    with blaming(f"the gradient of draw {number}"), differentiable(model):
        gradients = torch.autograd.grad(minibatch.loss, space.parameters, allow_unused=True)
    space.flatten(gradients, out=out)
    del gradients
    torch.sub(mean, out, out=out)
    if not math.isfinite(norm2(out)):
        raise CurvatureError(f"the gradient of draw {number} holds NaN or infinity")
