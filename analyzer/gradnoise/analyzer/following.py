"""Windows of a dump that still grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.assembly import WINDOW_TABLES, assemble, merged_by_step
from gradnoise.analyzer.ranks import PATIENCE, all_met, joined, meeting, together
from gradnoise.analyzer.windows import ClosedWindow
from gradnoise.wire import Table, Tailer, producer_is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradnoise.analyzer.ranks import Meeting
    from gradnoise.analyzer.windows import Window
    from gradnoise.wire import Dump, Stamped

__all__ = ["follow_windows"]

_POLL_SECONDS = 0.5
_HELD = 8


def follow_windows(dump: Dump, pause: Callable[[float], None]) -> Iterator[Window]:
    """Yield windows as they close, until every producer has ended.

    A window that ranks of a job share waits, in memory, for those that have not closed it: until all have, for
    ``PATIENCE`` seconds, or until eight windows wait. What a rank brings later is a window of its own.

    Args:
        dump: the dump, complete or growing.
        pause: waits so many seconds before looking again.
    """
    followed: dict[str, _Followed] = {}
    waiting = _Waiting()
    now = 0.0
    try:
        while True:
            producers = dump.producers()
            alive = any(producer_is_alive(dump.path, producer) for producer in producers)  # before looking for more
            for producer in producers:
                if producer not in followed:
                    followed[producer] = _Followed(dump, producer)
            for part in merged_by_step({producer: followed[producer].poll() for producer in producers}):
                yield from waiting.add(part, now)
            yield from waiting.due(now - PATIENCE if alive else now)
            if not alive:
                return
            pause(_POLL_SECONDS)
            now += _POLL_SECONDS
    finally:
        for each in followed.values():
            each.tailer.close()


class _Waiting:
    """Parts of windows that wait for the other ranks'."""

    def __init__(self) -> None:
        self._parts: dict[Meeting, list[Window]] = {}
        self._since: dict[Meeting, float] = {}

    def add(self, part: Window, now: float) -> Iterator[Window]:
        """Take a part; yield what waits no longer."""
        at = meeting(part.closed)
        parts = self._parts.setdefault(at, [])
        parts.append(part)
        self._since[at] = now
        if all_met([each.closed for each in parts]):
            yield from self._release(at)
        elif len(self._parts) > _HELD:
            yield from self._release(next(iter(self._parts)))

    def due(self, time: float) -> Iterator[Window]:
        """Yield what has been waiting since ``time``."""
        for at in [at for at, since in self._since.items() if since <= time]:
            yield from self._release(at)

    def _release(self, at: Meeting) -> Iterator[Window]:
        del self._since[at]
        parts = {part.closed.key: part for part in self._parts.pop(at)}
        for ranks in joined(part.closed for part in parts.values()):
            yield together([parts[rank.key] for rank in ranks])


class _Followed:
    """A growing producer: its batches, until the windows that they hold are closed."""

    def __init__(self, dump: Dump, producer: str) -> None:
        self.tailer = Tailer(dump.path, producer)
        self._dump = dump
        self._producer = producer
        self._batches: list[tuple[set[int], Stamped]] = []

    def poll(self) -> Iterator[Window]:
        for stamped in self.tailer.poll():
            if stamped.table in WINDOW_TABLES:
                held = set(np.unique(stamped.batch.column("window").to_numpy()).tolist())
                self._batches.append((held, stamped))
            elif stamped.table is Table.WINDOWS:
                for closed in ClosedWindow.of(self._dump.info.run, self._producer, stamped.batch):
                    batches = [batch for held, batch in self._batches if closed.window in held]
                    yield assemble(self._dump.info, closed, batches)
                    for held, _ in self._batches:
                        held.discard(closed.window)
                    self._batches = [entry for entry in self._batches if entry[0]]
