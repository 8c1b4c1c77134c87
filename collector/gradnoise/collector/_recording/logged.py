"""Rows of the steps table that a loop fills by itself, one step after the other."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from gradnoise.collector._recording.records import StepRow
from gradnoise.collector._recording.refusals import RefusedInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradnoise.collector._recording.records import Number
    from gradnoise.collector._recording.refusals import Refusals
    from gradnoise.collector._recording.sink import Sink

__all__ = ["LoggedSteps"]

_EARLY = 1024  # rows kept until the dump is opened


class LoggedSteps:
    """Holds the row of the present step until the next one begins.

    Args:
        batch_size: of every step that says nothing else; None is unknown.
        refusals: warned through.
    """

    def __init__(self, batch_size: int | None, refusals: Refusals) -> None:
        self._batch_size = batch_size
        self._refusals = refusals
        self._row: StepRow | None = None
        self._early: list[StepRow] = []
        self._sink: Sink | None = None

    def open(self, sink: Sink) -> None:
        """Put rows out to a sink from now on, beginning with those kept so far."""
        self._sink = sink
        early, self._early = self._early, []
        for row in early:
            sink.step(row)

    def at(self, step: int, theta: Callable[[], int]) -> StepRow:
        """Return the row of a step, to be filled; ``theta`` is asked where it is new.

        Raises:
            RefusedInputError: a later one was begun.
        """
        row = self._row
        if row is not None and row.step == step:
            return row
        if row is not None and step < row.step:
            text = f"ignores what is logged of step {step} after step {row.step}: log steps in ascending order"
            raise RefusedInputError("log order", text, draws=0)
        self.put_out()
        self._row = row = StepRow(step, theta(), time.time_ns(), batch_size=self._batch_size)
        return row

    def put_out(self) -> None:
        """Leave the present row."""
        row, self._row = self._row, None
        if row is None:
            return
        if self._sink is not None:
            self._sink.step(row)
        elif len(self._early) < _EARLY:
            self._early.append(row)

    def number(self, name: str, value: Any) -> Number | None:
        """Return a number, or a way to one that is still being computed; None, with a warning, for anything else."""
        if value is None:
            return None
        if hasattr(value, "block_until_ready"):  # of JAX, whose arrays do not change
            return partial(_waited, value)
        try:
            return float(value)
        except Exception as error:
            text = f"ignores log({name}={value!r}): expected a number or an array of one element ({error})"
            self._refusals.say(f"log {name}", text)
            return None


def _waited(value: Any) -> float | None:
    try:
        return float(value)
    except Exception:
        return None  # deleted meanwhile, or no number: unknown
