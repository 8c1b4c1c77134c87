"""The life of a server: ready, draining, stopped, started again; over real gRPC on loopback, in this process."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gradnoise.analyzer import server as server_module
from gradnoise.analyzer.analysis import AnalysisOptions, WindowReport, analyse
from gradnoise.analyzer.analyst import Analyst
from gradnoise.analyzer.catalog import Catalog
from gradnoise.analyzer.config import ServerConfig
from gradnoise.analyzer.errors import AnalyzerError, DataDirectoryInUseError
from gradnoise.analyzer.server import Server
from gradnoise.v1 import analysis_pb2

from .calling import analysis, batches, code, details, idle, rows, segments
from .producing import Producer, endless, reply, stamped_draws

if TYPE_CHECKING:
    from pathlib import Path

    from gradnoise.analyzer.windows import Window

    from .conftest import Serve


def health(channel: grpc.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    found: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status
    return found


def test_health_is_serving_only_after_recovery_and_before_draining(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = Server(ServerConfig(tmp_path / "data", "127.0.0.1:0", drain_seconds=5))
    recovering, go_on = threading.Event(), threading.Event()
    bound: list[int] = []
    add = server._grpc.add_insecure_port

    def listen(address: str) -> int:
        bound.append(add(address))
        return bound[0]

    def recover() -> None:
        recovering.set()
        assert go_on.wait(30)

    monkeypatch.setattr(server._grpc, "add_insecure_port", listen)
    monkeypatch.setattr(server._store, "recover", recover)
    starting = threading.Thread(target=server.start)
    starting.start()
    assert recovering.wait(30)
    with grpc.insecure_channel(f"127.0.0.1:{bound[0]}") as channel:
        assert health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as failure:
            Producer(channel).open()
        assert code(failure) is grpc.StatusCode.UNAVAILABLE
        assert "starting" in details(failure)
        go_on.set()
        starting.join(60)
        assert health(channel) == health_pb2.HealthCheckResponse.SERVING
        assert Producer(channel).open()["draws"] == 0
    assert server.stop()


def test_sigterm_finishes_the_window_under_analysis_while_health_says_not_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    said: list[int] = []
    failures: list[BaseException] = []

    def slow(window: Window, options: AnalysisOptions) -> WindowReport:
        begun.set()
        assert go_on.wait(30)
        return analyse(window, options)

    def job(address: str) -> None:
        terminated = False
        try:
            with grpc.insecure_channel(address) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                watching = stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
                said.append(next(watching).status)
                producer = Producer(channel)
                producer.open()
                producer.send_window()
                assert begun.wait(30)
                os.kill(os.getpid(), signal.SIGTERM)
                terminated = True
                said.append(next(watching).status)
                watching.cancel()
        except BaseException as error:
            failures.append(error)
        finally:
            go_on.set()
            if not terminated:
                os.kill(os.getpid(), signal.SIGTERM)

    jobs: list[threading.Thread] = []

    def ready(address: str) -> None:
        jobs.append(threading.Thread(target=job, args=(address,)))
        jobs[0].start()

    monkeypatch.setattr("gradnoise.analyzer.server.Analyst", functools.partial(Analyst, analysis=slow))
    assert server_module.serve(ServerConfig(tmp_path / "data", "127.0.0.1:0", drain_seconds=30), ready=ready)
    jobs[0].join(30)
    assert failures == []
    assert said == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    with closing(Catalog(tmp_path / "data" / "catalog.sqlite")) as catalog:
        assert {(run, window) for run, _, window in catalog.analysed()} == {("run-1", 0)}


def test_kernels_are_warm_before_calls_are_served(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str | None] = []
    starting: list[Server] = []
    start = Server.start

    def spy(server: Server) -> str:
        starting.append(server)
        return start(server)

    monkeypatch.setattr(Server, "start", spy)
    monkeypatch.setattr(server_module, "warm", lambda: states.append(starting[0]._state))
    server, _ = serve()
    assert ["starting" in (state or "") for state in states] == [True]
    assert server._state is None


WARMTH = """
import sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from gradnoise.analyzer.analysis import analyse, fit_vector
from gradnoise.analyzer.server import warm
from gradnoise.analyzer.windows import ClosedWindow, GroupDraws, Window

def compiled():
    modules = [module for name, module in sys.modules.items() if name.startswith("gradnoise.analyzer.stats")]
    return sum(len(each.signatures) for module in modules for each in vars(module).values()
               if isinstance(each, Dispatcher))

before = compiled()
warm()
warmed = compiled()
rng = np.random.default_rng(1)
draws = np.arange(128)
for kind, theta in (("probe", 0 * draws), ("burst", draws)):
    values = rng.standard_normal((128, 40)) * np.exp(-theta / 40)[:, None]
    group = GroupDraws("w", 40, values.astype(np.float32), theta.astype(np.int64), draws.astype(np.int32))
    closed = ClosedWindow("r", "p", 0, kind, 0, 127, 0, 127, 128, 128, 128, 0, 0)
    statuses = {row.status for row in analyse(Window(closed, 0, (group,))).rows}
    assert ("not_stationary" in statuses) == (kind == "burst"), statuses
for location in (True, False):
    fit_vector(rng.standard_normal(500), location=location)
print(before, warmed, compiled())
"""


def test_warming_compiles_all_that_a_window_and_a_fit_need() -> None:
    command = [sys.executable, "-c", WARMTH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    before, warmed, after = map(int, done.stdout.split())
    assert before < warmed == after


def test_stopping_ends_streams_and_watches_with_unavailable_and_seals(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    done = threading.Event()
    stream = producer.stream(endless(producer.request(stamped_draws(0)), until=done))
    assert reply(next(stream)) == ("ack", "draws", 1)
    watching = analysis(channel).Watch(analysis_pb2.WatchRequest(run="run-1"))
    watching.initial_metadata()
    assert server.stop(20)
    done.set()
    for call in (stream, watching):
        with pytest.raises(grpc.RpcError) as failure:
            next(call)
        assert code(failure) is grpc.StatusCode.UNAVAILABLE
    assert segments(server, "open") == 0
    assert batches(server, producer) == [0]
    assert server.stop()  # twice is once


def test_a_second_server_on_the_directory_or_the_port_is_refused(serve: Serve, tmp_path: Path) -> None:
    server, _ = serve()
    with pytest.raises(DataDirectoryInUseError, match="in use by another server"):
        Server(ServerConfig(server.config.data, "127.0.0.1:0"))
    port = server.address.rsplit(":", 1)[1]
    second = Server(ServerConfig(tmp_path / "other", f"127.0.0.1:{port}"))
    with pytest.raises(AnalyzerError, match="is the port"):
        second.start()
    Server(ServerConfig(tmp_path / "other", "127.0.0.1:0")).stop()  # the directory is free again


def test_a_deleted_catalog_is_computed_anew(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    producer.send_window()
    idle(server)
    before = rows(channel, run="run-1")
    assert server.stop()
    for path in server.config.data.glob("catalog.sqlite*"):
        path.unlink()
    again, channel = serve(server.config.data)
    idle(again)
    after = rows(channel, run="run-1")
    assert after[0]["row"] > 1_000_000
    volatile = {"row", "analysed_at"}
    assert [{k: v for k, v in row.items() if k not in volatile} for row in after] == [
        {k: v for k, v in row.items() if k not in volatile} for row in before
    ]


def test_what_a_restart_finds_is_not_analysed_again(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    producer.send_window()
    idle(server)
    before = rows(channel, run="run-1")
    assert server.stop()
    again, channel = serve(server.config.data)
    producer = Producer(channel, producer=producer.id)
    assert producer.open()["draws"] == 2
    producer.send_window(5, number=1)  # whatever the start had queued would come before it
    idle(again)
    after = rows(channel, run="run-1")
    assert after[: len(before)] == before
    assert {row["window"] for row in after[len(before) :]} == {5}
