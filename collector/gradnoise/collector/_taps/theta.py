"""What happened since the last parameter update, and whether those backward passes are draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from gradnoise.collector._recording.records import Draw

__all__ = ["DRAWS_PER_THETA", "AtTheta"]

# Outside probes; they wait in memory until the update shows what they were.
DRAWS_PER_THETA = 64


@dataclass(slots=True)
class AtTheta:
    """What happened since the last parameter update.

    Attributes:
        backwards: backward passes that may be draws.
        draws: what they gave.
        sketches: of pairs that end in one of the draws: (index of it, what gives the counts).
        nbytes: memory behind the draws.
        version: sum of the parameters' version counters, which only grow, when they were last looked at.
        changed: a parameter changed between two backward passes.
        shared: a backward pass had no forward pass of its own since the one before.
        merged: how many backward passes each draw is the sum of.
        forwards: forward passes that belong to ``backwards``; None as long as every one seen does.
        stepping: the optimiser evaluates the loss itself, in the step that is under way.
        full: no more draws are taken at this theta.
    """

    backwards: int = 0
    draws: list[Draw] = field(default_factory=list)
    sketches: list[tuple[int, Callable[[], NDArray[np.int64]]]] = field(default_factory=list)
    nbytes: int = 0
    version: int = 0
    changed: bool = False
    shared: bool = False
    merged: set[int] = field(default_factory=set)
    forwards: int | None = None
    stepping: bool = False
    full: bool = False
    _seen: int = 0  # forward passes when the last backward pass began

    def begin_step(self, version: int, forwards: int) -> None:
        """Note that a step begins that will evaluate the loss, at parameters of this version."""
        if self.backwards:
            self.changed = self.changed or version != self.version
        self.version = version
        self.forwards = forwards
        self.stepping = True

    def passed(self, version: int, forwards: int, *, begun: int, merged: int, again: bool) -> bool:
        """Note the end of a backward pass; return whether it may be a draw.

        In a step that evaluates the loss the first evaluation may, of parameters as they were when the step began: a
        last microbatch, or the one draw of a theta. What is evaluated elsewhere (line search, SAM), or again, may not.

        Args:
            version: of the parameters, now.
            forwards: forward passes since the last update.
            begun: those of them that were there as the pass began.
            merged: backward passes whose sum it shows, or more: some may leave nothing to add.
            again: gradients were cleared since the pass before.
        """
        if self.stepping:
            self.full = True
            if version != self.version or (again and self.backwards):
                return False
            self.forwards = forwards
        own = begun - self._seen
        self._seen = begun
        self.merged.add(min(merged, own) if own > 0 else merged)
        self.backwards += 1
        if self.backwards > 1:
            self.changed = self.changed or version != self.version
            self.shared = self.shared or (own == 0 and begun > 0)
        self.version = version
        return True

    def add(self, draw: Draw, pending: int) -> bool:
        """Keep a draw; return whether it is the last there is room for, in memory of ``pending`` bytes."""
        self.draws.append(draw)
        self.nbytes += draw.nbytes
        return len(self.draws) >= DRAWS_PER_THETA or self.nbytes >= pending

    def doubt(self, forwards: int, raised: int, divisor: float | None) -> str | None:
        """Return why the backward passes are not microbatches of one theta; None if they are.

        Each microbatch has a forward pass of its own, or several, between its backward pass and the one before, and
        none changes the parameters: two losses on one forward pass fail by the first, SAM by the second. Where no
        forward pass is seen at all (the inside of a compiled model, a method other than ``forward``), the loop's word
        that it divides by as many, or by more where the data end before, counts instead.

        Args:
            forwards: forward passes since the last update.
            raised: backward passes that ended in an exception: each had a forward pass, too.
            divisor: as the loop says; None if it does not.
        """
        if self.backwards < 2:
            return None
        if self.changed:
            return "parameters changed"
        if self.shared:
            return "a backward pass without a forward pass since the one before"
        if len(self.merged) > 1:
            return "gradients arrived after now more, now fewer backward passes"
        seen = (forwards if self.forwards is None else self.forwards) - raised
        if seen and seen % self.backwards == 0:
            return None
        if not seen and divisor is not None and self.backwards <= divisor:
            return None
        return f"{self.backwards} backwards, {seen} forwards"
