"""One producer's share of the store: batches come in, answers go out once the bytes are on disk."""

from __future__ import annotations

import logging
import os
import threading
from array import array
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING

from gradnoise.analyzer._admission import reason_to_refuse
from gradnoise.analyzer.assembly import WINDOW_TABLES, Places
from gradnoise.analyzer.windows import ClosedWindow
from gradnoise.wire import CorruptBatchError, Dump, Stamped, SyncError, Table, TableLog, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from gradnoise.wire import Place, RunInfo

__all__ = ["Acknowledged", "Incoming", "ProducerLog", "Refusal", "Refused", "sync_path"]

_log = logging.getLogger(__name__)
_UNKNOWN_CRC = -1
_RETRY_MS = 1000


class Refusal(Enum):
    """Why a batch is not taken; the meanings of ``Nack.Code`` in ingest.proto."""

    INVALID = "invalid"
    CONFLICT = "conflict"
    GAP = "gap"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A batch as it arrives: the table and sequence number it claims, and its bytes."""

    table: str
    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Every batch of the table below ``next_sequence`` is on disk."""

    table: Table
    next_sequence: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A batch that was not taken; ``expected`` is the sequence number to go on from."""

    table: str
    sequence: int
    reason: Refusal
    message: str
    expected: int = 0
    retry_after_ms: int = 0


class _TableState:
    """A table's log and what is known of every batch in it."""

    def __init__(self, log: TableLog) -> None:
        self.log = log
        self.crcs = array("q")  # by sequence number; their count is the next one
        self.segment = -1  # the number of the segment that was written last

    @property
    def next(self) -> int:
        return len(self.crcs)


class ProducerLog:
    """Appends one producer's batches to the run's dump and knows which of them hold which window.

    Safe to use from several threads: two streams of one producer take turns, batch group by batch group.

    Args:
        directory: the run's dump in the store.
        info: the run.
        producer: the producer's id.
        segment_bytes: size behind which a new segment begins.
        payload_bytes: the largest payload taken.
        fatal: called when a sync fails; must not return, for what the disk holds is then unknown.
    """

    def __init__(
        self,
        directory: Path,
        info: RunInfo,
        producer: str,
        *,
        segment_bytes: int,
        payload_bytes: int,
        fatal: Callable[[OSError], None],
    ) -> None:
        self.info = info
        self.producer = producer
        self.bytes = 0
        self._directory = directory
        self._widths = {group.name: len(group.indices) for group in info.groups}
        self._fatal = fatal
        self._payload_bytes = payload_bytes
        self._lock = threading.Lock()
        self._tables: dict[Table, _TableState] = {}
        self._places = Places()
        self._closed: dict[int, ClosedWindow] = {}
        dump = Dump(directory)
        for table in Table:
            segments = dump.segments(table, producer)
            first = segments[-1].number + 1 if segments else 0
            log = TableLog(directory, table, producer, info.run, first_segment=first, segment_bytes=segment_bytes)
            state = self._tables[table] = _TableState(log)
            for place, stamped in dump.placed(table, producer):
                while state.next < stamped.sequence:
                    state.crcs.append(_UNKNOWN_CRC)  # acknowledged once, lost by the disk: a problem, not a gap to fill
                self._learn(state, place, stamped)
        self.problems = [f"{problem.kind} {problem.table}: {problem.detail}" for problem in dump.problems]

    def next_sequences(self) -> dict[Table, int]:
        """Return, for every table, the first sequence number that is not on disk."""
        with self._lock:
            return {table: state.next for table, state in self._tables.items()}

    def closed(self) -> list[ClosedWindow]:
        """Return the closed windows, in the order of their closing."""
        with self._lock:
            return list(self._closed.values())

    def closed_window(self, window: int) -> ClosedWindow | None:
        """Return a window; None if it is not closed."""
        with self._lock:
            return self._closed.get(window)

    def batches(self, window: int) -> Iterator[Stamped]:
        """Yield the stored batches that hold rows of a window."""
        with self._lock:
            places = self._places.of(window)
        yield from Dump(self._directory).read(places)

    def take(self, incoming: Sequence[Incoming]) -> tuple[list[Acknowledged | Refused], list[ClosedWindow]]:
        """Store batches, sync, and answer: one acknowledgement a table, one refusal a batch that was not taken.

        Returns:
            The answers, and the windows that these batches closed.
        """
        checked = [self._check(item) for item in incoming]
        refused: list[Refused] = []
        touched: dict[Table, _TableState] = {}
        with self._lock:
            closed_before = len(self._closed)
            begun = False
            for item in checked:
                if isinstance(item, Refused):
                    refused.append(self._expecting(item))
                    continue
                state = self._tables[item.table]
                segment = state.segment
                refusal = self._append(state, item)
                begun = begun or state.segment != segment
                if refusal is None:
                    touched[item.table] = state
                else:
                    refused.append(refusal)
            self._sync(touched.values(), directory=begun)
            acknowledged = [Acknowledged(table, state.next) for table, state in touched.items()]
            closed = list(islice(self._closed.values(), closed_before, None))
        return [*acknowledged, *refused], closed

    def seal(self) -> None:
        """Seal the open segments; the next batch begins another."""
        with self._lock:
            for state in self._tables.values():
                try:
                    state.log.seal()
                except SyncError as error:
                    self._fatal(error)
                    raise
                except OSError as error:  # it stays readable, and is sealed at the next start
                    _log.warning("run %s: a segment could not be sealed: %s", self.info.run, error)

    def _check(self, item: Incoming) -> Stamped | Refused:
        try:
            table = Table(item.table)
        except ValueError:
            known = ", ".join(Table)
            return Refused(item.table, item.sequence, Refusal.INVALID, f"no table {item.table!r}; there are: {known}")
        if len(item.payload) > self._payload_bytes:
            message = f"a payload of {len(item.payload)} bytes: the limit here is {self._payload_bytes}: split it"
            return Refused(table, item.sequence, Refusal.INVALID, message)
        try:
            stamped = unpack(table, item.payload)
        except CorruptBatchError as error:
            return Refused(table, item.sequence, Refusal.INVALID, str(error))
        if stamped.sequence != item.sequence:
            message = f"the request says batch {item.sequence} of {table}, its payload says {stamped.sequence}"
            return Refused(table, item.sequence, Refusal.INVALID, message)
        reason = reason_to_refuse(stamped, self._widths)
        if reason is not None:
            message = f"batch {item.sequence} of {table} of run {self.info.run!r} is not taken: {reason}"
            return Refused(table, item.sequence, Refusal.INVALID, message)
        return stamped

    def _expecting(self, refused: Refused) -> Refused:
        try:
            expected = self._tables[Table(refused.table)].next
        except ValueError:
            return refused
        return Refused(refused.table, refused.sequence, refused.reason, refused.message, expected)

    def _append(self, state: _TableState, stamped: Stamped) -> Refused | None:
        """Write the batch if it is the next one; say why not, or nothing of a duplicate."""
        table, sequence, expected = stamped.table, stamped.sequence, state.next
        if sequence > expected:
            message = f"batches {expected} to {sequence - 1} of {table} are missing before batch {sequence}"
            return Refused(table, sequence, Refusal.GAP, message, expected)
        if sequence < expected:
            stored = state.crcs[sequence]
            if stored in (stamped.crc32, _UNKNOWN_CRC):
                return None
            message = (
                f"batch {sequence} of {table} is stored with CRC32 {stored:08x}, this one has {stamped.crc32:08x}: "
                "the number is taken by other bytes"
            )
            return Refused(table, sequence, Refusal.CONFLICT, message, expected)
        try:
            place = state.log.append(stamped)
        except SyncError as error:
            self._fatal(error)
            raise
        except OSError as error:
            _log.error("run %s: batch %d of %s not stored: %s", self.info.run, sequence, table, error)
            message = f"the analyzer could not store the batch ({error}); try again later"
            return Refused(table, sequence, Refusal.UNAVAILABLE, message, expected, _RETRY_MS)
        state.segment = place.segment.number
        self._learn(state, place, stamped)
        return None

    def _learn(self, state: _TableState, place: Place, stamped: Stamped) -> None:
        state.crcs.append(stamped.crc32)
        self.bytes += place.end - place.begin
        if stamped.table in WINDOW_TABLES:
            self._places.add(place, stamped)
        elif stamped.table is Table.WINDOWS:
            for closed in ClosedWindow.of(self.info.run, self.producer, stamped.batch):
                self._closed.setdefault(closed.window, closed)

    def _sync(self, states: Iterable[_TableState], *, directory: bool) -> None:
        try:
            for state in states:
                state.log.sync()
            if directory:
                sync_path(self._directory)
        except OSError as error:
            self._fatal(error)
            raise


def sync_path(path: Path) -> None:
    """Force a file, or a directory's entries, to disk: a new file outlives a power failure only with both."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
