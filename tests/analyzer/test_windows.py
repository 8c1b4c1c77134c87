from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gradnoise.analyzer.assembly import assemble, read_windows
from gradnoise.analyzer.windows import ClosedWindow
from gradnoise.wire import Dump, DumpWriter, ProblemKind, Stamped, Table

from ..proto.dumps import INFO, draws_batch, windows_batch

if TYPE_CHECKING:
    from pathlib import Path


def values_of(batch: pa.RecordBatch, group: str) -> np.ndarray:
    return np.asarray([row["values"] for row in batch.to_pylist() if row["group"] == group], np.float32)


def test_a_closed_window_has_every_column_of_its_row() -> None:
    batch = windows_batch(3, 2, kind="probe")
    (closed,) = ClosedWindow.of("r", "p", batch.append_column("of a later version", pa.array([1])))
    assert dataclasses.asdict(closed) == {"run": "r", "producer": "p"} | batch.to_pylist()[0]


def test_interleaved_windows_come_whole_and_in_draw_order(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, INFO, segment_bytes=4000)
    burst, probe = draws_batch(range(6), window=0), draws_batch(range(4), window=9, seed=1)
    writer.append(Table.DRAWS, burst.slice(0, 7))
    mixed = pa.Table.from_batches([probe, burst.slice(7)]).combine_chunks().to_batches()[0]
    writer.append(Table.DRAWS, mixed)
    writer.append(Table.WINDOWS, windows_batch(9, 4, kind="probe"))
    writer.append(Table.WINDOWS, windows_batch(0, 6))
    writer.append(Table.DRAWS, draws_batch(range(2), window=99))  # never closed
    writer.close()
    dump = Dump(tmp_path)
    windows = {window.closed.window: window for window in read_windows(dump)}
    assert sorted(windows) == [0, 9]
    assert (windows[9].closed.kind, windows[9].closed.recorded, windows[9].missing) == ("probe", 4, 0)
    for batch, number in ((burst, 0), (probe, 9)):
        for group, info in zip(windows[number].groups, INFO.groups, strict=True):
            assert (group.name, group.size) == (info.name, info.size)
            np.testing.assert_array_equal(group.values, values_of(batch, group.name))
            np.testing.assert_array_equal(group.draw, np.arange(windows[number].closed.recorded))
            np.testing.assert_array_equal(group.theta, np.arange(windows[number].closed.recorded))
    assert dump.problems == []


def test_a_gap_is_a_window_with_missing_rows_and_a_problem(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, INFO, segment_bytes=1)  # a segment a batch
    for draw in range(5):
        writer.append(Table.DRAWS, draws_batch([draw]))
    writer.append(Table.WINDOWS, windows_batch(0, 5))
    writer.close()
    (tmp_path / f"draws-{writer.producer}-000002.arrow").unlink()
    dump = Dump(tmp_path)
    (window,) = read_windows(dump)
    assert window.missing == 2
    assert [group.draw.tolist() for group in window.groups] == [[0, 1, 3, 4]] * 2
    assert [problem.kind for problem in dump.problems] == [ProblemKind.GAP]


def test_a_closed_window_without_any_draw_is_still_a_window(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, INFO)
    writer.append(Table.WINDOWS, windows_batch(0, 3))
    writer.close()
    (window,) = read_windows(Dump(tmp_path))
    assert window.missing == 6
    assert [group.values.shape for group in window.groups] == [(0, 4), (0, 2)]


def test_assemble_takes_only_the_rows_of_its_window() -> None:
    batches = [draws_batch([0], window=3), draws_batch([0, 1], window=4), draws_batch([1], window=3)]
    (closed,) = ClosedWindow.of(INFO.run, "p", windows_batch(3, 2))
    window = assemble(INFO, closed, [Stamped.of(Table.DRAWS, i, batch) for i, batch in enumerate(batches)])
    assert (window.closed, window.missing) == (closed, 0)
    np.testing.assert_array_equal(
        window.groups[0].values, np.concatenate([values_of(batches[0], "a.weight"), values_of(batches[2], "a.weight")])
    )


def test_only_one_producer_on_request(tmp_path: Path) -> None:
    writers = [DumpWriter(tmp_path, INFO) for _ in range(2)]
    for writer in writers:
        writer.append(Table.DRAWS, draws_batch([0]))
        writer.append(Table.WINDOWS, windows_batch(0, 1))
        writer.close()
    assert len(list(read_windows(Dump(tmp_path)))) == 2
    (window,) = read_windows(Dump(tmp_path), writers[1].producer)
    assert window.closed.producer == writers[1].producer
