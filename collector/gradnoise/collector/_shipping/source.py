"""A producer's part of a dump as a shipper reads it: batch after batch, with a place to go on from."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gradnoise.wire import Table, Tailer, producer_is_alive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from gradnoise.wire import Dump, Stamped

__all__ = ["Position", "Source", "unacknowledged_bytes"]

Position = tuple[int, int]
"""A segment's number and the byte in it."""


class Source:
    """The batches of one producer, in the order in which they may be sent. One thread at a time.

    Args:
        dump: the dump's directory.
        producer: the producer's id.

    Attributes:
        exhausted: the producer has ended, and everything it wrote has been read.
    """

    def __init__(self, dump: Path, producer: str) -> None:
        self._dump = dump
        self._producer = producer
        self._tailer = Tailer(dump, producer)
        self._reading: Iterator[Stamped] | None = None
        self._ended = False
        self.exhausted = False

    def take(self) -> Stamped | None:
        """Return the next batch; None where everything written so far has been read.

        Raises:
            OSError: the dump cannot be read. WireError: it is of a version this gradnoise does not read.
        """
        if self._reading is None:
            # Asked before reading: what a producer wrote before it ended is seen by the reading that follows.
            self._ended = not producer_is_alive(self._dump, self._producer)
            self._reading = self._tailer.poll(afresh=self._ended)
        stamped = next(self._reading, None)
        if stamped is None:
            self._reading = None
            self.exhausted = self._ended
        return stamped

    def position(self, table: Table) -> Position:
        """Return how far a table has been read."""
        return self._tailer.position(table)

    def finish(self) -> tuple[str, ...]:
        """Return what could not be read, now that nothing more will be written."""
        self._tailer.finish()
        return tuple(self._tailer.damage)

    def close(self) -> None:
        """Release the files."""
        self._reading = None
        self._tailer.close()


def unacknowledged_bytes(dump: Dump, producer: str, acknowledged: Mapping[Table, Position]) -> int:
    """Return the bytes on disk behind what is acknowledged, the footers of sealed segments included."""
    left = 0
    for table in Table:
        number, offset = acknowledged.get(table, (0, 0))
        for segment in dump.segments(table, producer):
            path = segment.find(dump.path) if segment.number >= number else None
            if path is not None:
                with contextlib.suppress(FileNotFoundError):  # deleted, or sealed, at this moment
                    left += max(0, path.stat().st_size - (offset if segment.number == number else 0))
    return left
