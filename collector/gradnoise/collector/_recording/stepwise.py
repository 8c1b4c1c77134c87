"""Draws that are handed in step by step and group by group, on their way to windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.collector._recording.records import Draw, DrawsAt, ReferenceAt, WindowEnd, kind_of_burst, window_id
from gradnoise.collector._recording.refusals import RefusedInputError
from gradnoise.wire import WindowKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gradnoise.collector._config import Sampling
    from gradnoise.collector._recording.named_groups import NamedGroups
    from gradnoise.collector._recording.refusals import Refusals
    from gradnoise.collector._recording.sink import Sink

__all__ = ["HandedIn", "Stepwise"]

_CHUNK = 1 << 20  # bytes of draws that are offered at a time


@dataclass(slots=True)
class HandedIn:
    """What was handed in for the step being recorded."""

    step: int
    theta: int
    draws: int = 0
    parts: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    references: list[ReferenceAt] = field(default_factory=list)
    nbytes: int = 0
    batch_size: int | None = None
    divisor: float | None = None
    handed_over: bool = False


@dataclass(slots=True)
class _Window:
    """The open burst."""

    start: int
    first_step: int
    last_step: int
    steps: int  # that the plan leaves from the first one on
    probe: bool
    widest: int = 0
    draws: int = 0
    dropped: int = 0
    thetas: set[int] = field(default_factory=set)

    @property
    def number(self) -> int:
        return window_id(self.first_step, probe=self.probe)

    @property
    def end(self) -> WindowEnd:
        return WindowEnd(
            self.number,
            WindowKind.PROBE if self.probe else kind_of_burst(self.draws, len(self.thetas)),
            self.first_step,
            self.last_step,
            max(self.steps * self.widest, self.draws),
            self.dropped,
        )


class Stepwise:
    """Assembles the groups of each step that the plan keeps, and the steps of each burst.

    Args:
        sampling: the plan.
        groups: of the run.
        refusals: counted a window.
        pending: bytes that one step may hold.
        open_sink: begins the recording, as soon as the groups are known; None where that fails.

    Attributes:
        at: the step being recorded.
        theta: of the last step that was kept.
    """

    def __init__(
        self,
        sampling: Sampling,
        groups: NamedGroups,
        refusals: Refusals,
        pending: int,
        open_sink: Callable[[], Sink | None],
    ) -> None:
        self._plan = sampling
        self._groups = groups
        self._refusals = refusals
        self._pending = pending
        self._open_sink = open_sink
        self.sink: Sink | None = None
        self.at: HandedIn | None = None
        self.theta = 0
        self._window: _Window | None = None
        self._skipped: int | None = None  # where the burst begins that is passed over for want of room
        self._round: int | None = None  # the last one of which a step was kept, or that was spoken of

    def keeps(self, step: int) -> bool:
        """Whether a step is in the plan, and the disk has room for its burst."""
        plan = self._plan
        phase = step % plan.every
        if phase >= plan.burst:
            return False
        start = step - phase
        if self._window is not None and self._window.start == start:
            return True
        if self._skipped == start:
            return False
        if self.sink is None or self.sink.room():
            return True
        self._skipped = start
        self.sink.end_window(WindowEnd.of_skipped(step, start + plan.burst - 1, plan.burst - phase))
        return False

    def begin(self, step: int, theta: int) -> HandedIn | None:
        """Return what is known of the step being recorded, from now on ``step``; None where it is not kept.

        Raises:
            RefusedInputError: it comes out of order, or outside of the plan time and again.
        """
        at = self.at
        if at is not None and at.step == step:
            return at
        if at is not None and step < at.step:
            text = f"does not record step {step} after step {at.step}: record steps in ascending order"
            raise RefusedInputError("order", text)
        if theta < self.theta:
            text = f"does not record theta {theta} after theta {self.theta}: parameter updates only add up"
            raise RefusedInputError("theta", text)
        self.leave(step)
        if not self.keeps(step):
            self._note_outside(step)
            return None
        self._round = step // self._plan.every
        self.theta = theta
        self.at = at = HandedIn(step, theta)
        return at

    def _note_outside(self, step: int) -> None:
        """Warn where a loop hands in steps, but never those that the plan keeps."""
        plan = self._plan
        before, self._round = self._round, step // plan.every
        # A loop that goes on in the middle of a round is excused for that one.
        if step % plan.every < plan.burst or before is None or before == self._round:
            return
        raise RefusedInputError(
            "outside",
            f"does not record step {step}: Sampling(burst={plan.burst}, every={plan.every}) keeps the first "
            f"{plan.burst} steps of every {plan.every}, and none of those from {self._round * plan.every} on was "
            "handed in. Ask Recorder.wants(step), or choose the burst and every that the loop takes",
            draws=0,
        )

    def take(self, at: HandedIn, number: int, values: NDArray[np.float32]) -> None:
        """Take the draws of one group at the step being recorded.

        Raises:
            RefusedInputError: they do not go with the others.
        """
        name, count = self._groups.name(number), len(values)
        if at.handed_over or number in at.parts:
            raise RefusedInputError(
                "twice",
                f"does not record {name!r} again at step {at.step}, or after it was written out: hand in the K draws "
                "of a step as one array a group, and every group before flush()",
                draws=count,
                group=name,
            )
        if at.parts and count != at.draws:
            raise RefusedInputError(
                "count",
                f"does not record the {count} draws of {name!r} at step {at.step}, for its other groups have "
                f"{at.draws}: every group of a step has the same draws. An array without the axis of the draws is the "
                "usual cause: give [K, *shape]",
                draws=count,
                group=name,
            )
        at.draws = count
        at.nbytes += values.nbytes
        # What is too large for the memory is dropped at the end of the step, when it is known how much it was.
        at.parts[number] = values if at.nbytes <= self._pending else values[:, :0].copy()
        if self.sink is not None and len(at.parts) == len(self._groups):
            self.hand_over()

    def window(self, at: HandedIn) -> int:
        """Return the id of the window of a step that is kept."""
        return self._window_of(at).number

    def refer(self, at: HandedIn, item: ReferenceAt) -> None:
        """Take a reference at the step being recorded."""
        if at.handed_over and self.sink is not None:
            self.sink.reference(item)
        else:
            at.references.append(item)

    def leave(self, step: int) -> None:
        """Leave behind what comes before a step."""
        if self.at is not None and step > self.at.step:
            self.hand_over()
            self.at = None
        if self._window is not None and step >= self._window.start + self._plan.burst:
            self.end()

    def hand_over(self) -> None:
        """Give the step being recorded to the sink, unless it takes too much memory."""
        at = self.at
        if at is None or at.handed_over or not (at.parts or at.references):
            return
        at.handed_over = True
        sink = self.sink = self.sink or self._open_sink()
        if sink is None:
            return
        window = self._window_of(at)
        window.last_step = at.step
        window.widest = max(window.widest, at.draws)
        for reference in at.references:
            sink.reference(reference)
        if at.nbytes > self._pending:
            window.draws += at.draws
            window.dropped += at.draws
            sink.lose(at.draws, at.draws * len(at.parts))
            error = RefusedInputError(
                "memory",
                f"drops the {at.draws} draws of step {at.step}, whose samples take {at.nbytes} bytes and may take "
                f"{self._pending}, a quarter of Limits(memory=...): hand in fewer at a time, at steps of one theta, "
                "sample fewer coordinates, or allow more memory",
                draws=0,
            )
            self._refusals.note(error, at.step)
            return
        if at.draws:
            self._offer(sink, at, window)

    def _offer(self, sink: Sink, at: HandedIn, window: _Window) -> None:
        numbers = sorted(at.parts)
        groups = np.array(numbers, np.int16)
        parts = [at.parts[number] for number in numbers]
        nbytes = sum(part[0].nbytes for part in parts)
        draws = tuple(Draw(groups, partial(_joined, parts, draw), nbytes) for draw in range(at.draws))
        window.draws += at.draws
        window.thetas.add(at.theta)
        size = max(1, _CHUNK // nbytes)
        for first in range(0, len(draws), size):
            chunk = draws[first : first + size]
            if not sink.draws(DrawsAt(window.number, at.theta, at.step, chunk, at.batch_size, at.divisor)):
                window.dropped += len(chunk)
        at.parts = dict.fromkeys(numbers, parts[0][:0])  # what waits in the sink is all that keeps them

    def _window_of(self, at: HandedIn) -> _Window:
        if self._window is None:
            phase = at.step % self._plan.every
            probe = self._plan.burst == 1 and at.draws > 1
            self._window = _Window(at.step - phase, at.step, at.step, self._plan.burst - phase, probe)
        return self._window

    def end(self) -> None:
        """End the open window."""
        window, self._window = self._window, None
        if window is not None and self.sink is not None:
            self._refusals.put_out(self.sink)
            self.sink.end_window(window.end)


def _joined(parts: list[NDArray[np.float32]], draw: int) -> NDArray[np.float32]:
    return np.concatenate([part[draw] for part in parts])
