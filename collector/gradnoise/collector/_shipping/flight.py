"""Batches on their way: what is sent, what is acknowledged, how much may be under way."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradnoise.wire import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradnoise.collector._shipping.source import Position

__all__ = ["Flight", "Sent"]


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch under way: its sequence number, its rows, the bytes of its payload, where in the dump it ends."""

    sequence: int
    rows: int
    nbytes: int
    end: Position = (0, 0)


class Flight:
    """The books of one stream: kept by the sender's thread and the receiver's.

    Args:
        acknowledged: table -> first sequence number that the analyzer does not have.
        credit: payload bytes that may be under way.
        rows, counted: rows of the first ``counted`` batches of the draws table, known from an earlier stream.

    Attributes:
        batches, bytes: batches acknowledged in this flight, and their payloads.
        reached: table -> where in the dump the last batch that the analyzer has ends.
    """

    def __init__(self, acknowledged: Mapping[str, int], credit: int, *, rows: int = 0, counted: int = 0) -> None:
        self._acknowledged = {table: acknowledged.get(table, 0) for table in Table}
        self._next = dict(self._acknowledged)
        self._credit = credit
        self._under_way: dict[Table, deque[Sent]] = {table: deque() for table in Table}
        self._bytes = 0
        self._changed = threading.Condition()
        self._ended = False
        self._heard = time.monotonic()
        self._counted = counted
        self._rows = rows
        self.batches = 0
        self.bytes = 0
        self.reached: dict[Table, Position] = {}

    @property
    def tables(self) -> dict[str, int]:
        """Table -> first sequence number that is not acknowledged."""
        return {table.value: number for table, number in self._acknowledged.items() if number}

    @property
    def counted(self) -> tuple[int, int]:
        """Rows of the draws table, and of how many of its batches they are."""
        with self._changed:
            return self._rows, self._counted

    @property
    def landed(self) -> bool:
        """Whether everything sent is acknowledged."""
        return self._bytes == 0 and not any(self._under_way.values())

    @property
    def ended(self) -> bool:
        """Whether the stream is over."""
        return self._ended

    def silence(self) -> float:
        """Return the seconds for which batches have been under way and nothing was heard."""
        return 0.0 if self.landed else time.monotonic() - self._heard

    def expected(self, table: Table) -> int:
        """Return the sequence number to send next."""
        return self._next[table]

    def skip(self, table: Table, there: Sent) -> None:
        """Count a batch that the analyzer has already."""
        with self._changed:
            self._count(table, there)

    def admit(self, table: Table, sent: Sent, stall: float) -> bool:
        """Wait for credit, then enter a batch; False if the stream ended or nothing was heard for ``stall`` s."""
        with self._changed:
            while not self._ended and self._bytes and self._bytes + sent.nbytes > self._credit:
                if self.silence() > stall:
                    return False
                self._changed.wait(0.2)
            if self._ended:
                return False
            if self.landed:
                self._heard = time.monotonic()
            self._under_way[table].append(sent)
            self._bytes += sent.nbytes
            self._next[table] = sent.sequence + 1
            return True

    def acknowledge(self, table: Table, next_sequence: int) -> None:
        """Take a cumulative acknowledgement: everything of the table below ``next_sequence`` is on disk."""
        with self._changed:
            self._heard = time.monotonic()
            waiting = self._under_way[table]
            while waiting and waiting[0].sequence < next_sequence:
                sent = waiting.popleft()
                self._bytes -= sent.nbytes
                self.batches += 1
                self.bytes += sent.nbytes
                self._acknowledged[table] = sent.sequence + 1
                self._count(table, sent)
            self._changed.notify_all()

    def _count(self, table: Table, there: Sent) -> None:
        self.reached[table] = there.end
        if table is Table.DRAWS and there.sequence >= self._counted:
            self._rows += there.rows
            self._counted = there.sequence + 1

    def pause(self, seconds: float) -> None:
        """Wait until an acknowledgement, the end of the stream, or the time is over."""
        with self._changed:
            if not self._ended:
                self._changed.wait(seconds)

    def end(self) -> None:
        """Let the sender go."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
