"""One process for many dumps: found, followed, shipped fairly, each once."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gradnoise.collector._shipping import watch as _watch
from gradnoise.collector._shipping.backoff import Backoff
from gradnoise.collector._shipping.discovery import find_dumps, find_producers, runs_elsewhere
from gradnoise.collector._shipping.lease import Lease, is_leased
from gradnoise.collector._shipping.progress import Progress, ShipState
from gradnoise.collector.shipper import watch
from gradnoise.wire import Dump, DumpWriter, Table

from ..proto.dumps import INFO
from ..servers import until
from .fake import FakeServer, Faults
from .test_shipper import assert_stored, dump_of, fill
from .watching import BATCHES, Watching, run_of, stored

if TYPE_CHECKING:
    from collections.abc import Callable


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
