"""A table of results in SQLite: from the schema of its rows, there and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from gradnoise.wire.results import Steps

__all__ = ["StoredTable"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class StoredTable:
    """One table of rows that have ``row``, ``run``, ``producer``, ``window``, ``first_step`` and ``last_step``.

    Args:
        name: of the table in the database.
        schema: of the rows.
        filters: columns by which :meth:`select` may be asked for rows.
        listed: a column whose texts :meth:`texts` lists, if there is one.
    """

    def __init__(self, name: str, schema: pa.Schema, filters: tuple[str, ...], *, listed: str | None = None) -> None:
        self._name = name
        self._schema = schema
        self._filters = filters
        self._listed = listed
        self._columns = ", ".join(f'"{field.name}"' for field in schema)

    @property
    def definition(self) -> str:
        """The statements that make the table."""
        columns = ", ".join(
            f'"{field.name}" {_sql_type(field)}' + (" PRIMARY KEY" if field.name == "row" else "")
            for field in self._schema
        )
        chosen = ", ".join(f'"{name}"' for name in self._filters)
        listed = (
            ""
            if self._listed is None
            else f'CREATE INDEX {self._name}_by_kind ON {self._name} (run, kind, "{self._listed}");'
        )
        return f"""
            CREATE TABLE {self._name} ({columns});
            CREATE INDEX {self._name}_by_run ON {self._name} (run, "row");
            CREATE INDEX {self._name}_by_choice ON {self._name} (run, {chosen}, "row");
            {listed}
        """

    def insert(self, connection: sqlite3.Connection, table: pa.Table) -> None:
        """Store rows, which are numbered."""
        columns = ([_to_sql(field, value) for value in table.column(field.name).to_pylist()] for field in self._schema)
        places = ", ".join("?" * len(self._schema))
        connection.executemany(
            f"INSERT INTO {self._name} ({self._columns}) VALUES ({places})", zip(*columns, strict=True)
        )

    def delete(self, connection: sqlite3.Connection, run: str, producer: str, window: int) -> None:
        """Drop the rows of a window."""
        query = f'DELETE FROM {self._name} WHERE run = ? AND producer = ? AND "window" = ?'
        connection.execute(query, (run, producer, window))

    def select(
        self,
        connection: sqlite3.Connection,
        run: str,
        filters: Mapping[str, str],
        steps: Steps,
        after_row: int,
        limit: int,
    ) -> pa.Table:
        """Return up to ``limit`` rows of a run behind ``after_row``, in their order.

        Args:
            connection: to the database.
            run: the run id.
            filters: column -> only rows with this text there; empty for all.
            steps: only windows that overlap the steps from the first to the second, both included.
            after_row, limit: see above.
        """
        terms, values = ["run = ?", '"row" > ?'], [run, after_row]
        for term, value in (
            *((f'"{name}" = ?', filters.get(name) or None) for name in self._filters),
            ("last_step >= ?", steps[0]),
            ("first_step <= ?", steps[1]),
        ):
            if value is not None:
                terms.append(term)
                values.append(value)
        query = f'SELECT {self._columns} FROM {self._name} WHERE {" AND ".join(terms)} ORDER BY "row" LIMIT ?'
        found = connection.execute(query, [*values, limit]).fetchall()
        columns = list(zip(*found, strict=True)) if found else [()] * len(self._schema)
        arrays = [_from_sql(field, values) for field, values in zip(self._schema, columns, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def texts(self, connection: sqlite3.Connection, run: str, kinds: Sequence[str]) -> list[str]:
        """Return what the listed column holds in a run's rows of some kinds, each text once."""
        places = ", ".join("?" * len(kinds))
        query = f'SELECT DISTINCT "{self._listed}" FROM {self._name} WHERE run = ? AND kind IN ({places}) ORDER BY 1'
        return [text for (text,) in connection.execute(query, [run, *kinds])]


def _sql_type(field: pa.Field) -> str:
    if pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type) or pa.types.is_boolean(field.type):
        return "INTEGER"
    return "REAL" if pa.types.is_floating(field.type) else "TEXT"


def _to_sql(field: pa.Field, value: Any) -> Any:
    if pa.types.is_list(field.type):
        return json.dumps(value)
    if pa.types.is_timestamp(field.type):
        return (value - _EPOCH) // _MICROSECOND
    return value


def _from_sql(field: pa.Field, values: Iterable[Any]) -> pa.Array:
    if pa.types.is_list(field.type):
        return pa.array([json.loads(value) for value in values], field.type)
    if pa.types.is_timestamp(field.type):
        return pa.array(values, pa.int64()).cast(field.type)
    if pa.types.is_boolean(field.type):
        return pa.array([bool(value) for value in values], field.type)
    if pa.types.is_floating(field.type) and not field.nullable:
        # SQLite stores NaN as null.
        values = [float("nan") if value is None else value for value in values]
    return pa.array(values, field.type)
