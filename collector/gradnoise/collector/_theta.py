"""What happened since the last parameter update, and whether those backward passes are draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradnoise.collector._records import Draw

__all__ = ["DRAWS_PER_THETA", "AtTheta"]

# Outside probes; they wait in memory until the update shows what they were.
DRAWS_PER_THETA = 64
_PENDING_BYTES = 32 << 20


@dataclass(slots=True)
class AtTheta:
    """What happened since the last parameter update.

    Attributes:
        backwards: backward passes.
        draws: what they gave.
        nbytes: memory behind the draws.
        version: sum of the parameters' version counters, which only grow, at the last backward pass.
        changed: a parameter changed between two backward passes.
        full: no more draws are taken at this theta.
    """

    backwards: int = 0
    draws: list[Draw] = field(default_factory=list)
    nbytes: int = 0
    version: int = 0
    changed: bool = False
    full: bool = False

    def passed(self, version: int) -> None:
        """Note the end of a backward pass at parameters of this version."""
        self.backwards += 1
        if self.backwards > 1:
            self.changed = self.changed or version != self.version
        self.version = version

    def add(self, draw: Draw) -> bool:
        """Keep a draw; return whether it is the last there is room for."""
        self.draws.append(draw)
        self.nbytes += draw.nbytes
        return len(self.draws) >= DRAWS_PER_THETA or self.nbytes >= _PENDING_BYTES

    def doubt(self, forwards: int) -> str | None:
        """Return why the backward passes are not microbatches of one theta; None if they are.

        Each microbatch has a forward pass of its own and none changes the parameters: two losses on one forward pass
        fail by the first, SAM by the second.
        """
        if self.backwards < 2:
            return None
        if self.changed:
            return "parameters changed"
        if forwards != self.backwards:
            return f"{self.backwards} backwards, {forwards} forwards"
        return None
