"""What waits for the writer: bounded in bytes, and what finds no room is counted. Nobody waits to put something in."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradnoise.collector._recording.records import (
    CurvatureAt,
    DrawsAt,
    Event,
    Finding,
    ReferenceAt,
    SketchAt,
    StepRow,
    WindowEnd,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Backlog", "Item", "Look", "Taken", "Tally"]

_GATHER = 0.1  # seconds the writer lets records collect: each waking of it takes the interpreter from the training
_SKETCH_BYTES = 8 << 16
_ROW_BYTES = 512  # what a row of steps, events or windows is taken to hold in memory
_METRIC_BYTES = 256


@dataclass(frozen=True, slots=True)
class Look:
    """Something to look at every few seconds until it says False."""

    look: Callable[[], bool]


# An event of the threading kind is set when everything before it is written.
Item = DrawsAt | ReferenceAt | SketchAt | CurvatureAt | WindowEnd | StepRow | Event | Finding | threading.Event | Look


@dataclass(frozen=True, slots=True)
class Taken:
    """What came next: the item, the bytes it counts until it is written; no item, and whether none will come."""

    item: Item | None
    nbytes: int
    closed: bool


@dataclass(slots=True)
class Tally:
    """Draws, and rows of the draws table."""

    draws: int = 0
    rows: int = 0

    def add(self, draws: int, rows: int) -> None:
        """Count some more."""
        self.draws += draws
        self.rows += rows


class Backlog:
    """A queue of what is to be written, with limits for the memory behind it.

    Args:
        memory: bytes for everything that is recorded and not yet written.
        batch: bytes of a batch on its way to the disk.

    Attributes:
        wake: its lock, which a signal's handler may take again; told of whatever changes.
        pending: bytes that draws may hold before they are offered.
        limit: bytes that may wait.
        nbytes: bytes that wait, or are being written.
        closed: nothing more is taken.
        offered, refused: draws.
    """

    def __init__(self, memory: int, batch: int) -> None:
        self.wake = threading.Condition()
        self.pending = memory // 4
        self._ends = memory // 32  # for the ends of windows, when the queue is full
        # A batch on its way is there several times: as rows, columns, a message, and a file's next bytes.
        self.limit = memory - self.pending - self._ends - 6 * batch
        self._enough = min(batch, self.limit // 2)
        self._waiting: deque[tuple[Item, int]] = deque()
        self._urgent = False
        self._lost_ends = 0
        self._lost_rows = 0
        self.nbytes = 0
        self.closed = False
        self.offered = Tally()
        self.refused = Tally()

    def offer(self, item: Item) -> bool:
        """Put an item in; False, and counted where it is no draw, if there is no room."""
        nbytes = _held_by(item)
        with self.wake:
            is_end = isinstance(item, WindowEnd)
            if nbytes and self.nbytes + nbytes > self.limit + (self._ends if is_end else 0):
                self._lost_ends += is_end
                self._lost_rows += not is_end and not isinstance(item, DrawsAt)
                return False
            first = not self._waiting
            self._waiting.append((item, nbytes))
            self.nbytes += nbytes
            if isinstance(item, threading.Event) or self.nbytes >= self._enough:
                self._urgent = True
            if first or self._urgent:
                self.wake.notify()
        return True

    def close(self) -> None:
        """Take nothing more; what waits can still be taken out."""
        with self.wake:
            self.closed = True
            self.wake.notify_all()

    def drop(self) -> None:
        """Take nothing more, forget what waits, and let go whoever waits for a flush."""
        with self.wake:
            for item, _ in self._waiting:
                if isinstance(item, threading.Event):
                    item.set()
            self._waiting.clear()
            self.nbytes = 0
            self.close()

    def take(self, until: float | None) -> Taken:
        """Wait for the next item, letting some more come meanwhile, and take it out; :meth:`written` ends its counting.

        Args:
            until: monotonic time after which nothing is waited for; None waits for ever.
        """
        with self.wake:
            if not self._waiting:
                self._urgent = False
                left = None if until is None else max(0.0, until - time.monotonic())
                if self.wake.wait_for(self._called, left):
                    self.wake.wait_for(self._hurried, _GATHER)
            item, nbytes = self._waiting.popleft() if self._waiting else (None, 0)
            return Taken(item, nbytes, self.closed)

    def written(self, nbytes: int) -> None:
        """What was taken out is written: until now it counted as waiting, too."""
        with self.wake:
            self.nbytes = max(0, self.nbytes - nbytes)

    def lost(self) -> tuple[int, int]:
        """Return how many ends of windows, and how many rows that are no draws, found no room; count anew."""
        with self.wake:
            ends, rows = self._lost_ends, self._lost_rows
            self._lost_ends = self._lost_rows = 0
        return ends, rows

    def _called(self) -> bool:
        return bool(self._waiting) or self.closed

    def _hurried(self) -> bool:
        return self._urgent or self.closed


def _held_by(item: Item) -> int:
    """Return the bytes that an item is taken to hold in memory; one of none always finds room."""
    match item:
        case DrawsAt() | CurvatureAt():
            return item.nbytes
        case ReferenceAt():
            return _ROW_BYTES + sum(values.nbytes for values in item.values)
        case SketchAt():
            return _SKETCH_BYTES
        case WindowEnd():
            return _ROW_BYTES
        case StepRow():
            return _ROW_BYTES + _METRIC_BYTES * len(item.metrics)
        case Event():
            return _ROW_BYTES + len(item.detail)
        case Finding():
            return _ROW_BYTES + item.nbytes
        case _:
            return 0
