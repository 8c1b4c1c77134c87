"""What a tap hands to the sink: plain values, or a way to them once the device has delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradnoise.wire import WindowKind

if TYPE_CHECKING:
    from gradnoise.wire import CurvatureRow, Scope

__all__ = [
    "CurvatureAt",
    "Draw",
    "DrawsAt",
    "Event",
    "Finding",
    "Number",
    "Origin",
    "ReferenceAt",
    "SketchAt",
    "StepRow",
    "WindowEnd",
    "curvature_window_id",
    "kind_of_burst",
    "window_id",
]

# A number, or a function that waits for it: called on the writer's thread, never on the training thread. It may find
# that the number cannot be known.
Number = float | Callable[[], float | None]
Values = Callable[[], NDArray[np.float32]]


def window_id(first_step: int, *, probe: bool) -> int:
    """Return the id of the window that begins at ``first_step``."""
    return 2 * first_step + int(probe)


def curvature_window_id(step: int) -> int:
    """Return the id of the window that holds what was measured of the curvature at ``step``."""
    return -1 - step


def kind_of_burst(draws: int, thetas: int) -> WindowKind:
    """Return what the window of a burst is, by its draws and the thetas that have some.

    A skipped step now and then (an overflow under a loss scaler) does not make microbatches of a burst.
    """
    return WindowKind.MICROBATCH if thetas > 0 and draws >= 2 * thetas else WindowKind.BURST


@dataclass(frozen=True, slots=True)
class Draw:
    """One minibatch gradient at the sampled coordinates.

    Attributes:
        groups: int16, ascending: numbers of the groups that got a gradient.
        values: gives the float32 values of those groups one after the other, then the fingerprint.
        nbytes: memory behind ``values``.
        fingerprint: how many of the last values are samples of the parameters at the time: draws handed in as of
            one theta whose fingerprints differ were not taken there, and are refused.
        norms: gives the float64 squared norms of the groups' whole gradients; None where they are not measured.
    """

    groups: NDArray[np.int16]
    values: Values
    nbytes: int
    fingerprint: int = 0
    norms: Callable[[], NDArray[np.float64]] | None = None


@dataclass(frozen=True, slots=True)
class DrawsAt:
    """The draws of one window at one theta.

    Attributes:
        window, theta, step: where they belong.
        draws: in the order in which they were taken.
        batch_size: examples in each minibatch; None where unknown.
        divisor: what the loop divided the loss by, undone in the values written; None where unknown or 1.
        kept: tells whether the step before left the parameters as they were: these draws are then of its theta.
    """

    window: int
    theta: int
    step: int
    draws: tuple[Draw, ...]
    batch_size: int | None = None
    divisor: float | None = None
    kept: Callable[[], bool] | None = None

    @property
    def rows(self) -> int:
        """Rows of the draws table."""
        return sum(len(draw.groups) for draw in self.draws)

    @property
    def nbytes(self) -> int:
        """Memory they hold while they wait."""
        return 256 + sum(draw.nbytes + draw.groups.nbytes + 256 for draw in self.draws)


@dataclass(frozen=True, slots=True)
class ReferenceAt:
    """The reference gradient of a window: one entry of ``values`` a group.

    Attributes:
        window, theta: where it belongs.
        kind: ``full`` or ``mean``.
        groups: numbers of the groups, ascending.
        values: float32, one array a group: the reference at its sampled coordinates.
        norm2: squared norms of the groups' whole reference gradients; None where not measured.
        minibatches, dataset_size: behind the reference; None where unknown.
        replacement: whether the minibatches were drawn with replacement; None where unknown.
    """

    window: int
    theta: int
    kind: str
    groups: tuple[int, ...]
    values: tuple[NDArray[np.float32], ...]
    norm2: tuple[float, ...] | None = None
    minibatches: int | None = None
    dataset_size: int | None = None
    replacement: bool | None = None


@dataclass(frozen=True, slots=True)
class SketchAt:
    """Counts of the bfloat16 patterns of a half-difference of two draws, over all recorded parameters.

    Attributes:
        window, theta: where it belongs.
        draw: index of the later draw within its window.
        counts: gives the (65536,) counts, then the number of values that were no bfloat16 numbers: int64.
        same_theta: both draws are of one theta.
    """

    window: int
    theta: int
    draw: int
    counts: Callable[[], NDArray[np.int64]]
    same_theta: bool


@dataclass(frozen=True, slots=True)
class CurvatureAt:
    """What was measured of the curvature at one theta: the rows name their window."""

    rows: tuple[CurvatureRow, ...]

    @property
    def nbytes(self) -> int:
        """Memory they hold while they wait."""
        cells = (getattr(row, each.name) for row in self.rows for each in fields(row))
        return 512 * len(self.rows) + sum(cell.nbytes for cell in cells if isinstance(cell, np.ndarray))


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose minibatches a window's draws are.

    Attributes:
        scope: of this process, or averaged over the job.
        job: id of the distributed job of which this process is a rank; None outside one.
        rank, world_size: this process's place in it.
    """

    scope: Scope
    job: str | None = None
    rank: int | None = None
    world_size: int | None = None


@dataclass(frozen=True, slots=True)
class WindowEnd:
    """Closes a window.

    Attributes:
        window, kind, first_step, last_step: what it was.
        declared: draws that the plan asked for; never less than were recorded and dropped.
        dropped: draws that were taken and lost, or all of a window that was ``skipped``.
        origin: None is unknown.
        skipped: nothing of it was taken, because the dump had grown to its limit (:meth:`Sink.room`).
    """

    window: int
    kind: WindowKind
    first_step: int
    last_step: int
    declared: int
    dropped: int
    origin: Origin | None = None
    skipped: bool = False

    @classmethod
    def of_skipped(
        cls, first_step: int, last_step: int, declared: int, *, probe: bool = False, origin: Origin | None = None
    ) -> WindowEnd:
        """Return the end of a window of which nothing is taken: all the draws it asked for are dropped."""
        return cls(
            window_id(first_step, probe=probe),
            WindowKind.PROBE if probe else WindowKind.BURST,
            first_step,
            last_step,
            declared,
            declared,
            origin,
            skipped=True,
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """Events that show only once the device has delivered.

    Attributes:
        find: called on the writer's thread, after everything offered before is taken.
        nbytes: memory behind it while it waits.
    """

    find: Callable[[], Iterable[Event]]
    nbytes: int = 0


@dataclass(slots=True)
class StepRow:
    """One row of the steps table; None is unknown. Filled until the next step is taken."""

    step: int
    theta: int
    wall_time_ns: int
    loss: Number | None = None
    lr: Number | None = None
    beta1: Number | None = None
    beta2: Number | None = None
    batch_size: int | None = None
    divisor: float | None = None
    loss_scale: Number | None = None
    clip_factor: Number | None = None
    metrics: dict[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the events table."""

    wall_time_ns: int
    kind: str
    count: int
    detail: str
    step: int | None = None
    group: str | None = None
