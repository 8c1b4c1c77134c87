"""What every running collector is: a dump being written, what it has done so far, and its end."""

from __future__ import annotations

import atexit
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from gradnoise.collector._logging import inform, warn
from gradnoise.collector._recording.sink import State

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from gradnoise.collector._recording.opening import Opened
    from gradnoise.collector._recording.sink import Sink
    from gradnoise.collector._shipping.launch import Shipping

__all__ = ["Recording", "Stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What a collector has done so far.

    ``recorded``, ``shipped`` and ``dropped`` count samples: rows of the draws table, one draw of one group each.

    Attributes:
        state: recording, closed, off (after a failure) or disabled.
        recorded: samples written to the dump.
        shipped: samples that the analyzer has acknowledged; 0 without an endpoint.
        dropped: samples taken and lost, because the disk was slower than the training or failed.
        draws: minibatch gradients written.
        windows: windows closed.
        skipped_bursts: bursts and probes not recorded because the dump had grown to its limit.
        theta: parameter updates seen so far.
        error: why the collector turned itself off, or what keeps the shipper from shipping.
    """

    state: State
    recorded: int = 0
    shipped: int = 0
    dropped: int = 0
    draws: int = 0
    windows: int = 0
    skipped_bursts: int = 0
    theta: int = 0
    error: str | None = None


class Recording:
    """A collector at work. Nothing here raises into the training; also a context manager that closes it.

    A copy or a pickle of it, as a checkpoint of what holds it may make one, is closed. So is it in a forked child.

    Attributes:
        run: the run's id; None if the collector never began.
        path: the dump's directory, absolute; None if the collector never began.
    """

    def __init__(self, state: State, *, run: str | None = None, path: Path | None = None) -> None:
        self.run = run
        self.path = path
        self._state = state
        self._error: str | None = None
        self._sink: Sink | None = None
        self._shipping: Shipping | None = None
        self._pid = os.getpid()
        self._closed = state is not State.RECORDING
        self._at_child_exit: Any = None
        if not self._closed:
            self._close_at_exit()

    def __repr__(self) -> str:
        where = "" if self.run is None else f" run={self.run!r} path={str(self.path)!r}"
        return f"<{type(self).__name__} {self._now().value}{where}>"

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _closed, (type(self), self.run, self.path)

    def _close_at_exit(self) -> None:
        atexit.register(self.close)
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            from multiprocessing.util import Finalize  # a child that was forked ends without atexit

            self._at_child_exit = Finalize(None, self.close, exitpriority=0)

    def _forget_exit(self) -> None:
        atexit.unregister(self.close)
        if self._at_child_exit is not None:
            self._at_child_exit.cancel()

    def _begin(self, opened: Opened) -> None:
        """Go on with an open dump."""
        self._sink = opened.sink
        self._shipping = opened.shipping
        self.run = opened.sink.info.run
        self.path = opened.sink.path
        inform("recording run %s into %s", self.run, self.path)

    def _now(self) -> State:
        return self._state if self._sink is None else self._sink.state

    def _theta(self) -> int:
        """Return the number of parameter updates seen so far."""
        return 0

    def _finish(self) -> None:
        """Hand over what is pending; called once, before the dump is closed."""

    def _turn_off(self, reason: str) -> None:
        """End a recording that has no dump, with one warning."""
        self._state = State.OFF
        self._error = reason
        self._forget_exit()
        warn("gradnoise turned itself off: %s. Training goes on", reason)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until what was recorded so far is in the dump; False after ``timeout`` seconds or a failure."""
        return self._sink is not None and self._sink.flush(timeout)

    def stats(self) -> Stats:
        """Return what has been done so far."""
        sink = self._sink
        if sink is None:
            return Stats(self._state, error=self._error)
        counters = sink.counters()
        progress = None if self._shipping is None else self._shipping.progress()
        return Stats(
            state=sink.state,
            recorded=counters.rows,
            shipped=0 if progress is None else progress.rows,
            dropped=counters.dropped_rows,
            draws=counters.draws,
            windows=counters.windows,
            skipped_bursts=counters.skipped,
            theta=self._theta(),
            error=sink.error or (None if progress is None else progress.error),
        )

    def close(self, timeout: float = 10.0) -> None:
        """Stop recording, seal the dump and wait for the analyzer to acknowledge it. Idempotent.

        Args:
            timeout: seconds to wait in all. What is not acknowledged by then stays in the dump, one warning says so,
                and the shipper goes on in the background.
        """
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._forget_exit()
        deadline = time.monotonic() + timeout
        try:
            self._finish()
            if self._sink is None:
                self._state = State.CLOSED if self._state is State.RECORDING else self._state
            elif not self._sink.close(max(0.0, timeout)):
                warn("gradnoise: the dump %s was not written out within %g s", self.path, timeout)
            if self._shipping is not None:
                self._shipping.finish(max(0.0, deadline - time.monotonic()))
        except Exception as error:
            warn("gradnoise: closing the dump %s failed: %s: %s", self.path, type(error).__name__, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _closed(kind: type[Recording], run: str | None, path: Path | None) -> Recording:
    recording = kind.__new__(kind)
    Recording.__init__(recording, State.CLOSED, run=run, path=path)
    return recording
