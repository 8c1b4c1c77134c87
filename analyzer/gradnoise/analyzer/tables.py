"""Results between the domain, Arrow and the network: every field, there and back, in one file."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gradnoise.analyzer.report import RowStatus, forms_of
from gradnoise.analyzer.stats import Verdict
from gradnoise.analyzer.stats.forms import Trend
from gradnoise.wire.results import FIT_SCHEMA, MODEL_GROUP, RUNS_SCHEMA, TAIL_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from gradnoise.analyzer.analysis import AnalysisOptions, FitReport, WindowReport
    from gradnoise.analyzer.store import RunSummary
    from gradnoise.analyzer.windows import ClosedWindow
    from gradnoise.wire import RunInfo

__all__ = ["failed_table", "fit_table", "numbered", "runs_table", "tail_table"]


def _column(field: pa.Field, values: Sequence[Any]) -> pa.Array:
    if field.nullable and pa.types.is_floating(field.type):
        # In the domain a number that could not be estimated is NaN, in a table it is null.
        values = [None if value is None or math.isnan(value) else value for value in values]
    return pa.array(values, field.type)


def _table(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_arrays([_column(field, [row[field.name] for row in rows]) for field in schema], schema=schema)


def numbered(table: pa.Table, first_row: int) -> pa.Table:
    """Return a table of ``TAIL_SCHEMA`` with its rows numbered from ``first_row``."""
    numbers = pa.array(range(first_row, first_row + table.num_rows), pa.int64())
    return table.set_column(TAIL_SCHEMA.get_field_index("row"), TAIL_SCHEMA.field("row"), numbers)


def tail_table(report: WindowReport, *, analysed_at: datetime) -> pa.Table:
    """Return a report as a table of ``TAIL_SCHEMA``; whoever keeps or prints it numbers its rows (:func:`numbered`)."""
    rows = [
        {
            **{field.name: getattr(row, field.name) for field in dataclasses.fields(row)},
            "row": 0,
            "warnings": list(row.warnings),
            "alpha_quantiles": list(row.alpha_quantiles),
            "run": report.run,
            "producer": report.producer,
            "plan": str(report.plan),
            "analysed_at": analysed_at,
        }
        for row in report.rows
    ]
    return _table(TAIL_SCHEMA, rows)


def failed_table(
    info: RunInfo, closed: ClosedWindow, error: Exception, *, options: AnalysisOptions, analysed_at: datetime
) -> pa.Table:
    """Return the rows of a window whose analysis failed: every group and the model in every form, with the reason.

    Args:
        info: the run.
        closed: the window.
        error: why there is no result.
        options: what was asked for.
        analysed_at: when it failed.
    """
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
        "reason": f"the analysis failed: {type(error).__name__}: {error}",
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
    return _table(TAIL_SCHEMA, rows)


def fit_table(report: FitReport) -> pa.Table:
    """Return a fit as a table of ``FIT_SCHEMA``."""
    rows = [
        {
            **{field.name: getattr(row, field.name) for field in dataclasses.fields(row)},
            "warnings": list(row.warnings),
        }
        for row in report.rows
    ]
    return _table(FIT_SCHEMA, rows)


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
