"""Columns that hold nothing are absent from a batch: putting them back for whoever reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from gradnoise.wire._schemas import schema

if TYPE_CHECKING:
    from gradnoise.wire._schemas import Table

__all__ = ["completed"]


def completed(table: Table, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a stored batch of ``table`` with every column of the latest schema: those it lacks are null.

    Nothing is copied. What is stored, sent and checked by its CRC is the batch without them.
    """
    whole, present = schema(table), set(batch.schema.names)
    if len(present) == len(whole):
        return batch
    columns = [
        batch.column(field.name) if field.name in present else pa.nulls(batch.num_rows, field.type) for field in whole
    ]
    return pa.RecordBatch.from_arrays(columns, schema=whole)
