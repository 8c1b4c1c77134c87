"""One producer's stream to an analyzer, from ``Open`` to its end. The only door to a new one is ``Open`` again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from gradnoise.collector._errors import RefusedError
from gradnoise.collector._flight import Flight, Sent
from gradnoise.v1 import ingest_pb2, ingest_pb2_grpc
from gradnoise.wire import SCHEMA_VERSION, Table, Tailer, pack, producer_is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gradnoise.wire import RunInfo

__all__ = ["CHANNEL_OPTIONS", "CutError", "Outcome", "run_session"]

_OPEN_TIMEOUT = 10.0
_POLL = 0.1
_MESSAGE_BYTES = 72 << 20  # a payload of 64 MiB and its header

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

# Answers to Open that another attempt will not change. A stream's own errors are asked about by the next Open: a
# restarted analyzer, say, does not know the producer yet.
_FINAL = frozenset(
    {
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class CutError(Exception):
    """The stream ended early; ``after`` is the least number of seconds to wait before opening the next."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a stream that ended well: batches that the dump lacks keep what follows them from being shipped."""

    flight: Flight
    problems: tuple[str, ...] = ()


def run_session(
    stub: ingest_pb2_grpc.IngestStub,
    dump: Path,
    info: RunInfo,
    producer: str,
    on_progress: Callable[[Flight], None],
    *,
    stall: float,
) -> Outcome:
    """Ship until the producer has ended and everything is acknowledged.

    Args:
        stub: the analyzer.
        dump: the dump's directory.
        info: its run.
        producer: the producer's id.
        on_progress: called after ``Open`` and after each acknowledgement.
        stall: seconds without an answer after which the stream is taken for dead.

    Raises:
        CutError: the stream was lost, or must be opened anew.
        RefusedError: the analyzer refuses for good.
    """
    try:
        opened = stub.Open(
            ingest_pb2.OpenRequest(run_info=info.to_json().encode(), producer=producer, schema_version=SCHEMA_VERSION),
            timeout=_OPEN_TIMEOUT,
        )
    except grpc.RpcError as error:
        # Every RpcError that a call raises is also a grpc.Call.
        if error.code() in _FINAL:
            raise RefusedError(f"the analyzer refuses the run ({_text(error)})") from error
        raise CutError(_text(error)) from error
    flight = Flight({state.table: state.next_sequence for state in opened.tables}, opened.credit_bytes or 1)
    on_progress(flight)
    sender = _Sender(dump, info.run, producer, flight, opened.max_payload_bytes, stall)
    call = stub.Append(sender.requests())
    sender.cancel = call.cancel
    try:
        for response in call:
            if response.HasField("ack"):
                flight.acknowledge(_table(response.ack.table), response.ack.next_sequence)
                on_progress(flight)
            elif response.HasField("nack"):
                raise _nacked(response.nack)
        if sender.failure is not None:
            raise sender.failure
        if not sender.finished:
            raise CutError("the analyzer ended the stream")
        return Outcome(flight, sender.problems)
    except grpc.RpcError as error:
        if sender.failure is not None:
            raise sender.failure from error
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            raise RefusedError(f"the analyzer refuses the stream ({_text(error)})") from error
        raise CutError(_text(error)) from error
    finally:
        # In this order: the sender, once let go, would half-close a stream that is still open, as if it had ended well.
        call.cancel()
        flight.end()


class _Sender:
    """Reads the dump and feeds the stream, on the thread that gRPC draws requests from."""

    def __init__(self, dump: Path, run: str, producer: str, flight: Flight, max_payload: int, stall: float) -> None:
        self._dump = dump
        self._run = run
        self._producer = producer
        self._flight = flight
        self._max_payload = max_payload
        self._stall = stall
        self._blocked: dict[Table, str] = {}
        self._unreadable: tuple[str, ...] = ()
        self.cancel: Callable[[], object] = lambda: None
        self.finished = False
        self.failure: Exception | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the dump could not be shipped."""
        return (*self._blocked.values(), *self._unreadable)

    def requests(self) -> Iterator[ingest_pb2.AppendRequest]:
        """Yield requests until all is acknowledged; returning half-closes the stream."""
        tailer = Tailer(self._dump, self._producer)
        try:
            yield from self._tail(tailer)
            tailer.finish()
            self._unreadable = tuple(tailer.problems)
        except Exception as error:
            # gRPC would log it and cancel; the receiving side raises it.
            self.failure = error
            self.cancel()
        finally:
            tailer.close()

    def _tail(self, tailer: Tailer) -> Iterator[ingest_pb2.AppendRequest]:
        flight = self._flight
        while not flight.ended:
            # Asked before reading: what a producer wrote before it ended is seen by the reading that follows.
            alive = producer_is_alive(self._dump, self._producer)
            idle = True
            for stamped in tailer.poll():
                table, sequence = stamped.table, stamped.sequence
                expected = flight.expected(table)
                if sequence < expected:
                    flight.skip(table, stamped.batch.num_rows)
                    continue
                if sequence > expected or table in self._blocked:
                    missing = f"batches from {expected} on of table {table.value} cannot be shipped: "
                    self._blocked.setdefault(table, f"{missing}{expected} is missing from, or unreadable in, the dump")
                    continue
                payload = pack(stamped)
                if self._max_payload and len(payload) > self._max_payload:
                    raise RefusedError(
                        f"batch {sequence} of table {table.value} is {len(payload)} bytes; the analyzer takes "
                        f"{self._max_payload}: raise its payload limit"
                    )
                if not flight.admit(table, Sent(sequence, stamped.batch.num_rows, len(payload)), self._stall):
                    self._give_way()
                    return
                idle = False
                yield ingest_pb2.AppendRequest(
                    run=self._run, producer=self._producer, table=table.value, sequence=sequence, payload=payload
                )
            if idle and flight.landed and not alive:
                self.finished = True
                return
            if flight.silence() > self._stall:
                self._give_way()
                return
            if idle:
                flight.pause(_POLL)

    def _give_way(self) -> None:
        if not self._flight.ended:
            raise CutError(f"no answer for {self._stall:g} s")


def _table(name: str) -> Table:
    try:
        return Table(name)
    except ValueError as error:
        raise RefusedError(f"the analyzer acknowledges table {name!r}, which was never sent: upgrade it") from error


def _nacked(nack: ingest_pb2.Nack) -> Exception:
    what = f"batch {nack.sequence} of table {nack.table}"
    if nack.code == ingest_pb2.Nack.GAP:
        return CutError(f"{what} came before batch {nack.expected_sequence}")
    if nack.code == ingest_pb2.Nack.UNAVAILABLE:
        return CutError(f"the analyzer cannot take {what} now: {nack.message}", nack.retry_after_ms / 1000)
    code = ingest_pb2.Nack.Code.Name(nack.code)
    return RefusedError(f"the analyzer refuses {what} ({code}): {nack.message}")


def _text(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}"
