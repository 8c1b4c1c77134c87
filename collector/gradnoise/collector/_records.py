"""What a tap hands to the recorder: plain values, or a way to them once the device has delivered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gradnoise.wire import WindowKind

__all__ = ["Draw", "DrawsAt", "Event", "Number", "StepRow", "WindowEnd", "window_id"]

# A number, or a function that waits for it: called on the writer's thread, never on the training thread.
Number = float | Callable[[], float]
Values = Callable[[], NDArray[np.float32]]


def window_id(first_step: int, *, probe: bool) -> int:
    """Return the id of the window that begins at ``first_step``."""
    return 2 * first_step + int(probe)


@dataclass(frozen=True, slots=True)
class Draw:
    """One minibatch gradient at the sampled coordinates.

    Attributes:
        groups: int16, ascending: numbers of the groups that got a gradient.
        values: gives the float32 values of those groups one after the other, then the fingerprint.
        nbytes: memory behind ``values``.
        fingerprint: how many of the last values are samples of the parameters at the time: draws handed in as of
            one theta whose fingerprints differ were not taken there, and are refused.
    """

    groups: NDArray[np.int16]
    values: Values
    nbytes: int
    fingerprint: int = 0


@dataclass(frozen=True, slots=True)
class DrawsAt:
    """The draws of one window at one theta.

    Attributes:
        window, theta, step: where they belong.
        draws: in the order in which they were taken.
        batch_size: examples in each minibatch; None where unknown.
    """

    window: int
    theta: int
    step: int
    draws: tuple[Draw, ...]
    batch_size: int | None = None

    @property
    def rows(self) -> int:
        """Rows of the draws table."""
        return sum(len(draw.groups) for draw in self.draws)

    @property
    def nbytes(self) -> int:
        """Memory they hold while they wait."""
        return 256 + sum(draw.nbytes + draw.groups.nbytes + 256 for draw in self.draws)


@dataclass(frozen=True, slots=True)
class WindowEnd:
    """Closes a window. ``dropped`` counts the draws that a full queue lost."""

    window: int
    kind: WindowKind
    first_step: int
    last_step: int
    declared: int
    dropped: int


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
