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
from gradnoise.analyzer.tables import failed_table, tail_table
from gradnoise.analyzer.windows import assemble, read_windows
from gradnoise.wire import Table, Tailer, producer_is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from gradnoise.analyzer.analysis import WindowReport
    from gradnoise.analyzer.windows import Window
    from gradnoise.wire import Dump

    Steps = tuple[int | None, int | None]
    Analysis = Callable[[Window, AnalysisOptions], WindowReport]

__all__ = ["analyse_dump", "count_windows", "follow_dump"]

_POLL_SECONDS = 0.5


def count_windows(dump: Dump, steps: Steps | None = None) -> int:
    """Return the number of closed windows in a dump, of those that overlap ``steps`` (both included)."""
    return sum(
        _overlap(steps, row["first_step"], row["last_step"])
        for producer in dump.producers()
        for stamped in dump.batches(Table.WINDOWS, producer)
        for row in stamped.batch.to_pylist()
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
    number = _Numbering()
    with ThreadPoolExecutor(threads, thread_name_prefix="gradnoise-batch") as pool:
        running: deque[Future[pa.Table]] = deque()
        try:
            for window in read_windows(dump):
                if not _overlap(steps, window.first_step, window.last_step):
                    continue
                running.append(pool.submit(_table, dump, window, options, analysis))
                if len(running) > threads:
                    yield number(running.popleft().result())
            while running:
                yield number(running.popleft().result())
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
    number = _Numbering()
    followed: dict[str, _Followed] = {}
    try:
        while True:
            producers = dump.producers()
            alive = any(producer_is_alive(dump.path, producer) for producer in producers)  # before looking for more
            for producer in producers:
                if producer not in followed:
                    followed[producer] = _Followed(dump, producer)
                for window in followed[producer].poll():
                    yield number(_table(dump, window, options, analysis))
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
                for row in stamped.batch.to_pylist():
                    batches = [batch for held, batch in self._draws if row["window"] in held]
                    yield assemble(self._dump.info, self._producer, row, batches)
                    for held, _ in self._draws:
                        held.discard(row["window"])
                    self._draws = [entry for entry in self._draws if entry[0]]


def _overlap(steps: Steps | None, begin: int, end: int) -> bool:
    first, last = steps or (None, None)
    return (first is None or end >= first) and (last is None or begin <= last)


class _Numbering:
    """Numbers rows from 1."""

    def __init__(self) -> None:
        self._next = 1

    def __call__(self, table: pa.Table) -> pa.Table:
        first, self._next = self._next, self._next + table.num_rows
        return table.set_column(0, table.schema.field(0), pa.array(range(first, self._next), pa.int64()))


def _table(dump: Dump, window: Window, options: AnalysisOptions, analysis: Analysis) -> pa.Table:
    now = datetime.now(UTC)
    try:
        return tail_table([analysis(window, options)], analysed_at=now)
    except Exception as error:  # whatever a window holds: rows that say so, and the next window
        closing = {name: getattr(window, name) for name in _CLOSING} | {"window": window.id, "non_finite": 0}
        reason = f"the analysis failed: {type(error).__name__}: {error}"
        reference = options.contrast
        return failed_table(dump.info, window.producer, closing, reason, reference=reference, analysed_at=now)


_CLOSING = ("kind", "first_step", "last_step", "first_theta", "last_theta", "recorded", "dropped")
