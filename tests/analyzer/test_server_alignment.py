"""Measurements of curvature over real gRPC on loopback: sent, analysed, queried, watched."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

from gradnoise.analyzer import handlers
from gradnoise.analyzer.aligning import LOSS, METRICS
from gradnoise.analyzer.config import Limits
from gradnoise.analyzer.server import Server
from gradnoise.v1 import analysis_pb2
from gradnoise.wire import Stamped, Table
from gradnoise.wire.results import ALIGNMENT_SCHEMA

from .calling import analysis, code, details, idle, rows
from .measuring import closing, hessian, send_curvature, sharpness, stamped, window_of
from .producing import INFO, Producer

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Serve


def found(channel: grpc.Channel, **query: Any) -> list[dict[str, Any]]:
    request = analysis_pb2.AlignmentRequest(**({"run": INFO.run} | query))
    tables = [
        pa.ipc.open_stream(part.ipc_stream).read_all() for part in analysis(channel).Alignment(request, timeout=30)
    ]
    assert all(table.schema.equals(ALIGNMENT_SCHEMA, check_metadata=True) for table in tables)
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture
def measured(serve: Serve) -> tuple[Server, grpc.Channel, Producer]:
    """A run with an ordinary window and two measurements of two parts."""
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    producer.send_window()
    for number, step in enumerate((100, 200)):
        send_curvature(producer, number, step, [hessian(step, "a.*"), hessian(step)], closes=number + 1)
    idle(server)
    return server, channel, producer


def test_the_way_from_a_measurement_to_rows(measured: tuple[Server, grpc.Channel, Producer]) -> None:
    _, channel, _ = measured
    everything = found(channel)
    assert [row["row"] for row in everything] == sorted({row["row"] for row in everything})
    assert {(row["kind"], row["part"]) for row in everything} == {
        ("burst", "a.weight"), ("burst", "a.bias"), ("burst", "*"), ("hessian", "a.*"), ("hessian", "*"),
    }  # fmt: skip
    traces = found(channel, metric="trace_sigma", part="*", first_step=80)
    assert [(row["first_step"], row["window"]) for row in traces] == [(100, window_of(100)), (200, window_of(200))]
    assert all(row["low"] < row["value"] < row["high"] for row in traces)
    assert {row["window"] for row in rows(channel, run=INFO.run)} == {0}  # of measurements there are no tail rows
    summary = pa.ipc.open_stream(analysis(channel).Runs(analysis_pb2.RunsRequest()).ipc_stream).read_all().to_pylist()
    assert [(run["windows"], run["analysed"], run["draws"], run["problems"]) for run in summary] == [(3, 3, 80, 0)]


def test_rows_are_chosen_by_part_metric_steps_and_number(measured: tuple[Server, grpc.Channel, Producer]) -> None:
    _, channel, _ = measured
    assert {row["part"] for row in found(channel, part="a.*")} == {"a.*"}
    assert {row["metric"] for row in found(channel, metric=LOSS)} == {LOSS}
    assert {row["first_step"] for row in found(channel, first_step=150)} == {200}
    assert {row["first_step"] for row in found(channel, first_step=100, last_step=150)} == {100}
    assert found(channel, first_step=500) == []
    everything = found(channel)
    assert found(channel, after_row=everything[10]["row"]) == everything[11:]
    assert found(channel, part="a.weight", metric="gamma") == []  # a group whose curvature was not measured


@pytest.mark.parametrize(
    ("query", "expected", "text"),
    [
        ({"run": "x"}, grpc.StatusCode.NOT_FOUND, "the runs here are: run-1"),
        ({"part": "x"}, grpc.StatusCode.NOT_FOUND, "its parts are: *, a.*, a.weight, a.bias"),
        ({"metric": "x"}, grpc.StatusCode.INVALID_ARGUMENT, f"the metrics are: {', '.join(METRICS)}"),
        ({"first_step": 2, "last_step": 1}, grpc.StatusCode.INVALID_ARGUMENT, "behind"),
        ({"after_row": -1}, grpc.StatusCode.INVALID_ARGUMENT, "after_row"),
    ],
)
def test_what_there_is_not_is_named_asked_for_once_or_watched(
    measured: tuple[Server, grpc.Channel, Producer], query: dict[str, Any], expected: grpc.StatusCode, text: str
) -> None:
    _, channel, _ = measured
    request = analysis_pb2.AlignmentRequest(**({"run": INFO.run} | query))
    for call in (analysis(channel).Alignment, analysis(channel).WatchAlignment):
        with pytest.raises(grpc.RpcError) as failure:
            next(call(request, timeout=30))
        assert code(failure) is expected
        assert text in details(failure)


def test_long_results_come_in_parts(
    measured: tuple[Server, grpc.Channel, Producer], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, channel, _ = measured
    everything = found(channel)
    monkeypatch.setattr(handlers, "_CHUNK", 7)
    parts = list(analysis(channel).Alignment(analysis_pb2.AlignmentRequest(run=INFO.run)))
    assert len(parts) == -(-len(everything) // 7)
    assert found(channel) == everything


def test_a_watch_asked_before_the_first_measurement_gets_its_rows_and_none_twice(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    request = analysis_pb2.AlignmentRequest(run=INFO.run, part="a.*", metric="trace_h", first_step=150)
    call = analysis(channel).WatchAlignment(request, timeout=60)
    call.initial_metadata()
    for number, step in enumerate((100, 200, 300)):
        send_curvature(producer, number, step, [hessian(step, "a.*"), hessian(step)])
    got: list[dict[str, Any]] = []
    while len(got) < 2:
        got += pa.ipc.open_stream(next(call).ipc_stream).read_all().to_pylist()
    call.cancel()
    assert [(row["first_step"], row["part"], row["metric"]) for row in got] == [
        (200, "a.*", "trace_h"), (300, "a.*", "trace_h"),
    ]  # fmt: skip
    idle(server)
    resumed = analysis_pb2.AlignmentRequest(run=INFO.run, metric="trace_h", after_row=got[0]["row"])
    call = analysis(channel).WatchAlignment(resumed, timeout=60)
    rest = pa.ipc.open_stream(next(call).ipc_stream).read_all().to_pylist()
    call.cancel()
    assert all(row["row"] > got[0]["row"] for row in rest)
    assert got[1] in rest


def test_watches_of_both_kinds_share_their_limit_and_end_with_the_server(serve: Serve) -> None:
    server, channel = serve(limits=Limits(watchers=1))
    Producer(channel).open()
    first = analysis(channel).WatchAlignment(analysis_pb2.AlignmentRequest(run=INFO.run))
    first.initial_metadata()
    with pytest.raises(grpc.RpcError) as failure:
        next(analysis(channel).Watch(analysis_pb2.WatchRequest(run=INFO.run)))
    assert code(failure) is grpc.StatusCode.RESOURCE_EXHAUSTED
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    with pytest.raises(grpc.RpcError) as failure:
        next(first)
    stopping.join(30)
    assert code(failure) is grpc.StatusCode.UNAVAILABLE


def test_measurements_that_contradict_themselves_are_failed_rows_and_the_server_goes_on(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    good = stamped([hessian(0, "good"), sharpness([1.0, 2.0, 1.5, 2.5], loss=1.0)]).batch
    bad = stamped([hessian(0, "bad")]).batch
    at = bad.schema.get_field_index("draws")
    bad = bad.set_column(at, bad.schema.field(at), pa.array([2**31 - 1], pa.int32()))
    strange = stamped([hessian(0, "strange", dimension=-7, eigenvalues=np.full(12, np.nan))]).batch
    batches = [Stamped.of(Table.CURVATURE, number, batch) for number, batch in enumerate((bad, good, strange))]
    replies = producer.send(*batches, Stamped.of(Table.WINDOWS, 0, closing(0)))
    assert replies[-1] == ("ack", "windows", 1)
    idle(server)
    rows = found(channel)
    failed = {row["part"]: row["reason"] for row in rows if row["status"] == "failed"}
    assert set(failed) == {"bad", "strange"}
    assert "contradicts itself" in failed["bad"]
    assert "dimension" in failed["strange"]
    assert {row["part"] for row in rows if row["metric"] == "trace_h" and row["status"] == "ok"} == {"good"}
    assert [row["value"] for row in rows if row["metric"] == "sharpness"] == [0.75]
    producer.send(stamped([hessian(5)], 3), Stamped.of(Table.WINDOWS, 1, closing(5)))
    idle(server)
    assert found(channel, first_step=5, metric="trace_h")[0]["status"] == "ok"


def test_lists_with_nulls_are_refused(serve: Serve) -> None:
    _, channel = serve()
    producer = Producer(channel)
    producer.open()
    batch = stamped([hessian()]).batch
    at = batch.schema.get_field_index("part")
    holes = batch.set_column(at, batch.schema.field(at), pa.array([None], pa.utf8()))
    assert producer.send(Stamped.of(Table.CURVATURE, 0, holes))[0][:3] == ("INVALID", "curvature", 0)


def test_a_server_that_begins_anew_without_its_catalog_has_the_rows_again(serve: Serve, tmp_path: Path) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    send_curvature(producer, 0, 100, [hessian(100)])
    idle(server)
    before = found(channel)
    server.stop()
    for path in server.config.data.glob("catalog*"):
        path.unlink()
    server, channel = serve(server.config.data)
    idle(server)
    after = found(channel)
    assert after[0]["row"] > before[-1]["row"]
    drop = ("row", "analysed_at")
    assert [{k: v for k, v in row.items() if k not in drop} for row in after] == [
        {k: v for k, v in row.items() if k not in drop} for row in before
    ]
    # A restart with the catalog analyses nothing again.
    server.stop()
    _, channel = serve(server.config.data)
    assert found(channel) == after
