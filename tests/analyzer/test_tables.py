from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from typing import Any, cast, get_type_hints

import pytest

from gradnoise.analyzer.analysis import (
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
from gradnoise.analyzer.tables import failed_table, fit_table, numbered, runs_table, tail_table
from gradnoise.analyzer.windows import ClosedWindow
from gradnoise.wire.results import FIT_SCHEMA, FORMS, RUNS_SCHEMA, TAIL_SCHEMA, from_ipc, to_ipc

from ..proto.dumps import INFO, windows_batch

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)


def distinct(kind: Any) -> Any:
    """An instance of a result row in which every field has a value of its own."""
    values: dict[str, Any] = {}
    for number, (name, annotation) in enumerate(get_type_hints(kind).items(), 1):
        if annotation is int:
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


def test_every_field_of_a_report_goes_there_and_back() -> None:
    one, two = distinct(TailRow), dataclasses.replace(distinct(TailRow), group="*")
    report = WindowReport("run", "producer", 3, Plan.LIVE, (one, two))
    table = from_ipc(to_ipc(numbered(tail_table(report, analysed_at=NOW), 10)))
    assert table.schema.equals(TAIL_SCHEMA, check_metadata=True)
    rows = table.to_pylist()
    assert [row["row"] for row in rows] == [10, 11]
    for row, original in zip(rows, [one, two], strict=True):
        same(row, original)
        assert (row["run"], row["producer"], row["plan"], row["analysed_at"]) == ("run", "producer", "live", NOW)


def test_what_could_not_be_estimated_is_null() -> None:
    row = dataclasses.replace(distinct(TailRow), alpha=math.nan, scale=math.nan, warnings=())
    (found,) = tail_table(WindowReport("r", "p", 0, Plan.LIVE, (row,)), analysed_at=NOW).to_pylist()
    assert found["alpha"] is None
    assert found["scale"] is None
    assert found["warnings"] == []


def test_a_report_without_rows_is_an_empty_table() -> None:
    report = WindowReport("r", "p", 0, Plan.LIVE, ())
    assert tail_table(report, analysed_at=NOW).equals(TAIL_SCHEMA.empty_table())


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
    table = failed_table(INFO, closed, ValueError("because"), options=options, analysed_at=NOW)
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


@pytest.mark.parametrize("schema", [TAIL_SCHEMA, FIT_SCHEMA, RUNS_SCHEMA])
def test_every_column_is_documented(schema: Any) -> None:
    for field in schema:
        assert field.metadata[b"description"], field.name
