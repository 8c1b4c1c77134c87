"""Windows of measurements, from the dump to rows of alignment."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from gradnoise.analyzer.aligning import LOSS, METRICS, aligned
from gradnoise.analyzer.analysis import AlignmentRow, AnalysisOptions, analyse
from gradnoise.analyzer.assembly import read_windows
from gradnoise.analyzer.following import follow_windows
from gradnoise.analyzer.stats.alignment import Name
from gradnoise.wire import Dump, DumpWriter, Table, curvature_batch

from ..proto.dumps import INFO, draws_batch, windows_batch
from .measuring import closing, hessian, sharpness
from .producing import WIDE, rank_window_batch, reference_batch

if TYPE_CHECKING:
    from pathlib import Path

    from gradnoise.analyzer.windows import Window
    from gradnoise.wire import CurvatureRow


def recorded(path: Path, *rows: CurvatureRow, batch: pa.RecordBatch | None = None, **changed: Any) -> Window:
    """The window of measurements, written to a dump and read back."""
    writer = DumpWriter(path, INFO)
    writer.append(Table.CURVATURE, curvature_batch(rows) if batch is None else batch)
    writer.append(Table.WINDOWS, closing(0, **changed))
    writer.close()
    (window,) = read_windows(Dump(path))
    return window


def of(rows: tuple[AlignmentRow, ...], metric: str, index: int | None = None) -> AlignmentRow:
    (row,) = [row for row in rows if row.metric == metric and row.index == index]
    return row


def test_a_measurement_comes_from_the_dump_as_it_was(tmp_path: Path) -> None:
    written = hessian(part="w")
    window = recorded(tmp_path, written, hessian())
    assert [row.part for row in window.curvature] == ["w", "*"]
    np.testing.assert_array_equal(window.curvature[0].gram, written.gram)
    assert all(not len(group.draw) for group in window.groups)
    assert window.missing == 0
    (followed,) = follow_windows(Dump(tmp_path), lambda _: None)
    assert [row.part for row in followed.curvature] == ["w", "*"]


def test_every_metric_has_a_row_and_the_truth_is_in_their_intervals(tmp_path: Path) -> None:
    report = analyse(recorded(tmp_path, hessian()))
    assert report.rows == ()
    rows = report.alignment
    assert {row.metric for row in rows} == {LOSS, *map(str, Name)}
    assert {(row.window, row.kind, row.part, row.dimension, row.draws) for row in rows} == {
        (-1, "hessian", "*", 20, 256)
    }
    loss = of(rows, LOSS)
    assert (loss.value, loss.n, loss.status, loss.method) == (
        1.5, 100_000, "ok", "mean over a pass of 10 minibatches, modules in mode eval",
    )  # fmt: skip
    spectrum = np.concatenate([np.geomspace(20.0, 0.5, 12), np.full(8, 0.1)])
    truth = {"trace_h": spectrum.sum(), "trace_sigma": spectrum.sum() / 32, "trace_h_sigma": (spectrum**2).sum() / 32}
    for name, value in truth.items():
        row = of(rows, name)
        assert row.low <= value <= row.high, name
    assert of(rows, "eigenvalue", 0).value == 20.0
    assert of(rows, "variance", 3).value == pytest.approx(spectrum[3] / 32, rel=0.4)
    assert of(rows, "gradient_norm2").value == pytest.approx(0.2)


def test_the_same_window_gives_the_same_rows(tmp_path: Path) -> None:
    window = recorded(tmp_path, hessian())
    one, other = aligned(window), aligned(window)
    assert list(map(repr, one)) == list(map(repr, other))  # NaN equals nothing


def test_notes_of_a_measurement_stand_at_each_of_its_rows_alone(tmp_path: Path) -> None:
    window = recorded(tmp_path, hessian(part="a", notes=("finite differences: no double backward",)), hessian())
    noted = {row.part for row in aligned(window) if "finite differences: no double backward" in row.warnings}
    assert noted == {"a"}


def _cell(batch: pa.RecordBatch, name: str, value: object) -> pa.RecordBatch:
    index = batch.schema.get_field_index(name)
    cells = batch.column(index).to_pylist()
    cells[0] = value
    return batch.set_column(index, batch.schema.field(index), pa.array(cells, batch.schema.field(index).type))


CONTRADICTIONS: list[tuple[str, object, str]] = [
    ("residuals", [0.0], "residuals"),
    ("draws", 7, "projections"),
    ("draws", -1, "gram"),
    ("draws", 2**31 - 1, "projections"),
    ("gram", [1.0, 2.0], "gram"),
    ("kind", "nonsense", "nonsense"),
    ("mode", "asleep", "asleep"),
    ("dimension", 11, "eigenvalues"),
    ("batch_size", 0, "batch_size"),
    ("sampling", "lottery", "lottery"),
    ("density_steps", 3, "density"),
    ("coordinates", [1, 2, 3], "block"),
]


@pytest.mark.parametrize(("column", "value", "named"), CONTRADICTIONS)
def test_a_row_that_contradicts_itself_is_a_failed_row_and_its_neighbour_none(
    tmp_path: Path, column: str, value: object, named: str
) -> None:
    batch = curvature_batch([hessian(part="bad", density_nodes=np.ones((1, 4)), density_weights=np.ones((1, 4)),
                                     coordinates=np.array([1]), block=np.eye(1), block_noise=np.ones((256, 1))),
                             hessian(part="good")])  # fmt: skip
    rows = aligned(recorded(tmp_path, batch=_cell(batch, column, value)))
    (bad,) = [row for row in rows if row.part == "bad"]
    assert (bad.metric, bad.status, math.isnan(bad.value)) == (LOSS, "failed", True)
    assert bad.reason.startswith("the measurement contradicts itself: ")
    assert named in bad.reason
    assert {row.metric for row in rows if row.part == "good"} == {LOSS, *map(str, Name)}


@pytest.mark.parametrize(
    "changed",
    [
        {"dimension": 0},
        {"dimension": -5},
        {"sampling": "by hand"},
        {"batch_size": 0},
        {"batch_size": -3},
        {"examples": 0},
        {"loss": math.nan},
        {"eigenvalues": np.full(12, math.nan)},
        {"eigenvalues": np.zeros(12)},
        {"gram": np.full((256, 256), math.inf)},
        {"gram": -np.eye(256)},
        {"projections": np.full((256, 12), 1e200)},
        {"quadratic": np.full(256, -1.0)},
        {"trace_samples": np.full(8, math.nan)},
        {"gradient_norm2": 0.0},
        {"gradient_norm2": -1.0},
        {"gradient_quadratic": math.inf},
    ],
    ids=str,
)
def test_hostile_numbers_are_rows_with_a_status_and_no_crash(tmp_path: Path, changed: dict[str, Any]) -> None:
    rows = aligned(recorded(tmp_path, hessian(**changed)))
    assert rows
    for row in rows:
        assert row.status in ("ok", "at_boundary") or (row.reason and math.isnan(row.value)), row


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eigenvalues": np.ones(1025), "residuals": np.ones(1025)}, "1025 eigenvalues: at most 1024"),
        ({"draws": 2049, "gram": np.eye(2049)}, "2049 draws: at most 2048"),
        ({"coordinates": np.arange(1025), "block": np.eye(1025)}, "1025 coordinates: at most 1024"),
    ],
    ids=["eigenvalues", "draws", "coordinates"],
)
def test_more_than_a_server_works_through_fails_by_name(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    row = replace(sharpness([]), kind=hessian().kind, **changed)
    rows = aligned(recorded(tmp_path, row))
    assert [(found.metric, found.status) for found in rows] == [(LOSS, "failed")]
    assert message in rows[0].reason


def test_texts_without_end_are_cut(tmp_path: Path) -> None:
    long = "x" * 100_000
    batch = curvature_batch([hessian(part=long, notes=(long,) * 100), hessian(part=long)])
    rows = aligned(recorded(tmp_path, batch=_cell(batch, "kind", long)))
    assert max(len(text) for row in rows for text in (row.part, row.kind, row.reason, *row.warnings)) < 1000
    assert max(len(row.warnings) for row in rows) < 20


def test_a_window_whose_measurements_are_lost_says_so(tmp_path: Path) -> None:
    window = recorded(tmp_path, hessian(3))  # another window's
    (row,) = aligned(window)
    assert (row.part, row.kind, row.metric, row.status) == ("*", "curvature", LOSS, "failed")
    assert "no measurement of it" in row.reason


def test_ranks_measure_each_for_itself(tmp_path: Path) -> None:
    for rank in (0, 1):
        writer = DumpWriter(tmp_path, INFO)
        writer.append(Table.CURVATURE, curvature_batch([hessian(part=f"of rank {rank}")]))
        row = closing(0, scope="process", job="j", rank=rank, world_size=2, thetas=7)
        writer.append(Table.WINDOWS, row)
        writer.close()
    windows = list(read_windows(Dump(tmp_path)))
    assert sorted(row.part for window in windows for row in window.curvature) == ["of rank 0", "of rank 1"]
    assert [window.notes for window in windows] == [(), ()]
    warned = {(row.part, row.warnings[0]) for window in windows for row in aligned(window)}
    assert warned == {
        (f"of rank {rank}", f"of rank {rank} of 2 alone, and of the data that it went through") for rank in (0, 1)
    }


def test_a_measurement_that_is_closed_first_does_not_part_the_ranks_of_its_job(tmp_path: Path) -> None:
    for rank in (0, 1):
        writer = DumpWriter(tmp_path, WIDE)
        writer.append(Table.CURVATURE, curvature_batch([hessian(3)]))
        writer.append(Table.WINDOWS, closing(3, scope="process", job="j" * 32, rank=rank, world_size=2))
        writer.append(Table.DRAWS, draws_batch(range(40), seed=rank, info=WIDE))
        writer.append(Table.WINDOWS, rank_window_batch(0, 40, rank, info=WIDE, job="j" * 32))
        writer.close()
    windows = list(read_windows(Dump(tmp_path)))
    assert sorted((window.closed.kind, window.closed.recorded) for window in windows) == [
        ("burst", 80), ("curvature", 0), ("curvature", 0),
    ]  # fmt: skip


def ordinary(path: Path, *, kind: str = "burst", draws: int = 60, dataset_size: int | None = None) -> Window:
    writer = DumpWriter(path, WIDE)
    batch = draws_batch(range(draws), info=WIDE)
    if kind == "probe":
        at = batch.schema.get_field_index("theta")
        batch = batch.set_column(at, batch.schema.field(at), pa.array(np.zeros(batch.num_rows, np.int64)))
    writer.append(Table.DRAWS, batch)
    if dataset_size is not None:
        values = {group.name: np.zeros(48, np.float32) for group in WIDE.groups}
        writer.append(Table.REFERENCE, reference_batch(0, values, info=WIDE, dataset_size=dataset_size))
    writer.append(Table.WINDOWS, windows_batch(0, draws, info=WIDE, kind=kind))
    writer.close()
    (window,) = read_windows(Dump(path))
    return window


def test_ordinary_windows_have_noise_scales_of_every_group_and_the_model(tmp_path: Path) -> None:
    window = ordinary(tmp_path, kind="probe")
    rows = analyse(window, AnalysisOptions(tail=False)).alignment
    assert [(row.part, row.metric) for row in rows] == [
        (part, metric)
        for part in ("a.weight", "b.weight", "*")
        for metric in ("b_simple", "trace_sigma", "gradient_norm2")
    ]
    assert {(row.part, row.dimension, row.kind, row.draws) for row in rows} == {
        ("a.weight", 64, "probe", 60), ("b.weight", 64, "probe", 60), ("*", 128, "probe", 60),
    }  # fmt: skip
    # Standard normal draws: variance 1 a coordinate, scaled up from 48 to 64 of each group.
    (model,) = [row for row in rows if row.part == "*" and row.metric == "trace_sigma"]
    assert model.low <= 128 <= model.high
    assert len(analyse(window).rows) == 9
    assert list(map(repr, analyse(window).alignment)) == list(map(repr, rows))


def test_neighbours_of_a_burst_are_told_from_draws_at_one_theta(tmp_path: Path) -> None:
    assert any("different" in warning for row in aligned(ordinary(tmp_path)) for warning in row.warnings)


def test_the_finite_number_of_examples_counts_where_it_is_known(tmp_path: Path) -> None:
    plain = aligned(ordinary(tmp_path / "a", kind="probe"))
    # 60 draws of 32 in 1000 examples are of several passes: (n - B) / (n - 1) of the variance with replacement.
    known = aligned(ordinary(tmp_path / "b", kind="probe", dataset_size=1000))
    ratio = of(known[-3:], "trace_sigma").value / of(plain[-3:], "trace_sigma").value
    assert ratio == pytest.approx(999 / 968, rel=1e-6)
    all_data = aligned(ordinary(tmp_path / "c", kind="probe", dataset_size=32))
    assert of(all_data[-3:], "trace_sigma").value == of(plain[-3:], "trace_sigma").value


def test_a_noise_scale_that_fails_leaves_the_tails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by nought")

    window = ordinary(tmp_path)
    monkeypatch.setattr("gradnoise.analyzer.stats.noise_scale.noise_scale", fail)
    report = analyse(window)
    assert {row.status for row in report.rows} != {"failed"}
    (row,) = report.alignment
    assert (row.status, row.reason) == ("failed", "the analysis failed: ZeroDivisionError: by nought")
    assert "by nought" in caplog.text


def test_ranks_of_a_job_share_their_noise_scale(tmp_path: Path) -> None:
    for rank in (0, 1):
        writer = DumpWriter(tmp_path, WIDE)
        writer.append(Table.DRAWS, draws_batch(range(40), seed=rank, info=WIDE))
        writer.append(Table.WINDOWS, rank_window_batch(0, 40, rank, info=WIDE))
        writer.close()
    (window,) = read_windows(Dump(tmp_path))
    rows = aligned(window)
    assert {row.draws for row in rows} == {80}
    # The two ranks' draws of each theta are pairs: no drift between neighbours.
    assert not any("different" in warning for row in rows for warning in row.warnings)


def test_the_metrics_are_named_once() -> None:
    assert len(set(METRICS)) == len(METRICS)


def test_a_gram_matrix_beyond_the_range_of_numbers_leaves_the_other_metrics(tmp_path: Path) -> None:
    row = hessian(draws=8, pairs=3)
    rows = aligned(recorded(tmp_path, replace(row, gram=np.full((8, 8), 1e308))))
    assert {found.metric for found in rows} == {LOSS, *map(str, Name)}
    assert {found.status for found in rows if found.metric == Name.TRACE_H} == {"ok"}


def test_of_too_many_measurements_the_first_are_read_and_the_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradnoise.analyzer.assembly.MEASUREMENTS", 3)
    batch = curvature_batch([sharpness([1.0, 2.0, 1.5, 2.5])] * 5)
    window = recorded(tmp_path, batch=_cell(batch, "mode", "asleep"))
    assert (len(window.curvature), len(window.unreadable), window.unread) == (2, 1, 2)
    assert aligned(window)[-1].reason == "2 more measurements in this window are left out: 3 are analysed"
