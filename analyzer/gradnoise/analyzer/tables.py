"""Results between the domain, Arrow and the network: every field, there and back, in one file."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gradnoise.analyzer.aligning import failed_row
from gradnoise.analyzer.report import RowStatus, WindowReport, forms_of
from gradnoise.analyzer.stats import Verdict
from gradnoise.analyzer.stats.forms import Trend
from gradnoise.wire.results import ALIGNMENT_SCHEMA, FIT_SCHEMA, MODEL_GROUP, RUNS_SCHEMA, TAIL_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from gradnoise.analyzer.report import AnalysisOptions, FitReport
    from gradnoise.analyzer.store import RunSummary
    from gradnoise.analyzer.windows import ClosedWindow
    from gradnoise.wire import RunInfo

__all__ = ["WindowTables", "failed_tables", "fit_table", "runs_table", "window_tables"]


def _column(field: pa.Field, values: Sequence[Any]) -> pa.Array:
    if field.nullable and pa.types.is_floating(field.type):
        # In the domain a number that could not be estimated is NaN, in a table it is null.
        values = [None if value is None or math.isnan(value) else value for value in values]
    return pa.array(values, field.type)


def _table(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_arrays([_column(field, [row[field.name] for row in rows]) for field in schema], schema=schema)


@dataclass(frozen=True, slots=True)
class WindowTables:
    """What one window's analysis found, as tables; at least one of them has a row.

    Attributes:
        tail: of ``TAIL_SCHEMA``; empty for a measurement of the curvature.
        alignment: of ``ALIGNMENT_SCHEMA``.
    """

    tail: pa.Table
    alignment: pa.Table

    @property
    def num_rows(self) -> int:
        """Rows of both."""
        return int(self.tail.num_rows + self.alignment.num_rows)

    @property
    def key(self) -> tuple[str, str, int]:
        """Run, producer and window."""
        table = self.tail if self.tail.num_rows else self.alignment
        run, producer, window = (table.column(name)[0].as_py() for name in ("run", "producer", "window"))
        return run, producer, window

    def numbered(self, first_row: int) -> WindowTables:
        """Return them with their rows numbered from ``first_row``: those of ``tail``, then those of ``alignment``."""
        return WindowTables(
            _numbered(self.tail, first_row), _numbered(self.alignment, first_row + int(self.tail.num_rows))
        )


def _numbered(table: pa.Table, first_row: int) -> pa.Table:
    numbers = pa.array(range(first_row, first_row + table.num_rows), pa.int64())
    where = table.schema.get_field_index("row")
    return table.set_column(where, table.schema.field(where), numbers)


def window_tables(report: WindowReport, *, analysed_at: datetime) -> WindowTables:
    """Return a report as tables; whoever keeps or prints them numbers their rows (:meth:`WindowTables.numbered`)."""
    common = {"row": 0, "run": report.run, "producer": report.producer, "analysed_at": analysed_at}
    tail = [
        _cells(row)
        | common
        | {
            "warnings": list(row.warnings),
            "alpha_quantiles": list(row.alpha_quantiles),
            "plan": str(report.plan),
        }
        for row in report.rows
    ]
    alignment = [_cells(row) | common | {"warnings": list(row.warnings)} for row in report.alignment]
    return WindowTables(_table(TAIL_SCHEMA, tail), _table(ALIGNMENT_SCHEMA, alignment))


def _cells(row: Any) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def failed_tables(
    info: RunInfo, closed: ClosedWindow, error: Exception, *, options: AnalysisOptions, analysed_at: datetime
) -> WindowTables:
    """Return the rows of a window whose analysis failed, with the reason.

    They are every group and the model in every form; of a measurement of the curvature one row of alignment.

    Args:
        info: the run.
        closed: the window.
        error: why there is no result.
        options: what was asked for.
        analysed_at: when it failed.
    """
    reason = f"the analysis failed: {type(error).__name__}: {error}"
    if closed.measures_curvature or not options.tail:
        row = failed_row(closed, reason)
        report = WindowReport(closed.run, closed.producer, closed.window, options.plan, (), (row,))
        return window_tables(report, analysed_at=analysed_at)
    groups = [(group.name, group.size, len(group.indices)) for group in info.groups]
    groups.append((MODEL_GROUP, sum(size for _, size, _ in groups), sum(width for *_, width in groups)))
    common: dict[str, Any] = {field.name: None for field in TAIL_SCHEMA} | {
        "row": 0,
        "run": closed.run,
        "producer": closed.producer,
        "window": closed.window,
        "kind": closed.kind,
        "first_step": closed.first_step,
        "last_step": closed.last_step,
        "thetas": closed.last_theta - closed.first_theta + 1,
        "reference": options.contrast,
        "draws": closed.recorded,
        "sums": Trend.UNCLEAR,
        "tested": 0,
        "gaussian_rejected": False,
        "alpha_quantiles": [],
        "verdict": Verdict.UNDECIDED,
        "status": RowStatus.FAILED,
        "reason": reason,
        "zeros": math.nan,
        "non_finite": closed.non_finite,
        "dropped": closed.dropped,
        "warnings": [],
        "plan": options.plan,
        "analysed_at": analysed_at,
    }
    rows = [
        common | {"group": name, "size": size, "coordinates": width, "form": form}
        for name, size, width in groups
        for form in forms_of(options.plan)
    ]
    return WindowTables(_table(TAIL_SCHEMA, rows), ALIGNMENT_SCHEMA.empty_table())


def fit_table(report: FitReport) -> pa.Table:
    """Return a fit as a table of ``FIT_SCHEMA``."""
    return _table(FIT_SCHEMA, [_cells(row) | {"warnings": list(row.warnings)} for row in report.rows])


def runs_table(summaries: Iterable[RunSummary], analysed: Mapping[str, int]) -> pa.Table:
    """Return runs as a table of ``RUNS_SCHEMA``; ``analysed`` counts the analysed windows by run."""
    rows = [
        {
            "run": summary.info.run,
            "model": summary.info.model,
            "created": summary.info.created,
            "groups": len(summary.info.groups),
            "parameters": sum(group.size for group in summary.info.groups),
            "producers": summary.producers,
            "windows": summary.windows,
            "analysed": analysed.get(summary.info.run, 0),
            "draws": summary.draws,
            "bytes": summary.bytes,
            "problems": summary.problems,
        }
        for summary in summaries
    ]
    return _table(RUNS_SCHEMA, rows)
