"""Where the minibatches of the draws come from, the same ones each time they are asked for."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Protocol

from torch.utils.data import SequentialSampler

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.data import Passes
from gradnoise.collector._curvature.loaders import generators_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from gradnoise.collector._curvature.data import Minibatch

__all__ = ["OfFunction", "OfPasses", "Source"]

_ALIKE = 1e-6  # relative difference of the losses of one minibatch, evaluated twice
_OTHER_SIZE = "a minibatch of another size than the first (the last one of a pass) is no draw"


class Source(Protocol):
    """Minibatches that are draws.

    Attributes:
        sampling: ``epoch`` (minibatches of whole passes, without replacement within one) or ``independent``.
        replacement: whether the examples of a minibatch are drawn with replacement; None where unknown.
        notes: what is to be said of them.
        ended: why there were no more.
    """

    sampling: str
    replacement: bool | None
    notes: list[str]
    ended: str

    def minibatches(self, begin: int = 0) -> Iterator[Minibatch]:
        """Yield the minibatches from number ``begin`` on, with their graphs; the same ones at each call."""


class OfPasses:
    """The minibatches of passes over the data, as many passes as differ.

    Pass number p is made with random numbers of ``seed + p``, which shuffle a loader: those of the global generators,
    or of the loader's own, which are seeded for that. If a second pass begins with minibatches of the first, the draws
    end with the first. Minibatches of another size than the first one are left out.

    Args:
        passes: over the data.
        data: what they are over.
        seed: of the first pass.
        shuffles: whether passes after the first may be taken. With modules in training mode none may: their random
            numbers go with the place in the pass, and F is that of the first pass.
    """

    sampling = "epoch"

    def __init__(self, passes: Passes, data: object, *, seed: int, shuffles: bool) -> None:
        self.notes: list[str] = []
        self.replacement: bool | None = bool(getattr(getattr(data, "sampler", None), "replacement", False))
        self._passes = passes
        self._generators = generators_of(data)
        self._seed = seed
        self._sampler = getattr(data, "sampler", None)
        self._shuffles = shuffles
        self._one_pass = not shuffles
        self.ended = "in training mode one pass is made" if self._one_pass else "the passes ended"
        self._losses: list[float] = []  # of the first pass's draws
        self._first = math.nan
        self._size: int | None = None

    def minibatches(self, begin: int = 0) -> Iterator[Minibatch]:
        """Yield the minibatches from number ``begin`` on; passes that end before it are not made."""
        number = begin // len(self._losses) if self._losses else 0
        place = number * len(self._losses)
        while True:
            first = place
            for minibatch in self._of(number):
                if place >= begin:
                    yield minibatch
                place += 1
                del minibatch
            if number == 0:
                self._one_pass = self._one_pass or self._comes_again()
            if self._one_pass or place == first:
                return
            number += 1

    def in_order(self) -> bool:
        """Whether the minibatches are the same ones in every pass: slices of the data as they lie, drawn by nobody.

        To be asked after the draws. Costs the loss of a minibatch; in training mode none, and only a loader that does
        not shuffle is known then.
        """
        if not self._shuffles:
            return isinstance(self._sampler, SequentialSampler)
        begin = [float(minibatch.loss.detach()) for minibatch in itertools.islice(self._of(1), 1)]
        return all(math.isclose(one, self._first, rel_tol=_ALIKE) for one in begin)

    def _of(self, number: int) -> Iterator[Minibatch]:
        """Yield the draws of one pass."""
        for generator in self._generators:
            generator.manual_seed(self._seed + number)
        losses = []
        for index, minibatch in enumerate(self._passes.seeded(self._seed + number)):
            if number == index == 0:
                self._size, self._first = minibatch.size, float(minibatch.loss.detach())
            if minibatch.size == self._size:
                losses.append(float(minibatch.loss.detach()))
                yield minibatch
            elif _OTHER_SIZE not in self.notes:
                self.notes.append(_OTHER_SIZE)
            del minibatch
        if number == 0:
            self._losses = losses

    def _comes_again(self) -> bool:
        """Whether the second pass begins with minibatches of the first: their losses tell it."""
        begin = [float(minibatch.loss.detach()) for minibatch in itertools.islice(self._of(1), 2)]
        again = all(any(math.isclose(one, other, rel_tol=_ALIKE) for other in self._losses) for one in begin)
        if again:
            self.ended = f"every pass has the same {len(self._losses)} minibatches; shuffle the data"
        return again


class OfFunction:
    """The minibatches that a function of the user's draws.

    Number i is drawn with random numbers of ``seed + i``: the same one comes again if the function draws with the
    global generators (torch's, numpy's, Python's), and not if it owns an iterator.

    Args:
        model: of which the losses are.
        draw: returns a fresh minibatch's loss, or (loss, size).
        seed: of the first.
    """

    sampling = "independent"
    replacement: bool | None = None
    ended = "draw() ended"

    def __init__(self, model: torch.nn.Module, draw: Callable[[], Any], *, seed: int) -> None:
        self.notes: list[str] = []
        self._passes = Passes(model, None, draw)
        self._seed = seed

    def minibatches(self, begin: int = 0) -> Iterator[Minibatch]:
        """Yield minibatch number ``begin`` and those after it, without end.

        Raises:
            CurvatureError: the function failed, or returned something else.
        """
        for number in itertools.count(begin):
            try:
                given = list(self._passes.seeded(self._seed + number))
            except CurvatureError as error:
                raise CurvatureError(f"draw() number {number}: {error}") from error
            if len(given) != 1:
                raise CurvatureError(
                    f"draw() returned an iterator over {len(given)} losses; expected the loss of one fresh minibatch, "
                    "or (loss, size)"
                )
            yield given.pop()
