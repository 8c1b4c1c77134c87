"""What a well-formed batch must be beyond its schema before it is stored: what is stored is analysed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gradnoise.wire import Table, completed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradnoise.wire import Stamped

__all__ = ["reason_to_refuse"]

_PATTERNS = 1 << 16  # of a bfloat16 number
_LONGEST_JOB = 64


def reason_to_refuse(stamped: Stamped, widths: Mapping[str, int]) -> str | None:
    """Say what is wrong with a batch; None if nothing is.

    Args:
        stamped: a batch whose schema, Arrow validity and CRC are right.
        widths: the run's groups, and how many coordinates each has.
    """
    batch = stamped.batch
    name = _with_nulls(batch)
    if name is not None:
        return f"column {name!r} has nulls"
    if "group" in batch.schema.names and stamped.table is not Table.EVENTS:
        strangers = set(batch.column("group").dictionary.to_pylist()) - widths.keys()
        if strangers:
            return f"it has groups that the run lacks: {sorted(map(str, strangers))[:5]}"
    match stamped.table:
        case Table.REFERENCE:
            return _reference(batch, widths)
        case Table.SKETCHES:
            return _sketches(batch)
        case Table.WINDOWS:
            return _windows(batch)
    return None


def _with_nulls(batch: pa.RecordBatch) -> str | None:
    """Return a column, or a column's list, that has nulls and must not."""
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if not field.nullable and column.null_count:
            return str(field.name)
        if pa.types.is_list(field.type) and not field.type.value_field.nullable and column.values.null_count:
            return str(field.name)
    return None


def _reference(batch: pa.RecordBatch, widths: Mapping[str, int]) -> str | None:
    group = batch.column("group")
    expected = np.array([widths[name] for name in group.dictionary.to_pylist()], np.int64)[group.indices.to_numpy()]
    if not np.array_equal(np.diff(batch.column("values").offsets.to_numpy()), expected):
        return "a reference has another number of values than its group has coordinates"
    return None


def _sketches(batch: pa.RecordBatch) -> str | None:
    cells, counts = batch.column("cells"), batch.column("counts")
    sizes = np.diff(cells.offsets.to_numpy())
    if not np.array_equal(sizes, np.diff(counts.offsets.to_numpy())):
        return "a sketch has another number of cells than of counts"
    offsets = cells.offsets.to_numpy()
    rising = np.diff(cells.values.to_numpy().astype(np.int64)) > 0
    # Between the last cell of a sketch and the first of the next there is no order.
    borders = offsets[(offsets > 0) & (offsets < len(cells.values))]
    rising[borders - 1] = True
    if sizes.max(initial=0) > _PATTERNS or not rising.all():
        return "the cells of a sketch are not ascending"
    return None


def _windows(batch: pa.RecordBatch) -> str | None:
    for row in completed(Table.WINDOWS, batch).select(["job", "rank", "world_size"]).to_pylist():
        job, rank, world_size = row["job"], row["rank"], row["world_size"]
        if job is not None and len(job) > _LONGEST_JOB:
            return f"a job's id has {len(job)} characters: at most {_LONGEST_JOB}"
        if (rank is not None or world_size is not None) and not 0 <= (rank or 0) < (world_size or 0):
            return f"rank {rank} of {world_size} ranks is none"
    return None
