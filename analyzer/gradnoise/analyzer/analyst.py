"""Analysis as windows close: off the ingest path, in the order of closing."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gradnoise.analyzer._agenda import Agenda
from gradnoise.analyzer.analysis import AnalysisOptions, analyse
from gradnoise.analyzer.assembly import assemble
from gradnoise.analyzer.ranks import PATIENCE, all_met, joined, meeting, merged, together
from gradnoise.analyzer.tables import failed_tables, window_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gradnoise.analyzer.analysis import WindowReport
    from gradnoise.analyzer.catalog import Catalog
    from gradnoise.analyzer.ranks import Meeting
    from gradnoise.analyzer.store import Store
    from gradnoise.analyzer.tables import WindowTables
    from gradnoise.analyzer.windows import ClosedWindow, Window

__all__ = ["Analyst"]
_log = logging.getLogger(__name__)


class Analyst:
    """Worker threads that analyse closed windows and store the results.

    What waits are references only: the draws stay on disk until a worker reads them, so memory is bounded by one
    window a worker. What still waits at a shutdown is found again at the next start.

    A window that several ranks of a job share is analysed as one once all of them have closed it, or ``patience``
    seconds after the last one that did: a rank may have died, or record nothing. One that closes it later still has it
    analysed again, and the new result replaces the first.

    Args:
        store: where the draws are.
        catalog: where the results go.
        workers: threads.
        patience: see above.
        options: what is computed.
        analysis: the analysis itself.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        *,
        workers: int = 1,
        patience: float = PATIENCE,
        options: AnalysisOptions | None = None,
        analysis: Callable[[Window, AnalysisOptions], WindowReport] = analyse,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._options = options or AnalysisOptions()
        self._analysis = analysis
        self._patience = patience
        self._agenda: Agenda[Meeting] = Agenda()
        self._threads = [
            threading.Thread(target=self._work, name=f"gradnoise-analyst-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        """Start the workers and queue every stored window that has no result; drop results without a window."""
        stored = {window.key: window for log in self._store.producers() for window in log.closed()}
        self._catalog.forget(self._catalog.analysed() - stored.keys())
        analysed = self._catalog.analysed()
        self.submit(window for key, window in stored.items() if key not in analysed)
        for thread in self._threads:
            thread.start()

    def submit(self, windows: Iterable[ClosedWindow]) -> None:
        """Queue windows, which the store has, for analysis."""
        for window in windows:
            at = meeting(window)
            self._agenda.put(at, 0.0 if all_met(self._store.met(at)) else self._patience)

    def stop(self, timeout: float) -> bool:
        """Finish the windows under analysis, leave the queued ones; return whether that was done in time."""
        self._agenda.close()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (at := self._agenda.take()) is not None:
            run, _, window = at
            try:
                # Whoever has come meanwhile is there; of ranks that share nothing, only what is new is analysed.
                analysed = self._catalog.analysed(run, window)
                for ranks in joined(self._store.met(at)):
                    if not analysed >= {rank.key for rank in ranks}:
                        self._catalog.store(self._result(ranks), [rank.producer for rank in ranks])
            except Exception:  # the catalog's disk: the window is found again at the next start
                _log.exception("the results of run %s, window %d were not stored", run, window)

    def _result(self, ranks: Sequence[ClosedWindow]) -> WindowTables:
        closed = merged(ranks)
        info = self._store.info(closed.run)
        try:
            parts = []
            for rank in ranks:
                log = self._store.producer(rank.run, rank.producer)
                parts.append(assemble(info, rank, log.batches(rank.window)))
            return window_tables(self._analysis(together(parts), self._options), analysed_at=datetime.now(UTC))
        except Exception as error:  # whatever a window holds: a row that says so, and the next window
            _log.exception("run %s, window %d of %s: analysis failed", closed.run, closed.window, closed.producer)
            return failed_tables(info, closed, error, options=self._options, analysed_at=datetime.now(UTC))
