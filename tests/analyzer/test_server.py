"""What streams bring to a server over real gRPC on loopback, in this process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

from gradnoise.analyzer.analysis import AnalysisOptions, WindowReport, analyse
from gradnoise.analyzer.assembly import read_windows
from gradnoise.analyzer.config import Limits
from gradnoise.collector.shipper import ship
from gradnoise.v1 import analysis_pb2, ingest_pb2
from gradnoise.wire import Dump, DumpWriter, Stamped, Table

from ..proto.dumps import draws_batch, windows_batch
from ..servers import until
from .calling import analysis, batches, code, details, idle, rows, segments
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

if TYPE_CHECKING:
    from pathlib import Path

    from gradnoise.analyzer.windows import Window

    from .conftest import Serve


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
