"""The core without a framework: queue, batches, windows, failures."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gradnoise.collector._records import Draw, DrawsAt, WindowEnd, window_id
from gradnoise.collector._sink import Sink, State
from gradnoise.wire import Dump, DumpWriter, Group, RunInfo, Table, WindowKind

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
    sink._limit = 10_000
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


def test_rows_reach_the_disk_without_being_asked_within_seconds(tmp_path: Path) -> None:
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
