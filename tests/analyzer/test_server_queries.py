"""Questions to a server over real gRPC on loopback, in this process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

from gradnoise.analyzer import handlers
from gradnoise.analyzer.analysis import AnalysisOptions, WindowReport, analyse
from gradnoise.analyzer.config import Limits
from gradnoise.v1 import analysis_pb2
from gradnoise.wire import RunInfo

from .calling import analysis, code, details, idle, rows
from .producing import INFO, WIDE, Producer, stamped_draws, stamped_window

if TYPE_CHECKING:
    from gradnoise.analyzer.windows import Window

    from .conftest import Serve


def test_queries_name_what_there_is(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel, WIDE)
    producer.open()
    producer.send_window()
    idle(server)
    for query, expected, text in (
        ({"run": "x"}, grpc.StatusCode.NOT_FOUND, "the runs here are: wide"),
        ({"run": "wide", "group": "x"}, grpc.StatusCode.NOT_FOUND, "its groups are: a.weight, b.weight"),
        ({"run": "wide", "form": "x"}, grpc.StatusCode.INVALID_ARGUMENT, "the forms are: per_parameter"),
        ({"run": "wide", "first_step": 2, "last_step": 1}, grpc.StatusCode.INVALID_ARGUMENT, "behind"),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            rows(channel, **query)
        assert code(failure) is expected
        assert text in details(failure)
    assert len(rows(channel, run="wide", group="*")) == 3
    assert len(rows(channel, run="wide", group="a.weight", form="standardized")) == 1
    assert rows(channel, run="wide", first_step=80) == []
    assert len(rows(channel, run="wide", first_step=79, last_step=500)) == 9
    with pytest.raises(grpc.RpcError) as failure:
        next(analysis(channel).Watch(analysis_pb2.WatchRequest(run="wide", after_row=-1)))
    assert code(failure) is grpc.StatusCode.INVALID_ARGUMENT


def test_long_results_come_in_parts(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    producer.send_window()
    idle(server)
    monkeypatch.setattr(handlers, "_CHUNK", 3)
    parts = list(analysis(channel).Tail(analysis_pb2.TailRequest(run="run-1")))
    assert len(parts) == 3
    assert [row["row"] for row in rows(channel, run="run-1")] == list(range(1, 10))


def test_a_fit_and_what_cannot_be_fitted(serve: Serve) -> None:
    _, channel = serve(limits=Limits(fit_values=1000))
    stub = analysis(channel)
    values = np.random.default_rng(0).standard_normal(500)
    answer = stub.Fit(analysis_pb2.FitRequest(values=values.tobytes(), location=True))
    table = pa.ipc.open_stream(answer.ipc_stream).read_all()
    rivals = {"student_t", "laplace", "generalised_gaussian", "gaussian_mixture"}
    assert set(table.column("law").to_pylist()) == {"stable", "gaussian"} | rivals
    for bad in (b"1234567", values.repeat(3).tobytes(), b"", np.zeros(50).tobytes(), np.full(50, np.nan).tobytes()):
        with pytest.raises(grpc.RpcError) as failure:
            stub.Fit(analysis_pb2.FitRequest(values=bad))
        assert code(failure) is grpc.StatusCode.INVALID_ARGUMENT
        assert details(failure)


def test_a_bug_is_internal_and_tells_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, channel = serve()

    def broken(service: handlers.Service) -> pa.Table:
        raise RuntimeError("a secret")

    monkeypatch.setattr(handlers, "runs", broken)
    with pytest.raises(grpc.RpcError) as failure:
        analysis(channel).Runs(analysis_pb2.RunsRequest())
    assert code(failure) is grpc.StatusCode.INTERNAL
    assert "secret" not in details(failure)
    assert "a secret" in caplog.text


def test_queries_do_not_wait_for_an_analysis(serve: Serve) -> None:
    server, channel = serve()
    begun, go_on = threading.Event(), threading.Event()

    def slow(window: Window, options: AnalysisOptions) -> WindowReport:
        if window.closed.window == 1:
            begun.set()
            assert go_on.wait(30)
        return analyse(window, options)

    server.service.analyst._analysis = slow
    producer = Producer(channel)
    producer.open()
    producer.send_window(0)
    producer.send_window(1, number=1)
    assert begun.wait(30)
    assert {row["window"] for row in rows(channel, run="run-1")} == {0}
    assert producer.send(stamped_draws(4, window=2)) == [("ack", "draws", 5)]
    go_on.set()
    idle(server)
    assert {row["window"] for row in rows(channel, run="run-1")} == {0, 1}


def test_a_window_closed_before_its_draws_says_how_many_are_missing(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    producer.send(stamped_draws(0), stamped_window(0, 80))
    idle(server)
    found = rows(channel, run="run-1", group="a.weight")
    assert {(row["draws"], row["dropped"]) for row in found} == {(40, 40)}
    assert all("missing from the store" in row["warnings"][0] for row in found)


def test_runs_of_many_producers_are_summed(serve: Serve) -> None:
    server, channel = serve()
    for _ in range(3):
        producer = Producer(channel, RunInfo(**{**_fields(INFO), "run": "shared"}))
        producer.open()
        producer.send_window()
    idle(server)
    found = rows(channel, run="shared", group="*", form="per_parameter")
    assert len({row["producer"] for row in found}) == 3
    (summary,) = server.service.store.summaries()
    assert (summary.producers, summary.windows, summary.draws) == (3, 3, 240)


def _fields(info: RunInfo) -> dict[str, Any]:
    return {name: getattr(info, name) for name in ("run", "model", "created", "groups", "plan", "versions")}
