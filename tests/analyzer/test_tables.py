from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from typing import Any, cast, get_type_hints

import pytest

from gradnoise.analyzer.analysis import (
    AlignmentRow,
    AnalysisOptions,
    Contrast,
    FitReport,
    FitRow,
    Plan,
    RowStatus,
    TailRow,
    WindowReport,
)
from gradnoise.analyzer.stats import Status, Verdict
from gradnoise.analyzer.store import RunSummary
from gradnoise.analyzer.tables import failed_tables, fit_table, runs_table, window_tables
from gradnoise.analyzer.windows import ClosedWindow
from gradnoise.wire.results import (
    ALIGNMENT_SCHEMA,
    FIT_SCHEMA,
    FORMS,
    RUNS_SCHEMA,
    TAIL_SCHEMA,
    from_ipc,
    to_ipc,
)

from ..proto.dumps import INFO, windows_batch

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)


def distinct(kind: Any) -> Any:
    """An instance of a result row in which every field has a value of its own."""
    values: dict[str, Any] = {}
    for number, (name, annotation) in enumerate(get_type_hints(kind).items(), 1):
        if annotation in (int, int | None):
            values[name] = number
        elif annotation is float:
            values[name] = number / 7
        elif annotation is bool:
            values[name] = True
        elif annotation is str:
            values[name] = f"text {number}"
        elif annotation in (Verdict, Status, Status | RowStatus):
            values[name] = Verdict.SCALE_MIXTURE if annotation is Verdict else Status.AT_BOUNDARY
        elif annotation == tuple[float, ...]:
            values[name] = (0.5, number / 7)
        else:
            values[name] = (f"warning {number}", "ä")
    return kind(**values)


def same(row: dict[str, Any], original: Any) -> None:
    for field in dataclasses.fields(original):
        value = getattr(original, field.name)
        assert row[field.name] == (list(value) if isinstance(value, tuple) else value), field.name


def report(tail: tuple[TailRow, ...] = (), alignment: tuple[AlignmentRow, ...] = ()) -> WindowReport:
    return WindowReport("run", "producer", 3, Plan.LIVE, tail, alignment)


def test_every_field_of_a_report_goes_there_and_back() -> None:
    tail = (distinct(TailRow), dataclasses.replace(distinct(TailRow), group="*"))
    alignment = (distinct(AlignmentRow), dataclasses.replace(distinct(AlignmentRow), index=None))
    tables = window_tables(report(tail, alignment), analysed_at=NOW)
    assert (tables.key, tables.num_rows) == (("run", "producer", 1), 4)
    numbered = tables.numbered(10)
    for table, schema, originals, numbers in (
        (numbered.tail, TAIL_SCHEMA, tail, [10, 11]),
        (numbered.alignment, ALIGNMENT_SCHEMA, alignment, [12, 13]),
    ):
        sent = from_ipc(to_ipc(table))
        assert sent.schema.equals(schema, check_metadata=True)
        rows = sent.to_pylist()
        assert [row["row"] for row in rows] == numbers
        for row, original in zip(rows, originals, strict=True):
            same(row, original)
            assert (row["run"], row["producer"], row["analysed_at"]) == ("run", "producer", NOW)
    assert set(numbered.tail.column("plan").to_pylist()) == {"live"}


def test_what_could_not_be_estimated_is_null() -> None:
    tail = dataclasses.replace(distinct(TailRow), alpha=math.nan, scale=math.nan, warnings=())
    row = dataclasses.replace(distinct(AlignmentRow), value=math.nan, null_low=math.nan, warnings=())
    tables = window_tables(report((tail,), (row,)), analysed_at=NOW)
    (found,) = tables.tail.to_pylist()
    assert (found["alpha"], found["scale"], found["warnings"]) == (None, None, [])
    (found,) = tables.alignment.to_pylist()
    assert (found["value"], found["null_low"], found["warnings"]) == (None, None, [])
    assert found["null_high"] is not None


def test_a_report_without_rows_is_empty_tables_and_rows_of_alignment_alone_know_their_window() -> None:
    tables = window_tables(report(), analysed_at=NOW)
    assert tables.tail.equals(TAIL_SCHEMA.empty_table())
    assert tables.alignment.equals(ALIGNMENT_SCHEMA.empty_table())
    alone = window_tables(report(alignment=(distinct(AlignmentRow),)), analysed_at=NOW)
    assert (alone.key, alone.numbered(5).alignment.column("row").to_pylist()) == (("run", "producer", 1), [5])


def test_every_field_of_a_fit_goes_there_and_back() -> None:
    row = distinct(FitRow)
    table = from_ipc(to_ipc(fit_table(FitReport((row,)))))
    assert table.schema.equals(FIT_SCHEMA, check_metadata=True)
    same(table.to_pylist()[0], row)


def test_runs() -> None:
    summary = RunSummary(INFO, producers=2, windows=3, draws=4, bytes=5, problems=6)
    table = runs_table([summary], {INFO.run: 1})
    assert table.schema.equals(RUNS_SCHEMA, check_metadata=True)
    assert table.to_pylist() == [
        {
            "run": "run-1", "model": "Net", "created": INFO.created, "groups": 2, "parameters": 14,
            "producers": 2, "windows": 3, "analysed": 1, "draws": 4, "bytes": 5, "problems": 6,
        }
    ]  # fmt: skip


def test_a_failed_window_has_every_row() -> None:
    (closed,) = ClosedWindow.of(INFO.run, "p", windows_batch(7, 90, kind="probe"))
    closed = dataclasses.replace(closed, non_finite=7, dropped=5)
    options = AnalysisOptions(cast("Plan", "another"), Contrast.MEAN)
    tables = failed_tables(INFO, closed, ValueError("because"), options=options, analysed_at=NOW)
    assert tables.alignment.num_rows == 0
    table = tables.tail
    assert table.schema.equals(TAIL_SCHEMA, check_metadata=True)
    table.validate(full=True)
    rows = table.to_pylist()
    assert [(row["group"], row["form"]) for row in rows] == [
        (group, form) for group in ("a.weight", "a.bias", "*") for form in FORMS
    ]
    for row in rows:
        assert (row["status"], row["verdict"], row["alpha"]) == ("failed", "undecided", None)
        assert row["reason"] == "the analysis failed: ValueError: because"
        assert (row["non_finite"], row["dropped"], row["thetas"], row["plan"]) == (7, 5, 90, "another")
        assert (row["window"], row["kind"], row["draws"], row["reference"]) == (7, "probe", 90, "mean")
    for field in TAIL_SCHEMA:
        if not field.nullable:
            assert table.column(field.name).null_count == 0, field.name
    assert {row["group"]: row["size"] for row in rows} == {"a.weight": 12, "a.bias": 2, "*": 14}


@pytest.mark.parametrize("kind", ["curvature", "burst"])
def test_a_failed_window_without_tail_rows_has_one_of_alignment(kind: str) -> None:
    (closed,) = ClosedWindow.of(INFO.run, "p", windows_batch(7, 0, kind=kind))
    options = AnalysisOptions(tail=kind == "curvature")
    tables = failed_tables(INFO, closed, ValueError("because"), options=options, analysed_at=NOW)
    tables.alignment.validate(full=True)
    assert tables.tail.num_rows == 0
    (row,) = tables.alignment.to_pylist()
    assert (row["part"], row["kind"], row["metric"], row["status"]) == ("*", kind, "loss", "failed")
    assert row["reason"] == "the analysis failed: ValueError: because"
    assert tables.key == (INFO.run, "p", 7)


@pytest.mark.parametrize("schema", [TAIL_SCHEMA, ALIGNMENT_SCHEMA, FIT_SCHEMA, RUNS_SCHEMA])
def test_every_column_is_documented(schema: Any) -> None:
    for field in schema:
        assert field.metadata[b"description"], field.name
