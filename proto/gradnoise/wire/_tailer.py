"""Following a growing dump, one producer at a time."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

from gradnoise.wire._schemas import Table
from gradnoise.wire._segment import Segment, SegmentReader, SegmentState, open_segment
from gradnoise.wire._trim import Front, fronts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gradnoise.wire._stamp import Stamped

__all__ = ["Tailer"]

_TRUSTED = 2.0  # seconds for which a directory's time of change is believed
_SETTLED = 2_000_000_000  # nanoseconds: some file systems count time in steps of that size


class _Listing:
    """The numbers of a producer's segments, as the directory had them when it was looked at last."""

    def __init__(self, directory: Path, producer: str) -> None:
        self._directory = directory
        self._producer = producer
        self._numbers: dict[str, list[int]] = {}
        self._changed = -1
        self._looked = -math.inf

    def look(self, *, afresh: bool) -> None:
        """Look again; unless ``afresh`` not at a directory that seems unchanged, where looking takes a while."""
        changed = self._directory.stat().st_mtime_ns
        now = time.monotonic()
        if not afresh and changed == self._changed and now - self._looked < _TRUSTED:
            return
        self._numbers = {}
        mark = f"-{self._producer}-"
        for name in os.listdir(self._directory):  # noqa: PTH208 - of many names few are segments of this producer
            if mark in name:
                segment = Segment.parse(self._directory / name)
                if segment is not None:
                    self._numbers.setdefault(segment.table, []).append(segment.number)
        # A change within the clock's last tick would leave no trace in it.
        settled = time.time_ns() - changed > _SETTLED
        self._changed, self._looked = changed if settled else -1, now

    def next(self, table: Table, least: int) -> int | None:
        """Return the lowest number of a segment of the table from ``least`` on."""
        return min((number for number in self._numbers.get(table, ()) if number >= least), default=None)


class _TableTail:
    """The read position in one table: the segment being read and the ones before it."""

    def __init__(self, directory: Path, table: Table, producer: str, listing: _Listing) -> None:
        self._directory = directory
        self._listing = listing
        self._table = table
        self._producer = producer
        self._number = 0
        self._reader: SegmentReader | None = None
        self.missing: list[str] = []
        self.damage: list[str] = []

    @property
    def position(self) -> tuple[int, int]:
        return self._number, 0 if self._reader is None else self._reader.offset

    def poll(self) -> Iterator[Stamped]:
        while True:
            if self._reader is None and not self._open():
                return
            assert self._reader is not None
            # Listed before reading: a successor is only begun when this segment has its last batch.
            successor = self._listing.next(self._table, self._number + 1)
            yield from self._reader.poll()
            self.damage += self._reader.corrupt
            self._reader.corrupt = []
            if self._reader.state is not SegmentState.DONE and successor is None:
                return
            self._settle()
            self._number += 1

    def finish(self) -> None:
        """Note what is unfinished, now that nothing more will be written."""
        if self._reader is not None:
            self._settle()

    def _open(self) -> bool:
        number = self._listing.next(self._table, self._number)
        if number is None:
            return False
        self._reader = open_segment(self._directory, Segment(self._table, self._producer, number))
        kept = fronts(self._directory, self._producer).get(self._table, Front()).segment
        self._number = min(number, max(self._number, kept))  # what was acknowledged and deleted is not missing
        if number > self._number:
            missing = f"{self._number} to {number - 1}" if number > self._number + 1 else str(self._number)
            self.missing.append(f"{self._table} segment {missing} of producer {self._producer[:8]} is missing")
            self._number = number
        return self._reader is not None

    def _settle(self) -> None:
        """Leave a segment behind; one without a clean end at a message is a problem."""
        assert self._reader is not None
        if self._reader.state is not SegmentState.DONE and self._reader.problem is not None:
            self.damage.append(f"{self._reader.path.name}: {self._reader.problem}")
        self.close()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class Tailer:
    """Yields a producer's batches as they are written, ``windows`` batches never before the draws they close.

    Args:
        directory: the dump's directory.
        producer: the producer's id.
    """

    def __init__(self, directory: Path, producer: str) -> None:
        self._listing = _Listing(directory, producer)
        self._tails = {table: _TableTail(directory, table, producer, self._listing) for table in Table}

    def poll(self, *, afresh: bool = True) -> Iterator[Stamped]:
        """Yield what has been written since the last call.

        Args:
            afresh: see every segment; otherwise one begun in the last seconds may be left to a later call, and a
                directory that does not change is not listed each time.

        Raises:
            OSError: the directory is gone, or cannot be read.
            UnknownSchemaVersionError: a segment is of a version this gradnoise does not read.
        """
        self._listing.look(afresh=afresh)
        # Windows are written after their draws: read first and yielded last, they come after them here too.
        closing = list(self._tails[Table.WINDOWS].poll())
        for table, tail in self._tails.items():
            if table is not Table.WINDOWS:
                yield from tail.poll()
        yield from closing

    def finish(self) -> None:
        """Say that nothing more will be written: what is unfinished becomes a problem. Call :meth:`poll` before."""
        for tail in self._tails.values():
            tail.finish()

    def position(self, table: Table) -> tuple[int, int]:
        """Return how far a table has been read: a segment's number and the byte in it."""
        return self._tails[table].position

    @property
    def problems(self) -> list[str]:
        """What could not be read so far: segments that are not there, and damage."""
        return [problem for tail in self._tails.values() for problem in (*tail.missing, *tail.damage)]

    @property
    def damage(self) -> list[str]:
        """What is there and could not be read. Segments that are not there may have been delivered and deleted."""
        return [problem for tail in self._tails.values() for problem in tail.damage]

    def close(self) -> None:
        """Release the files."""
        for tail in self._tails.values():
            tail.close()
