"""Windows: the arrays an analysis works on, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.wire import Table, WindowKind, completed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from gradnoise.wire import CurvatureRow

__all__ = ["ClosedWindow", "GroupDraws", "Reference", "SketchRow", "Unreadable", "Window"]


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """A window that its producer has finished: where it comes from, and its row of the ``windows`` table.

    The fields behind ``producer`` are that table's columns; :func:`gradnoise.wire.schema` documents them. Of a window
    that several ranks recorded, ``producer`` is that of the lowest rank.
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
        rows = completed(Table.WINDOWS, batch).to_pylist()
        return [cls(run, producer, **{name: row[name] for name in _COLUMNS}) for row in rows]

    @property
    def key(self) -> tuple[str, str, int]:
        """Run, producer and window: no two have the same."""
        return self.run, self.producer, self.window

    @property
    def measures_curvature(self) -> bool:
        """Whether it holds measurements of the curvature, and no draws at sampled coordinates."""
        return self.kind == WindowKind.CURVATURE


_COLUMNS = tuple(field.name for field in fields(ClosedWindow) if field.name not in ("run", "producer"))


@dataclass(frozen=True, slots=True)
class GroupDraws:
    """The draws of one parameter group in one window: by theta, rank, and the order in which they were taken.

    Attributes:
        name: the group.
        size: parameters in the whole group (its weight).
        values: float32, draws x coordinates: minibatch gradients at the sampled coordinates.
        theta: int64, one a draw: the parameter-update count at which it was taken.
        draw: int32, one a draw: its index within the window; equal across groups for the same minibatch.
        batch_size: int32, one a draw: examples in its minibatch, 0 where unknown; None where no draw's is known.
    """

    name: str
    size: int
    values: NDArray[np.float32]
    theta: NDArray[np.int64]
    draw: NDArray[np.int32]
    batch_size: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference gradient of one group in one window.

    Attributes:
        kind: ``full`` or ``mean``.
        values: float32, one a sampled coordinate of the group.
        norm2: squared norm of the group's whole reference gradient; None where not measured.
        minibatches, dataset_size: behind it; None where unknown.
        replacement: whether the minibatches were drawn with replacement; None where unknown.
    """

    kind: str
    values: NDArray[np.float32]
    norm2: float | None = None
    minibatches: int | None = None
    dataset_size: int | None = None
    replacement: bool | None = None


@dataclass(frozen=True, slots=True)
class SketchRow:
    """A histogram of the bfloat16 patterns of the half-difference of two draws, over all recorded parameters.

    Attributes:
        draw: index of the later draw within the window.
        cells: uint16: the patterns that occur, ascending.
        counts: uint32, one a cell: how often.
        inexact: values that are no bfloat16 numbers and were truncated to one.
        same_theta: both draws are of one theta.
    """

    draw: int
    cells: NDArray[np.uint16]
    counts: NDArray[np.uint32]
    inexact: int
    same_theta: bool


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A measurement of curvature whose row contradicts itself, and why it cannot be read."""

    part: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Window:
    """One closed window, whole-model, with its draws: of one producer, or of the ranks of a job that share it.

    Attributes:
        closed: what its producers say of it.
        missing: rows of ``draws`` (one a draw and group) that were written and the dump read here does not hold.
        groups: the draws, in the run's group order; a group without any draw has 0 rows.
        reference: group -> its reference gradient; None where there is none.
        sketches: of the whole model, in the order of their draws.
        notes: what a reader of the results should know, such as ranks that are missing.
        curvature: measurements of the curvature, in the order of their writing; no other window has them.
        unreadable: those that contradict themselves.
        unread: how many more there are than one window is read of.
    """

    closed: ClosedWindow
    missing: int
    groups: tuple[GroupDraws, ...]
    reference: Mapping[str, Reference] | None = None
    sketches: tuple[SketchRow, ...] = ()
    notes: tuple[str, ...] = ()
    curvature: tuple[CurvatureRow, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    unread: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What every row of the window repeats: the notes, and rows that are missing."""
        if self.missing <= 0:
            return self.notes
        return *self.notes, f"{self.missing} rows of this window were recorded and are missing from the store"
