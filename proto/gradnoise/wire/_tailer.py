"""Following a growing dump, one producer at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.wire._reader import segments_of
from gradnoise.wire._schemas import Table
from gradnoise.wire._segment import Segment, SegmentReader, SegmentState, open_segment
from gradnoise.wire._trim import Front, fronts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gradnoise.wire._stamp import Stamped

__all__ = ["Tailer"]


class _TableTail:
    """The read position in one table: the segment being read and the ones before it."""

    def __init__(self, directory: Path, table: Table, producer: str) -> None:
        self._directory = directory
        self._table = table
        self._producer = producer
        self._key = (table, producer)
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
            # Looked for before reading: a successor is only begun when this segment has its last batch.
            successor = self._next(self._number + 1)
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

    def _next(self, least: int) -> int | None:
        """Return the lowest number of a segment from ``least`` on."""
        numbers = (s.number for s in segments_of(self._directory) if (s.table, s.producer) == self._key)
        return min((number for number in numbers if number >= least), default=None)

    def _open(self) -> bool:
        number = self._next(self._number)
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
        self._tails = {table: _TableTail(directory, table, producer) for table in Table}

    def poll(self) -> Iterator[Stamped]:
        """Yield what has been written since the last call.

        Raises:
            UnknownSchemaVersionError: a segment is of a version this gradnoise does not read.
        """
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
