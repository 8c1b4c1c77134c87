"""Which columns of a table are worth their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from gradnoise.wire import Table

__all__ = ["UsedColumns"]


class UsedColumns:
    """Leaves a nullable column out of a table's batches until the first one in which it holds something.

    From then on it stays, empty or not: a segment has one set of columns, and a column that came and went would begin
    a segment each time.
    """

    def __init__(self) -> None:
        self._used: dict[Table, set[str]] = {}

    def of(self, table: Table, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch without the nullable columns that have held nothing so far; nothing is copied."""
        used = self._used.setdefault(table, set())
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if not field.nullable or column.null_count < len(column):
                used.add(field.name)
        return batch.select([name for name in batch.schema.names if name in used])
