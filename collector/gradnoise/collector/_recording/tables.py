"""From records to the record batches of a dump. Runs on the writer's thread."""

from __future__ import annotations

import struct
import time
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gradnoise.collector._recording.columns import UsedColumns
from gradnoise.collector._recording.records import Event
from gradnoise.wire import GROUP_TYPE, Table, curvature_batch, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from gradnoise.collector._recording.records import (
        CurvatureAt,
        DrawsAt,
        Number,
        ReferenceAt,
        SketchAt,
        StepRow,
        WindowEnd,
    )
    from gradnoise.wire import RunInfo

__all__ = ["AmbiguousDrawsError", "TableBuilder"]

_ROW_BYTES = 34  # a draws row without its values
_CELLS = 8192  # of steps and events that wait for their batch at most


class AmbiguousDrawsError(Exception):
    """Draws handed in as of one theta were taken at different parameters."""


@dataclass(slots=True)
class _Tally:
    """What a window has got so far."""

    recorded: int = 0
    rows: int = 0
    non_finite: int = 0
    first_theta: int = 0
    last_theta: int = 0
    thetas: int = 0  # hash of the thetas and their fingerprints
    marked: bool = False  # every theta had a fingerprint
    # group number -> (first step, draws)
    bad_groups: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Pending:
    """Rows of the draws table on their way to a batch; one entry a piece of a draw."""

    window: list[int] = field(default_factory=list)
    theta: list[int] = field(default_factory=list)
    draw: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    batch_size: list[int] = field(default_factory=list)  # 0 is unknown
    groups: list[NDArray[np.int16]] = field(default_factory=list)
    values: list[NDArray[np.float32]] = field(default_factory=list)
    norm2: list[NDArray[np.float64]] = field(default_factory=list)  # NaN is unknown
    nbytes: int = 0
    completed: int = 0  # draws whose last piece is here


class TableBuilder:
    """Collects records and puts them out as batches.

    Args:
        info: the run; its groups' order is the numbering of :class:`Draw`.
        append: where a whole batch goes; its errors pass through.
        batch_bytes: behind which a batch of draws is put out.
    """

    def __init__(
        self, info: RunInfo, append: Callable[[Table, pa.RecordBatch], object], *, batch_bytes: int = 1 << 20
    ) -> None:
        self._append = append
        self._columns = UsedColumns()
        self._batch_bytes = batch_bytes
        self._names = [group.name for group in info.groups]
        self._dictionary = pa.array(self._names, pa.utf8())
        self._widths = np.array([len(group.indices) for group in info.groups], np.int64)
        self._draws = _Pending()
        self._steps: list[StepRow] = []
        self._events: list[Event] = []
        self._cells = 0
        self._tallies: dict[int, _Tally] = {}
        self.draws_written = 0
        self.rows_written = 0
        self.windows_written = 0
        self.ambiguous_draws = 0
        self.ambiguous_rows = 0

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be written."""
        return not (self._draws.nbytes or self._steps or self._events)

    @property
    def nbytes(self) -> int:
        """Bytes of draws that wait to be written."""
        return self._draws.nbytes

    def _put(self, table: Table, batch: pa.RecordBatch) -> None:
        self._append(table, self._columns.of(table, batch))

    def add_draws(self, item: DrawsAt) -> None:
        """Take the draws of one theta, all or none.

        Raises:
            AmbiguousDrawsError: their fingerprints differ.
        """
        arrays, prints = [], set()
        for draw in item.draws:
            values = draw.values()
            cut = len(values) - draw.fingerprint
            array = values[:cut]
            arrays.append(array if item.divisor is None else array * np.float32(item.divisor))
            prints.add(values[cut:].tobytes())
        if len(prints) > 1:
            self.ambiguous_draws += len(item.draws)
            self.ambiguous_rows += item.rows
            raise AmbiguousDrawsError
        tally = self._tallies.get(item.window)
        if tally is None:
            tally = self._tallies[item.window] = _Tally(first_theta=item.theta, marked=True)
        if tally.recorded and item.kept is not None and item.kept():
            item = replace(item, theta=tally.last_theta)
        tally.last_theta = item.theta
        print_ = prints.pop()
        tally.marked = tally.marked and bool(print_)
        tally.thetas = zlib.crc32(struct.pack("<q", item.theta) + print_, tally.thetas)
        for draw, array in zip(item.draws, arrays, strict=True):
            widths = self._widths[draw.groups]
            self._count_non_finite(tally, item.step, draw.groups, widths, array)
            norms = np.full(len(draw.groups), np.nan) if draw.norms is None else draw.norms()
            if item.divisor is not None:
                norms = norms * item.divisor**2
            start = 0
            for first, last, size in self._pieces(widths):
                values = array[start : start + size]
                self._add_rows(item, tally.recorded, draw.groups[first:last], values, norms[first:last])
                start += size
            tally.recorded += 1
            tally.rows += len(draw.groups)
            self._draws.completed += 1

    def _pieces(self, widths: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
        """Split the groups of one draw where it exceeds a batch: (first, last, values)."""
        first = size = 0
        for index, width in enumerate(widths.tolist()):
            if size and 4 * (size + width) > self._batch_bytes:
                yield first, index, size
                first, size = index, 0
            size += width
        if first < len(widths):
            yield first, len(widths), size

    def _count_non_finite(
        self,
        tally: _Tally,
        step: int,
        groups: NDArray[np.int16],
        widths: NDArray[np.int64],
        array: NDArray[np.float32],
    ) -> None:
        finite = np.isfinite(array)
        if finite.all():
            return
        tally.non_finite += 1
        owners = np.repeat(groups, widths)
        for number in np.unique(owners[~finite]).tolist():
            first, count = tally.bad_groups.get(number, (step, 0))
            tally.bad_groups[number] = (first, count + 1)

    def _add_rows(
        self,
        item: DrawsAt,
        draw: int,
        groups: NDArray[np.int16],
        values: NDArray[np.float32],
        norm2: NDArray[np.float64],
    ) -> None:
        pending = self._draws
        nbytes = values.nbytes + len(groups) * _ROW_BYTES
        if pending.nbytes and pending.nbytes + nbytes > self._batch_bytes:
            self._flush_draws()
            pending = self._draws
        pending.window.append(item.window)
        pending.theta.append(item.theta)
        pending.draw.append(draw)
        pending.step.append(item.step)
        pending.batch_size.append(item.batch_size or 0)
        pending.groups.append(groups)
        pending.values.append(values)
        pending.norm2.append(norm2)
        pending.nbytes += nbytes

    def add_reference(self, item: ReferenceAt) -> None:
        """Write the reference of a window."""
        norms: list[float | None] = [None] * len(item.groups) if item.norm2 is None else list(item.norm2)
        rows = [
            {
                "window": item.window,
                "theta": item.theta,
                "group": self._names[group],
                "kind": item.kind,
                "values": values,
                "norm2": norm2,
                "dataset_size": item.dataset_size,
                "replacement": item.replacement,
                "minibatches": item.minibatches,
            }
            for group, values, norm2 in zip(item.groups, item.values, norms, strict=True)
        ]
        where = schema(Table.REFERENCE)
        columns = [
            pa.array([row[name] for row in rows], where.field(name).type) for name in where.names if name != "group"
        ]
        codes = pa.array(np.array(item.groups, np.int16))
        columns.insert(where.get_field_index("group"), self._grouped(codes))
        self._put(Table.REFERENCE, pa.RecordBatch.from_arrays(columns, schema=where))

    def _grouped(self, codes: pa.Array) -> pa.Array:
        return pa.DictionaryArray.from_arrays(codes, self._dictionary).cast(GROUP_TYPE)

    def add_sketch(self, item: SketchAt) -> None:
        """Write one sketch, the patterns that occur only."""
        counts = item.counts()
        cells = np.flatnonzero(counts[:-1])
        row = {
            "window": item.window,
            "theta": item.theta,
            "draw": item.draw,
            "cells": cells.astype(np.uint16),
            "counts": counts[cells].astype(np.uint32),
            "inexact": int(counts[-1]),
            "same_theta": item.same_theta,
        }
        where = schema(Table.SKETCHES)
        columns = [pa.array([row[name]], where.field(name).type) for name in where.names]
        self._put(Table.SKETCHES, pa.RecordBatch.from_arrays(columns, schema=where))

    def add_curvature(self, item: CurvatureAt) -> None:
        """Write what was measured of the curvature, a batch a part: dense blocks can be large."""
        for row in item.rows:
            self._put(Table.CURVATURE, curvature_batch([row]))

    def add_step(self, row: StepRow) -> None:
        """Take one row of the steps table."""
        self._steps.append(row)
        self._make_room(8 + len(row.metrics))

    def add_event(self, event: Event) -> None:
        """Take one row of the events table."""
        self._events.append(event)
        self._make_room(8)

    def _make_room(self, cells: int) -> None:
        self._cells += cells
        if self._cells >= _CELLS:
            self._flush_rows()

    def end_window(self, end: WindowEnd) -> None:
        """Write out what waits, then the window's row, which tells readers that the window is whole."""
        tally = self._tallies.pop(end.window, None) or _Tally(first_theta=end.first_step, last_theta=end.first_step)
        now = time.time_ns()
        for number, (step, count) in sorted(tally.bad_groups.items()):
            detail = f"NaN or infinity in the sampled gradients of {count} draws of window {end.window}, first here"
            self._events.append(Event(now, "non_finite", count, detail, step, self._names[number]))
        if end.skipped:
            detail = f"window {end.window} not recorded: the dump had grown to its limit"
            self._events.append(Event(now, "burst_skipped", end.declared, detail, end.first_step))
        elif end.dropped:
            detail = f"draws of window {end.window} lost: the disk was slower than the training"
            self._events.append(Event(now, "dropped", end.dropped, detail, end.first_step))
        self.flush()
        origin = end.origin
        row = {
            "window": end.window,
            "kind": end.kind.value,
            "first_step": end.first_step,
            "last_step": end.last_step,
            "first_theta": tally.first_theta,
            "last_theta": tally.last_theta,
            "declared": max(end.declared, tally.recorded + end.dropped),
            "recorded": tally.recorded,
            "rows": tally.rows,
            "non_finite": tally.non_finite,
            "dropped": end.dropped,
            "scope": None if origin is None else origin.scope.value,
            "job": None if origin is None else origin.job,
            "rank": None if origin is None else origin.rank,
            "world_size": None if origin is None else origin.world_size,
            "thetas": tally.thetas if tally.marked else None,
        }
        self._put(Table.WINDOWS, pa.RecordBatch.from_pylist([row], schema=schema(Table.WINDOWS)))
        self.windows_written += 1

    def flush(self) -> None:
        """Write out everything that waits."""
        self._flush_draws()
        self._flush_rows()

    def _flush_rows(self) -> None:
        self._cells = 0
        if self._steps:
            rows, self._steps = self._steps, []
            self._put(Table.STEPS, _steps_batch(rows))
        if self._events:
            events, self._events = self._events, []
            self._put(Table.EVENTS, _events_batch(events))

    def _flush_draws(self) -> None:
        if not self._draws.nbytes:
            return
        pending, self._draws = self._draws, _Pending()
        counts = [len(groups) for groups in pending.groups]
        groups = np.concatenate(pending.groups)
        offsets = np.zeros(len(groups) + 1, np.int32)
        np.cumsum(self._widths[groups], out=offsets[1:])
        sizes = np.repeat(np.array(pending.batch_size, np.int32), counts)
        norm2 = np.concatenate(pending.norm2)
        where = schema(Table.DRAWS)
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array(np.repeat(np.array(pending.window, np.int64), counts)),
                pa.array(np.repeat(np.array(pending.theta, np.int64), counts)),
                pa.array(np.repeat(np.array(pending.draw, np.int32), counts)),
                pa.array(np.repeat(np.array(pending.step, np.int64), counts)),
                self._grouped(pa.array(groups)),
                pa.array(sizes, mask=sizes == 0),
                pa.ListArray.from_arrays(
                    pa.array(offsets), pa.array(np.concatenate(pending.values)), type=where.field("values").type
                ),
                pa.array(norm2, mask=np.isnan(norm2)),
            ],
            schema=where,
        )
        self._put(Table.DRAWS, batch)
        self.draws_written += pending.completed
        self.rows_written += len(groups)


def _number(value: Number | None) -> float | None:
    found = value() if callable(value) else value
    return None if found is None else float(found)


def _text(given: str) -> str:
    """Return what UTF-8 can hold of a text of the user's."""
    return given.encode("utf-8", "backslashreplace").decode()


def _steps_batch(rows: list[StepRow]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [
            {
                "step": row.step,
                "theta": row.theta,
                "loss": _number(row.loss),
                "lr": _number(row.lr),
                "beta1": _number(row.beta1),
                "beta2": _number(row.beta2),
                "batch_size": row.batch_size,
                "divisor": row.divisor,
                "loss_scale": _number(row.loss_scale),
                "clip_factor": _number(row.clip_factor),
                "wall_time": row.wall_time_ns // 1000,
                "metrics": [(_text(name), _number(value)) for name, value in row.metrics.items()] or None,
            }
            for row in rows
        ],
        schema=schema(Table.STEPS),
    )


def _events_batch(events: list[Event]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [
            {
                "step": event.step,
                "wall_time": event.wall_time_ns // 1000,
                "kind": event.kind,
                "group": None if event.group is None else _text(event.group),
                "count": event.count,
                "detail": _text(event.detail),
            }
            for event in events
        ],
        schema=schema(Table.EVENTS),
    )
