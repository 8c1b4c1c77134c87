"""What :func:`attach` returns."""

from __future__ import annotations

import atexit
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from gradnoise.collector._sink import Counters, State, warn

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from gradnoise.collector._launch import Shipping
    from gradnoise.collector._sink import Sink
    from gradnoise.collector._taps import Taps

__all__ = ["Handle", "Stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What a collector has done so far.

    ``recorded``, ``shipped`` and ``dropped`` count samples: rows of the draws table, one draw of one group each.

    Attributes:
        state: recording, closed, off (after a failure) or disabled.
        recorded: samples written to the dump.
        shipped: samples that the analyzer has acknowledged; 0 without an endpoint.
        dropped: samples lost because the disk was slower than the training.
        draws: minibatch gradients written.
        windows: windows closed.
        skipped_bursts: bursts and probes not recorded because the dump had grown to its limit.
        theta: parameter updates seen since attach.
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


class Handle:
    """A running collector. Nothing here raises into the training; also a context manager that closes it.

    Attributes:
        run: the run's id, as chosen or made up by attach; None if the collector never began.
        path: the dump's directory, absolute; None if the collector never began.
    """

    def __init__(
        self,
        *,
        state: State,
        run: str | None = None,
        path: Path | None = None,
        error: str | None = None,
        sink: Sink | None = None,
        taps: Taps | None = None,
        shipping: Shipping | None = None,
    ) -> None:
        self.run = run
        self.path = path
        self._state = state
        self._error = error
        self._sink = sink
        self._taps = taps
        self._shipping = shipping
        self._pid = os.getpid()
        self._closed = sink is None
        if sink is not None:
            atexit.register(self.close)

    def __repr__(self) -> str:
        state = self._state if self._sink is None else self._sink.state
        where = "" if self.run is None else f" run={self.run!r} path={str(self.path)!r}"
        return f"<Handle {state.value}{where}>"

    def log(
        self, loss: Any = None, batch_size: int | None = None, divisor: float | None = None, **metrics: Any
    ) -> None:
        """Record what only the loop knows about a step: its loss, batch size, and further numbers.

        Numbers or tensors of one element; tensors on a device are not waited for. Called before ``optimizer.step()``
        it describes the step being taken, called after it the step just taken.

        Args:
            loss: of the step.
            batch_size: examples in each minibatch.
            divisor: what the loop divided the loss by before ``backward()``, as for gradient accumulation: it is undone
                in the recorded gradients.
            metrics: further numbers.
        """
        if self._taps is not None:
            self._taps.log(loss, batch_size, divisor, metrics)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until what was recorded so far is in the dump; False after ``timeout`` seconds or a failure."""
        return self._sink is not None and self._sink.flush(timeout)

    def stats(self) -> Stats:
        """Return what has been done so far."""
        sink = self._sink
        if sink is None:
            return Stats(self._state, error=self._error)
        counters: Counters = sink.counters()
        shipping = self._shipping
        progress = None if shipping is None else shipping.progress()
        return Stats(
            state=sink.state,
            recorded=counters.rows,
            shipped=0 if progress is None else progress.rows,
            dropped=counters.dropped_rows,
            draws=counters.draws,
            windows=counters.windows,
            skipped_bursts=counters.skipped,
            theta=0 if self._taps is None else self._taps.theta,
            error=sink.error or (None if progress is None else progress.error),
        )

    def close(self, timeout: float = 10.0) -> None:
        """Take the hooks off, seal the dump and wait for the analyzer to acknowledge it. Idempotent.

        Args:
            timeout: seconds to wait in all. What is not acknowledged by then stays in the dump, one warning says so,
                and the shipper goes on in the background.
        """
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        atexit.unregister(self.close)
        deadline = time.monotonic() + timeout
        try:
            if self._taps is not None:
                self._taps.close()
            if self._sink is not None and not self._sink.close(max(0.0, timeout)):
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
