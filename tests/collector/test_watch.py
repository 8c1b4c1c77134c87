"""One process for many dumps: found, followed, shipped fairly, each once."""

from __future__ import annotations

import json
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
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gradnoise.collector._errors import CollectorError, EndpointError
from gradnoise.collector._shipping import backoff as _backoff
from gradnoise.collector._shipping import shipment as _shipment
from gradnoise.collector._shipping import watch as _watch
from gradnoise.collector._shipping.backoff import Backoff
from gradnoise.collector._shipping.discovery import find_dumps, find_producers, runs_elsewhere
from gradnoise.collector._shipping.lease import Lease, is_leased
from gradnoise.collector._shipping.metrics import metrics_at, parse_address
from gradnoise.collector._shipping.progress import Progress, ShipState
from gradnoise.collector.shipper import ship, watch
from gradnoise.v1 import ingest_pb2
from gradnoise.wire import Dump, DumpWriter, Front, Table, write_fronts

from ..proto.dumps import INFO, draws_batch
from ..servers import ServerProcess, free_port, until
from .fake import FakeIngest, FakeServer, Faults, TokenCheck
from .test_shipper import DRAWS, WINDOWS, assert_stored, dump_of, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradnoise.collector._shipping.snapshot import Snapshot
    from gradnoise.collector._shipping.watch import WatchReport

BATCHES = WINDOWS * (DRAWS + 1)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    servers: list[FakeServer] = []

    def start(faults: Faults | None = None, **options: Any) -> FakeServer:
        servers.append(FakeServer(FakeIngest(faults), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


class Watching(threading.Thread):
    """A watch on a thread of its own."""

    def __init__(self, directory: Path, endpoint: str, **options: Any) -> None:
        super().__init__(daemon=True)
        self.end = threading.Event()
        self.report: WatchReport | None = None
        self._call = (directory, endpoint, options)
        self.start()

    def run(self) -> None:
        directory, endpoint, options = self._call
        self.report = watch(directory, endpoint, stop=self.end, **options)

    def stop(self) -> WatchReport:
        self.end.set()
        self.join(30)
        assert self.report is not None
        return self.report


def run_of(path: Path, name: str, *, windows: int = WINDOWS) -> str:
    """A finished dump of a run of that name; returns its producer."""
    writer = DumpWriter(path, replace(INFO, run=name), segment_bytes=4000)
    fill(writer, windows=windows)
    writer.close()
    return writer.producer


def stored(ingest: FakeIngest, *paths: Path) -> bool:
    """Whether exactly what the dumps hold is stored, each batch once, in order."""
    wanted = {
        (producer, table.value): [(s.sequence, s.crc32) for s in batches]
        for path in paths
        for producer in Dump(path).producers()
        for table in Table
        if (batches := list(Dump(path).batches(table, producer)))
    }
    return {key: [(s.sequence, s.crc32) for s in found] for key, found in ingest.stored.items()} == wanted


# --- what is found


def test_dumps_are_found_at_most_three_levels_down(tmp_path: Path) -> None:
    places = [tmp_path / place for place in ("a", "b/c", "b/d/e", "b/d/f/g", ".hidden", "a/inside")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / "run.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in find_dumps(tmp_path)]
    assert [place for place in found if not place.startswith("loop")] == ["a", "b/c", "b/d/e"]
    assert all(place.count("/") <= 2 for place in found), "a link to where we are ends with the depth"
    assert list(find_dumps(tmp_path / "a")) == [tmp_path / "a"]
    assert list(find_dumps(tmp_path / "none")) == []


def test_producers_are_those_that_wrote_or_are_about_to(tmp_path: Path) -> None:
    finished = dump_of(tmp_path)
    running = DumpWriter(tmp_path, INFO)
    dead = "0" * 32
    (tmp_path / f"{dead}.lock").write_text(json.dumps({"pid": 1, "host": "elsewhere.example"}))
    assert find_producers(tmp_path) == sorted([finished, running.producer])
    assert runs_elsewhere(tmp_path, dead)
    assert not runs_elsewhere(tmp_path, running.producer)
    assert not runs_elsewhere(tmp_path, finished)
    running.close()


def test_a_directory_of_dumps_is_shipped_until_done(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    paths = [tmp_path / "one", tmp_path / "deep" / "two", tmp_path / "deep" / "deeper" / "three"]
    for number, path in enumerate(paths):
        run_of(path, f"run-{number}")
    run_of(paths[0], "run-0")
    server = serve()
    report = watch(tmp_path, server.endpoint, until_done=True)
    assert stored(server.ingest, *paths)
    assert (report.complete, report.done, report.failed) == (True, 4, 0)
    assert {(dump.run, len(dump.producers)) for dump in report.dumps} == {("run-0", 2), ("run-1", 1), ("run-2", 1)}
    assert not list(tmp_path.rglob("*.lease"))
    again = watch(tmp_path, server.endpoint, until_done=True)
    assert (again.done, again.dumps) == (4, ())
    assert server.ingest.opens == 4, "what is done at this endpoint is not asked about again"
    other = serve()
    assert watch(tmp_path / "one", other.endpoint, until_done=True).done == 2
    assert stored(other.ingest, paths[0])


def test_dumps_and_producers_are_taken_up_as_they_appear_and_followed_to_their_end(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "_SCAN", 0.05)
    server = serve()
    watching = Watching(tmp_path, server.endpoint)
    first = DumpWriter(tmp_path / "first", replace(INFO, run="first"), segment_bytes=4000)
    fill(first)
    assert server.ingest.wait_for(BATCHES)
    second = DumpWriter(tmp_path / "first", replace(INFO, run="first"), segment_bytes=4000)
    fill(second)
    assert server.ingest.wait_for(2 * BATCHES)
    run_of(tmp_path / "x" / "late", "late")
    assert server.ingest.wait_for(3 * BATCHES)
    fill(first)
    assert server.ingest.wait_for(4 * BATCHES)
    for writer in (first, second):
        writer.close()
    until(lambda: Progress.read(first.path, first.producer).state is ShipState.DONE, what="the end")  # type: ignore[union-attr]
    until(lambda: Progress.read(first.path, second.producer).state is ShipState.DONE, what="the end")  # type: ignore[union-attr]
    report = watching.stop()
    assert stored(server.ingest, tmp_path / "first", tmp_path / "x" / "late")
    assert (report.done, report.failed) == (3, 0)


def test_until_done_waits_for_a_producer_that_lives(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    server = serve()
    writer = DumpWriter(tmp_path / "d", INFO)
    watching = Watching(tmp_path, server.endpoint, until_done=True)
    until(lambda: server.ingest.opens == 1, what="a stream for a producer that has written nothing yet")
    fill(writer)
    assert server.ingest.wait_for(BATCHES)
    assert watching.is_alive()
    writer.close()
    watching.join(30)
    assert watching.report is not None
    assert watching.report.done == 1
    assert stored(server.ingest, tmp_path / "d")


# --- turns


def test_many_finished_dumps_do_not_keep_a_living_one_away_nor_the_reverse(
    tmp_path: Path, serve: Callable[..., FakeServer]
) -> None:
    for number in range(40):
        run_of(tmp_path / f"old-{number:02d}", f"old-{number:02d}", windows=1)
    living = [DumpWriter(tmp_path / f"z-{n}", replace(INFO, run=f"z-{n}"), segment_bytes=4000) for n in range(3)]
    server = serve()
    watching = Watching(tmp_path, server.endpoint, streams=2)
    for _ in range(3):
        for writer in living:
            fill(writer, windows=1)
        wanted = sum(len(list(Dump(w.path).batches(Table.DRAWS, w.producer))) for w in living)
        until(
            lambda wanted=wanted: (
                sum(len(server.ingest.stored.get((w.producer, "draws"), ())) for w in living)  # type: ignore[misc]
                == wanted
            ),
            what="draws of three living producers over two streams",
        )
    until(lambda: len(list(tmp_path.glob("old-*/ship-*.json"))) == 40, what="the finished ones")
    for writer in living:
        writer.close()
    until(lambda: len(list(tmp_path.glob("*/*.lease"))) == 0, what="the end")
    report = watching.stop()
    assert (report.done, report.failed) == (43, 0)
    assert stored(server.ingest, *(path for path in tmp_path.iterdir()))
    assert server.ingest.duplicates == 0, "a turn that ends loses nothing"


@pytest.mark.parametrize("lives", [False, True])
def test_with_one_stream_both_kinds_get_their_turn(
    tmp_path: Path, serve: Callable[..., FakeServer], lives: bool
) -> None:
    server = serve()
    writer = DumpWriter(tmp_path / "a", replace(INFO, run="a"))
    fill(writer)
    if not lives:
        run_of(tmp_path / "b", "b")
    watching = Watching(tmp_path, server.endpoint, streams=1)
    assert server.ingest.wait_for(BATCHES)
    if lives:
        run_of(tmp_path / "b", "b")
    assert server.ingest.wait_for(2 * BATCHES)
    fill(writer)
    assert server.ingest.wait_for(3 * BATCHES)
    writer.close()
    until(lambda: Progress.read(writer.path, writer.producer).state is ShipState.DONE, what="the end")  # type: ignore[union-attr]
    assert watching.stop().done == 2
    assert stored(server.ingest, tmp_path / "a", tmp_path / "b")


def test_two_hundred_dumps_need_no_more_threads_and_descriptors_than_four_streams(
    tmp_path: Path, serve: Callable[..., FakeServer]
) -> None:
    for number in range(200):
        run_of(tmp_path / f"d{number:03d}", f"d{number:03d}", windows=1)
    server = serve(Faults(open_unavailable=60))
    command = [sys.executable, "-m", "gradnoise.cli", "ship", "--watch", str(tmp_path), "--until-done"]
    command += ["--endpoint", server.endpoint, "--streams", "4", "--grace", "30", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    threads = files = 0
    while process.poll() is None:
        for what, count in (("task", 0), ("fd", 0)):
            try:
                count = len(list(Path(f"/proc/{process.pid}/{what}").iterdir()))
            except OSError:
                continue
            threads, files = (max(threads, count), files) if what == "task" else (threads, max(files, count))
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["done"] == 200
    assert stored(server.ingest, *tmp_path.iterdir())
    # 4 workers and 4 senders; the rest is gRPC's, Arrow's and numpy's.
    assert 0 < threads < 60
    assert 0 < files < 100


# --- two shippers


def test_a_second_shipper_stands_by_and_takes_over(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    writer = DumpWriter(tmp_path, INFO, segment_bytes=4000)
    fill(writer)
    server = serve()
    command = [sys.executable, "-m", "gradnoise.collector.shipper", str(tmp_path), "--endpoint", server.endpoint]
    first = subprocess.Popen([*command, "--producer", writer.producer], stderr=subprocess.DEVNULL)
    assert server.ingest.wait_for(BATCHES)
    assert is_leased(tmp_path, writer.producer)
    watching = Watching(tmp_path, server.endpoint, until_done=True)
    fill(writer)
    assert server.ingest.wait_for(2 * BATCHES)
    assert (server.ingest.opens, server.ingest.streams) == (1, 1)
    first.kill()
    first.wait(30)
    fill(writer)
    assert server.ingest.wait_for(3 * BATCHES)
    assert (server.ingest.opens, server.ingest.streams) == (2, 2)
    writer.close()
    watching.join(30)
    assert watching.report is not None
    assert watching.report.complete
    assert_stored(server.ingest, tmp_path)
    assert server.ingest.duplicates == 0


def test_what_the_other_has_finished_is_not_sent_again(
    tmp_path: Path, serve: Callable[..., FakeServer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    producer = dump_of(tmp_path)
    server = serve()
    lease = Lease(tmp_path, producer)
    assert lease.take()
    watching = Watching(tmp_path, server.endpoint, until_done=True)
    until(lambda: any("standing by" in r.getMessage() for r in caplog.records), what="the stand-by")
    Progress(server.endpoint, ShipState.DONE, rows=24, tables={"draws": 12, "windows": 3}).write(tmp_path, producer)
    lease.release()
    watching.join(30)
    assert watching.report is not None
    ((report,),) = (dump.producers for dump in watching.report.dumps)
    assert (report.batches, report.rows, report.tables) == (0, 24, {"draws": 12, "windows": 3})
    assert server.ingest.opens == 0


def test_a_lease_is_one_holders_and_dies_with_it(tmp_path: Path) -> None:
    first, second = Lease(tmp_path, "p"), Lease(tmp_path, "p")
    assert first.take()
    assert first.take(), "again is nothing new"
    assert is_leased(tmp_path, "p")
    assert not second.take()
    first.release()
    assert not is_leased(tmp_path, "p")
    assert second.take()
    first.release()
    assert is_leased(tmp_path, "p"), "who has nothing releases nothing"
    second.release()
    assert list(tmp_path.iterdir()) == []
    assert Lease(tmp_path / "gone", "p").take(), "where nothing can be locked anyone may ship"
    code = "import sys,time,pathlib; from gradnoise.collector._shipping.lease import Lease\n"
    code += f"assert Lease(pathlib.Path({str(tmp_path)!r}), 'p').take(); print(flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert not second.take()
    holder.kill()
    holder.wait(30)
    holder.stdout.close()
    assert second.take()
    second.release()


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


# --- waiting


def test_waits_are_spread_from_zero_to_a_growing_capped_ceiling() -> None:
    ranks = [Backoff(random.Random(seed)) for seed in range(400)]
    for attempt in range(12):
        waits = sorted(rank.next() for rank in ranks)
        ceiling = min(15.0, 0.1 * 2**attempt)
        assert 0 <= waits[0] < 0.02 * ceiling
        assert 0.98 * ceiling < waits[-1] <= ceiling
        for quarter in (1, 2, 3):
            assert waits[100 * quarter] == pytest.approx(quarter * ceiling / 4, abs=0.08 * ceiling)
    assert all(5 <= rank.next(5.0) <= 20 for rank in ranks), "what was asked for is waited for"
    ranks[0].reset()
    assert ranks[0].next() <= 0.1
    assert Backoff().next() != Backoff().next(), "each process has a seed of its own"


# --- what it tells


def numbers(url: str) -> dict[str, float]:
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    return {name: float(value) for name, value in re.findall(r"^(gradnoise\S+) (\S+)$", text, re.MULTILINE)}


def test_metrics_tell_what_was_acknowledged_and_what_is_left(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    writer = DumpWriter(tmp_path / "d", INFO, segment_bytes=4000)
    fill(writer)
    server = serve(Faults(cut_after=[3]))
    urls: list[str] = []
    watching = Watching(tmp_path, server.endpoint, expose=metrics_at("0", ready=urls.append))
    assert server.ingest.wait_for(BATCHES)
    until(lambda: numbers(urls[0])["gradnoise_ship_batches_total"] == BATCHES, what="the acknowledgements")
    found = numbers(urls[0])
    assert urls[0].startswith("http://127.0.0.1:"), "loopback by default"
    labels = f'producer="{writer.producer}",run="{INFO.run}"'
    assert found[f"gradnoise_ship_producer_batches_total{{{labels}}}"] == BATCHES
    assert found[f"gradnoise_ship_producer_rows{{{labels}}}"] == WINDOWS * DRAWS * 2
    assert found["gradnoise_ship_retries_total"] == found["gradnoise_ship_reconnects_total"] == 1
    assert found["gradnoise_ship_bytes_total"] > 4000
    assert found['gradnoise_ship_producers{state="live"}'] == 1
    assert found[f'gradnoise_ship_producer_state{{{labels},state="shipping"}}'] == 1
    assert sum(value for name, value in found.items() if "producer_state{" in name) == 1
    assert 0 <= found[f"gradnoise_ship_producer_seconds_since_ack{{{labels}}}"] < 60
    assert found["gradnoise_ship_unacknowledged_bytes"] < 1000, "but for a footer nothing is left"
    server.stop()
    size = _size(writer)
    fill(writer)
    until(lambda: numbers(urls[0])["gradnoise_ship_unacknowledged_bytes"] > 0.9 * (_size(writer) - size), what="a lag")
    assert numbers(urls[0])["gradnoise_ship_unacknowledged_bytes"] < 1.1 * (_size(writer) - size)
    until(
        lambda: numbers(urls[0])[f'gradnoise_ship_producer_state{{{labels},state="unreachable"}}'] == 1, what="a state"
    )
    server.start()
    writer.close()
    until(lambda: numbers(urls[0])['gradnoise_ship_producers{state="done"}'] == 1, what="the end")
    assert numbers(urls[0])["gradnoise_ship_unacknowledged_bytes"] == 0
    watching.stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(urls[0], timeout=10)


def _size(writer: DumpWriter) -> int:
    return sum(path.stat().st_size for path in writer.path.glob(f"*-{writer.producer}-*"))


def test_metrics_name_a_bounded_number_of_producers(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "_SHOWN", 3)
    for number in range(6):
        run_of(tmp_path / f"d{number}", f"d{number}")
    server = serve()
    taken: list[Callable[[], Snapshot]] = []

    import contextlib

    def expose(snapshot: Callable[[], Snapshot]) -> contextlib.AbstractContextManager[object]:
        taken.append(snapshot)
        return contextlib.nullcontext()

    watch(tmp_path, server.endpoint, until_done=True, expose=expose)
    assert len(taken[0]().producers) <= 3
    assert (taken[0]().totals.batches, taken[0]().done) == (6 * BATCHES, 6), "sums are of all"


def test_metrics_without_their_package_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(CollectorError, match=r"pip install 'gradnoise\[metrics\]'"):
        metrics_at("127.0.0.1:0")


def test_an_address_for_metrics(tmp_path: Path) -> None:
    assert parse_address("0.0.0.0:9464") == ("0.0.0.0", 9464)
    assert parse_address("[::1]:0") == ("::1", 0)
    assert parse_address(":9464") == parse_address("9464") == ("127.0.0.1", 9464)
    for text in ("", "host", "host:", "host:70000", "host:-1"):
        with pytest.raises(CollectorError, match="expected HOST:PORT"):
            metrics_at(text)
    with FakeServerPort() as port, pytest.raises(CollectorError, match="cannot be served"):
        watch(tmp_path, "there:1", until_done=True, expose=metrics_at(f"127.0.0.1:{port}"))


class FakeServerPort:
    """A port that is taken."""

    def __enter__(self) -> int:
        import socket

        self._socket = socket.create_server(("127.0.0.1", 0))
        return int(self._socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_the_summary_comes_now_and_then_and_only_when_something_changed(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path / "d", "d")
    server = serve()
    lines: list[str] = []
    watching = Watching(tmp_path, server.endpoint, on_summary=lines.append)
    assert server.ingest.wait_for(BATCHES)
    watching.stop()
    assert len(lines) == 2, "one at the beginning, one at the end, ten seconds apart at least between"
    assert re.fullmatch(
        r"0 live, [01] waiting, [01] done, 0 failed; \d+ batches, 0\.0 MB acknowledged, 0\.0 MB to go, 0 retries",
        lines[-1],
    )


def test_arguments_that_cannot_be_are_named(tmp_path: Path) -> None:
    with pytest.raises(CollectorError, match="expected HOST:PORT"):
        watch(tmp_path, "nowhere")
    for streams in (0, 65):
        with pytest.raises(CollectorError, match=rf"streams={streams}\): expected 1 to 64"):
            watch(tmp_path, "there:1", streams=streams)
    with pytest.raises(CollectorError, match="there is no such directory"):
        watch(tmp_path / "none", "there:1")
    dump_of(tmp_path)
    for grace in (-1.0, float("nan")):
        with pytest.raises(CollectorError, match="expected a number of seconds"):
            ship(tmp_path, "there:1", grace=grace)


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
