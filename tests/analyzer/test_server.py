"""The service over real gRPC on loopback, in this process."""

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
import numpy as np
import pyarrow as pa
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gradnoise.analyzer import handlers
from gradnoise.analyzer import server as server_module
from gradnoise.analyzer.analysis import AnalysisOptions, WindowReport, analyse
from gradnoise.analyzer.analyst import Analyst
from gradnoise.analyzer.assembly import read_windows
from gradnoise.analyzer.catalog import Catalog
from gradnoise.analyzer.config import Limits, ServerConfig
from gradnoise.analyzer.errors import AnalyzerError, DataDirectoryInUseError
from gradnoise.analyzer.server import Server
from gradnoise.collector.shipper import ship
from gradnoise.v1 import analysis_pb2, analysis_pb2_grpc, ingest_pb2
from gradnoise.wire import Dump, DumpWriter, RunInfo, Stamped, Table

from ..proto.dumps import draws_batch, windows_batch
from ..servers import until
from .producing import (
    INFO,
    OTHER,
    WIDE,
    Producer,
    endless,
    reference_batch,
    reply,
    sketches_batch,
    stamped_draws,
    stamped_window,
)
from .producing import idle as everything_analysed

if TYPE_CHECKING:
    from pathlib import Path

    from gradnoise.analyzer.windows import Window

    from .conftest import Serve


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


def test_the_way_from_batches_to_rows(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel, WIDE)
    assert producer.open() == dict.fromkeys(Table, 0)
    draws = [stamped_draws(i, info=WIDE) for i in range(3)]
    replies = producer.send(*draws, stamped_window(0, 120, info=WIDE))
    assert replies[-1] == ("ack", "windows", 1)
    assert ("ack", "draws", 3) in replies
    idle(server)
    found = rows(channel, run="wide")
    assert [row["row"] for row in found] == list(range(1, 10))
    assert {row["status"] for row in found if row["form"] == "per_parameter"} == {"ok"}
    assert {row["draws"] for row in found} == {120}
    (run,) = pa.ipc.open_stream(analysis(channel).Runs(analysis_pb2.RunsRequest()).ipc_stream).read_all().to_pylist()
    assert (run["run"], run["windows"], run["analysed"], run["draws"], run["problems"]) == ("wide", 1, 1, 120, 0)
    assert producer.open() == dict.fromkeys(Table, 0) | {"draws": 3, "windows": 1}


def test_every_table_of_a_dump_reaches_the_analysis_over_the_wire(serve: Serve, tmp_path: Path) -> None:
    seen: list[Window] = []
    server, _ = serve()

    def spy(window: Window, options: AnalysisOptions) -> WindowReport:
        seen.append(window)
        return analyse(window, options)

    server.service.analyst._analysis = spy
    writer = DumpWriter(tmp_path / "dump", INFO)
    writer.append(Table.DRAWS, draws_batch(range(40)))
    writer.append(Table.REFERENCE, reference_batch(0, {"a.bias": np.array([3, 4], np.float32)}))
    for draw in (1, 3):
        writer.append(Table.SKETCHES, sketches_batch(0, {draw: {7: draw}}))
    writer.append(Table.WINDOWS, windows_batch(0, 40))
    writer.close()
    assert ship(tmp_path / "dump", server.address).complete
    idle(server)
    (offline,) = read_windows(Dump(tmp_path / "dump"))
    (live,) = seen
    assert (live.closed, live.missing) == (offline.closed, 0)
    assert live.reference is not None
    assert live.reference["a.bias"].values.tolist() == [3, 4]
    assert [(sketch.draw, sketch.counts.tolist()) for sketch in live.sketches] == [(1, [1]), (3, [3])]


def test_references_and_sketches_that_do_not_fit_are_refused_over_the_wire(serve: Serve) -> None:
    _, channel = serve()
    producer = Producer(channel)
    producer.open()
    bad = (
        Stamped.of(Table.REFERENCE, 0, reference_batch(0, {"a.bias": np.ones(5, np.float32)})),
        Stamped.of(Table.SKETCHES, 0, sketches_batch(0, {1: {9: 1, 2: 1}})),
    )
    assert producer.send(*bad) == [("INVALID", "reference", 0, 0), ("INVALID", "sketches", 0, 0)]


def test_duplicates_conflicts_gaps_and_nonsense_over_the_wire(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    assert producer.send(stamped_draws(0)) == [("ack", "draws", 1)]
    assert producer.send(stamped_draws(0)) == [("ack", "draws", 1)]
    assert producer.send(stamped_draws(0, seed=1)) == [("CONFLICT", "draws", 0, 1)]
    assert producer.send(stamped_draws(2)) == [("GAP", "draws", 2, 1)]
    bad = [
        producer.request(stamped_draws(1), payload=b"junk"),
        producer.request(stamped_draws(1), table="nonsense"),
        producer.request(stamped_draws(1), sequence=7),
        producer.request(stamped_draws(1)),
    ]
    replies = [reply(response) for response in producer.stream(bad)]
    assert sorted(replies, key=str) == [
        ("INVALID", "draws", 1, 1),
        ("INVALID", "draws", 7, 1),
        ("INVALID", "nonsense", 1, 0),
        ("ack", "draws", 2),
    ]
    assert batches(server, producer) == [0, 1]


def test_opening_says_what_is_taken_and_why_not(serve: Serve) -> None:
    _, channel = serve(limits=Limits(credit_bytes=12345))
    producer = Producer(channel)
    stub = producer._stub
    good = ingest_pb2.OpenRequest(run_info=INFO.to_json().encode(), producer=producer.id, schema_version=1)
    opened = stub.Open(good)
    assert (opened.credit_bytes, opened.max_payload_bytes, list(opened.schema_versions)) == (12345, 64 << 20, [1, 2])
    for changed, expected, text in (
        ({"run_info": b"{}"}, grpc.StatusCode.INVALID_ARGUMENT, "does not describe a gradnoise run"),
        ({"run_info": b"\xff"}, grpc.StatusCode.INVALID_ARGUMENT, "does not describe a gradnoise run"),
        ({"run_info": b'{"schema_version": 99}'}, grpc.StatusCode.FAILED_PRECONDITION, "upgrade"),
        ({"run_info": named("../x")}, grpc.StatusCode.INVALID_ARGUMENT, "run id"),
        ({"run_info": OTHER.to_json().encode()}, grpc.StatusCode.ALREADY_EXISTS, "another run name"),
        ({"producer": "x"}, grpc.StatusCode.INVALID_ARGUMENT, "hexadecimal"),
        ({"schema_version": 3}, grpc.StatusCode.FAILED_PRECONDITION, "version 3"),
    ):
        request = ingest_pb2.OpenRequest()
        request.CopyFrom(good)
        for name, value in changed.items():
            setattr(request, name, value)
        with pytest.raises(grpc.RpcError) as failure:
            stub.Open(request)
        assert code(failure) is expected
        assert text in details(failure)


def named(run: str) -> bytes:
    return INFO.to_json().replace('"run-1"', f'"{run}"').encode()


def test_a_stream_must_be_opened_and_is_one_producers(serve: Serve) -> None:
    _, channel = serve()
    producer = Producer(channel)
    with pytest.raises(grpc.RpcError) as failure:
        producer.send(stamped_draws(0))
    assert code(failure) is grpc.StatusCode.NOT_FOUND
    producer.open()
    stranger = Producer(channel)
    with pytest.raises(grpc.RpcError) as failure:
        stranger.send(stamped_draws(0))
    assert code(failure) is grpc.StatusCode.FAILED_PRECONDITION
    mixed = [producer.request(stamped_draws(0)), producer.request(stamped_draws(1), producer=stranger.id)]
    with pytest.raises(grpc.RpcError) as failure:
        list(producer.stream(mixed))
    assert code(failure) is grpc.StatusCode.INVALID_ARGUMENT
    assert "one stream, one producer" in details(failure)


def segments(server: Server, suffix: str) -> int:
    return len(list((server.config.data / "runs" / INFO.run).glob(f"draws-*.{suffix}")))


def test_a_stream_that_ends_or_breaks_leaves_no_file_open(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    done = threading.Event()
    call = producer.stream(endless(producer.request(stamped_draws(0)), until=done))
    assert reply(next(call)) == ("ack", "draws", 1)
    call.cancel()
    done.set()
    until(lambda: segments(server, "arrow") == 1, what="the seal")
    assert segments(server, "open") == 0
    assert producer.send(stamped_draws(1)) == [("ack", "draws", 2)]
    until(lambda: segments(server, "arrow") == 2, what="the second seal")
    assert segments(server, "open") == 0
    assert producer.send(stamped_draws(2)) == [("ack", "draws", 3)]
    assert batches(server, producer) == [0, 1, 2]


def test_two_streams_of_one_producer_store_every_batch_once(serve: Serve) -> None:
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    stamped = [stamped_draws(i) for i in range(60)]
    replies: list[list[Any]] = [[], []]

    def send(index: int) -> None:
        replies[index] = producer.send(*stamped)

    threads = [threading.Thread(target=send, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(found[-1] == ("ack", "draws", 60) for found in replies)
    assert all(kind == "ack" for found in replies for kind, *_ in found)
    assert batches(server, producer) == list(range(60))


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


def test_streams_and_watches_have_limits(serve: Serve) -> None:
    _, channel = serve(limits=Limits(streams=1, watchers=1))
    producer = Producer(channel)
    producer.open()
    done = threading.Event()
    stream = producer.stream(endless(producer.request(stamped_draws(0)), until=done))
    next(stream)
    with pytest.raises(grpc.RpcError) as failure:
        producer.send(stamped_draws(1))
    assert code(failure) is grpc.StatusCode.RESOURCE_EXHAUSTED
    done.set()
    assert list(stream) == []
    watching = analysis(channel).Watch(analysis_pb2.WatchRequest(run="run-1"))
    watching.initial_metadata()
    with pytest.raises(grpc.RpcError) as failure:
        next(analysis(channel).Watch(analysis_pb2.WatchRequest(run="run-1")))
    assert code(failure) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "watch calls" in details(failure)
    watching.cancel()
    assert producer.send(stamped_draws(1)) == [("ack", "draws", 2)]

    def free() -> bool:
        again = analysis(channel).Watch(analysis_pb2.WatchRequest(run="run-1"))
        again.initial_metadata()
        active: bool = again.is_active()
        again.cancel()
        return active

    until(free, what="the slot of the cancelled watch")


def test_a_payload_beyond_the_limit_is_refused(serve: Serve) -> None:
    server, channel = serve(limits=Limits(payload_bytes=100))
    producer = Producer(channel)
    producer.open()
    (refused,) = producer.send(stamped_draws(0))
    assert refused == ("INVALID", "draws", 0, 0)
    assert batches(server, producer) == []


def test_more_in_flight_than_the_credit_is_held_back_and_not_lost(serve: Serve) -> None:
    server, channel = serve(limits=Limits(credit_bytes=1))
    producer = Producer(channel)
    producer.open()
    assert producer.send(*(stamped_draws(i) for i in range(20)))[-1] == ("ack", "draws", 20)
    assert batches(server, producer) == list(range(20))


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
