"""Analysis as windows close: off the ingest path, in the order of closing."""

from __future__ import annotations

import logging
import queue
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gradnoise.analyzer.analysis import AnalysisOptions, analyse
from gradnoise.analyzer.tables import failed_table, tail_table
from gradnoise.analyzer.windows import assemble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pyarrow as pa

    from gradnoise.analyzer.analysis import WindowReport
    from gradnoise.analyzer.catalog import Catalog
    from gradnoise.analyzer.store import Store
    from gradnoise.analyzer.windows import ClosedWindow, Window

__all__ = ["Analyst"]

_log = logging.getLogger(__name__)


class Analyst:
    """Worker threads that analyse closed windows and store the results.

    The queue holds references only: the draws stay on disk until a worker reads them, so memory is bounded by one
    window a worker. What is still queued at a shutdown is found again at the next start.

    Args:
        store: where the draws are.
        catalog: where the results go.
        workers: threads.
        options: what is computed.
        analysis: the analysis itself.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        *,
        workers: int = 1,
        options: AnalysisOptions | None = None,
        analysis: Callable[[Window, AnalysisOptions], WindowReport] = analyse,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._options = options or AnalysisOptions()
        self._analysis = analysis
        self._queue: queue.SimpleQueue[ClosedWindow | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"gradnoise-analyst-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        """Start the workers and queue every stored window that has no result; drop results without a window."""
        stored = {(w.run, w.producer, w.window): w for log in self._store.producers() for w in log.closed()}
        analysed = self._catalog.analysed()
        self._catalog.forget(analysed - stored.keys())
        self.submit(window for key, window in stored.items() if key not in analysed)
        for thread in self._threads:
            thread.start()

    def submit(self, windows: Iterable[ClosedWindow]) -> None:
        """Queue windows for analysis."""
        for window in windows:
            self._queue.put(window)

    def stop(self, timeout: float) -> bool:
        """Finish the windows under analysis, leave the queued ones; return whether that was done in time."""
        self._stopping.set()
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (window := self._queue.get()) is not None and not self._stopping.is_set():
            try:
                self._catalog.store(self._result(window))
            except Exception:  # the catalog's disk: the window is found again at the next start
                _log.exception("the results of run %s, window %d were not stored", window.run, window.window)

    def _result(self, closed: ClosedWindow) -> pa.Table:
        info = self._store.info(closed.run)
        try:
            log = self._store.producer(closed.run, closed.producer)
            window = assemble(info, closed, log.draws(closed.window))
            return tail_table(self._analysis(window, self._options), analysed_at=datetime.now(UTC))
        except Exception as error:  # whatever a window holds: a row that says so, and the next window
            _log.exception("run %s, window %d of %s: analysis failed", closed.run, closed.window, closed.producer)
            return failed_table(info, closed, error, options=self._options, analysed_at=datetime.now(UTC))
