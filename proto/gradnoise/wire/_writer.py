"""Writing a dump: one producer's segments, numbered batches, rotation; and the run's directory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import uuid
from typing import TYPE_CHECKING

from gradnoise.wire._errors import RunExistsError, WireError
from gradnoise.wire._run import RunInfo
from gradnoise.wire._schemas import Table
from gradnoise.wire._segment import Place, Segment, SegmentWriter
from gradnoise.wire._stamp import Stamped

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

__all__ = ["DumpWriter", "TableLog", "create_dump", "producer_is_alive"]

RUN_FILE = "run.json"
SEGMENT_BYTES = 64 << 20


def create_dump(path: Path, info: RunInfo) -> None:
    """Create the run's directory with its ``run.json``; join it when it is there with the same groups.

    Raises:
        RunExistsError: another run lies there, or the same run id with other groups or coordinates.
        NotADumpError, UnknownSchemaVersionError: what lies there cannot be read.
        OSError: the directory cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    target = path / RUN_FILE
    if not target.exists():
        draft = path / f".{RUN_FILE}.{uuid.uuid4().hex}"
        try:
            draft.write_text(info.to_json())
            try:
                os.link(draft, target)  # atomic, and never over another producer's file
            except FileExistsError:
                pass
            else:
                return
        finally:
            draft.unlink(missing_ok=True)
    there = RunInfo.from_json(target.read_bytes(), str(target))
    if there.run != info.run or there.fingerprint != info.fingerprint:
        raise RunExistsError(
            f"{path} holds run {there.run!r} of {there.model} with {len(there.groups)} groups; run {info.run!r} of "
            f"{info.model} with {len(info.groups)} groups cannot join it, for it has {_difference(there, info)}: "
            "choose another run name or dump directory"
        )


def _difference(there: RunInfo, info: RunInfo) -> str:
    """Say what keeps two runs from being one."""
    if there.run != info.run:
        return "another run id"
    theirs, ours = [group.name for group in there.groups], [group.name for group in info.groups]
    if theirs != ours:
        new = [name for name in ours if name not in set(theirs)]
        gone = [name for name in theirs if name not in set(ours)]
        if not new and not gone:
            return "the same groups in another order"
        first = f"{new[0]!r} is new" if new else f"{gone[0]!r} is missing"
        return f"other groups ({len(new)} new, {len(gone)} missing: {first})"
    for one, other in zip(there.groups, info.groups, strict=True):
        if one.shape != other.shape:
            return f"group {other.name!r} in shape {list(other.shape)} instead of {list(one.shape)}"
    for one, other in zip(there.groups, info.groups, strict=True):
        if one.indices != other.indices:
            return (
                f"other sampled coordinates ({len(other.indices)} of group {other.name!r}, {len(one.indices)} there; "
                "number and seed must be the same)"
            )
    return "other groups"


class TableLog:
    """The growing segments of one table of one producer; sequence numbers are the caller's.

    ``segment_bytes`` is the size behind which a new segment begins.
    """

    def __init__(
        self,
        directory: Path,
        table: Table,
        producer: str,
        run: str,
        *,
        first_segment: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._directory = directory
        self._table = table
        self._producer = producer
        self._run = run
        self._next_segment = first_segment
        self._segment_bytes = segment_bytes
        self._writer: SegmentWriter | None = None

    def append(self, stamped: Stamped) -> Place:
        """Write one batch and return where it lies. A segment that is left for another one is synced.

        Raises:
            SyncError: see there.
            OSError: nothing of the batch was kept; the next one begins another segment.
        """
        writer = self._writer
        if writer is not None and (writer.size >= self._segment_bytes or not writer.accepts(stamped.batch)):
            # Before the footer, which a full disk may refuse: what lies in the segment must be safe without it.
            writer.sync()
            self.seal()
            writer = None
        if writer is None:
            segment = Segment(self._table, self._producer, self._next_segment)
            writer = SegmentWriter(self._directory, segment, self._run)
            self._next_segment += 1
            self._writer = writer
        try:
            return writer.append(stamped)
        except OSError:
            writer.sync()
            self.abandon()
            if writer.segment.find(self._directory) is None:  # it held nothing and is gone: its number is free
                self._next_segment = writer.segment.number
            raise

    def sync(self) -> None:
        """Force the open segment to disk."""
        if self._writer is not None:
            self._writer.sync()

    def seal(self) -> None:
        """Seal the open segment, if there is one; the next batch begins another."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.seal()

    def abandon(self) -> None:
        """Leave the open segment unsealed."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abandon()


class DumpWriter:
    """One producer's side of a dump: stamps batches with sequence numbers and appends them.

    While it lives it holds a lock by which others (:func:`producer_is_alive`) tell a running producer from a
    finished or killed one. Not thread-safe: one thread writes.

    Args:
        path: the dump's directory; made if missing.
        info: the run.
        segment_bytes: size behind which a new segment begins.

    Attributes:
        last: each segment's last batch so far, in the order in which the segments were begun.
        nbytes: written so far.

    Raises:
        RunExistsError: another run lies there; OSError: it cannot be written.
    """

    def __init__(self, path: Path, info: RunInfo, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        create_dump(path, info)
        self.path = path
        self.info = info
        self.producer = uuid.uuid4().hex
        self._segment_bytes = segment_bytes
        self._logs: dict[Table, TableLog] = {}
        self._next: dict[Table, int] = {}
        self.last: dict[Segment, int] = {}
        self.nbytes = 0
        self._closed = False
        self._lock_path = _lock_path(path, self.producer)
        self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._lock, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())

    def append(self, table: Table, batch: pa.RecordBatch) -> int:
        """Write one batch of the table's schema; return its sequence number.

        The batch is in the operating system's hands when this returns: it survives the death of the process.

        Raises:
            OSError: the disk is full or failing; the number is not used up.
        """
        if self._closed:
            raise WireError(f"the dump writer of {self.path} is closed: nothing more can be appended")
        sequence = self._next.get(table, 0)
        log = self._logs.get(table)
        if log is None:
            log = TableLog(self.path, table, self.producer, self.info.run, segment_bytes=self._segment_bytes)
            self._logs[table] = log
        place = log.append(Stamped.of(table, sequence, batch))
        self.last[place.segment] = sequence
        self.nbytes += place.end - place.begin
        self._next[table] = sequence + 1
        return sequence

    def close(self) -> None:
        """Seal every segment that can be and give up the lock, also after an error; idempotent.

        Raises:
            OSError: a segment could not be sealed; it stays readable as an open one.
        """
        if self._closed:
            return
        self._closed = True
        failure: Exception | None = None
        try:
            for log in self._logs.values():
                try:
                    log.seal()
                except Exception as error:
                    failure = failure or error
        finally:
            # The lock is the descriptor's: its file may stay where it cannot be removed.
            os.close(self._lock)
            with contextlib.suppress(OSError):
                self._lock_path.unlink(missing_ok=True)
        if failure is not None:
            raise failure

    def disown(self) -> None:
        """In a forked child: let go of the lock's descriptor, so that the parent's death frees the lock.

        The writer is unusable afterwards; the parent's files are left as they are.
        """
        if not self._closed:
            self._closed = True
            os.close(self._lock)


def _lock_path(directory: Path, producer: str) -> Path:
    return directory / f"{producer}.lock"


def producer_is_alive(directory: Path, producer: str) -> bool:
    """Whether the producer's process still holds its dump open on this machine."""
    try:
        fd = os.open(_lock_path(directory, producer), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
