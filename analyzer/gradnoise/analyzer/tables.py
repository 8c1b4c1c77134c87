"""Results between the domain, Arrow and the network: every field, there and back, in one file."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gradnoise.wire.results import FIT_SCHEMA, FORMS, MODEL_GROUP, RUNS_SCHEMA, TAIL_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from gradnoise.analyzer.analysis import FitReport, WindowReport
    from gradnoise.analyzer.store import RunSummary
    from gradnoise.wire import RunInfo

__all__ = ["failed_table", "fit_table", "from_ipc", "runs_table", "tail_table", "to_ipc"]


def _column(field: pa.Field, values: Sequence[Any]) -> pa.Array:
    if field.nullable and pa.types.is_floating(field.type):
        # In the domain a number that could not be estimated is NaN, in a table it is null.
        values = [None if value is None or math.isnan(value) else value for value in values]
    return pa.array(values, field.type)


def _table(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_arrays([_column(field, [row[field.name] for row in rows]) for field in schema], schema=schema)


def tail_table(reports: Iterable[WindowReport], *, analysed_at: datetime, first_row: int = 1) -> pa.Table:
    """Return reports as a table of ``TAIL_SCHEMA``, rows numbered from ``first_row``."""
    rows = [
        {
            **{field.name: getattr(row, field.name) for field in dataclasses.fields(row)},
            "warnings": list(row.warnings),
            "run": report.run,
            "producer": report.producer,
            "plan": str(report.plan),
            "analysed_at": analysed_at,
        }
        for report in reports
        for row in report.rows
    ]
    return _table(TAIL_SCHEMA, [{**row, "row": number} for number, row in enumerate(rows, first_row)])


def failed_table(
    info: RunInfo, producer: str, closing: Mapping[str, Any], reason: str, *, reference: str, analysed_at: datetime
) -> pa.Table:
    """Return the rows of a window whose analysis failed: every group and the model in every form, with the reason."""
    groups = [(group.name, group.size, len(group.indices)) for group in info.groups]
    groups.append((MODEL_GROUP, sum(size for _, size, _ in groups), sum(width for *_, width in groups)))
    common: dict[str, Any] = {field.name: None for field in TAIL_SCHEMA} | {
        "row": 0,
        "run": info.run,
        "producer": producer,
        "window": closing["window"],
        "kind": closing["kind"],
        "first_step": closing["first_step"],
        "last_step": closing["last_step"],
        "thetas": closing["last_theta"] - closing["first_theta"] + 1,
        "reference": reference,
        "draws": closing["recorded"],
        "tested": 0,
        "verdict": "undecided",
        "status": "failed",
        "reason": reason,
        "zeros": math.nan,
        "non_finite": closing["non_finite"],
        "dropped": closing["dropped"],
        "warnings": [],
        "plan": "live",
        "analysed_at": analysed_at,
    }
    rows = [
        common | {"group": name, "size": size, "coordinates": width, "form": form}
        for name, size, width in groups
        for form in FORMS
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


def to_ipc(table: pa.Table) -> bytes:
    """Return a table as one Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> pa.Table:
    """Read back what :func:`to_ipc` wrote."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all()
