"""What the taps say of what they cannot record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.collector._recording.sink import AMBIGUOUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradnoise.collector._recording.sink import Sink
    from gradnoise.collector._taps.gather import UnsupportedGradientError

__all__ = ["Complaints"]


class Complaints:
    """One warning of each kind, and events in the dump.

    Args:
        names: of the groups, by number.
        sink: told.
    """

    def __init__(self, names: Sequence[str], sink: Sink) -> None:
        self._names = names
        self._sink = sink

    def ambiguous(self, step: int, detail: str, count: int) -> None:
        """So many backward passes of a step are no draws, for this reason."""
        self._sink.event("ambiguous_backwards", detail, count=count, step=step)
        self._sink.warn_once("ambiguous", AMBIGUOUS)

    def captured(self, step: int) -> None:
        """A backward pass is captured, not run."""
        if self._sink.warn_once(
            "captured",
            "gradnoise does not record backward passes that are captured into a CUDA graph: its replays call no hooks. "
            "Attach around the part of the training that is not captured, or measure with Probe(closure)",
        ):
            self._sink.event("captured_backward", "a CUDA graph is being captured", step=step)

    def unsupported(self, step: int, number: int, error: UnsupportedGradientError) -> None:
        """The gradient of a group is of a kind that cannot be read."""
        name = self._names[number]
        if self._sink.warn_once(f"unsupported {name}", "gradnoise does not record %s: %s", name, error):
            self._sink.event("unsupported_gradient", str(error), step=step, group=name)

    def no_update(self, backwards: int) -> None:
        """So many backward passes came, and no update."""
        self._sink.warn_once(
            "no update",
            "gradnoise saw %d backward passes and no optimizer.step(): recording waits for the first one. "
            "Pass attach() the optimizer whose step() updates the model",
            backwards,
        )
