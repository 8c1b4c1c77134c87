"""The room that a producer's segments take on disk. Everything but :meth:`Spool.room` runs on the writer's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.collector._shipping.progress import Progress
from gradnoise.wire import Front, fronts, write_fronts

if TYPE_CHECKING:
    from gradnoise.wire import DumpWriter, Segment

__all__ = ["SEGMENTS", "Spool"]

SEGMENTS = 8  # a spool has at least that many, for it is freed by whole segments


class Spool:
    """Keeps one producer's segments below a limit.

    Args:
        writer: writes them.
        limit: bytes.
        trim: whether sealed segments may be deleted once an analyzer has acknowledged all of them.
    """

    def __init__(self, writer: DumpWriter, limit: int, *, trim: bool) -> None:
        self._writer = writer
        self._limit = limit
        self._trim = trim
        self._freed = 0
        self._window = 0  # the largest one so far
        self._begun = 0
        self.trimmed = 0

    @property
    def used(self) -> int:
        """Bytes on disk."""
        return self._writer.nbytes - self._freed

    def room(self, waiting: int) -> bool:
        """Whether another window as large as the largest so far fits in beside ``waiting`` bytes."""
        return self.used + waiting + self._window <= self._limit

    def end_window(self) -> None:
        """Take note of a window's size, and make room for two more before they are asked for.

        Raises:
            FileNotFoundError: the dump is gone.
        """
        self._window = max(self._window, self._writer.nbytes - self._begun)
        self._begun = self._writer.nbytes
        (self._writer.path / "run.json").stat()
        if not self.room(self._window):
            self.relieve()

    def relieve(self) -> bool:
        """Delete the oldest acknowledged segments until there is room; return whether there is too little still."""
        if self._trim:
            self._delete_acknowledged()
        self._freed = self._writer.nbytes - sum(map(self._size, self._writer.last))
        return not self.room(0)

    def _delete_acknowledged(self) -> None:
        writer = self._writer
        progress = Progress.read(writer.path, writer.producer)
        if progress is None:
            return
        kept = fronts(writer.path, writer.producer)
        done: list[Segment] = []
        for segment, last in writer.last.items():
            if self.room(self._window):
                break
            if (
                last >= progress.tables.get(segment.table.value, 0)
                or not segment.path(writer.path, sealed=True).exists()
            ):
                continue
            kept[segment.table] = Front(segment.number + 1, last + 1)
            done.append(segment)
            self._freed += self._size(segment)
        if not done:
            return
        write_fronts(writer.path, writer.producer, kept)
        for segment in done:
            segment.path(writer.path, sealed=True).unlink(missing_ok=True)
            del writer.last[segment]
        self.trimmed += len(done)

    def _size(self, segment: Segment) -> int:
        path = segment.find(self._writer.path)
        return 0 if path is None else path.stat().st_size
