from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from gradnoise.analyzer import assembly
from gradnoise.analyzer.assembly import assemble, read_windows
from gradnoise.analyzer.windows import ClosedWindow
from gradnoise.wire import Dump, DumpWriter, ProblemKind, Stamped, Table, schema

from ..proto.dumps import INFO, draws_batch, windows_batch, without
from .producing import rank_window_batch, reference_batch, sketches_batch

if TYPE_CHECKING:
    from pathlib import Path

    from gradnoise.analyzer.windows import Window


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


def ranks_of(path: Path, windows: range, *, world_size: int = 2) -> list[DumpWriter]:
    """Every rank's producer, with 3 draws a window; window ``n`` is of steps ``100 n`` and on."""
    writers = [DumpWriter(path, INFO) for _ in range(world_size)]
    for rank, writer in enumerate(writers):
        for number in windows:
            writer.append(Table.DRAWS, draws_batch(range(3), window=number, seed=rank))
            steps: dict[str, Any] = {"first_step": 100 * number, "last_step": 100 * number + 2}
            writer.append(Table.WINDOWS, rank_window_batch(number, 3, rank, world_size=world_size, **steps))
    return writers


def test_ranks_of_a_job_come_as_one_window_in_the_order_of_steps(tmp_path: Path) -> None:
    writers = ranks_of(tmp_path, range(3))
    for writer in writers:
        writer.close()
    windows = list(read_windows(Dump(tmp_path)))
    assert [window.closed.window for window in windows] == [0, 1, 2]
    for window in windows:
        assert (window.closed.producer, window.closed.recorded) == (writers[0].producer, 6)
        assert (window.closed.rows, window.missing) == (12, 0)
        by_rank = [values_of(draws_batch(range(3), seed=rank), "a.weight") for rank in (0, 1)]
        np.testing.assert_array_equal(window.groups[0].values[0::2], by_rank[0])
        np.testing.assert_array_equal(window.groups[0].values[1::2], by_rank[1])
        assert window.groups[0].theta.tolist() == [0, 0, 1, 1, 2, 2]
        assert window.groups[0].draw.tolist() == list(range(6))


def test_no_more_than_one_window_of_each_rank_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for writer in ranks_of(tmp_path, range(20), world_size=3):
        writer.close()
    built: list[int] = []
    build = assembly._Builder.build

    def spy(builder: assembly._Builder, closed: ClosedWindow) -> Window:
        built.append(closed.window)
        return build(builder, closed)

    monkeypatch.setattr(assembly._Builder, "build", spy)
    for number, window in enumerate(read_windows(Dump(tmp_path))):
        assert window.closed.window == number
        assert len(built) <= 3 * (number + 1) + 3
    assert len(built) == 60


def test_a_rank_that_died_leaves_its_windows_to_the_others(tmp_path: Path) -> None:
    first, second = ranks_of(tmp_path, range(1))
    for number in (1, 2):
        first.append(Table.DRAWS, draws_batch(range(3), window=number))
        first.append(Table.WINDOWS, rank_window_batch(number, 3, 0))
    second.append(Table.DRAWS, draws_batch(range(2), window=1))  # and dies within the window
    first.close()
    second.close()
    found = {window.closed.window: window for window in read_windows(Dump(tmp_path))}
    assert [(n, len(found[n].groups[0].draw), found[n].missing) for n in found] == [(0, 6, 0), (1, 3, 0), (2, 3, 0)]
    assert found[0].notes == ()
    assert found[1].notes == found[2].notes == ("1 of 2 ranks of the job recorded this window at these parameters",)


def test_reference_sketches_and_batch_sizes_come_with_their_window(tmp_path: Path) -> None:
    weight = np.array([1, 2, 3, 4], np.float32)
    writer = DumpWriter(tmp_path, INFO)
    for number in (0, 2):
        writer.append(Table.DRAWS, draws_batch(range(3), window=number, batch_size=None if number else 16))
        writer.append(Table.REFERENCE, reference_batch(number, {"a.bias": weight[:2], "a.weight": weight * number}))
        writer.append(Table.SKETCHES, sketches_batch(number, {1: {3: 5, 9: number}, 2: {}}))
        writer.append(Table.WINDOWS, windows_batch(number, 3))
    writer.close()
    windows = {window.closed.window: window for window in read_windows(Dump(tmp_path))}
    for number, window in windows.items():
        assert window.reference is not None
        assert list(window.reference) == ["a.bias", "a.weight"]
        found = window.reference["a.weight"]
        assert (found.kind, found.norm2, found.minibatches, found.dataset_size) == ("full", 2.5, 20, 640)
        assert found.replacement is False
        np.testing.assert_array_equal(found.values, weight * number)
        assert found.values.dtype == np.float32
        first, second = window.sketches
        assert (first.draw, first.cells.tolist(), first.counts.tolist()) == (1, [3, 9], [5, number])
        assert (first.inexact, first.same_theta) == (2, False)
        assert first.cells.dtype == np.uint16
        assert first.counts.dtype == np.uint32
        assert (second.draw, second.cells.tolist()) == (2, [])
    sizes = windows[0].groups[0].batch_size
    assert sizes is not None
    assert sizes.tolist() == [16, 16, 16]
    assert windows[2].groups[0].batch_size is None


def test_absent_columns_are_null_also_where_they_come_later(tmp_path: Path) -> None:
    values = {"a.bias": np.ones(2, np.float32)}
    writer = DumpWriter(tmp_path, INFO)
    writer.append(Table.DRAWS, without(draws_batch(range(2)), "norm2", "batch_size"))
    writer.append(Table.DRAWS, without(draws_batch(range(2, 4), batch_size=16), "norm2"))
    writer.append(Table.REFERENCE, without(reference_batch(0, values), "norm2", "dataset_size", "replacement"))
    optional = ("scope", "job", "rank", "world_size", "thetas")
    writer.append(Table.WINDOWS, without(windows_batch(0, 4), *optional))
    writer.close()
    dump = Dump(tmp_path)
    (window,) = read_windows(dump)
    assert dump.problems == []
    assert window.missing == 0
    assert [getattr(window.closed, name) for name in optional] == [None] * 5
    assert [group.values.shape for group in window.groups] == [(4, 4), (4, 2)]
    sizes = window.groups[0].batch_size
    assert sizes is not None
    assert sizes.tolist() == [0, 0, 16, 16]
    assert window.reference is not None
    found = window.reference["a.bias"]
    assert (found.norm2, found.minibatches, found.dataset_size, found.replacement) == (None, 20, None, None)


def test_references_of_version_one_have_no_number_of_minibatches() -> None:
    batch = reference_batch(0, {"a.bias": np.ones(2, np.float32)})
    old = batch.select(schema(Table.REFERENCE, 1).names)
    (closed,) = ClosedWindow.of(INFO.run, "p", windows_batch(0, 0))
    window = assemble(INFO, closed, [Stamped.of(Table.REFERENCE, 0, old)])
    assert window.reference is not None
    assert window.reference["a.bias"].minibatches is None
    assert window.reference["a.bias"].dataset_size == 640


def test_a_reference_of_another_width_is_passed_over() -> None:
    batch = reference_batch(0, {"a.bias": np.ones(3, np.float32), "a.weight": np.ones(4, np.float32)})
    (closed,) = ClosedWindow.of(INFO.run, "p", windows_batch(0, 0))
    window = assemble(INFO, closed, [Stamped.of(Table.REFERENCE, 0, batch)])
    assert window.reference is not None
    assert list(window.reference) == ["a.weight"]


def test_only_one_producer_on_request(tmp_path: Path) -> None:
    writers = [DumpWriter(tmp_path, INFO) for _ in range(2)]
    for writer in writers:
        writer.append(Table.DRAWS, draws_batch([0]))
        writer.append(Table.WINDOWS, windows_batch(0, 1))
        writer.close()
    assert len(list(read_windows(Dump(tmp_path)))) == 2
    (window,) = read_windows(Dump(tmp_path), writers[1].producer)
    assert window.closed.producer == writers[1].producer
