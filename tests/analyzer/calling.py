"""Calls of a server, and what they answered."""

from __future__ import annotations

from typing import Any

import grpc
import pyarrow as pa
import pytest

from gradnoise.analyzer.server import Server
from gradnoise.v1 import analysis_pb2, analysis_pb2_grpc
from gradnoise.wire import Dump, Table

from .producing import INFO, Producer
from .producing import idle as everything_analysed


def analysis(channel: grpc.Channel) -> Any:
    return analysis_pb2_grpc.AnalysisStub(channel)  # type: ignore[no-untyped-call]


def rows(channel: grpc.Channel, **query: Any) -> list[dict[str, Any]]:
    parts = analysis(channel).Tail(analysis_pb2.TailRequest(**query), timeout=30)
    return [row for part in parts for row in pa.ipc.open_stream(part.ipc_stream).read_all().to_pylist()]


def code(failure: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    found: grpc.StatusCode = failure.value.code()
    return found


def details(failure: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    return failure.value.details() or ""


def idle(server: Server) -> None:
    everything_analysed(server.service.store, server.service.catalog)


def batches(server: Server, producer: Producer, table: Table = Table.DRAWS) -> list[int]:
    dump = Dump(server.config.data / "runs" / producer.info.run)
    found = [stamped.sequence for stamped in dump.batches(table, producer.id)]
    assert dump.problems == []
    return found


def segments(server: Server, suffix: str) -> int:
    return len(list((server.config.data / "runs" / INFO.run).glob(f"draws-*.{suffix}")))
