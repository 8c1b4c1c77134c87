"""The client: questions to an analyzer, answers as Arrow tables. Nothing is computed here."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any, Self

import grpc
import numpy as np
import pyarrow as pa

from gradnoise.client._errors import InvalidInputError, UnreachableError, raise_typed
from gradnoise.collector.channel import open_channel
from gradnoise.v1 import analysis_pb2, analysis_pb2_grpc
from gradnoise.wire import RunInfo
from gradnoise.wire.results import ALIGNMENT_SCHEMA, TAIL_SCHEMA, from_ipc

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from numpy.typing import ArrayLike

__all__ = ["DEFAULT_TARGET", "Client", "default_target"]

DEFAULT_TARGET = "localhost:50051"
_FIRST_PAUSE = 0.05
_LAST_PAUSE = 2.0
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def default_target() -> str:
    """Return the analyzer's address where none is given: ``$GRADNOISE_ENDPOINT``, else :data:`DEFAULT_TARGET`."""
    return os.environ.get("GRADNOISE_ENDPOINT") or DEFAULT_TARGET


class Client:
    """A connection to an analyzer. Safe to use from several threads; a context manager.

    Args:
        target: ``host:port``; by default what :func:`default_target` says.
        timeout: seconds that a call may take; a :meth:`watch` may be without an analyzer that long.

    TLS and token are those of the environment (``GRADNOISE_TLS_CA`` and the like), as for the shipper; one that cannot
    be used is a :class:`gradnoise.collector.CollectorError`.

    Every method raises :class:`UnreachableError` where no analyzer answers, and another
    :class:`~gradnoise.client.ClientError` where it answers with an error.
    """

    def __init__(self, target: str | None = None, *, timeout: float = 30.0) -> None:
        self.target = target or default_target()
        self._timeout = timeout
        self._channel = open_channel(self.target, _OPTIONS)
        self._analysis = analysis_pb2_grpc.AnalysisStub(self._channel)  # type: ignore[no-untyped-call]

    def runs(self) -> pa.Table:
        """Return the runs in the store: :data:`gradnoise.wire.results.RUNS_SCHEMA`."""
        try:
            return _table(self._analysis.Runs(analysis_pb2.RunsRequest(), timeout=self._timeout))
        except grpc.RpcError as error:
            raise_typed(error, self.target)

    def run(self, run: str) -> dict[str, Any]:
        """Return one run's row of :meth:`runs`, by column name.

        Raises:
            NotFoundError: there is no such run.
        """
        (row,) = _table(self._run(run).summary).to_pylist()
        return dict(row)

    def info(self, run: str) -> RunInfo:
        """Return what a run is: its model, parameter groups, sampling plan and versions, known from its beginning on.

        Raises:
            NotFoundError: there is no such run.
        """
        return RunInfo.from_json(self._run(run).run_info, f"the description of run {run!r} at {self.target}")

    def tail(
        self,
        run: str,
        form: str | None = None,
        group: str | None = None,
        steps: tuple[int | None, int | None] | None = None,
    ) -> pa.Table:
        """Return a run's results, oldest first: :data:`gradnoise.wire.results.TAIL_SCHEMA`.

        Args:
            run: the run id.
            form: only this form (``per_parameter``, ``across_parameter`` or ``standardized``).
            group: only this parameter group; ``"*"`` is the whole model.
            steps: (first, last): only windows that overlap these steps, both included; None leaves an end open.

        Raises:
            NotFoundError: no such run or group. InvalidInputError: no such form, or steps that end before they begin.
        """
        first, last = steps or (None, None)
        request = analysis_pb2.TailRequest(
            run=run, form=form or "", group=group or "", first_step=first, last_step=last
        )
        try:
            parts = [_table(part) for part in self._analysis.Tail(request, timeout=self._timeout)]
        except grpc.RpcError as error:
            raise_typed(error, self.target)
        return pa.concat_tables(parts) if parts else TAIL_SCHEMA.empty_table()

    def watch(
        self, run: str, form: str | None = None, group: str | None = None, after_row: int = 0
    ) -> Generator[dict[str, Any], None, None]:
        """Yield rows of ``TAIL_SCHEMA``, by column name, as windows are analysed: first those there are, then new ones.

        Never ends by itself: break off, or close the iterator. Where the connection is lost it is made anew and the
        rows go on without gap or repeat; an analyzer that stays away for ``timeout`` seconds is an error.

        Args:
            run, form, group: as for :meth:`tail`.
            after_row: the last row number seen (column ``row``); 0 begins with the first.

        Raises:
            NotFoundError, InvalidInputError: as for :meth:`tail`.
        """

        def begin(after_row: int) -> Any:
            request = analysis_pb2.WatchRequest(run=run, form=form or "", group=group or "", after_row=after_row)
            return self._analysis.Watch(request)

        return self._watched(begin, after_row)

    def alignment(
        self,
        run: str,
        part: str | None = None,
        metric: str | None = None,
        steps: tuple[int | None, int | None] | None = None,
    ) -> pa.Table:
        """Return how a run's noise lies to its curvature: :data:`gradnoise.wire.results.ALIGNMENT_SCHEMA`.

        They are the numbers of every measurement of the curvature, and the noise scales of every other window; oldest
        first.

        Args:
            run: the run id.
            part: only this part of the model, as its measurement was asked for, or this group; ``"*"`` is the whole
                model.
            metric: only this metric, as ``gamma``.
            steps: (first, last): only windows that overlap these steps, both included; None leaves an end open.

        Raises:
            NotFoundError: no such run or part. InvalidInputError: no such metric, or steps that end before they begin.
        """
        request = _alignment_request(run, part, metric, steps)
        try:
            parts = [_table(table) for table in self._analysis.Alignment(request, timeout=self._timeout)]
        except grpc.RpcError as error:
            raise_typed(error, self.target)
        return pa.concat_tables(parts) if parts else ALIGNMENT_SCHEMA.empty_table()

    def watch_alignment(
        self,
        run: str,
        part: str | None = None,
        metric: str | None = None,
        steps: tuple[int | None, int | None] | None = None,
        after_row: int = 0,
    ) -> Generator[dict[str, Any], None, None]:
        """Yield rows of ``ALIGNMENT_SCHEMA``, by column name, as windows are analysed; else as :meth:`watch`.

        Args:
            run, part, metric, steps: as for :meth:`alignment`. A part that the run's first measurement, which is still
                to come, may bring can be asked for.
            after_row: the last row number seen (column ``row``); 0 begins with the first.

        Raises:
            NotFoundError, InvalidInputError: as for :meth:`alignment`.
        """

        def begin(after_row: int) -> Any:
            return self._analysis.WatchAlignment(_alignment_request(run, part, metric, steps, after_row))

        return self._watched(begin, after_row)

    def _watched(self, begin: Callable[[int], Any], after_row: int) -> Generator[dict[str, Any], None, None]:
        """Yield rows of the calls that ``begin`` makes, each behind the last row of the one before."""
        pause = _FIRST_PAUSE
        connected = False
        lost: float | None = None
        while True:
            call = begin(after_row)
            try:
                call.initial_metadata()  # sent before there is any row
                if call.is_active():
                    connected, lost, pause = True, None, _FIRST_PAUSE
                for part in call:
                    for row in _table(part).to_pylist():
                        yield row
                        after_row = row["row"]
            except grpc.RpcError as error:
                now = time.monotonic()
                lost = lost or now
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not connected or now - lost > self._timeout:
                    raise_typed(error, self.target)
            finally:
                call.cancel()
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LAST_PAUSE)

    def fit(self, values: ArrayLike, location: bool = True) -> pa.Table:
        """Fit the stable law, the Gaussian and rivals to numbers there: :data:`gradnoise.wire.results.FIT_SCHEMA`.

        Args:
            values: one-dimensional numbers, at least 30.
            location: estimate a location too; otherwise it is 0.

        Raises:
            InvalidInputError: they carry no fit; TooFewValuesError: too few of them.
        """
        try:
            array = np.asarray(values, "<f8")
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"the values are not numbers: {error}") from error
        if array.ndim != 1:
            raise InvalidInputError(f"the values have shape {array.shape}: expected one dimension")
        request = analysis_pb2.FitRequest(values=array.tobytes(), location=location)
        try:
            return _table(self._analysis.Fit(request, timeout=self._timeout))
        except grpc.RpcError as error:
            raise_typed(error, self.target)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the analyzer can be connected to.

        Raises:
            UnreachableError: not within ``timeout`` seconds (by default the client's).
        """
        try:
            grpc.channel_ready_future(self._channel).result(self._timeout if timeout is None else timeout)
        except grpc.FutureTimeoutError:
            raise UnreachableError(f"no analyzer answers at {self.target}: start one with 'gradnoise serve'") from None

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._channel.close()

    def _run(self, run: str) -> analysis_pb2.RunReply:
        try:
            reply: analysis_pb2.RunReply = self._analysis.Run(analysis_pb2.RunRequest(run=run), timeout=self._timeout)
        except grpc.RpcError as error:
            raise_typed(error, self.target)
        return reply

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _table(message: analysis_pb2.ArrowTable) -> pa.Table:
    return from_ipc(message.ipc_stream)


def _alignment_request(
    run: str,
    part: str | None,
    metric: str | None,
    steps: tuple[int | None, int | None] | None,
    after_row: int = 0,
) -> analysis_pb2.AlignmentRequest:
    first, last = steps or (None, None)
    return analysis_pb2.AlignmentRequest(
        run=run, part=part or "", metric=metric or "", first_step=first, last_step=last, after_row=after_row
    )
