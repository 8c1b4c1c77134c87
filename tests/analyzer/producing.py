"""A producer for the tests of the service: batches, payloads and streams, good and bad."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gradnoise.analyzer._ingest import Incoming
from gradnoise.v1 import ingest_pb2, ingest_pb2_grpc
from gradnoise.wire import GROUP_TYPE, SCHEMA_VERSION, Group, RunInfo, Stamped, Table, pack, schema

from ..proto.dumps import INFO, draws_batch, windows_batch
from ..servers import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import grpc
    from numpy.typing import NDArray

    from gradnoise.analyzer.catalog import Catalog
    from gradnoise.analyzer.store import Store

__all__ = [
    "INFO",
    "JOB",
    "OTHER",
    "WIDE",
    "Producer",
    "idle",
    "incoming",
    "rank_window_batch",
    "reference_batch",
    "reply",
    "sketches_batch",
    "stamped_draws",
    "stamped_window",
]

JOB = "0123456789abcdef" * 2

OTHER = RunInfo("run-1", "Net", "2026-01-01T00:00:00+00:00", (Group("c", (2,), "float32", (0, 1)),))
"""Another run of the same id."""

WIDE = RunInfo(
    "wide",
    "Net",
    "2026-01-01T00:00:00+00:00",
    tuple(Group(name, (64,), "float32", tuple(range(48))) for name in ("a.weight", "b.weight")),
)
"""A run with enough coordinates for every form."""


def idle(store: Store, catalog: Catalog) -> None:
    """Wait until every closed window in the store has results."""
    closed = {(window.run, window.producer, window.window) for log in store.producers() for window in log.closed()}
    until(lambda: closed <= catalog.analysed(), what="the analysis of every closed window")


def stamped_draws(sequence: int, count: int = 40, *, window: int = 0, info: RunInfo = INFO, seed: int = 0) -> Stamped:
    """The draws batch of that number: ``count`` draws."""
    draws = range(sequence * count, (sequence + 1) * count)
    return Stamped.of(Table.DRAWS, sequence, draws_batch(draws, window=window, info=info, seed=seed))


def stamped_window(sequence: int, recorded: int, *, window: int = 0, info: RunInfo = INFO) -> Stamped:
    """The batch that closes a window."""
    return Stamped.of(Table.WINDOWS, sequence, windows_batch(window, recorded, info=info))


def rank_window_batch(
    window: int, recorded: int, rank: int, *, world_size: int = 2, info: RunInfo = INFO, **changed: Any
) -> pa.RecordBatch:
    """The row by which a rank of a job closes a window."""
    (row,) = windows_batch(window, recorded, info=info).to_pylist()
    row |= {"scope": "process", "job": JOB, "rank": rank, "world_size": world_size, "thetas": 7} | changed
    return pa.RecordBatch.from_pylist([row], schema=schema(Table.WINDOWS))


def reference_batch(
    window: int, values: dict[str, NDArray[np.float32]], *, info: RunInfo = INFO, **changed: Any
) -> pa.RecordBatch:
    """The reference of a window: group -> values."""
    names = [group.name for group in info.groups]
    where = schema(Table.REFERENCE)
    row = {"window": window, "theta": 0, "kind": "full", "norm2": 2.5, "dataset_size": 640, "replacement": False}
    row |= {"minibatches": 20} | changed
    columns = {name: pa.array([row.get(name)] * len(values), where.field(name).type) for name in where.names}
    columns["values"] = pa.array(list(values.values()), where.field("values").type)
    codes = pa.array([names.index(name) for name in values], pa.int16())
    columns["group"] = pa.DictionaryArray.from_arrays(codes, pa.array(names)).cast(GROUP_TYPE)
    return pa.RecordBatch.from_arrays([columns[name] for name in where.names], schema=where)


def sketches_batch(window: int, patterns: dict[int, dict[int, int]], **changed: Any) -> pa.RecordBatch:
    """Sketches of a window: draw -> cell -> count."""
    rows = [
        {
            "window": window,
            "theta": draw,
            "draw": draw,
            "cells": np.array(list(found), np.uint16),
            "counts": np.array(list(found.values()), np.uint32),
            "inexact": draw + 1,
            "same_theta": False,
        }
        | changed
        for draw, found in patterns.items()
    ]
    where = schema(Table.SKETCHES)
    columns = [pa.array([row[name] for row in rows], where.field(name).type) for name in where.names]
    return pa.RecordBatch.from_arrays(columns, schema=where)


def incoming(stamped: Stamped) -> Incoming:
    """What the store takes."""
    return Incoming(stamped.table, stamped.sequence, pack(stamped))


def reply(response: ingest_pb2.AppendResponse) -> tuple[Any, ...]:
    """("ack", table, next) or (code, table, sequence, expected)."""
    if response.HasField("ack"):
        return ("ack", response.ack.table, response.ack.next_sequence)
    nack = response.nack
    return (ingest_pb2.Nack.Code.Name(nack.code), nack.table, nack.sequence, nack.expected_sequence)


class Producer:
    """One producer on a channel."""

    def __init__(self, channel: grpc.Channel, info: RunInfo = INFO, producer: str | None = None) -> None:
        self.info = info
        self.id = producer or uuid.uuid4().hex
        self._stub = ingest_pb2_grpc.IngestStub(channel)  # type: ignore[no-untyped-call]

    def open(self, *, version: int = SCHEMA_VERSION) -> dict[str, int]:
        """Next sequence by table."""
        request = ingest_pb2.OpenRequest(
            run_info=self.info.to_json().encode(), producer=self.id, schema_version=version
        )
        return {state.table: state.next_sequence for state in self._stub.Open(request, timeout=30).tables}

    def request(self, stamped: Stamped, **changed: Any) -> ingest_pb2.AppendRequest:
        """The request that sends a batch, with fields changed."""
        fields: dict[str, Any] = {"run": self.info.run, "producer": self.id, "table": str(stamped.table)}
        fields |= {"sequence": stamped.sequence, "payload": pack(stamped)}
        return ingest_pb2.AppendRequest(**(fields | changed))

    def stream(self, requests: Iterable[ingest_pb2.AppendRequest]) -> Any:
        """The call of a stream of requests."""
        return self._stub.Append(iter(requests), timeout=60)

    def send(self, *batches: Stamped) -> list[tuple[Any, ...]]:
        """Send batches on a stream that ends, and return the replies."""
        return [reply(response) for response in self.stream(self.request(batch) for batch in batches)]

    def send_window(self, window: int = 0, *, number: int = 0, batches: int = 2) -> None:
        """Send a whole window of 40 draws a batch; the ``number``-th of this producer."""
        first = number * batches
        draws = [stamped_draws(first + i, window=window, info=self.info) for i in range(batches)]
        closing = stamped_window(number, 40 * batches, window=window, info=self.info)
        assert self.send(*draws, closing)[-1][0] == "ack"


def endless(*batches: ingest_pb2.AppendRequest, until: Any) -> Iterator[ingest_pb2.AppendRequest]:
    """Requests of a stream that stays open until the event is set."""
    yield from batches
    until.wait(60)
