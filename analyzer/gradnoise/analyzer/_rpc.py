"""gRPC on one side, the handlers on the other: messages to domain objects and back, errors to status codes."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from gradnoise.analyzer import handlers
from gradnoise.analyzer._inbox import Inbox
from gradnoise.analyzer._ingest import Acknowledged, Incoming, Refusal
from gradnoise.analyzer.errors import (
    AnalyzerError,
    InvalidRequestError,
    LimitError,
    NotReadyError,
    UnknownGroupError,
    UnknownPartError,
    UnknownProducerError,
    UnknownRunError,
    UnsupportedVersionError,
)
from gradnoise.analyzer.stats import StatsError
from gradnoise.v1 import analysis_pb2, analysis_pb2_grpc, ingest_pb2, ingest_pb2_grpc
from gradnoise.wire import (
    SUPPORTED_VERSIONS,
    RunExistsError,
    UnknownSchemaVersionError,
    WireError,
)
from gradnoise.wire.results import to_ipc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from gradnoise.analyzer._ingest import ProducerLog, Refused
    from gradnoise.analyzer.handlers import Service

__all__ = ["AnalysisServicer", "ErrorInterceptor", "IngestServicer"]

_log = logging.getLogger(__name__)

_CODES: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (UnknownRunError, grpc.StatusCode.NOT_FOUND),
    (UnknownGroupError, grpc.StatusCode.NOT_FOUND),
    (UnknownPartError, grpc.StatusCode.NOT_FOUND),
    (UnknownProducerError, grpc.StatusCode.FAILED_PRECONDITION),
    (UnsupportedVersionError, grpc.StatusCode.FAILED_PRECONDITION),
    (UnknownSchemaVersionError, grpc.StatusCode.FAILED_PRECONDITION),
    (RunExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (NotReadyError, grpc.StatusCode.UNAVAILABLE),
    (InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (StatsError, grpc.StatusCode.INVALID_ARGUMENT),
    (OSError, grpc.StatusCode.UNAVAILABLE),
    (WireError, grpc.StatusCode.INVALID_ARGUMENT),
    (AnalyzerError, grpc.StatusCode.INTERNAL),
)


_NACKS = {
    Refusal.INVALID: ingest_pb2.Nack.INVALID,
    Refusal.CONFLICT: ingest_pb2.Nack.CONFLICT,
    Refusal.GAP: ingest_pb2.Nack.GAP,
    Refusal.UNAVAILABLE: ingest_pb2.Nack.UNAVAILABLE,
}


class ErrorInterceptor(grpc.ServerInterceptor):
    """Turns whatever a handler raises into a status code and a message; the error's name goes along as metadata.

    Args:
        not_ready: says why calls cannot be served now, or None. Health checks are always served.
    """

    def __init__(self, not_ready: Callable[[], str | None]) -> None:
        self._not_ready = not_ready

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the method's handler."""
        handler = continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith("/grpc.health"):
            return handler
        kind = ("stream_" if handler.request_streaming else "unary_") + (
            "stream" if handler.response_streaming else "unary"
        )
        behaviour = getattr(handler, kind)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                self._check_ready()
                return behaviour(request, context)
            except Exception as error:
                _abort(context, error)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                self._check_ready()
                yield from behaviour(request, context)
            except Exception as error:
                _abort(context, error)

        return handler._replace(**{kind: stream if handler.response_streaming else unary})

    def _check_ready(self) -> None:
        reason = self._not_ready()
        if reason is not None:
            raise NotReadyError(reason)


def _abort(context: grpc.ServicerContext, error: Exception) -> None:
    code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    message = str(error)
    if code is grpc.StatusCode.INTERNAL:
        _log.error("a call failed", exc_info=error)
        message = "the analyzer failed on this call; its log says more"
    context.set_trailing_metadata((("gradnoise-error", type(error).__name__),))
    context.abort(code, message)


class _Slots:
    """So many endless calls at a time, so that threads are left for the others."""

    def __init__(self, count: int, what: str) -> None:
        self._count = count
        self._what = what
        self._free = threading.Semaphore(count)

    @contextmanager
    def one(self) -> Iterator[None]:
        if not self._free.acquire(blocking=False):
            raise LimitError(f"{self._count} {self._what} are open, the limit of this server: try again later")
        try:
            yield
        finally:
            self._free.release()


class IngestServicer(ingest_pb2_grpc.IngestServicer):
    """The ``Ingest`` service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._slots = _Slots(service.limits.streams, "ingest streams")
        self._inboxes: set[Inbox[ingest_pb2.AppendRequest]] = set()

    def Open(self, request: ingest_pb2.OpenRequest, context: grpc.ServicerContext) -> ingest_pb2.OpenResponse:
        """Register a run and a producer."""
        log = handlers.open_producer(self._service, request.run_info, request.producer, request.schema_version)
        limits = self._service.limits
        return ingest_pb2.OpenResponse(
            tables=[
                ingest_pb2.TableState(table=table, next_sequence=count) for table, count in log.next_sequences().items()
            ],
            schema_versions=sorted(SUPPORTED_VERSIONS),
            max_payload_bytes=limits.payload_bytes,
            credit_bytes=limits.credit_bytes,
        )

    def Append(
        self, request_iterator: Iterator[ingest_pb2.AppendRequest], context: grpc.ServicerContext
    ) -> Iterator[ingest_pb2.AppendResponse]:
        """Store a producer's batches; what arrives during a sync is stored and synced together."""
        with self._slots.one():
            inbox = Inbox(request_iterator, lambda r: len(r.payload), self._service.limits.credit_bytes)
            self._inboxes.add(inbox)
            try:
                yield from self._append(inbox)
            finally:
                inbox.close()
                self._inboxes.discard(inbox)

    def wake(self) -> None:
        """Let the streams see that the server is draining."""
        for inbox in list(self._inboxes):
            inbox.interrupt()

    def _append(self, inbox: Inbox[ingest_pb2.AppendRequest]) -> Iterator[ingest_pb2.AppendResponse]:
        log: ProducerLog | None = None
        try:
            while not self._service.draining.is_set():
                requests = inbox.take()
                if not requests:
                    break
                first = requests[0]
                if log is None:
                    log = self._service.store.producer(first.run, first.producer)
                if any((r.run, r.producer) != (log.info.run, log.producer) for r in requests):
                    raise InvalidRequestError(
                        f"one stream, one producer: this one began with producer {log.producer!r} of run "
                        f"{log.info.run!r}; open another stream"
                    )
                incoming = [Incoming(request.table, request.sequence, request.payload) for request in requests]
                for answer in handlers.append(self._service, log, incoming):
                    yield _response(answer)
            if self._service.draining.is_set():
                raise NotReadyError("the analyzer is shutting down: connect again later")
        finally:
            # Ended or broken off: a producer that comes back begins new segments, one that does not holds no files.
            if log is not None:
                log.seal()


def _response(answer: Acknowledged | Refused) -> ingest_pb2.AppendResponse:
    if isinstance(answer, Acknowledged):
        ack = ingest_pb2.Ack(table=answer.table, next_sequence=answer.next_sequence)
        return ingest_pb2.AppendResponse(ack=ack)
    return ingest_pb2.AppendResponse(
        nack=ingest_pb2.Nack(
            table=answer.table,
            sequence=answer.sequence,
            code=_NACKS[answer.reason],
            message=answer.message,
            expected_sequence=answer.expected,
            retry_after_ms=answer.retry_after_ms,
        )
    )


class AnalysisServicer(analysis_pb2_grpc.AnalysisServicer):
    """The ``Analysis`` service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._slots = _Slots(service.limits.watchers, "watch calls")

    def Runs(self, request: analysis_pb2.RunsRequest, context: grpc.ServicerContext) -> analysis_pb2.ArrowTable:
        """Return the runs in the store."""
        return analysis_pb2.ArrowTable(ipc_stream=to_ipc(handlers.runs(self._service)))

    def Run(self, request: analysis_pb2.RunRequest, context: grpc.ServicerContext) -> analysis_pb2.RunReply:
        """Return a run's description and its row of :meth:`Runs`."""
        info, summary = handlers.run(self._service, request.run)
        table = analysis_pb2.ArrowTable(ipc_stream=to_ipc(summary))
        return analysis_pb2.RunReply(run_info=info.to_json().encode(), summary=table)

    def Tail(
        self, request: analysis_pb2.TailRequest, context: grpc.ServicerContext
    ) -> Iterator[analysis_pb2.ArrowTable]:
        """Return rows of a run."""
        query = handlers.Query(
            run=request.run,
            form=request.form,
            group=request.group,
            first_step=request.first_step if request.HasField("first_step") else None,
            last_step=request.last_step if request.HasField("last_step") else None,
        )
        for table in handlers.tail(self._service, query):
            yield analysis_pb2.ArrowTable(ipc_stream=to_ipc(table))

    def Watch(
        self, request: analysis_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[analysis_pb2.ArrowTable]:
        """Return rows of a run as they come."""
        query = handlers.Query(run=request.run, form=request.form, group=request.group)

        def watched(cancelled: threading.Event) -> Iterator[pa.Table]:
            return handlers.watch(self._service, query, request.after_row, cancelled)

        return self._watch(watched, context)

    def Alignment(
        self, request: analysis_pb2.AlignmentRequest, context: grpc.ServicerContext
    ) -> Iterator[analysis_pb2.ArrowTable]:
        """Return alignment rows of a run."""
        for table in handlers.alignment(self._service, _alignment_query(request), request.after_row):
            yield analysis_pb2.ArrowTable(ipc_stream=to_ipc(table))

    def WatchAlignment(
        self, request: analysis_pb2.AlignmentRequest, context: grpc.ServicerContext
    ) -> Iterator[analysis_pb2.ArrowTable]:
        """Return alignment rows of a run as they come."""
        query = _alignment_query(request)

        def watched(cancelled: threading.Event) -> Iterator[pa.Table]:
            return handlers.watch_alignment(self._service, query, request.after_row, cancelled)

        return self._watch(watched, context)

    def _watch(
        self, watched: Callable[[threading.Event], Iterator[pa.Table]], context: grpc.ServicerContext
    ) -> Iterator[analysis_pb2.ArrowTable]:
        cancelled = threading.Event()

        def cancel() -> None:
            cancelled.set()
            self._service.catalog.wake()

        with self._slots.one():
            context.add_callback(cancel)
            tables = watched(cancelled)
            context.send_initial_metadata(())  # the client learns that it is connected before there is a row
            for table in tables:
                yield analysis_pb2.ArrowTable(ipc_stream=to_ipc(table))
        if self._service.draining.is_set():
            raise NotReadyError("the analyzer is shutting down: connect again later")

    def Fit(self, request: analysis_pb2.FitRequest, context: grpc.ServicerContext) -> analysis_pb2.ArrowTable:
        """Fit the laws to one vector."""
        return analysis_pb2.ArrowTable(ipc_stream=to_ipc(handlers.fit(self._service, request.values, request.location)))


def _alignment_query(request: analysis_pb2.AlignmentRequest) -> handlers.AlignmentQuery:
    return handlers.AlignmentQuery(
        run=request.run,
        part=request.part,
        metric=request.metric,
        first_step=request.first_step if request.HasField("first_step") else None,
        last_step=request.last_step if request.HasField("last_step") else None,
    )
