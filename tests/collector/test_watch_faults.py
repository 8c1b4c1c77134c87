"""A watch among faults: damage, refusals, deletions, kills; whatever happens, each batch is stored once."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gradnoise.collector._errors import EndpointError
from gradnoise.collector._shipping import backoff as _backoff
from gradnoise.collector._shipping import shipment as _shipment
from gradnoise.collector._shipping import watch as _watch
from gradnoise.collector._shipping.progress import Progress, ShipState
from gradnoise.collector.shipper import ship, watch
from gradnoise.v1 import ingest_pb2
from gradnoise.wire import Dump, DumpWriter, Front, Table, write_fronts

from ..proto.dumps import INFO, draws_batch
from ..servers import ServerProcess, free_port, until
from .fake import FakeIngest, FakeServer, Faults, TokenCheck
from .test_shipper import DRAWS, WINDOWS, assert_stored, dump_of, fill
from .watching import BATCHES, ROOT, Watching, run_of, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# --- faults


def test_a_dump_that_is_damaged_refused_or_unreadable_is_reported_once_and_the_others_go_on(
    tmp_path: Path, serve: Callable[..., FakeServer], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "_SCAN", 0.02)
    good, damaged, refused, unreadable = (tmp_path / name for name in ("good", "damaged", "refused", "unreadable"))
    run_of(good, "good")
    run_of(damaged, "damaged")
    segment = sorted(damaged.glob("draws-*.arrow"))[0]
    data = bytearray(segment.read_bytes())
    data[data.index(draws_batch([1]).column("values").values.to_numpy().tobytes())] ^= 1
    segment.write_bytes(data)
    run_of(refused, "refused")
    unreadable.mkdir()
    (unreadable / "run.json").write_text("{")

    class Picky(FakeIngest):
        def Open(self, request: ingest_pb2.OpenRequest, context: grpc.ServicerContext) -> ingest_pb2.OpenResponse:
            if b'"refused"' in request.run_info:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, "taken")
            return super().Open(request, context)

    server = serve()
    server.ingest = Picky()
    server.stop()
    server.start()
    watching = Watching(tmp_path, server.endpoint)
    for late in ("late-1", "late-2", "late-3"):
        run_of(tmp_path / late, late)
        until(
            lambda late=late: (
                any((tmp_path / late).glob("ship-*.json"))  # type: ignore[misc]
                and '"done"' in next((tmp_path / late).glob("ship-*.json")).read_text()
            ),
            what=late,
        )
    report = watching.stop()
    assert (report.done, report.failed, report.unreachable) == (4, 3, False)
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert sum("taken" in text for text in said) == 1
    assert sum("1 is missing from, or unreadable in, the dump" in text for text in said) == 1
    assert sum(str(unreadable / "run.json") in text for text in said) == 1
    by_dump = {dump.dump: dump for dump in report.dumps}
    assert "taken" in by_dump[str(refused)].failures[0]
    assert by_dump[str(damaged)].producers[0].tables == {"draws": 1, "windows": 3}
    assert by_dump[str(unreadable)].run is None


KILLED = """
import os, sys
from pathlib import Path
from gradnoise.wire import DumpWriter, Table
from tests.proto.dumps import INFO, draws_batch, windows_batch
writer = DumpWriter(Path(sys.argv[1]), INFO, segment_bytes=4000)
for window in range(5):
    writer.append(Table.DRAWS, draws_batch([0, 1], window=window))
    writer.append(Table.WINDOWS, windows_batch(window, 2))
path = next(Path(sys.argv[1]).glob("windows-*.open"))
with path.open("ab") as file:
    file.write(path.read_bytes()[-300:-40])
os.kill(os.getpid(), 9)
"""


def test_what_a_producer_wrote_before_it_was_killed_in_mid_write_is_shipped(
    tmp_path: Path, serve: Callable[..., FakeServer]
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "d")], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    server = serve()
    report = watch(tmp_path, server.endpoint, until_done=True)
    assert stored(server.ingest, tmp_path / "d")
    (each,) = report.reports
    assert each.tables == {"draws": 5, "windows": 5}
    (problem,) = each.problems
    assert "windows-" in problem
    assert (report.done, report.failed) == (0, 1), "what was torn is told"


@pytest.mark.parametrize("seed", range(4))
def test_streams_cut_at_random_deliver_everything_once_in_order(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(_backoff, "_MOST", 0.1)
    rng = random.Random(seed)
    cuts = [rng.randrange(BATCHES) for _ in range(8)]
    for number in range(3):
        run_of(tmp_path / f"d{number}", f"d{number}")
    server = serve(Faults(cut_after=cuts, lost_acks=rng.randrange(3), credit=rng.choice([6000, 1 << 20])))
    report = watch(tmp_path, server.endpoint, until_done=True, grace=30, streams=2)
    assert report.done == 3
    assert {each.rows for each in report.reports} == {WINDOWS * DRAWS * 2}
    assert stored(server.ingest, *tmp_path.iterdir())


def test_a_dump_deleted_while_it_is_shipped_is_said_so_and_the_others_go_on(
    tmp_path: Path, serve: Callable[..., FakeServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    doomed = DumpWriter(tmp_path / "doomed", replace(INFO, run="doomed"))
    fill(doomed)
    watching = Watching(tmp_path, server.endpoint)
    assert server.ingest.wait_for(BATCHES)
    shutil.rmtree(tmp_path / "doomed")
    until(lambda: any("doomed is gone: it was deleted" in r.getMessage() for r in caplog.records), what="the word")
    run_of(tmp_path / "next", "next")
    assert server.ingest.wait_for(2 * BATCHES)
    doomed._closed = True  # its segments cannot be sealed any more
    os.close(doomed._lock)
    assert watching.stop().failed == 1


def test_a_refusal_of_us_ends_the_watch_at_once(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    for number in range(5):
        run_of(tmp_path / f"d{number}", f"d{number}")
    server = serve(check=TokenCheck("other"))
    with pytest.raises(EndpointError, match=r"UNAUTHENTICATED.*set GRADNOISE_TOKEN"):
        watch(tmp_path, server.endpoint)
    with pytest.raises(EndpointError, match=r"UNIMPLEMENTED.*is it an analyzer"):
        watch(tmp_path, serve_nothing())


_nothing: list[grpc.Server] = []


def serve_nothing() -> str:
    """A gRPC server that is no analyzer."""
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _nothing.append(server)
    return f"127.0.0.1:{port}"


def test_an_analyzer_that_is_away_is_waited_for_and_with_until_done_given_up(
    tmp_path: Path, serve: Callable[..., FakeServer]
) -> None:
    for number in range(6):
        run_of(tmp_path / f"d{number}", f"d{number}")
    server = serve()
    server.stop()
    given_up = watch(tmp_path, server.endpoint, until_done=True, grace=0.3, streams=2)
    assert (given_up.failed, given_up.unreachable, given_up.complete) == (6, True, False)
    assert "took nothing for 0.3 s" in given_up.dumps[0].failures[0]
    watching = Watching(tmp_path, server.endpoint)
    until(lambda: all(_retries(path) >= 2 for path in tmp_path.iterdir()), what="two attempts each")
    server.start()
    assert server.ingest.wait_for(6 * BATCHES)
    until(lambda: not list(tmp_path.glob("*/*.lease")), what="the end")
    watching.stop()
    assert stored(server.ingest, *tmp_path.iterdir())


def _retries(path: Path) -> int:
    progress = next((Progress.read(path, each) for each in Dump(path).producers()), None)
    return 0 if progress is None or progress.state is not ShipState.UNREACHABLE else progress.retries


@pytest.mark.parametrize("endpoint", ["no-such-host.invalid:50051", None])
def test_a_name_that_nobody_knows_and_a_server_that_answers_garbage_are_out_of_reach(
    tmp_path: Path, endpoint: str | None
) -> None:
    producer = dump_of(tmp_path)
    with Garbage() as garbage:
        report = watch(tmp_path, endpoint or garbage.endpoint, until_done=True, grace=0.3)
    assert report.unreachable
    progress = Progress.read(tmp_path, producer)
    assert progress is not None
    assert progress.state is ShipState.UNREACHABLE
    assert progress.error is not None
    assert progress.error.isprintable()
    assert len(progress.error) < 1000
    assert progress.retries >= 1
    assert progress.last_ack is None


class Garbage:
    """A server that answers every connection with what is not HTTP/2."""

    def __enter__(self) -> Garbage:
        import socket

        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        return self

    def _answer(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"HTTP/1.1 400 \x1b[31mno\x00\r\n\r\n" + bytes(range(256)))

    def __exit__(self, *_: object) -> None:
        import socket

        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


def test_answers_that_are_no_messages_are_retried_and_unknown_ones_refused(
    tmp_path: Path, serve: Callable[..., FakeServer]
) -> None:
    class Odd(FakeIngest):
        def Append(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            next(requests)
            yield ingest_pb2.AppendResponse(ack=ingest_pb2.Ack(table="dr\x1baws", next_sequence=9))

    dump_of(tmp_path)
    server = serve()
    server.ingest = Odd()
    server.stop()
    server.start()
    report = watch(tmp_path, server.endpoint, until_done=True)
    assert "acknowledges table 'dr\\x1baws', which was never sent" in report.dumps[0].failures[0]


def test_a_full_disk_for_the_progress_stops_nothing_and_is_said_once(
    tmp_path: Path, serve: Callable[..., FakeServer], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    dump_of(tmp_path)
    server = serve(Faults(cut_after=[2, 2]))
    monkeypatch.setattr(Progress, "write", full)
    assert ship(tmp_path, server.endpoint, grace=20).complete
    assert_stored(server.ingest, tmp_path)
    assert sum("progress cannot be written" in r.getMessage() for r in caplog.records) == 1


# --- deleted to make room


def test_acknowledged_segments_that_were_deleted_are_not_missed(
    tmp_path: Path, serve: Callable[..., FakeServer]
) -> None:
    writer = DumpWriter(tmp_path, INFO, segment_bytes=4000)
    fill(writer)
    server = serve()
    command = [sys.executable, "-m", "gradnoise.collector.shipper", str(tmp_path), "--endpoint", server.endpoint]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert server.ingest.wait_for(BATCHES)
    until(lambda: Progress.read(tmp_path, writer.producer).tables.get("draws") == WINDOWS * DRAWS, what="the progress")  # type: ignore[union-attr]
    first.kill()
    first.wait(30)
    before = {key: list(value) for key, value in server.ingest.stored.items()}
    sealed = sorted(tmp_path.glob("draws-*.arrow"))
    assert len(sealed) >= 2
    for path in sealed:
        path.unlink()
    fill(writer)
    writer.close()
    (report,) = ship(tmp_path, server.endpoint).producers
    assert report.problems == ()
    assert report.rows == 2 * WINDOWS * DRAWS * 2, "rows of what is no longer there count"
    assert report.tables == {"draws": 2 * WINDOWS * DRAWS, "windows": 2 * WINDOWS}
    for key, batches in before.items():
        assert [s.crc32 for s in server.ingest.stored[key][: len(batches)]] == [s.crc32 for s in batches]
    progress = Progress.read(tmp_path, writer.producer)
    assert progress is not None
    assert progress.state is ShipState.DONE
    other = serve()
    (elsewhere,) = ship(tmp_path, other.endpoint).producers
    (problem,) = elsewhere.problems
    assert re.search(
        rf"batches from 0 on of table draws cannot be shipped: those up to \d+ were acknowledged by {server.endpoint} "
        rf"and then deleted to make room; {other.endpoint} lacks them: ship to {server.endpoint}",
        problem,
    )
    third = serve()
    write_fronts(tmp_path, writer.producer, {Table.DRAWS: Front(len(sealed), WINDOWS * DRAWS)})
    Progress.path(tmp_path, writer.producer).unlink()
    ((problem,),) = (each.problems for each in ship(tmp_path, third.endpoint).producers)
    assert "were acknowledged by another analyzer and then deleted to make room" in problem


def test_an_analyzer_that_lost_its_data_gets_everything_again(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    writer = DumpWriter(tmp_path, INFO, segment_bytes=4000)
    fill(writer)
    server = serve()
    watching = Watching(tmp_path, server.endpoint, until_done=True)
    assert server.ingest.wait_for(BATCHES)
    server.stop()
    server.ingest.stored.clear()
    server.start()
    assert server.ingest.wait_for(BATCHES)
    writer.close()
    watching.join(30)
    assert_stored(server.ingest, tmp_path)
    assert watching.report is not None
    assert watching.report.reports[0].rows == WINDOWS * DRAWS * 2


# --- killed at random


def test_shipper_and_analyzer_killed_at_random_every_batch_is_stored_once(tmp_path: Path) -> None:
    rng = random.Random(7)
    dumps = tmp_path / "dumps"
    for number in range(3):
        run_of(dumps / f"old-{number}", f"old-{number}", windows=40)
    living = DumpWriter(dumps / "living", replace(INFO, run="living"), segment_bytes=20_000)
    server = ServerProcess(tmp_path / "data", free_port())
    server.start()
    command = [sys.executable, "-m", "gradnoise.cli", "ship", "--watch", str(dumps), "--streams", "2"]
    command += ["--endpoint", server.address]
    shippers: list[subprocess.Popen[bytes]] = []

    def start(*more: str) -> subprocess.Popen[bytes]:
        shippers.append(subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return shippers[-1]

    try:
        start()
        for killed in ("both", "shipper", "analyzer"):
            fill(living, windows=20)
            had = _acknowledged(dumps)
            moment = time.monotonic() + rng.uniform(0.05, 0.8)
            until(lambda had=had, moment=moment: _acknowledged(dumps) > had or time.monotonic() > moment, what="acks")  # type: ignore[misc]
            if killed != "analyzer":
                shippers[-1].kill()
                shippers[-1].wait(30)
            if killed != "shipper":
                server.kill()
                server.start()
            if shippers[-1].poll() is not None:
                start()
        had = _acknowledged(dumps)
        fill(living, windows=20)
        until(lambda: _acknowledged(dumps) > had, what="an acknowledgement")
        living.close()
        shippers[-1].send_signal(signal.SIGTERM)
        assert shippers[-1].wait(30) == 0, "told to end it ends well, whatever is left"
        assert start("--until-done", "--grace", "30").wait(60) == 0
    finally:
        for shipper in shippers:
            if shipper.poll() is None:
                shipper.kill()
                shipper.wait(30)
        server.stop()
    for path in sorted(dumps.iterdir()):
        sent, kept = Dump(path), Dump(tmp_path / "data" / "runs" / path.name)
        assert kept.producers() == sent.producers()
        for producer in sent.producers():
            for table in (Table.DRAWS, Table.WINDOWS):
                wanted = [(s.sequence, s.crc32) for s in sent.batches(table, producer)]
                assert [(s.sequence, s.crc32) for s in kept.batches(table, producer)] == wanted
                assert [sequence for sequence, _ in wanted] == list(range(len(wanted)))
        assert kept.problems == []


def _acknowledged(dumps: Path) -> int:
    found = (Progress.read(path.parent, path.stem.removeprefix("ship-")) for path in dumps.glob("*/ship-*.json"))
    return sum(sum(progress.tables.values()) for progress in found if progress is not None)


def test_a_stalled_analyzer_does_not_count_as_a_wait_for_a_turn(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first dump's stream stays silent for longer than the grace; the second, which waited, is not given up for it.
    monkeypatch.setattr(_shipment, "_STALL", 0.5)
    for name in ("a", "b"):
        run_of(tmp_path / name, name)
    server = serve(Faults(silent=1))
    report = watch(tmp_path, server.endpoint, until_done=True, grace=0.4, streams=1)
    assert Progress.read(tmp_path / "b", Dump(tmp_path / "b").producers()[0]).state is ShipState.DONE  # type: ignore[union-attr]
    assert (report.done, report.failed, report.unreachable) == (1, 1, True)
