"""Shipping: everything arrives once in order, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from gradnoise.collector import Sampling, attach
from gradnoise.collector._errors import CollectorError, RefusedError, UnreachableError
from gradnoise.collector._shipping import shipment as _shipment
from gradnoise.collector._shipping.progress import Progress, ShipState
from gradnoise.collector._shipping.session import CutError, Known, Link, run_session
from gradnoise.collector.shipper import main, ship
from gradnoise.v1 import ingest_pb2
from gradnoise.wire import Dump, DumpWriter, NotADumpError, Table, pack

from ..proto.dumps import INFO, draws_batch, windows_batch
from .fake import FakeIngest, FakeServer, Faults
from .loops import Data, messages, mlp, rows, train
from .test_bursts import sgd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gradnoise.collector._shipping.flight import Flight

WINDOWS, DRAWS = 3, 4  # windows of a dump, batches of draws before each


def fill(writer: DumpWriter, *, windows: int = WINDOWS) -> None:
    for window in range(windows):
        for part in range(DRAWS):
            writer.append(Table.DRAWS, draws_batch([part], window=2 * window))
        writer.append(Table.WINDOWS, windows_batch(2 * window, DRAWS))


def dump_of(path: Path, *, windows: int = WINDOWS) -> str:
    writer = DumpWriter(path, INFO, segment_bytes=4000)
    fill(writer, windows=windows)
    writer.close()
    return writer.producer


def assert_stored(ingest: FakeIngest, path: Path) -> None:
    """The analyzer has exactly what the dump holds, each batch once, in order."""
    dump = Dump(path)
    wanted = {
        (producer, table.value): [(s.sequence, s.crc32) for s in batches]
        for producer in dump.producers()
        for table in Table
        if (batches := list(dump.batches(table, producer)))
    }
    assert {key: [(s.sequence, s.crc32) for s in stored] for key, stored in ingest.stored.items()} == wanted
    assert ingest.runs == {dump.info.to_json().encode()}


def test_a_dump_is_shipped_whole_and_the_stream_ended(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = dump_of(tmp_path)
    server = serve()
    said: list[Progress] = []
    report = ship(tmp_path, server.endpoint, on_progress=said.append)
    assert_stored(server.ingest, tmp_path)
    assert server.ingest.half_closed == 1
    (each,) = report.producers
    assert (each.producer, each.batches, each.rows) == (producer, WINDOWS * (DRAWS + 1), WINDOWS * DRAWS * 2)
    assert each.tables == {"draws": WINDOWS * DRAWS, "windows": WINDOWS}
    assert report.complete
    assert report.run == INFO.run
    assert said[-1] == Progress.read(tmp_path, producer)
    assert said[-1].state is ShipState.DONE
    again = ship(tmp_path, server.endpoint)
    assert (again.producers[0].batches, again.producers[0].rows) == (0, each.rows)
    assert server.ingest.duplicates == 0
    assert list(tmp_path.glob(".ship*")) == []


def test_windows_arrive_after_their_draws(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    dump_of(tmp_path)
    order: list[str] = []
    server = serve()
    store = server.ingest.stored

    class Watching(dict[Any, Any]):
        def setdefault(self, key: Any, default: Any = None, /) -> Any:
            order.append(key[1])
            return super().setdefault(key, default)

    server.ingest.stored = Watching(store)
    ship(tmp_path, server.endpoint)
    assert order == ["draws"] * (WINDOWS * DRAWS) + ["windows"] * WINDOWS


@pytest.mark.parametrize(
    "faults",
    [
        Faults(open_unavailable=2),
        Faults(cut_after=[0, 1, 5, 2]),
        Faults(lost_acks=1),
        Faults(gap_at=3),
        Faults(unavailable_at=6),
        Faults(credit=1),
        Faults(credit=6000, cut_after=[3, 3], lost_acks=1, unavailable_at=2),
    ],
    ids=["starting", "cut", "lost-acks", "gap", "unavailable", "one-at-a-time", "all"],
)
def test_whatever_happens_everything_is_stored_once(
    tmp_path: Path, serve: Callable[..., FakeServer], faults: Faults
) -> None:
    dump_of(tmp_path)
    server = serve(faults)
    report = ship(tmp_path, server.endpoint, grace=20)
    assert report.complete
    assert_stored(server.ingest, tmp_path)
    assert report.producers[0].rows == WINDOWS * DRAWS * 2
    assert server.ingest.half_closed == 1


def test_a_restarted_analyzer_is_found_again(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    writer = DumpWriter(tmp_path, INFO, segment_bytes=4000)
    fill(writer)
    server = serve()
    done: list[object] = []
    thread = threading.Thread(
        target=lambda: done.append(ship(tmp_path, server.endpoint, patient=True, producer=writer.producer))
    )
    thread.start()
    assert server.ingest.wait_for(5)
    server.stop()
    fill(writer)
    server.start()
    fill(writer)
    assert server.ingest.wait_for(3 * WINDOWS * (DRAWS + 1))
    assert thread.is_alive(), "the producer lives: there may be more"
    writer.close()
    thread.join(30)
    assert not thread.is_alive()
    assert len(done) == 1
    assert_stored(server.ingest, tmp_path)


def test_all_producers_of_a_dump_are_shipped(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    producers = {dump_of(tmp_path) for _ in range(3)}
    server = serve()
    assert {each.producer for each in ship(tmp_path, server.endpoint).producers} == producers
    assert_stored(server.ingest, tmp_path)
    one = serve()
    chosen = sorted(producers)[1]
    assert [each.producer for each in ship(tmp_path, one.endpoint, producer=chosen).producers] == [chosen]


@pytest.mark.parametrize("code", [ingest_pb2.Nack.INVALID, ingest_pb2.Nack.CONFLICT])
def test_a_refused_batch_stops_the_shipment_and_stays(
    tmp_path: Path, serve: Callable[..., FakeServer], code: int
) -> None:
    producer = dump_of(tmp_path)
    server = serve(Faults(nack=code))
    with pytest.raises(RefusedError, match=r"refuses batch 0 of table draws \((INVALID|CONFLICT)\): as told"):
        ship(tmp_path, server.endpoint)
    progress = Progress.read(tmp_path, producer)
    assert progress is not None
    assert progress.state is ShipState.REFUSED
    assert "as told" in str(progress.error)
    assert server.ingest.streams == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.PERMISSION_DENIED])
def test_a_refused_run_is_not_tried_again(
    tmp_path: Path, serve: Callable[..., FakeServer], code: grpc.StatusCode
) -> None:
    dump_of(tmp_path)
    server = serve(Faults(open_code=code))
    with pytest.raises(RefusedError, match=f"{code.name}: not you"):
        ship(tmp_path, server.endpoint)
    assert server.ingest.opens == 1


def test_a_payload_beyond_the_analyzers_limit_is_named(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    dump_of(tmp_path)
    server = serve(Faults(max_payload=100))
    with pytest.raises(RefusedError, match=r"batch 0 of table draws is \d+ bytes; the analyzer takes 100"):
        ship(tmp_path, server.endpoint)


def test_an_analyzer_that_falls_silent_is_left(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    dump_of(tmp_path)
    server = serve(Faults(silent=1))
    monkeypatch.setattr(_shipment, "_STALL", 0.3)
    assert ship(tmp_path, server.endpoint, grace=20).complete
    assert server.ingest.streams == 2
    assert_stored(server.ingest, tmp_path)


def test_no_more_is_under_way_than_the_analyzer_gave_credit_for(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = dump_of(tmp_path)
    payloads = [len(pack(stamped)) for stamped in Dump(tmp_path).batches(Table.DRAWS, producer)]
    credit = sum(payloads[:3]) + payloads[3] // 2
    server = serve(Faults(mute=1, credit=credit))
    monkeypatch.setattr(_shipment, "_STALL", 0.3)
    assert ship(tmp_path, server.endpoint, grace=20).complete
    assert server.ingest.unanswered == payloads[:3]
    assert server.ingest.streams == 2
    assert_stored(server.ingest, tmp_path)


def test_a_stream_given_up_is_cancelled_before_its_sender_is_let_go(tmp_path: Path) -> None:
    producer = dump_of(tmp_path)
    flights: list[Flight] = []
    let_go: list[bool] = []

    class Call(list[Any]):
        def cancel(self) -> None:
            let_go.append(flights[-1].ended)

    class Stub:
        def Open(self, request: Any, timeout: float) -> Any:
            return ingest_pb2.OpenResponse(credit_bytes=1)

        def Append(self, requests: Iterator[Any]) -> Call:
            first = next(requests)
            nack = ingest_pb2.Nack(table=first.table, sequence=first.sequence, code=ingest_pb2.Nack.UNAVAILABLE)
            return Call([ingest_pb2.AppendResponse(nack=nack)])

    link = Link(Stub(), "there:1")  # type: ignore[arg-type]
    with pytest.raises(CutError, match="cannot take batch 0"):
        run_session(link, Dump(tmp_path), producer, Known(), flights.append, stall=9, give_way=lambda _: False)
    assert let_go == [False]
    assert flights[-1].ended


def test_a_damaged_batch_keeps_what_follows_it_and_is_reported(
    tmp_path: Path, serve: Callable[..., FakeServer]
) -> None:
    producer = dump_of(tmp_path, windows=1)
    path = sorted(tmp_path.glob("draws-*.arrow"))[0]
    data = bytearray(path.read_bytes())
    wanted = draws_batch([1]).column("values").values.to_numpy().tobytes()
    where = data.index(wanted)
    data[where] ^= 1
    path.write_bytes(data)
    server = serve()
    report = ship(tmp_path, server.endpoint)
    assert not report.complete
    assert any("1 is missing from, or unreadable in, the dump" in text for text in report.producers[0].problems)
    assert any("CRC32" in text for text in report.producers[0].problems)
    assert report.producers[0].tables == {"draws": 1, "windows": 1}
    progress = Progress.read(tmp_path, producer)
    assert progress is not None
    assert progress.state is ShipState.FAILED


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_unreachable_endpoint_fails_by_hand_after_the_grace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    producer = dump_of(tmp_path)
    endpoint = f"127.0.0.1:{free_port()}"
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match=f"{endpoint} took nothing for 0.5 s .*ship again"):
        ship(tmp_path, endpoint, grace=0.5)
    assert time.monotonic() - begun < 5
    progress = Progress.read(tmp_path, producer)
    assert progress is not None
    assert progress.state is ShipState.UNREACHABLE
    assert main([str(tmp_path), "--endpoint", endpoint, "--grace", "0.1"]) == 3


def test_a_patient_shipper_gives_up_only_after_the_producers_end(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, INFO)
    fill(writer)
    endpoint = f"127.0.0.1:{free_port()}"
    tries, ended = threading.Semaphore(0), threading.Event()
    errors: list[Exception] = []

    def run() -> None:
        try:
            ship(tmp_path, endpoint, patient=True, grace=0.3, on_progress=lambda _: tries.release())
        except UnreachableError as error:
            errors.append(error)
        ended.set()

    thread = threading.Thread(target=run)
    begun = time.monotonic()
    thread.start()
    while time.monotonic() - begun < 1.0:  # more than the grace
        assert tries.acquire(timeout=20)
    assert not ended.is_set()
    writer.close()
    assert ended.wait(20)
    thread.join()
    assert len(errors) == 1


def test_what_is_no_dump_or_no_endpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotADumpError):
        ship(tmp_path, "127.0.0.1:1")
    dump_of(tmp_path)
    with pytest.raises(CollectorError, match="expected HOST:PORT"):
        ship(tmp_path, "nowhere")
    assert main([str(tmp_path / "none"), "--endpoint", "127.0.0.1:1"]) == 1


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"endpoint": "x", "state": "odd"}'])
def test_an_unreadable_progress_file_is_no_progress(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        Progress.path(tmp_path, "p").write_text(content)
    assert Progress.read(tmp_path, "p") is None


def test_training_with_an_endpoint_ships_while_it_runs(
    tmp_path: Path, serve: Callable[..., FakeServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    model, data = mlp(), Data()
    optimizer = sgd(model)
    handle = attach(
        model, optimizer, endpoint=server.endpoint, dump=tmp_path, run="r", sampling=Sampling(burst=5, every=5)
    )
    train(model, optimizer, data, 10)
    handle.flush()
    assert server.ingest.wait_for(4), "it ships before the training has ended"
    train(model, optimizer, data, 10)
    handle.close(timeout=30)
    assert_stored(server.ingest, tmp_path)
    stats = handle.stats()
    assert stats.shipped == stats.recorded == len(rows(tmp_path)) == 80
    assert stats.error is None
    assert messages(caplog) == []
    values = server.ingest.stored[Dump(tmp_path).producers()[0], "draws"][0].batch.column("values")
    np.testing.assert_array_equal(values[0].as_py(), rows(tmp_path)[0]["values"])


def test_the_endpoint_of_the_environment_is_used_where_none_is_given(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setenv("GRADNOISE_ENDPOINT", f" {server.endpoint} ")
    model = mlp()
    optimizer = sgd(model)
    handle = attach(model, optimizer, dump=tmp_path, run="r", sampling=Sampling(burst=5, every=5))
    train(model, optimizer, Data(), 5)
    handle.close(timeout=30)
    assert_stored(server.ingest, tmp_path)
    assert handle.stats().shipped == 20


def test_a_killed_shipper_is_taken_up_by_hand(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    writer = DumpWriter(tmp_path, INFO, segment_bytes=4000)
    fill(writer)
    server = serve(Faults(credit=3000))
    command = [sys.executable, "-m", "gradnoise.collector.shipper", str(tmp_path), "--endpoint", server.endpoint]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert server.ingest.wait_for(5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    fill(writer)
    writer.close()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "rows of draws" in done.stderr
    assert_stored(server.ingest, tmp_path)
    assert json.loads(next(tmp_path.glob("ship-*.json")).read_text())["state"] == "done"
