"""What the training stands still for now and then."""

from __future__ import annotations

import math
from typing import Protocol

__all__ = ["Interlude", "Interludes"]


class Interlude(Protocol):
    """Something that is measured after every so many updates, between one step and the next."""

    def due(self, theta: int) -> bool:
        """Whether it comes after this many updates."""

    def after(self, theta: int) -> float:
        """Return the number of updates, above ``theta``, at which it comes next; infinity if it does not."""

    def run(self, theta: int) -> None:
        """Measure; nothing of the training is changed by it."""

    def finish(self, theta: int) -> None:
        """The training ends after this many updates."""


class Interludes:
    """Several of them; those due at the same time run one after the other, in the order given."""

    def __init__(self, *interludes: Interlude) -> None:
        self._all = interludes

    def due(self, theta: int) -> bool:
        """Whether any comes after this many updates."""
        return any(one.due(theta) for one in self._all)

    def after(self, theta: int) -> float:
        """Return the number of updates at which the next one comes; infinity if none does."""
        return min((one.after(theta) for one in self._all), default=math.inf)

    def run(self, theta: int) -> None:
        """Run those that are due."""
        for one in self._all:
            if one.due(theta):
                one.run(theta)

    def finish(self, theta: int) -> None:
        """Tell all that the training ends."""
        for one in self._all:
            one.finish(theta)
