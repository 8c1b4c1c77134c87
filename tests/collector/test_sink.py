"""The core without a framework: queue, batches, windows, failures."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gradnoise.analyzer.analysis import analyse
from gradnoise.analyzer.assembly import read_windows
from gradnoise.collector import Limits
from gradnoise.collector._recording import sink as _sink
from gradnoise.collector._recording.records import Draw, DrawsAt, StepRow, WindowEnd, window_id
from gradnoise.collector._recording.sink import Sink, State
from gradnoise.collector._recording.tables import TableBuilder
from gradnoise.collector._shipping.progress import Progress, ShipState
from gradnoise.wire import (
    Dump,
    DumpWriter,
    Front,
    Group,
    RunInfo,
    Table,
    Tailer,
    WindowKind,
    fronts,
    write_fronts,
)

from .loops import counted, messages, rows

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray


def info(*widths: int) -> RunInfo:
    groups = tuple(Group(f"g{n}", (width,), "float32", tuple(range(width))) for n, width in enumerate(widths))
    return RunInfo("r", "Net", "2026-01-01T00:00:00+00:00", groups)


def draw(values: NDArray[np.float32], groups: list[int], fingerprint: int = 0) -> Draw:
    return Draw(np.array(groups, np.int16), lambda: values, values.nbytes, fingerprint)


def end(window: int, *, dropped: int = 0, kind: WindowKind = WindowKind.BURST) -> WindowEnd:
    return WindowEnd(window, kind, window // 2, window // 2, 1, dropped)


def test_window_ids_tell_probes_from_bursts_at_the_same_step() -> None:
    assert [window_id(step, probe=probe) for step in (0, 1) for probe in (False, True)] == [0, 1, 2, 3]


def test_a_draw_larger_than_a_batch_is_split_between_groups(tmp_path: Path) -> None:
    widths = (200_000, 100_000, 300_000, 10, 150_000)
    values = np.arange(sum(widths), dtype=np.float32)
    sink = Sink(tmp_path, info(*widths))
    assert sink.draws(DrawsAt(0, 0, 0, (draw(values, [0, 1, 2, 3, 4]),)))
    sink.end_window(end(0))
    assert sink.close(10)
    batches = [s.batch for s in Dump(tmp_path).batches(Table.DRAWS, sink.producer)]
    assert [batch.num_rows for batch in batches] == [1, 1, 1, 2]
    joined = np.concatenate([batch.column("values").values.to_numpy() for batch in batches])
    np.testing.assert_array_equal(joined, values)
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["recorded"], window["rows"]) == (1, 5)


def test_draws_with_differing_fingerprints_are_refused_as_a_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(tmp_path, info(2))
    one, other = np.array([1, 2, 7], np.float32), np.array([3, 4, 8], np.float32)
    sink.draws(DrawsAt(0, 0, 0, (draw(one, [0], 1), draw(other, [0], 1))))
    sink.draws(DrawsAt(0, 1, 1, (draw(one, [0], 1),)))
    sink.draws(DrawsAt(0, 2, 2, (draw(other, [0], 1), draw(other, [0], 1))))
    sink.end_window(end(0))
    assert sink.close(10)
    assert [(row["theta"], row["draw"], row["values"]) for row in rows(tmp_path)] == [
        (1, 0, [1.0, 2.0]),
        (2, 1, [3.0, 4.0]),
        (2, 2, [3.0, 4.0]),
    ]
    assert counted(tmp_path) == {"ambiguous_backwards": 2}
    assert len(messages(caplog)) == 1


def test_a_full_queue_drops_and_counts_and_never_waits(tmp_path: Path) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow() -> NDArray[np.float32]:
        entered.set()
        assert gate.wait(30)
        return np.zeros(1000, np.float32)

    sink = Sink(tmp_path, info(1000))
    sink._backlog.limit = 10_000
    item = DrawsAt(0, 0, 0, (Draw(np.zeros(1, np.int16), slow, 4000),))
    accepted = [sink.draws(item)]
    assert entered.wait(30)
    accepted += [sink.draws(item) for _ in range(5)]
    assert accepted == [True, True, False, False, False, False]
    sink.end_window(end(0, dropped=accepted.count(False)))
    gate.set()
    assert sink.close(10)
    counters = sink.counters()
    assert (counters.rows, counters.draws, counters.dropped_draws, counters.dropped_rows) == (2, 2, 4, 4)
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["recorded"], window["dropped"]) == (2, 4)
    assert counted(tmp_path)["dropped"] == 4
    assert sink.state is State.CLOSED


def test_rows_reach_the_disk_without_being_asked_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sink, "_LINGER_LONG", 0.5)
    sink = Sink(tmp_path, info(2))
    arrived = threading.Event()
    append = sink._tables._append

    def watched(table: Table, batch: pa.RecordBatch) -> object:
        result = append(table, batch)
        arrived.set()
        return result

    sink._tables._append = watched
    sink.draws(DrawsAt(0, 0, 0, (draw(np.ones(2, np.float32), [0]),)))
    assert arrived.wait(20)
    assert len(rows(tmp_path)) == 1
    sink.close(10)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a bug")])
def test_a_failing_write_turns_the_sink_off_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sink = Sink(tmp_path, info(2))
    item = DrawsAt(0, 0, 0, (draw(np.ones(2, np.float32), [0]),))
    sink.draws(item)
    assert sink.flush(10)

    def failing(*_: object) -> None:
        raise error

    sink._tables._append = failing
    sink.draws(item)
    assert not sink.flush(10)
    assert sink.state is State.OFF
    assert not sink.draws(item)
    assert not sink.recording
    assert sink.close(10)
    (message,) = messages(caplog)
    assert str(error.args[-1]) in message
    assert str(tmp_path) in message
    assert len(rows(tmp_path)) == 1


def test_a_dump_that_cannot_be_sealed_stays_readable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink(tmp_path, info(2))
    sink.draws(DrawsAt(0, 0, 0, (draw(np.ones(2, np.float32), [0]),)))
    close = DumpWriter.close

    def failing(writer: DumpWriter) -> None:
        close(writer)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(DumpWriter, "close", failing)
    assert sink.close(10)
    assert sink.state is State.OFF
    assert "could not be sealed" in messages(caplog)[0]
    assert len(rows(tmp_path)) == 1


def test_it_can_be_closed_by_a_handler_of_a_signal_that_came_while_the_lock_was_held(tmp_path: Path) -> None:
    sink = Sink(tmp_path, info(2))
    with sink._wake:
        assert sink.draws(DrawsAt(0, 0, 0, (draw(np.zeros(2, np.float32), [0]),)))
        assert sink.close(10)
    assert sink.state is State.CLOSED
    assert len(rows(tmp_path)) == 1


def test_without_a_thread_nothing_is_written_and_no_lock_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="no thread can be started"):
        Sink(tmp_path, info(2))
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_broken_logging_handler_does_not_reach_the_training(tmp_path: Path) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("handler")

    logger, handler = logging.getLogger("gradnoise"), Broken()
    logger.addHandler(handler)
    try:
        sink = Sink(tmp_path, info(2))
        sink.fail("a reason")
        assert sink.state is State.OFF
        assert sink.close(10)
    finally:
        logger.removeHandler(handler)


def test_what_a_failing_disk_loses_is_counted(tmp_path: Path) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow() -> NDArray[np.float32]:
        entered.set()
        assert gate.wait(30)
        return np.ones(4, np.float32)

    sink = Sink(tmp_path, info(2, 2))
    both = np.array([0, 1], np.int16)
    for step in range(3):
        sink.draws(DrawsAt(0, step, step, (draw(np.ones(4, np.float32), [0, 1]),)))
    assert sink.flush(10)
    sink._tables._append = failing_append
    sink.draws(DrawsAt(0, 3, 3, (Draw(both, slow, 16),)))
    assert entered.wait(30)
    for step in range(4, 9):
        assert sink.draws(DrawsAt(0, step, step, (draw(np.ones(4, np.float32), [0, 1]),)))
    gate.set()
    assert not sink.flush(10)
    assert not sink.draws(DrawsAt(0, 9, 9, (draw(np.ones(4, np.float32), [0, 1]),)))
    assert sink.close(10)
    counters = sink.counters()
    assert (counters.draws, counters.rows) == (3, 6)
    assert (counters.dropped_draws, counters.dropped_rows) == (7, 14), "on its way, waiting, and offered after"


def failing_append(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_declared_is_never_less_than_recorded_and_dropped(tmp_path: Path) -> None:
    sink = Sink(tmp_path, info(2))
    for step in range(3):
        sink.draws(DrawsAt(0, step, step, (draw(np.ones(2, np.float32), [0]),)))
    sink.end_window(WindowEnd(0, WindowKind.BURST, 0, 2, 2, 1))
    sink.end_window(WindowEnd(10, WindowKind.BURST, 5, 8, 4, 4, skipped=True))
    assert sink.close(10)
    windows = rows(tmp_path, Table.WINDOWS)
    assert [(w["declared"], w["recorded"], w["dropped"]) for w in windows] == [(4, 3, 1), (4, 0, 4)]
    assert counted(tmp_path) == {"dropped": 1, "burst_skipped": 4}
    assert sink.counters().skipped == 1


def test_windows_that_find_no_room_in_the_queue_are_counted(tmp_path: Path) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow() -> NDArray[np.float32]:
        entered.set()
        assert gate.wait(30)
        return np.zeros(2, np.float32)

    sink = Sink(tmp_path, info(2), limits=Limits(memory=1 << 20))
    sink.draws(DrawsAt(0, 0, 0, (Draw(np.zeros(1, np.int16), slow, 8),)))
    assert entered.wait(30)
    most = (1 << 20) // 512
    for window in range(0, 2 * most, 2):
        sink.end_window(end(window))
    gate.set()
    assert sink.flush(10)
    written = sink.counters().windows
    assert written < most
    sink.end_window(end(2 * most))
    assert sink.close(10)
    assert counted(tmp_path) == {"windows_lost": most - written}


def test_rows_that_find_no_room_in_the_queue_are_counted(tmp_path: Path) -> None:
    gate, entered = threading.Event(), threading.Event()

    def slow() -> NDArray[np.float32]:
        entered.set()
        assert gate.wait(30)
        return np.zeros(2, np.float32)

    sink = Sink(tmp_path, info(2), limits=Limits(memory=1 << 20))
    sink.draws(DrawsAt(0, 0, 0, (Draw(np.zeros(1, np.int16), slow, 8),)))
    assert entered.wait(30)
    taken = sum(sink.step(StepRow(step, step, 0, loss=1.0)) for step in range(4096))
    assert not sink.event("kind", "no room")
    gate.set()
    assert sink.flush(10)
    assert sink.close(10)
    assert taken < 4096
    assert counted(tmp_path) == {"rows_lost": 4096 - taken + 1}
    assert len(rows(tmp_path, Table.STEPS)) == taken


def test_steps_that_wait_for_their_batch_are_bounded(tmp_path: Path) -> None:
    sizes: list[int] = []
    builder = TableBuilder(info(2), lambda _, batch: sizes.append(batch.num_rows))
    for step in range(3000):
        builder.add_step(StepRow(step, step, 0, metrics={f"metric {n}": 0.5 for n in range(8)}))
    builder.flush()
    assert sum(sizes) == 3000
    assert max(sizes) == 512


def test_memory_stays_below_its_limit_when_the_disk_never_answers(tmp_path: Path) -> None:
    gate, entered = threading.Event(), threading.Event()
    sink = Sink(tmp_path, info(256, 256), limits=Limits(memory=4 << 20))
    append = sink._tables._append
    groups = np.array([0, 1], np.int16)

    def stuck(table: Table, batch: pa.RecordBatch) -> object:
        entered.set()
        assert gate.wait(120)
        return append(table, batch)

    sink._tables._append = stuck
    tracemalloc.start()
    try:
        for step in range(100_000):
            if step < 5000:  # long after the queue is full; later ones are refused, and can be the same
                item = DrawsAt(0, step, step, (Draw(groups, np.ones(512, np.float32).view, 2048),))
            sink.draws(item)
            sink.step(StepRow(step, step, 0, loss=1.0, metrics={f"metric {n}": 0.5 for n in range(5)}))
            if step % 64 == 63:
                sink.end_window(end(step - 63, dropped=1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert entered.is_set()
    assert peak < 4 << 20
    gate.set()
    assert sink.close(60)
    counters = sink.counters()
    assert counters.draws + counters.dropped_draws == 100_000
    assert counters.draws > 100
    assert len(rows(tmp_path)) == counters.rows


def burst(sink: Sink, first: int, *, steps: int = 4, width: int = 1000) -> bool:
    """Record a burst, or skip it for want of room; return whether it was recorded."""
    if not sink.room():
        sink.end_window(
            WindowEnd(
                window_id(first, probe=False), WindowKind.BURST, first, first + steps - 1, steps, steps, skipped=True
            )
        )
        return False
    for step in range(first, first + steps):
        values = np.full(width, step, np.float32)
        sink.draws(DrawsAt(window_id(first, probe=False), step, step, (draw(values, [0]),)))
    sink.end_window(WindowEnd(window_id(first, probe=False), WindowKind.BURST, first, first + steps - 1, steps, 0))
    assert sink.flush(10)
    return True


def size_of(path: Path) -> int:
    return sum(entry.stat().st_size for entry in path.iterdir() if entry.suffix in (".open", ".arrow"))


def test_a_spool_that_is_full_skips_whole_bursts_which_show_as_gaps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(tmp_path, info(1000), limits=Limits(spool=1 << 20))
    recorded = [burst(sink, 8 * n, steps=8) for n in range(60)]
    assert sink.close(10)
    full = recorded.index(False)
    assert recorded == [True] * full + [False] * (60 - full)
    assert 0.9 * (1 << 20) < size_of(tmp_path) < 1.1 * (1 << 20)
    windows = rows(tmp_path, Table.WINDOWS)
    assert len(windows) == 60
    assert {(w["declared"], w["recorded"], w["dropped"]) for w in windows[full:]} == {(8, 0, 8)}
    assert counted(tmp_path) == {"burst_skipped": 8 * (60 - full)}
    assert sink.counters().skipped == 60 - full
    (message,) = messages(caplog)
    assert "skips whole bursts" in message
    assert "Raise the limit" in message
    reports = [analyse(window) for window in read_windows(Dump(tmp_path))]
    assert len(reports) == 60
    gap = reports[-1].rows[0]
    assert (gap.draws, gap.dropped) == (0, 8)
    assert gap.status == "too_few_draws"
    assert gap.reason


def acknowledge(sink: Sink, **tables: int) -> None:
    Progress("there:1", ShipState.SHIPPING, tables=tables).write(sink.path, sink.producer)


def test_acknowledged_segments_are_deleted_oldest_first_to_make_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sink, "_LOOK", 0.01)
    sink = Sink(tmp_path, info(10_000), limits=Limits(spool=1 << 20), trim=True)
    fine = 0
    while burst(sink, 4 * fine, width=10_000):
        fine += 1
    before = sorted(path.name for path in tmp_path.glob("draws-*"))
    draws = len(list(Dump(tmp_path).batches(Table.DRAWS, sink.producer)))
    acknowledge(sink, draws=3)  # batches 0 to 2: less than is needed, and the second segment only in part
    with caplog.at_level(logging.INFO, "gradnoise"):
        deadline = time.monotonic() + 20
        while not sink.room() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert sink.room()
        assert sink.flush(10)  # by then it has said so
    left = sorted(path.name for path in tmp_path.glob("draws-*"))
    assert left == before[len(before) - len(left) :]
    assert len(left) < len(before)
    first = next(iter(Dump(tmp_path).batches(Table.DRAWS, sink.producer))).sequence
    assert 0 < first <= 3, "nothing that was not acknowledged is gone"
    assert len([m for m in caplog.messages if "deletes what the analyzer has acknowledged" in m]) == 1
    # What is gone is no damage, neither to a reader nor to a shipper that goes on.
    dump = Dump(tmp_path)
    assert [s.sequence for s in dump.batches(Table.DRAWS, sink.producer)] == list(range(first, draws))
    assert dump.problems == []
    tailer = Tailer(tmp_path, sink.producer)
    assert [s.sequence for s in tailer.poll() if s.table is Table.DRAWS] == list(range(first, draws))
    assert tailer.problems == []
    tailer.close()
    # With an analyzer that keeps up, nothing is skipped.
    for number in range(fine, fine + 30):
        acknowledge(sink, draws=10**6, windows=10**6, events=10**6)
        assert burst(sink, 4 * (number + 1), width=10_000)
        assert size_of(tmp_path) < 1.3 * (1 << 20)
    assert sink.close(10)
    skipped = [w for w in rows(tmp_path, Table.WINDOWS) if w["dropped"]]
    assert len(skipped) <= 1


def test_segments_are_kept_without_an_endpoint_and_where_the_analyzer_is_silent(tmp_path: Path) -> None:
    for trim, acknowledged in ((False, True), (True, False)):
        sink = Sink(tmp_path / str(trim), info(10_000), limits=Limits(spool=1 << 20), trim=trim)
        if acknowledged:
            acknowledge(sink, draws=10**6)
        recorded = [burst(sink, 4 * n, width=10_000) for n in range(10)]
        assert not recorded[-1]
        assert sink.close(10)
        found = list(Dump(sink.path).batches(Table.DRAWS, sink.producer))
        assert [s.sequence for s in found] == list(range(len(found)))
        assert not list(sink.path.glob("trim-*"))


def test_a_segment_that_is_missing_for_another_reason_is_still_damage(tmp_path: Path) -> None:
    sink = Sink(tmp_path, info(10_000), limits=Limits(spool=1 << 20))
    for number in range(6):
        burst(sink, 4 * number, width=10_000)
    assert sink.close(10)
    segments = sorted(tmp_path.glob("draws-*"))
    write_fronts(tmp_path, sink.producer, {Table.DRAWS: Front(1, 1)})
    segments[0].unlink()
    segments[1].unlink()
    dump = Dump(tmp_path)
    list(dump.batches(Table.DRAWS, sink.producer))
    assert [problem.kind for problem in dump.problems] == ["gap"]
    tailer = Tailer(tmp_path, sink.producer)
    list(tailer.poll())
    assert any("segment 1 " in problem for problem in tailer.problems)
    tailer.close()
    (tmp_path / f"trim-{sink.producer}.json").write_text("{")
    assert fronts(tmp_path, sink.producer) == {}


def test_a_watch_that_fails_is_named_once_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sink, "_LOOK", 0.0)
    sink = Sink(tmp_path, info(2))

    def fail() -> bool:
        raise ValueError("mine")

    sink.keep_looking(fail)
    sink.keep_looking(fail)
    sink.draws(DrawsAt(0, 0, 0, (draw(np.ones(2, np.float32), [0]),)))
    assert sink.flush(10)
    assert sink.close(10)
    assert len(rows(tmp_path)) == 1
    (message,) = messages(caplog)
    assert "ValueError: mine" in message
    assert "gradnoise ship" in message


def test_a_directory_that_is_removed_turns_the_sink_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink(tmp_path / "d", info(1000))
    burst(sink, 0)
    shutil.rmtree(tmp_path / "d")
    sink.draws(DrawsAt(8, 4, 4, (draw(np.ones(1000, np.float32), [0]),)))
    sink.end_window(end(8))
    sink.flush(10)
    assert sink.close(10)
    assert sink.state is State.OFF
    (message,) = messages(caplog)
    assert "cannot be written (No such file or directory)" in message


def test_one_draw_that_the_memory_cannot_hold_is_dropped_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(tmp_path, info(500_000), limits=Limits(memory=1 << 20))
    for step in range(3):
        assert not sink.draws(DrawsAt(0, step, step, (draw(np.ones(500_000, np.float32), [0]),)))
    assert sink.close(10)
    (message,) = messages(caplog)
    assert "drops draws that hold 1.9 MB of samples at one theta: Limits(memory=...), 1.0 MB" in message
    assert "sample fewer coordinates" in message
    assert sink.counters().dropped_draws == 3
