"""The batch engine: the same analysis over the windows of a dump on disk, on this machine's cores."""

from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gradnoise.analyzer.analysis import AnalysisOptions, analyse
from gradnoise.analyzer.assembly import closed_windows, read_windows
from gradnoise.analyzer.following import follow_windows
from gradnoise.analyzer.ranks import joined, merged
from gradnoise.analyzer.tables import failed_tables, window_tables
from gradnoise.wire.results import overlaps

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from gradnoise.analyzer.analysis import WindowReport
    from gradnoise.analyzer.tables import WindowTables
    from gradnoise.analyzer.windows import Window
    from gradnoise.wire import Dump
    from gradnoise.wire.results import Steps

    Analysis = Callable[[Window, AnalysisOptions], WindowReport]

__all__ = ["analyse_dump", "count_windows", "follow_dump"]


def count_windows(dump: Dump, steps: Steps | None = None) -> int:
    """Return the number of closed windows in a dump, of those that overlap ``steps`` (both included).

    What several ranks of a job recorded of one window counts once.
    """
    found = joined(closed for producer in dump.producers() for closed in closed_windows(dump, producer))
    return sum(overlaps(steps, window.first_step, window.last_step) for window in map(merged, found))


def analyse_dump(
    dump: Dump,
    options: AnalysisOptions | None = None,
    *,
    steps: Steps | None = None,
    threads: int | None = None,
    analysis: Analysis = analyse,
) -> Generator[WindowTables, None, None]:
    """Yield the tables of a window, of tails and of alignment, in the order in which windows are whole.

    Holds as many windows as there are threads, and one. ``dump.problems`` says afterwards what could not be read; a
    window whose analysis fails has rows with status ``failed``. Rows are numbered on, those of both tables in one.

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
        running: deque[Future[WindowTables]] = deque()
        try:
            for window in read_windows(dump):
                if overlaps(steps, window.closed.first_step, window.closed.last_step):
                    running.append(pool.submit(_tables, dump, window, options, analysis))
                if len(running) > threads:
                    yield (tables := running.popleft().result().numbered(row))
                    row += tables.num_rows
            while running:
                yield (tables := running.popleft().result().numbered(row))
                row += tables.num_rows
        finally:
            for future in running:
                future.cancel()


def follow_dump(
    dump: Dump,
    options: AnalysisOptions | None = None,
    *,
    analysis: Analysis = analyse,
    pause: Callable[[float], None] = time.sleep,
) -> Generator[WindowTables, None, None]:
    """Yield the tables of a window, of tails and of alignment, as windows close, until every producer has ended.

    See :func:`~gradnoise.analyzer.following.follow_windows` for windows that several ranks of a job share.

    Args:
        dump: the dump, complete or growing.
        options: what is computed.
        analysis: the analysis itself.
        pause: waits so many seconds before looking again.
    """
    options = options or AnalysisOptions()
    row = 1
    for window in follow_windows(dump, pause):
        yield (tables := _tables(dump, window, options, analysis).numbered(row))
        row += tables.num_rows


def _tables(dump: Dump, window: Window, options: AnalysisOptions, analysis: Analysis) -> WindowTables:
    now = datetime.now(UTC)
    try:
        return window_tables(analysis(window, options), analysed_at=now)
    except Exception as error:  # whatever a window holds: rows that say so, and the next window
        return failed_tables(dump.info, window.closed, error, options=options, analysed_at=now)
