"""From stored batches to windows."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.ranks import joined, meeting, together
from gradnoise.analyzer.windows import ClosedWindow, GroupDraws, Reference, SketchRow, Unreadable, Window
from gradnoise.wire import Place, Table, completed, curvature_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from gradnoise.wire import CurvatureRow, Dump, RunInfo, Stamped

__all__ = ["MEASUREMENTS", "WINDOW_TABLES", "Places", "assemble", "closed_windows", "merged_by_step", "read_windows"]

WINDOW_TABLES = (Table.DRAWS, Table.REFERENCE, Table.SKETCHES, Table.CURVATURE)
"""The tables that hold what a window is made of."""

MEASUREMENTS = 4096
"""Measurements of the curvature that one window is read of: what a job sends is not trusted."""


class Places:
    """Where the batches lie that hold a window's rows."""

    def __init__(self) -> None:
        self._places: dict[tuple[Table, int], list[Place]] = {}

    def add(self, place: Place, stamped: Stamped) -> None:
        """Take note of a batch of one of :data:`WINDOW_TABLES`."""
        for window in np.unique(stamped.batch.column("window").to_numpy()).tolist():
            places = self._places.setdefault((stamped.table, window), [])
            last = places[-1] if places else None
            if last is not None and last.segment == place.segment and last.end == place.begin:
                places[-1] = Place(last.segment, last.begin, place.end)
            else:
                places.append(place)

    def of(self, window: int) -> tuple[Place, ...]:
        """Return the places that hold rows of a window, table by table and in sequence."""
        return tuple(place for table in WINDOW_TABLES for place in self._places.get((table, window), ()))


class _Builder:
    """Collects a window's rows from batches until it is asked for the window."""

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._parts: dict[str, list[tuple[NDArray[Any], ...]]] = {}
        self._reference: dict[str, Reference] = {}
        self._sketches: dict[int, SketchRow] = {}
        self._curvature: list[CurvatureRow] = []
        self._unreadable: list[Unreadable] = []
        self._unread = 0
        self.rows = 0

    def add(self, stamped: Stamped, window: int) -> None:
        """Take the rows of a window from a batch of one of :data:`WINDOW_TABLES`."""
        selected = stamped.batch.column("window").to_numpy() == window
        if not selected.any():
            return
        batch = completed(stamped.table, stamped.batch)
        if stamped.table is Table.DRAWS:
            self._add_draws(batch, selected)
        elif stamped.table is Table.REFERENCE:
            self._add_reference(batch, np.flatnonzero(selected))
        elif stamped.table is Table.SKETCHES:
            self._add_sketches(batch, np.flatnonzero(selected))
        elif stamped.table is Table.CURVATURE:
            self._add_curvature(batch, np.flatnonzero(selected))

    def _add_draws(self, batch: pa.RecordBatch, selected: NDArray[np.bool_]) -> None:
        group = batch.column("group")
        codes = group.indices.to_numpy()
        names = group.dictionary.to_pylist()
        flat, offsets = _lists(batch, "values")
        theta = batch.column("theta").to_numpy()
        draw = batch.column("draw").to_numpy()
        size = batch.column("batch_size").fill_null(0).to_numpy()
        for code in np.unique(codes[selected]):
            rows = np.flatnonzero(selected & (codes == code))
            width = len(self._info.group(names[code]).indices)
            rows = rows[offsets[rows + 1] - offsets[rows] == width]  # another length is another run's row
            matrix = flat[offsets[rows][:, None] + np.arange(width)]
            self._parts.setdefault(names[code], []).append((matrix, theta[rows], draw[rows], size[rows]))
            self.rows += len(rows)

    def _add_reference(self, batch: pa.RecordBatch, rows: NDArray[np.int64]) -> None:
        flat, offsets = _lists(batch, "values")
        plain = [name for name in batch.schema.names if name != "values"]
        for index, row in zip(rows, batch.select(plain).take(rows).to_pylist(), strict=True):
            values = flat[offsets[index] : offsets[index + 1]]
            if len(values) != len(self._info.group(row["group"]).indices):
                continue  # another run's row
            found = Reference(
                row["kind"],
                values.copy(),
                row["norm2"],
                row["minibatches"],
                row["dataset_size"],
                row["replacement"],
            )
            self._reference.setdefault(row["group"], found)

    def _add_sketches(self, batch: pa.RecordBatch, rows: NDArray[np.int64]) -> None:
        cells, starts = _lists(batch, "cells")
        counts, _ = _lists(batch, "counts")
        plain = batch.select(["draw", "inexact", "same_theta"]).take(rows).to_pylist()
        for index, row in zip(rows, plain, strict=True):
            part = slice(starts[index], starts[index + 1])
            found = SketchRow(cells=cells[part].copy(), counts=counts[part].copy(), **row)
            self._sketches.setdefault(found.draw, found)

    def _add_curvature(self, batch: pa.RecordBatch, rows: NDArray[np.int64]) -> None:
        room = max(0, MEASUREMENTS - len(self._curvature) - len(self._unreadable))
        self._unread += len(rows[room:])
        for index in rows[:room].tolist():
            row = batch.slice(index, 1)
            try:
                self._curvature += curvature_rows(row)
            except ValueError as error:
                part, kind = (row.column(name)[0].as_py() for name in ("part", "kind"))
                self._unreadable.append(Unreadable(part, kind, str(error)))

    def build(self, closed: ClosedWindow) -> Window:
        groups = []
        for group in self._info.groups:
            parts = self._parts.get(group.name)
            if parts is None:
                none, width = np.empty(0, np.int32), len(group.indices)
                parts = [(np.empty((0, width), np.float32), np.empty(0, np.int64), none, none)]
            matrix, theta, draw, size = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            order = np.argsort(draw, kind="stable")
            if np.any(order[1:] < order[:-1]):
                matrix, theta, draw, size = matrix[order], theta[order], draw[order], size[order]
            groups.append(GroupDraws(group.name, group.size, matrix, theta, draw, size if size.any() else None))
        return Window(
            closed,
            missing=closed.rows - self.rows,
            groups=tuple(groups),
            reference=self._reference or None,
            sketches=tuple(sketch for _, sketch in sorted(self._sketches.items())),
            curvature=tuple(self._curvature),
            unreadable=tuple(self._unreadable),
            unread=self._unread,
        )


def _lists(batch: pa.RecordBatch, name: str) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return a list column's values, and the offsets into them."""
    column = batch.column(name)
    return column.values.to_numpy(), column.offsets.to_numpy()


def assemble(info: RunInfo, closed: ClosedWindow, batches: Iterable[Stamped]) -> Window:
    """Build one producer's window from its row of the ``windows`` table and the batches that hold the rest of it.

    Args:
        info: the run.
        closed: the window.
        batches: batches of the :data:`WINDOW_TABLES`, in sequence; rows of other windows are passed over.
    """
    builder = _Builder(info)
    for stamped in batches:
        builder.add(stamped, closed.window)
    return builder.build(closed)


def read_windows(dump: Dump, producer: str | None = None) -> Iterator[Window]:
    """Yield the closed windows of a stored dump as they become whole, holding only unfinished ones in memory.

    What several ranks of a job recorded of one window comes as one (:mod:`gradnoise.analyzer.ranks`); their parts of
    the dump are read side by side. Windows that lack rows (gaps, torn segments) come last, with ``missing`` saying how
    many. ``dump.problems`` says what could not be read.

    Args:
        dump: the dump.
        producer: only this producer's windows, as that producer alone recorded them.
    """
    closing = {name: closed_windows(dump, name) for name in ([producer] if producer is not None else dump.producers())}
    for names in _by_job(closing):
        members = {
            part.key: group for group in joined(c for name in names for c in closing[name]) for part in group
        }  # fmt: skip
        held: dict[tuple[str, str, int], Window] = {}
        for part in merged_by_step({name: _parts(dump, name, closing[name]) for name in names}):
            held[part.closed.key] = part
            keys = [member.key for member in members[part.closed.key]]
            if held.keys() >= set(keys):
                yield together([held.pop(key) for key in keys])


def closed_windows(dump: Dump, producer: str) -> list[ClosedWindow]:
    """Return the windows that a producer has closed."""
    return [
        closed
        for stamped in dump.batches(Table.WINDOWS, producer)
        for closed in ClosedWindow.of(dump.info.run, producer, stamped.batch)
    ]


def _by_job(closing: Mapping[str, list[ClosedWindow]]) -> list[list[str]]:
    """Return the producers, those that have a window in common side by side."""
    found: dict[str, list[str]] = {}
    for name, windows in closing.items():
        # A producer is of one job, all its life; windows that are its own, such as probes, do not say so.
        job = next((at for _, at, _ in map(meeting, windows) if at != name), name)
        found.setdefault(job, []).append(name)
    return list(found.values())


def merged_by_step(streams: Mapping[str, Iterator[Window]]) -> Iterator[Window]:
    """Yield from all streams, always from the one that is the furthest behind."""
    behind = [(-1, name) for name in streams]
    while behind:
        step, name = heapq.heappop(behind)
        window = next(streams[name], None)
        if window is not None:
            heapq.heappush(behind, (max(step, window.closed.first_step), name))
            yield window


def _parts(dump: Dump, producer: str, windows: Iterable[ClosedWindow]) -> Iterator[Window]:
    """Yield one producer's windows as they become whole."""
    closing = {closed.window: closed for closed in windows}
    beside = Places()
    for table in WINDOW_TABLES:
        if table is Table.DRAWS:
            continue  # read in one go below
        for place, stamped in dump.placed(table, producer):
            beside.add(place, stamped)

    def build(number: int, builder: _Builder) -> Window:
        for stamped in dump.read(beside.of(number)):
            builder.add(stamped, number)
        return builder.build(closing.pop(number))

    builders: dict[int, _Builder] = {}
    for stamped in dump.batches(Table.DRAWS, producer):
        for number in np.unique(stamped.batch.column("window").to_numpy()).tolist():
            if number not in closing:
                continue  # never closed: the job ended within it
            builder = builders.setdefault(number, _Builder(dump.info))
            builder.add(stamped, number)
            if builder.rows >= closing[number].rows:
                yield build(number, builders.pop(number))
    for number in list(closing):
        yield build(number, builders.pop(number, _Builder(dump.info)))
