"""From stored batches to windows: the arrays an analysis works on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.wire import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from gradnoise.wire import Dump, RunInfo

__all__ = ["ClosedWindow", "GroupDraws", "Window", "assemble", "read_windows"]


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """A window that its producer has finished: where it comes from, and its row of the ``windows`` table.

    The fields behind ``producer`` are that table's columns; :func:`gradnoise.wire.schema` documents them.
    """

    run: str
    producer: str
    window: int
    kind: str
    first_step: int
    last_step: int
    first_theta: int
    last_theta: int
    declared: int
    recorded: int
    rows: int
    non_finite: int
    dropped: int
    scope: str | None = None
    job: str | None = None
    rank: int | None = None
    world_size: int | None = None
    thetas: int | None = None

    @classmethod
    def of(cls, run: str, producer: str, batch: pa.RecordBatch) -> list[ClosedWindow]:
        """Return the windows that a batch of the ``windows`` table closes."""
        return [cls(run, producer, **{name: row.get(name) for name in _COLUMNS}) for row in batch.to_pylist()]


_COLUMNS = tuple(field.name for field in fields(ClosedWindow) if field.name not in ("run", "producer"))


@dataclass(frozen=True, slots=True)
class GroupDraws:
    """The draws of one parameter group in one window, in the order in which they were taken.

    Attributes:
        name: the group.
        size: parameters in the whole group (its weight).
        values: float32, draws x coordinates: minibatch gradients at the sampled coordinates.
        theta: int64, one a draw: the parameter-update count at which it was taken.
        draw: int32, one a draw: its index within the window; equal across groups for the same minibatch.
    """

    name: str
    size: int
    values: NDArray[np.float32]
    theta: NDArray[np.int64]
    draw: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Window:
    """One closed window of one producer, whole-model, with its draws.

    Attributes:
        closed: what its producer says of it.
        missing: rows of ``draws`` (one a draw and group) that the producer wrote and the dump read here does not hold.
        groups: the draws, in the run's group order; a group without any draw has 0 rows.
    """

    closed: ClosedWindow
    missing: int
    groups: tuple[GroupDraws, ...]


class _Builder:
    """Collects a window's rows from batches until it is asked for the window."""

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._parts: dict[str, list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]] = {}
        self.rows = 0

    def add(self, batch: pa.RecordBatch, selected: NDArray[np.bool_]) -> None:
        group = batch.column("group")
        codes = group.indices.to_numpy()
        names = group.dictionary.to_pylist()
        values = batch.column("values")
        offsets = values.offsets.to_numpy()
        flat = values.values.to_numpy()
        theta = batch.column("theta").to_numpy()
        draw = batch.column("draw").to_numpy()
        for code in np.unique(codes[selected]):
            rows = np.flatnonzero(selected & (codes == code))
            width = len(self._info.group(names[code]).indices)
            rows = rows[offsets[rows + 1] - offsets[rows] == width]  # another length is another run's row
            matrix = flat[offsets[rows][:, None] + np.arange(width)]
            self._parts.setdefault(names[code], []).append((matrix, theta[rows], draw[rows]))
            self.rows += len(rows)

    def build(self, closed: ClosedWindow) -> Window:
        groups = []
        for group in self._info.groups:
            parts = self._parts.get(group.name)
            if parts is None:
                width = len(group.indices)
                parts = [(np.empty((0, width), np.float32), np.empty(0, np.int64), np.empty(0, np.int32))]
            matrix, theta, draw = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            order = np.argsort(draw, kind="stable")
            if np.any(order[1:] < order[:-1]):
                matrix, theta, draw = matrix[order], theta[order], draw[order]
            groups.append(GroupDraws(group.name, group.size, matrix, theta, draw))
        return Window(closed, missing=closed.rows - self.rows, groups=tuple(groups))


def assemble(info: RunInfo, closed: ClosedWindow, batches: Iterable[pa.RecordBatch]) -> Window:
    """Build one window from its row of the ``windows`` table and the ``draws`` batches that hold it.

    Args:
        info: the run.
        closed: the window.
        batches: batches of the ``draws`` table, in sequence; rows of other windows are passed over.
    """
    builder = _Builder(info)
    for batch in batches:
        selected = batch.column("window").to_numpy() == closed.window
        if selected.any():
            builder.add(batch, selected)
    return builder.build(closed)


def read_windows(dump: Dump, producer: str | None = None) -> Iterator[Window]:
    """Yield the closed windows of a stored dump as they become whole, holding only unfinished ones in memory.

    Windows that lack rows (gaps, torn segments) come last, with ``missing`` saying how many. ``dump.problems`` says
    what could not be read.

    Args:
        dump: the dump.
        producer: only this producer's windows.
    """
    for name in [producer] if producer is not None else dump.producers():
        closing = {
            closed.window: closed
            for stamped in dump.batches(Table.WINDOWS, name)
            for closed in ClosedWindow.of(dump.info.run, name, stamped.batch)
        }
        builders: dict[int, _Builder] = {}
        for stamped in dump.batches(Table.DRAWS, name):
            window = stamped.batch.column("window").to_numpy()
            for number in np.unique(window).tolist():
                if number not in closing:
                    continue  # never closed: the job ended within it
                builder = builders.setdefault(number, _Builder(dump.info))
                builder.add(stamped.batch, window == number)
                if builder.rows >= closing[number].rows:
                    yield builders.pop(number).build(closing.pop(number))
        for number, closed in closing.items():
            yield builders.pop(number, _Builder(dump.info)).build(closed)
