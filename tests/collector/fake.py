"""An analyzer of a few lines with faults on demand."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from gradnoise.v1 import ingest_pb2, ingest_pb2_grpc
from gradnoise.wire import Table, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradnoise.wire import Stamped


@dataclass
class Faults:
    """What goes wrong, each so many times."""

    open_unavailable: int = 0
    open_code: grpc.StatusCode | None = None
    cut_after: list[int] = field(default_factory=list)  # messages of a stream before it is cut, one entry a stream
    lost_acks: int = 0  # streams that are cut after a batch whose acknowledgement was lost
    gap_at: int = -1  # message number answered once with GAP
    unavailable_at: int = -1  # message number answered once with UNAVAILABLE
    nack: int = 0  # code answered to the first message of every stream
    silent: int = 0  # streams that answer nothing and stay open
    mute: int = 0  # streams that take everything and acknowledge nothing
    max_payload: int = 64 << 20
    credit: int = 4 << 20


class FakeIngest(ingest_pb2_grpc.IngestServicer):
    """Stores batches by (producer, table) in memory; refuses gaps; acknowledges duplicates again."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.stored: dict[tuple[str, str], list[Stamped]] = {}
        self.runs: set[bytes] = set()
        self.opens = self.streams = self.duplicates = self.half_closed = 0
        self.unanswered: list[int] = []  # payload bytes of each batch that a mute stream took
        self.stopped = threading.Event()
        self.progress = threading.Condition()

    def Open(self, request: ingest_pb2.OpenRequest, context: grpc.ServicerContext) -> ingest_pb2.OpenResponse:
        self.opens += 1
        if self.faults.open_code is not None:
            context.abort(self.faults.open_code, "not you")
        if self.faults.open_unavailable:
            self.faults.open_unavailable -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        self.runs.add(request.run_info)
        return ingest_pb2.OpenResponse(
            tables=[
                ingest_pb2.TableState(table=table.value, next_sequence=len(self.stored[request.producer, table.value]))
                for table in Table
                if (request.producer, table.value) in self.stored
            ],
            schema_versions=[1],
            max_payload_bytes=self.faults.max_payload,
            credit_bytes=self.faults.credit,
        )

    def Append(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        self.streams += 1
        faults = self.faults
        lose = faults.lost_acks > 0
        faults.lost_acks -= lose
        cut = 1 if lose else faults.cut_after.pop(0) if faults.cut_after else -1
        if faults.silent:
            faults.silent -= 1
            self.stopped.wait(30)
            return
        mute = given_up = faults.mute > 0
        faults.mute -= mute
        over = threading.Event()
        context.add_callback(over.set)
        count = 0
        for request in requests:
            if mute:
                self.unanswered.append(len(request.payload))
                continue
            if faults.nack:
                given_up = True
                yield self._nack(request, faults.nack, "as told")
                continue
            if count == faults.gap_at or count == faults.unavailable_at:
                code = ingest_pb2.Nack.GAP if count == faults.gap_at else ingest_pb2.Nack.UNAVAILABLE
                faults.gap_at = faults.unavailable_at = -1
                given_up = True
                yield self._nack(request, code, "later", retry_after_ms=20)
                continue
            if count == cut:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            count += 1
            known = self.stored.setdefault((request.producer, request.table), [])
            if request.sequence > len(known):
                yield self._nack(request, ingest_pb2.Nack.GAP, "gap", expected=len(known))
                continue
            stamped = unpack(Table(request.table), request.payload)
            assert stamped.sequence == request.sequence
            if request.sequence < len(known):
                self.duplicates += 1
                assert known[request.sequence].crc32 == stamped.crc32
            else:
                with self.progress:
                    known.append(stamped)
                    self.progress.notify_all()
            if not lose:
                yield ingest_pb2.AppendResponse(ack=ingest_pb2.Ack(table=request.table, next_sequence=len(known)))
        # A stream that the shipper gives up, after a refusal or for silence, may look ended until the news of its
        # cancellation is here.
        if not given_up or not over.wait(10):
            self.half_closed += 1

    def _nack(self, request: Any, code: int, message: str, *, expected: int = 0, retry_after_ms: int = 0) -> Any:
        return ingest_pb2.AppendResponse(
            nack=ingest_pb2.Nack(
                table=request.table,
                sequence=request.sequence,
                code=code,  # type: ignore[arg-type]
                message=message,
                expected_sequence=expected,
                retry_after_ms=retry_after_ms,
            )
        )

    def wait_for(self, batches: int, seconds: float = 30) -> bool:
        """Wait until that many batches are stored."""
        with self.progress:
            return self.progress.wait_for(lambda: sum(map(len, self.stored.values())) >= batches, seconds)


class TokenCheck(grpc.ServerInterceptor):
    """Lets calls in that carry the token, and remembers them; tells the others what they brought."""

    def __init__(self, token: str) -> None:
        self.calls: list[str] = []
        self._wanted = f"Bearer {token}"

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        brought = dict(details.invocation_metadata).get("authorization")
        if brought == self._wanted:
            self.calls.append(method)
            return continuation(details)

        def refuse(request: Any, context: grpc.ServicerContext) -> Any:
            code = grpc.StatusCode.UNAUTHENTICATED if brought is None else grpc.StatusCode.PERMISSION_DENIED
            context.abort(code, f"not with {brought}\n")

        return grpc.unary_unary_rpc_method_handler(refuse)


class FakeServer:
    """Serves a :class:`FakeIngest` on loopback; stop and start again keeps port and store.

    ``credentials`` are the server's own, for TLS; ``check`` looks at every call.
    """

    def __init__(
        self,
        ingest: FakeIngest,
        *,
        credentials: grpc.ServerCredentials | None = None,
        check: TokenCheck | None = None,
    ) -> None:
        self.ingest = ingest
        self.port = 0
        self._credentials = credentials
        self._check = check
        self.start()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._pool = ThreadPoolExecutor(32)
        self._server = grpc.server(
            self._pool,
            interceptors=[] if self._check is None else [self._check],
            options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
        )
        ingest_pb2_grpc.add_IngestServicer_to_server(self.ingest, self._server)  # type: ignore[no-untyped-call]
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self._credentials)
        self._server.start()

    def stop(self) -> None:
        self.ingest.stopped.set()
        self._server.stop(0).wait()
        self._pool.shutdown()
