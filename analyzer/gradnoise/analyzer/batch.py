"""The batch engine: the same analysis over the windows of a dump on disk, on this machine's cores."""

from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gradnoise.analyzer.analysis import AnalysisOptions, analyse
from gradnoise.analyzer.tables import failed_table, numbered, tail_table
from gradnoise.analyzer.windows import ClosedWindow, assemble, read_windows
from gradnoise.wire import Table, Tailer, producer_is_alive
from gradnoise.wire.results import overlaps

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from gradnoise.analyzer.analysis import WindowReport
    from gradnoise.analyzer.windows import Window
    from gradnoise.wire import Dump
    from gradnoise.wire.results import Steps

    Analysis = Callable[[Window, AnalysisOptions], WindowReport]

__all__ = ["analyse_dump", "count_windows", "follow_dump"]

_POLL_SECONDS = 0.5


def count_windows(dump: Dump, steps: Steps | None = None) -> int:
    """Return the number of closed windows in a dump, of those that overlap ``steps`` (both included)."""
    return sum(
        overlaps(steps, closed.first_step, closed.last_step)
        for producer in dump.producers()
        for stamped in dump.batches(Table.WINDOWS, producer)
        for closed in ClosedWindow.of(dump.info.run, producer, stamped.batch)
    )


def analyse_dump(
    dump: Dump,
    options: AnalysisOptions | None = None,
    *,
    steps: Steps | None = None,
    threads: int | None = None,
    analysis: Analysis = analyse,
) -> Generator[pa.Table, None, None]:
    """Yield one table of ``TAIL_SCHEMA`` a window, in the order in which windows are whole.

    Holds as many windows as there are threads, and one. ``dump.problems`` says afterwards what could not be read; a
    window whose analysis fails has rows with status ``failed``.

    Args:
        dump: the dump.
        options: what is computed.
        steps: only windows that overlap the steps from the first to the second, both included; None leaves an end open.
        threads: windows at one time; by default the cores.
        analysis: the analysis itself.
    """
    threads = threads or os.cpu_count() or 1
    options = options or AnalysisOptions()
    row = 1
    with ThreadPoolExecutor(threads, thread_name_prefix="gradnoise-batch") as pool:
        running: deque[Future[pa.Table]] = deque()
        try:
            for window in read_windows(dump):
                if overlaps(steps, window.closed.first_step, window.closed.last_step):
                    running.append(pool.submit(_table, dump, window, options, analysis))
                if len(running) > threads:
                    yield (table := numbered(running.popleft().result(), row))
                    row += table.num_rows
            while running:
                yield (table := numbered(running.popleft().result(), row))
                row += table.num_rows
        finally:
            for future in running:
                future.cancel()


def follow_dump(
    dump: Dump,
    options: AnalysisOptions | None = None,
    *,
    analysis: Analysis = analyse,
    pause: Callable[[float], None] = time.sleep,
) -> Generator[pa.Table, None, None]:
    """Yield one table of ``TAIL_SCHEMA`` a window as windows close, until every producer has ended.

    Args:
        dump: the dump, complete or growing.
        options: what is computed.
        analysis: the analysis itself.
        pause: waits so many seconds before looking again.
    """
    options = options or AnalysisOptions()
    row = 1
    followed: dict[str, _Followed] = {}
    try:
        while True:
            producers = dump.producers()
            alive = any(producer_is_alive(dump.path, producer) for producer in producers)  # before looking for more
            for producer in producers:
                if producer not in followed:
                    followed[producer] = _Followed(dump, producer)
                for window in followed[producer].poll():
                    yield (table := numbered(_table(dump, window, options, analysis), row))
                    row += table.num_rows
            if not alive:
                return
            pause(_POLL_SECONDS)
    finally:
        for each in followed.values():
            each.tailer.close()


class _Followed:
    """A growing producer: its batches of draws, until the windows that they hold are closed."""

    def __init__(self, dump: Dump, producer: str) -> None:
        self.tailer = Tailer(dump.path, producer)
        self._dump = dump
        self._producer = producer
        self._draws: list[tuple[set[int], pa.RecordBatch]] = []

    def poll(self) -> Iterator[Window]:
        for stamped in self.tailer.poll():
            if stamped.table is Table.DRAWS:
                held = set(np.unique(stamped.batch.column("window").to_numpy()).tolist())
                self._draws.append((held, stamped.batch))
            elif stamped.table is Table.WINDOWS:
                for closed in ClosedWindow.of(self._dump.info.run, self._producer, stamped.batch):
                    batches = [batch for held, batch in self._draws if closed.window in held]
                    yield assemble(self._dump.info, closed, batches)
                    for held, _ in self._draws:
                        held.discard(closed.window)
                    self._draws = [entry for entry in self._draws if entry[0]]


def _table(dump: Dump, window: Window, options: AnalysisOptions, analysis: Analysis) -> pa.Table:
    now = datetime.now(UTC)
    try:
        return tail_table(analysis(window, options), analysed_at=now)
    except Exception as error:  # whatever a window holds: rows that say so, and the next window
        return failed_table(dump.info, window.closed, error, options=options, analysed_at=now)
