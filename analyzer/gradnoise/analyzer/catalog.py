"""The catalog: results of analysed windows in SQLite, numbered in the order of their coming.

It can be deleted: what it holds is computed anew from the dumps.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from gradnoise.analyzer._stored import StoredTable
from gradnoise.wire.results import ALIGNMENT_SCHEMA, CURVATURE_KINDS, TAIL_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from gradnoise.analyzer.tables import WindowTables
    from gradnoise.wire.results import Steps

__all__ = ["Catalog"]

_log = logging.getLogger(__name__)
_VERSION = 4
_TAIL = StoredTable("results", TAIL_SCHEMA, ("group", "form"))
_ALIGNMENT = StoredTable("alignment", ALIGNMENT_SCHEMA, ("part", "metric"), listed="part")
_SCHEMA = f"""
{_TAIL.definition}
{_ALIGNMENT.definition}
CREATE TABLE windows (
  run TEXT, producer TEXT, "window" INTEGER, result TEXT, PRIMARY KEY (run, producer, "window")
) WITHOUT ROWID;
CREATE INDEX windows_by_number ON windows (run, "window");
CREATE TABLE counter (next_row INTEGER NOT NULL);
"""


class Catalog:
    """Results by row number. Readers never wait for a writer; one window is stored in one transaction.

    Args:
        path: the database; made if missing, replaced (with a log message) if it is damaged or of another version.
        rebuilding: results have been given out before: begin at a row number above all that were.
    """

    def __init__(self, path: Path, *, rebuilding: bool = False) -> None:
        self._path = path
        self._write = threading.Lock()
        self._changed = threading.Condition()
        self._closed = False
        fresh = not path.exists()
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            _log.warning("%s cannot be used (%s): its results are computed anew from the dumps", path, error)
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._connection = self._open()
            fresh = rebuilding = True
        if fresh and rebuilding:
            # Seconds leave room for a million rows each: above every row number of the catalog that was lost.
            self._connection.execute("UPDATE counter SET next_row = ?", (int(time.time()) * 1_000_000,))
        self._last_row: int = self._connection.execute("SELECT next_row FROM counter").fetchone()[0] - 1

    @property
    def last_row(self) -> int:
        """The number of the row that was stored last."""
        return self._last_row

    def store(self, tables: WindowTables, producers: Sequence[str] | None = None) -> bool:
        """Store one window's rows, replacing earlier ones; False if those there are of more producers than these.

        Args:
            tables: the rows; they are numbered here.
            producers: whose draws they are made of; default that of the rows alone.
        """
        run, producer, window = tables.key
        members = [producer] if producers is None else producers
        with self._write, self._transaction() as connection:
            there = {result for each in members for result in self._result(connection, run, each, window)}
            if any(self._count(connection, run, result, window) > len(members) for result in there):
                return False
            (first,) = connection.execute("SELECT next_row FROM counter").fetchone()
            for each in members:
                self._forget(connection, run, each, window)
            tables = tables.numbered(first)
            _TAIL.insert(connection, tables.tail)
            _ALIGNMENT.insert(connection, tables.alignment)
            connection.executemany(
                "INSERT INTO windows VALUES (?, ?, ?, ?)", [(run, each, window, producer) for each in members]
            )
            connection.execute("UPDATE counter SET next_row = ?", (first + tables.num_rows,))
        with self._changed:
            self._last_row = first + tables.num_rows - 1
            self._changed.notify_all()
        return True

    def analysed(self, run: str | None = None, window: int | None = None) -> set[tuple[str, str, int]]:
        """Return the (run, producer, window) of all, or the given, windows that results are made of."""
        terms = {"run = ?": run, '"window" = ?': window}
        given = {term: value for term, value in terms.items() if value is not None}
        query = f'SELECT run, producer, "window" FROM windows WHERE {" AND ".join(["true", *given])}'
        with self._reader() as connection:
            return set(connection.execute(query, tuple(given.values())))

    def analysed_counts(self) -> dict[str, int]:
        """Return the number of analysed windows by run; what several producers recorded of one counts once."""
        with self._reader() as connection:
            return dict(connection.execute("SELECT run, count(*) FROM windows WHERE producer = result GROUP BY run"))

    def forget(self, windows: Iterable[tuple[str, str, int]]) -> None:
        """Drop the results of windows, and of those that they are part of."""
        with self._write, self._transaction() as connection:
            for window in windows:
                self._forget(connection, *window)

    def tail(
        self,
        run: str,
        *,
        form: str = "",
        group: str = "",
        steps: Steps = (None, None),
        after_row: int = 0,
        limit: int = 4096,
    ) -> pa.Table:
        """Return up to ``limit`` tail rows of a run with row numbers above ``after_row``, in their order.

        Args:
            run: the run id.
            form, group: only these rows; empty for all.
            steps: only windows that overlap the steps from the first to the second, both included.
            after_row: see above.
            limit: see above.
        """
        with self._reader() as connection:
            return _TAIL.select(connection, run, {"form": form, "group": group}, steps, after_row, limit)

    def alignment(
        self,
        run: str,
        *,
        part: str = "",
        metric: str = "",
        steps: Steps = (None, None),
        after_row: int = 0,
        limit: int = 4096,
    ) -> pa.Table:
        """Return up to ``limit`` alignment rows of a run; ``part`` and ``metric``: only these, else as :meth:`tail`."""
        with self._reader() as connection:
            return _ALIGNMENT.select(connection, run, {"part": part, "metric": metric}, steps, after_row, limit)

    def parts(self, run: str) -> list[str]:
        """Return the parts of a run's model whose curvature was measured."""
        with self._reader() as connection:
            return _ALIGNMENT.texts(connection, run, CURVATURE_KINDS)

    def wait(self, row: int, timeout: float) -> bool:
        """Wait until a row above ``row`` is stored, :meth:`wake` is called or ``timeout`` seconds pass."""
        with self._changed:
            return self._last_row > row or self._changed.wait(timeout)

    def wake(self) -> None:
        """Let every :meth:`wait` return."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Close the database; idempotent."""
        with self._write:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if tables and version != _VERSION:
                raise sqlite3.DatabaseError(f"version {version}, not {_VERSION}")
            if not tables:
                connection.executescript(
                    f"BEGIN; {_SCHEMA} INSERT INTO counter VALUES (1); PRAGMA user_version = {_VERSION}; COMMIT;"
                )
            elif connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("it is damaged")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        # A connection of its own: in WAL mode it reads past a writer. Opening takes 0.1 ms.
        with closing(self._connect()) as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @staticmethod
    def _result(connection: sqlite3.Connection, run: str, producer: str, window: int) -> list[str]:
        """Return the producer under which the result lies that a producer's window is part of, if there is one."""
        query = 'SELECT result FROM windows WHERE run = ? AND producer = ? AND "window" = ?'
        return [result for (result,) in connection.execute(query, (run, producer, window))]

    @staticmethod
    def _count(connection: sqlite3.Connection, run: str, result: str, window: int) -> int:
        """Return how many producers a result is made of."""
        query = 'SELECT count(*) FROM windows WHERE run = ? AND result = ? AND "window" = ?'
        count: int = connection.execute(query, (run, result, window)).fetchone()[0]
        return count

    @classmethod
    def _forget(cls, connection: sqlite3.Connection, run: str, producer: str, window: int) -> None:
        for result in cls._result(connection, run, producer, window):
            key = (run, result, window)
            connection.execute('DELETE FROM windows WHERE run = ? AND result = ? AND "window" = ?', key)
            _TAIL.delete(connection, *key)
            _ALIGNMENT.delete(connection, *key)
