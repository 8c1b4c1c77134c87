"""One producer's stream to an analyzer, from ``Open`` to its end. The only door to a new one is ``Open`` again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from gradnoise.collector._errors import EndpointError, RefusedError
from gradnoise.collector._shipping.flight import Flight, Sent
from gradnoise.collector._shipping.source import Source
from gradnoise.collector.credentials import TLS_CA, TLS_CERT, TOKEN
from gradnoise.v1 import ingest_pb2, ingest_pb2_grpc
from gradnoise.wire import SCHEMA_VERSION, Front, Table, fronts, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gradnoise.collector._shipping.progress import Progress
    from gradnoise.wire import Dump, Stamped

__all__ = ["CHANNEL_OPTIONS", "CutError", "Link", "Outcome", "run_session"]

_OPEN_TIMEOUT = 10.0
_POLL, _LONGEST_POLL = 0.1, 0.25
_MESSAGE_BYTES = 72 << 20  # a payload of 64 MiB and its header
_LONGEST_TEXT = 500  # of what an analyzer says

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
    }
)
# The same for every run. The environment does not change while a process lives: nor does who we are.
_FINAL_FOR_ALL = {
    grpc.StatusCode.UNAUTHENTICATED: f"set {TOKEN}, or {TLS_CERT} and its key, to what it knows",
    grpc.StatusCode.UNIMPLEMENTED: "is it an analyzer, of this version?",
}


class CutError(Exception):
    """The stream ended early; ``after`` is the least number of seconds to wait before opening the next."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def _as_it_is(text: str) -> str:
    return text


class Contact:
    """The monotonic time at which the analyzer last acknowledged a batch, of whichever stream."""

    last = -math.inf


@dataclass(frozen=True, slots=True)
class Link:
    """The way to an analyzer.

    Attributes:
        stub: calls it.
        endpoint: its name, for messages.
        hide: takes what is secret out of what it says.
        most: payload bytes that a stream may have under way, if the analyzer gives credit for more.
        contact: when it last took something.
    """

    stub: ingest_pb2_grpc.IngestStub
    endpoint: str
    hide: Callable[[str], str] = _as_it_is
    most: int = 1 << 62
    contact: Contact = field(default_factory=Contact)

    def said(self, text: str | None) -> str:
        """Return what the analyzer said, fit for a log."""
        clean = "".join(c if c.isprintable() else " " for c in self.hide(text or ""))
        return clean if len(clean) <= _LONGEST_TEXT else clean[:_LONGEST_TEXT] + "…"

    def status(self, error: grpc.RpcError) -> str:
        """Return a failed call's code and text. (Every RpcError that a call raises is also a grpc.Call.)"""
        text = f"{error.code().name}: {self.said(error.details())}"
        if "CERTIFICATE_VERIFY_FAILED" in text:
            text += f" (is {TLS_CA} the authority that signed the analyzer's certificate?)"
        return text


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier streams of a producer have learned.

    Attributes:
        tables: table -> first sequence number that the analyzer does not have.
        rows, counted: rows of the first ``counted`` batches of the draws table.
        source: where to go on reading, if the last stream gave way; it begins behind ``tables``.
        before: what the shipper before us said.
    """

    tables: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    counted: int = 0
    source: Source | None = None
    before: Progress | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a stream that ended well.

    Attributes:
        flight: its books.
        source: where to go on reading, if it gave way; None if the producer has ended and all is acknowledged.
        problems: batches that the dump lacks keep what follows them from being shipped.
    """

    flight: Flight
    source: Source | None
    problems: tuple[str, ...] = ()


def run_session(
    link: Link,
    dump: Dump,
    producer: str,
    known: Known,
    on_progress: Callable[[Flight], None],
    *,
    stall: float,
    give_way: Callable[[bool], bool],
) -> Outcome:
    """Ship until the producer has ended and everything is acknowledged, or until another one is to have its turn.

    Args:
        link: the analyzer.
        dump: the dump.
        producer: the producer's id.
        known: what earlier streams have learned.
        on_progress: called after ``Open`` and after each acknowledgement.
        stall: seconds without an answer after which the stream is taken for dead.
        give_way: asked now and then, with whether everything written so far is acknowledged.

    Raises:
        CutError: the stream was lost, or must be opened anew.
        RefusedError: the analyzer refuses for good.
    """
    opened = _open(link, dump, producer)
    source, flight = _begin(opened, link, dump, producer, known)
    on_progress(flight)
    sender = _Sender(link, dump, producer, source, known.before, flight, opened.max_payload_bytes, stall, give_way)
    call = link.stub.Append(sender.requests())
    sender.cancel = call.cancel
    try:
        _hear(call, link, flight, on_progress)
        if sender.failure is not None:
            raise sender.failure
        if not (sender.finished or sender.gave_way):
            raise CutError("the analyzer ended the stream")
        return Outcome(flight, source if sender.gave_way else None, sender.problems)
    except grpc.RpcError as error:
        if sender.failure is not None:
            raise sender.failure from error
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            raise RefusedError(f"the analyzer refuses the stream ({link.status(error)})") from error
        raise CutError(link.status(error)) from error
    finally:
        # In this order: the sender, once let go, would half-close a stream that is still open, as if it had ended well.
        call.cancel()
        flight.end()


def _open(link: Link, dump: Dump, producer: str) -> ingest_pb2.OpenResponse:
    """Tell the analyzer who comes; return what it has of it, and what it grants."""
    request = ingest_pb2.OpenRequest(
        run_info=dump.info.to_json().encode(), producer=producer, schema_version=SCHEMA_VERSION
    )
    try:
        opened: ingest_pb2.OpenResponse = link.stub.Open(request, timeout=_OPEN_TIMEOUT)
    except grpc.RpcError as error:
        remedy = _FINAL_FOR_ALL.get(error.code())
        if remedy is not None:
            raise EndpointError(f"{link.endpoint} refuses us ({link.status(error)}): {remedy}") from error
        if error.code() in _FINAL:
            raise RefusedError(f"the analyzer refuses the run ({link.status(error)})") from error
        raise CutError(link.status(error)) from error
    return opened


def _begin(
    opened: ingest_pb2.OpenResponse, link: Link, dump: Dump, producer: str, known: Known
) -> tuple[Source, Flight]:
    """Return where to read from, and the books: as earlier streams left them unless the analyzer lost something."""
    there = {state.table: state.next_sequence for state in opened.tables}
    # An analyzer that lost what it had acknowledged gets everything again.
    lost = any(there.get(table, 0) < number for table, number in known.tables.items())
    source = known.source
    if source is None or lost:
        if source is not None:
            source.close()
        source = Source(dump.path, producer)
    credit = min(opened.credit_bytes or 1, link.most)
    return source, Flight(there, credit, rows=0 if lost else known.rows, counted=0 if lost else known.counted)


def _hear(
    responses: Iterable[ingest_pb2.AppendResponse], link: Link, flight: Flight, on_progress: Callable[[Flight], None]
) -> None:
    """Enter what the analyzer acknowledges into the books, until it ends the stream or refuses something."""
    for response in responses:
        if response.HasField("ack"):
            flight.acknowledge(_table(response.ack.table), response.ack.next_sequence)
            on_progress(flight)
        elif response.HasField("nack"):
            raise _nacked(link, response.nack)


class _Sender:
    """Reads the dump and feeds the stream, on the thread that gRPC draws requests from."""

    def __init__(
        self,
        link: Link,
        dump: Dump,
        producer: str,
        source: Source,
        before: Progress | None,
        flight: Flight,
        max_payload: int,
        stall: float,
        give_way: Callable[[bool], bool],
    ) -> None:
        self._link = link
        self._dump = dump.path
        self._run = dump.info.run
        self._producer = producer
        self._source = source
        self._before = before
        self._flight = flight
        self._max_payload = max_payload
        self._stall = stall
        self._give_way = give_way
        self._blocked: dict[Table, str] = {}
        self._unreadable: tuple[str, ...] = ()
        self.cancel: Callable[[], object] = lambda: None
        self.finished = False
        self.gave_way = False
        self.failure: Exception | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the dump could not be shipped."""
        return (*self._blocked.values(), *self._unreadable)

    def requests(self) -> Iterator[ingest_pb2.AppendRequest]:
        """Yield requests until all is acknowledged, or it gives way; returning half-closes the stream."""
        try:
            yield from self._tail()
            if self.finished:
                self._unreadable = self._source.finish()
        except Exception as error:
            # gRPC would log it and cancel; the receiving side raises it.
            self.failure = error
            self.cancel()
        finally:
            if not self.gave_way:
                self._source.close()

    def _tail(self) -> Iterator[ingest_pb2.AppendRequest]:
        flight, source = self._flight, self._source
        pause = _POLL
        while not flight.ended:
            stamped = None if source.exhausted else source.take()
            if stamped is not None:
                request = self._request(stamped)
                if request is not None:
                    pause = _POLL
                    yield request
                if self._give_way(False):
                    self.gave_way = self._land()
                    return
            elif flight.landed and source.exhausted:
                self.finished = True
                return
            elif flight.landed and self._give_way(True):
                self.gave_way = True
                return
            else:
                self._check_silence()
                flight.pause(pause)
                pause = min(_LONGEST_POLL, 1.2 * pause)

    def _request(self, stamped: Stamped) -> ingest_pb2.AppendRequest | None:
        """Enter a batch into the books and return its request; None where it is not to be sent."""
        flight, table, sequence, rows = self._flight, stamped.table, stamped.sequence, stamped.batch.num_rows
        end = self._source.position(table)
        expected = flight.expected(table)
        if sequence < expected:
            flight.skip(table, Sent(sequence, rows, 0, end))
            return None
        if sequence > expected or table in self._blocked:
            self._blocked.setdefault(table, self._missing(table, expected, sequence))
            return None
        payload = pack(stamped)
        if self._max_payload and len(payload) > self._max_payload:
            raise RefusedError(
                f"batch {sequence} of table {table.value} is {len(payload)} bytes; the analyzer takes "
                f"{self._max_payload}: raise its payload limit"
            )
        while not flight.admit(table, Sent(sequence, rows, len(payload), end), self._stall):
            if flight.ended:
                return None
            self._check_silence()
        return ingest_pb2.AppendRequest(
            run=self._run, producer=self._producer, table=table.value, sequence=sequence, payload=payload
        )

    def _missing(self, table: Table, expected: int, sequence: int) -> str:
        before = self._before
        delivered = before is not None and before.tables.get(table, 0) >= sequence
        if delivered or fronts(self._dump, self._producer).get(table, Front()).sequence >= sequence:
            other = before.endpoint if before is not None and delivered else "another analyzer"
            return (
                f"batches from {expected} on of table {table.value} cannot be shipped: those up to {sequence - 1} were "
                f"acknowledged by {other} and then deleted to make room; {self._link.endpoint} lacks them: "
                f"ship to {other}, or to an analyzer with a copy of its data"
            )
        return (
            f"batches from {expected} on of table {table.value} cannot be shipped: {expected} is missing from, or "
            "unreadable in, the dump"
        )

    def _land(self) -> bool:
        """Wait until everything sent is acknowledged; return whether it is."""
        while not (self._flight.landed or self._flight.ended):
            self._check_silence()
            self._flight.pause(_POLL)
        return self._flight.landed

    def _check_silence(self) -> None:
        if self._flight.silence() > self._stall and not self._flight.ended:
            raise CutError(f"no answer for {self._stall:g} s")


def _table(name: str) -> Table:
    try:
        return Table(name)
    except ValueError as error:
        raise RefusedError(f"the analyzer acknowledges table {name!r}, which was never sent: upgrade it") from error


def _nacked(link: Link, nack: ingest_pb2.Nack) -> Exception:
    what = f"batch {nack.sequence} of table {link.said(nack.table)}"
    if nack.code == ingest_pb2.Nack.GAP:
        return CutError(f"{what} came before batch {nack.expected_sequence}")
    if nack.code == ingest_pb2.Nack.UNAVAILABLE:
        return CutError(f"the analyzer cannot take {what} now: {link.said(nack.message)}", nack.retry_after_ms / 1000)
    try:
        code = ingest_pb2.Nack.Code.Name(nack.code)
    except ValueError:
        code = str(nack.code)
    return RefusedError(f"the analyzer refuses {what} ({code}): {link.said(nack.message)}")
