"""The open window of a burst."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradnoise.collector._recording.records import WindowEnd, kind_of_burst, window_id

if TYPE_CHECKING:
    from gradnoise.collector._recording.records import Origin

__all__ = ["Burst"]


@dataclass(slots=True)
class Burst:
    """What a burst has got so far.

    Attributes:
        first_step, last_step: the steps it spans.
        declared: draws the plan asks for.
        backwards: backward passes seen.
        draws, thetas: handed over.
        dropped: draws of them that the sink did not take.
    """

    first_step: int
    last_step: int
    declared: int
    backwards: int = 0
    draws: int = 0
    thetas: int = 0
    dropped: int = 0

    @property
    def window(self) -> int:
        """The window's id."""
        return window_id(self.first_step, probe=False)

    def skipped(self, origin: Origin) -> WindowEnd:
        """Return what says that nothing of the window is recorded."""
        last = self.first_step + self.declared - 1
        return WindowEnd.of_skipped(self.first_step, last, self.declared, origin=origin)

    def end(self, origin: Origin) -> WindowEnd:
        """Return what closes the window."""
        return WindowEnd(
            self.window,
            kind_of_burst(self.draws, self.thetas),
            self.first_step,
            self.last_step,
            max(self.declared, self.draws),
            self.dropped,
            origin,
        )
