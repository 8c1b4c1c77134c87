"""The framework-free core: a writer thread and its dump. It never makes its caller wait.

A fork leaves the child with the memory but not the thread: everything here is inert in a process other than the
one that made it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gradnoise.collector._config import Limits
from gradnoise.collector._logging import Once, inform, warn
from gradnoise.collector._recording.backlog import Backlog, Item, Look
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
from gradnoise.collector._recording.spool import SEGMENTS, Spool
from gradnoise.collector._recording.tables import AmbiguousDrawsError, TableBuilder
from gradnoise.wire import DumpWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from gradnoise.wire import RunInfo

__all__ = ["AMBIGUOUS", "Counters", "Sink", "State"]

_BATCH_BYTES = 1 << 20
_SEGMENT_BYTES = 64 << 20
_LINGER = 1.0  # seconds a row may wait for its batch to fill
_LINGER_LONG = 5.0  # and a batch that would be smaller than this, of which much would be overhead:
_SMALL_BATCH = 128 << 10
_LOOK = 2.0  # seconds between two looks of the writer at what it watches

AMBIGUOUS = (
    "gradnoise: several backward passes between two parameter updates are not microbatches of one theta (two losses, "
    "SAM, reentrant checkpointing, or forward passes that bypass the attached model): such steps are not recorded. Sum "
    "the losses before one backward(), use checkpoint(..., use_reentrant=False), say handle.log(divisor=...) if they "
    "are microbatches, or measure with Probe(closure) instead"
)

_TOO_LARGE = (
    "gradnoise drops draws that hold %.1f MB of samples at one theta: Limits(memory=...), %.1f MB, does not let so "
    "much wait for the disk. Give it more memory, or sample fewer coordinates. Dropped draws are counted"
)
_MEASURED_TOO_MUCH = (
    "gradnoise drops measurements of curvature that hold %.1f MB: Limits(memory=...), %.1f MB, does not let so much "
    "wait for the disk. Give it more memory, or measure less (draws, dense, parts). Each is an event"
)
_TRIMMED = "gradnoise deletes what the analyzer has acknowledged from %s: the dump had grown to Limits(spool=...)"
_SKIPPED = (
    "gradnoise skips whole bursts and probes: the dump %s has grown to Limits(spool=...). Raise the limit, record less "
    "(Sampling), or give an endpoint: what an analyzer has acknowledged is deleted. Skipped bursts are counted"
)
_UNWATCHED = (
    "gradnoise: what looks after the dump %s failed unexpectedly (%s: %s). Recording goes on; what is not sent is sent "
    "later with: gradnoise ship"
)


class State(StrEnum):
    """Of a collector: recording, closed, turned off after a failure, or switched off from the start."""

    RECORDING = "recording"
    CLOSED = "closed"
    OFF = "off"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Counters:
    """Draws, rows (of the draws table) and windows written; draws and rows lost; windows that were skipped."""

    draws: int = 0
    rows: int = 0
    windows: int = 0
    dropped_draws: int = 0
    dropped_rows: int = 0
    skipped: int = 0


class Sink:
    """Records draws, windows, steps and events into a dump from a thread of its own.

    Args:
        path: the dump's directory; made if missing, joined if it holds the same run and groups.
        info: the run.
        limits: of memory and disk.
        trim: whether segments that an analyzer has acknowledged may be deleted to make room.

    Raises:
        RunExistsError, OSError: as :class:`gradnoise.wire.DumpWriter`; OSError also where no thread can be started.
    """

    def __init__(
        self,
        path: Path,
        info: RunInfo,
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        trim: bool = False,
    ) -> None:
        self._writer = DumpWriter(path, info, segment_bytes=min(_SEGMENT_BYTES, limits.spool // SEGMENTS))
        self._spool = Spool(self._writer, limits.spool, trim=trim)
        batch = min(_BATCH_BYTES, limits.memory // 16)
        self._tables = TableBuilder(info, self._writer.append, batch_bytes=batch)
        self._limits = limits
        self._backlog = Backlog(limits.memory, batch)
        self._wake = self._backlog.wake
        self.path = path
        self.producer = self._writer.producer
        self._pid = os.getpid()
        self._skipped = 0
        self._ended = False
        self._state = State.RECORDING
        self.error: str | None = None
        self._once = Once()
        self._looks: list[Look] = []
        self._cramped = False
        self._thread = threading.Thread(target=self._run, name="gradnoise-writer", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._writer.close()
            raise OSError(errno.EAGAIN, "no thread can be started to write it") from error
        _disown_in_children(self)

    @property
    def here(self) -> bool:
        """Whether this is the process that made the sink (not a forked child of it)."""
        return os.getpid() == self._pid

    @property
    def pending(self) -> int:
        """Bytes that draws may hold before they are offered."""
        return self._backlog.pending

    @property
    def recording(self) -> bool:
        """Whether what is offered still reaches the disk."""
        return self._state is State.RECORDING and not self._backlog.closed and self.here

    @property
    def info(self) -> RunInfo:
        """The run."""
        return self._writer.info

    @property
    def state(self) -> State:
        """Where the sink stands."""
        return self._state

    def counters(self) -> Counters:
        """Return what has been done so far."""
        tables = self._tables
        offered, refused = self._backlog.offered, self._backlog.refused
        draws, rows = refused.draws, refused.rows
        if not self._thread.is_alive() or self._state is State.OFF:
            # Whatever was accepted and is neither written nor known to be no draw was lost on its way.
            draws = offered.draws - tables.draws_written - tables.ambiguous_draws
            rows = offered.rows - tables.rows_written - tables.ambiguous_rows
        return Counters(tables.draws_written, tables.rows_written, tables.windows_written, draws, rows, self._skipped)

    def room(self) -> bool:
        """Whether the dump may grow by another window; asked where a burst or a probe would begin."""
        if not self.recording or self._spool.room(self._backlog.nbytes):
            return True
        if not self._cramped:
            self._cramped = True
            self.keep_looking(self._relieve)
        return False

    def draws(self, item: DrawsAt) -> bool:
        """Offer the draws of one theta; False if the queue is full and they were dropped (and counted)."""
        backlog, draws, rows = self._backlog, len(item.draws), item.rows
        backlog.offered.add(draws, rows)
        if self._offer(item):
            return True
        backlog.refused.add(draws, rows)
        if self.recording and item.nbytes > backlog.limit:
            self.warn_once("memory", _TOO_LARGE, item.nbytes / 2**20, self._limits.memory / 2**20)
        return False

    def lose(self, draws: int, rows: int) -> None:
        """Count draws that were taken and could not be offered."""
        self._backlog.offered.add(draws, rows)
        self._backlog.refused.add(draws, rows)

    def reference(self, item: ReferenceAt) -> bool:
        """Offer the reference of a window."""
        return self._offer(item)

    def sketch(self, item: SketchAt) -> bool:
        """Offer a sketch."""
        return self._offer(item)

    def curvature(self, item: CurvatureAt) -> bool:
        """Offer what was measured of the curvature; False if there was no room for it."""
        if self._offer(item):
            return True
        if self.recording and item.nbytes > self._backlog.limit:
            self.warn_once("memory of curvature", _MEASURED_TOO_MUCH, item.nbytes / 2**20, self._limits.memory / 2**20)
        return False

    def end_window(self, end: WindowEnd) -> None:
        """Close a window, full as the queue may be. One skipped for want of :meth:`room` is counted and warned of."""
        if not self.recording:
            return
        if end.skipped:
            self._skipped += 1
            self.warn_once("spool", _SKIPPED, self.path)
        self._offer(end)

    def step(self, row: StepRow) -> bool:
        """Offer a row of the steps table."""
        return self._offer(row)

    def event(
        self, kind: str, detail: str, *, count: int = 1, step: int | None = None, group: str | None = None
    ) -> bool:
        """Offer a row of the events table."""
        return self._offer(Event(time.time_ns(), kind, count, detail, step, group))

    def later(self, find: Callable[[], Iterable[Event]], nbytes: int = 0) -> bool:
        """Let the writer's thread add the events that ``find`` gives once the device has delivered.

        Args:
            find: called after everything offered before is taken.
            nbytes: memory behind it while it waits.
        """
        return self._offer(Finding(find, nbytes))

    def keep_looking(self, look: Callable[[], bool]) -> None:
        """Let the writer's thread call ``look`` every few seconds, until it returns False."""
        self._offer(Look(look))

    def warn_once(self, key: str, message: str, *args: object) -> bool:
        """Log a warning, the first time for this key; return whether it was."""
        if not self.here:  # the lock may have been held when this child was forked
            return False
        with self._wake:
            if not self._once.first(key):
                return False
        warn(message, *args)
        return True

    def fail(self, reason: str) -> None:
        """Turn the sink off for good, with one warning; what is written stays readable."""
        if not self.here:
            return
        with self._wake:
            if self._state is not State.RECORDING:
                return
            self._state = State.OFF
            self.error = reason
            self._backlog.drop()
        warn("gradnoise turned itself off: %s. Training goes on; what was recorded is in %s", reason, self.path)

    def flush(self, timeout: float) -> bool:
        """Wait until everything offered so far is in the dump; False if that took longer or recording failed."""
        if not self.here:
            return False
        done = threading.Event()
        if not self._offer(done):
            return False
        return done.wait(timeout) and self._state is not State.OFF

    def end(self) -> None:
        """Take nothing more; what waits is written, and the dump sealed, while nobody waits."""
        self._backlog.close()

    def close(self, timeout: float) -> bool:
        """Write what waits, seal the dump, end the thread; False if that took longer. Idempotent."""
        if not self.here:
            return False
        self.end()
        deadline = time.monotonic() + timeout
        with self._wake:
            # A signal's handler may close while the frame that it interrupted holds the lock: this lets go of it.
            self._wake.wait_for(lambda: self._ended, timeout)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _offer(self, item: Item) -> bool:
        return self.recording and self._backlog.offer(item)

    # The writer's thread from here on.

    def _run(self) -> None:
        try:
            self._write_all()
        except OSError as error:
            self.fail(f"the dump cannot be written ({error.strerror or error})")
        except Exception as error:
            self.fail(f"unexpected {type(error).__name__} while writing the dump: {error}")
        try:
            self._writer.close()
        except Exception as error:
            self.fail(f"the dump could not be sealed ({error}); it is readable as it is")
        with self._wake:
            if self._state is State.RECORDING:
                self._state = State.CLOSED
            self._ended = True
            self._backlog.drop()

    def _write_all(self) -> None:
        since: float | None = None  # when the oldest row came that waits for its batch
        next_look = 0.0
        while self._state is State.RECORDING:
            until = None if since is None else since + self._linger()
            if self._looks:
                until = next_look if until is None else min(until, next_look)
            taken = self._backlog.take(until)
            if taken.item is not None:
                self._take(taken.item)
                self._backlog.written(taken.nbytes)
            elif taken.closed and self._state is State.RECORDING:
                self._tell_lost(None)
                self._tables.flush()
                return
            now = time.monotonic()
            if self._looks and now >= next_look:
                next_look = now + _LOOK
                self._looks = [look for look in self._looks if self._look(look)]
            if since is not None and now >= since + self._linger():
                self._tables.flush()
            if self._tables.empty:
                since = None
            elif since is None:
                since = now

    def _linger(self) -> float:
        return _LINGER if self._tables.nbytes >= _SMALL_BATCH else _LINGER_LONG

    def _look(self, at: Look) -> bool:
        try:
            return at.look()
        except Exception as error:  # whatever is watched, the dump is written
            self.warn_once("watch", _UNWATCHED, self.path, type(error).__name__, error)
            return False

    def _relieve(self) -> bool:
        self._cramped = self._spool.relieve()
        self._tell_trimmed()
        return self._cramped

    def _tell_trimmed(self) -> None:
        if self._spool.trimmed and self._once.first("trimmed"):
            inform(_TRIMMED, self.path)

    def _tell_lost(self, step: int | None) -> None:
        """Count in the dump what found no room in the queue, and is no draw."""
        ends, rows = self._backlog.lost()
        for kind, count, what in (
            ("windows_lost", ends, "windows of which nothing is told"),
            ("rows_lost", rows, "rows of steps, events, references, sketches, curvature"),
        ):
            if count:
                detail = f"{count} {what}: the disk was slower than the training"
                self._tables.add_event(Event(time.time_ns(), kind, count, detail, step))

    def _take(self, item: Item) -> None:
        if isinstance(item, DrawsAt):
            try:
                self._tables.add_draws(item)
            except AmbiguousDrawsError:
                self._tables.add_event(
                    Event(time.time_ns(), "ambiguous_backwards", len(item.draws), "parameters changed", item.step)
                )
                self.warn_once("ambiguous", AMBIGUOUS)
        elif isinstance(item, ReferenceAt):
            self._tables.add_reference(item)
        elif isinstance(item, SketchAt):
            self._tables.add_sketch(item)
        elif isinstance(item, CurvatureAt):
            self._tables.add_curvature(item)
        elif isinstance(item, WindowEnd):
            self._tell_lost(item.first_step)
            self._tables.end_window(item)
            self._spool.end_window()
            self._tell_trimmed()
        elif isinstance(item, StepRow):
            self._tables.add_step(item)
        elif isinstance(item, Event):
            self._tables.add_event(item)
        elif isinstance(item, Finding):
            for event in item.find():
                self._tables.add_event(event)
        elif isinstance(item, Look):
            self._looks.append(item)
        else:
            try:
                self._tables.flush()
            finally:
                item.set()


_sinks: weakref.WeakSet[Sink] = weakref.WeakSet()
_hooked = False


def _disown_in_children(sink: Sink) -> None:
    """Let forked children (data loader workers) drop the dump's lock, which would outlive this process in them."""
    global _hooked
    _sinks.add(sink)
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_disown)


def _disown() -> None:
    for sink in list(_sinks):
        sink._writer.disown()
