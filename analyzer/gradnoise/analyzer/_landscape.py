"""The loss around theta: expected sharpness, and the barrier on a segment between two checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from gradnoise.analyzer.stats import Estimate, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradnoise.wire import CurvatureRow

__all__ = ["Found", "Landscape", "barrier", "sharpness"]


class Landscape(StrEnum):
    """The names of what is read off the loss around theta."""

    SHARPNESS = "sharpness"
    """E[F(theta + epsilon)] - F(theta), epsilon ~ N(0, radius^2 I)."""
    BARRIER = "barrier"
    """The most by which F on the segment lies above the straight line between its ends."""
    BARRIER_POSITION = "barrier_position"
    """Where, from 0 (begin) to 1 (end)."""
    BARRIER_OVER_ENDS = "barrier_over_ends"
    """The most by which F on the segment lies above the larger of its ends; 0 where it does not."""
    BARRIER_OVER_ENDS_POSITION = "barrier_over_ends_position"
    """Where."""


@dataclass(frozen=True, slots=True)
class Found:
    """One number of the landscape."""

    name: Landscape
    estimate: Estimate
    status: Status = Status.OK
    reason: str = ""


_SHARPNESS_SOURCE = "Xie et al. 2022, figure 14"
_BARRIER_SOURCE = "Entezari et al. 2022, section 2"
_ENDS_SOURCE = "Zhou et al. 2020, figure 3"


def sharpness(row: CurvatureRow) -> tuple[Found, ...]:
    """Return the expected sharpness with its standard error over pairs of epsilon.

    The losses are at epsilon and -epsilon in turn (Xie et al. 2022, figure 14). The two of a pair share what is odd in
    epsilon, with opposite signs: their means are independent, they are not. The interval is Student's over the pairs.
    """
    losses = row.losses
    pairs = len(losses) // 2
    radius = "unknown" if row.radius is None else f"{row.radius:g}"
    method = f"mean over {pairs} antithetic pairs, radius {radius}; Student's interval over the pairs"
    if not math.isfinite(row.loss) or not np.isfinite(losses).all():
        bad = int(np.sum(~np.isfinite(losses)))
        reason = f"{bad} of {len(losses)} losses around theta are not finite, and the loss at theta is {row.loss:g}"
        return (_missing(Landscape.SHARPNESS, Status.NON_FINITE, reason, method, _SHARPNESS_SOURCE),)
    if pairs < 2:
        reason = f"{len(losses)} losses around theta: at least 4 are needed, two pairs"
        return (_missing(Landscape.SHARPNESS, Status.TOO_FEW_DRAWS, reason, method, _SHARPNESS_SOURCE),)
    means = losses[: 2 * pairs].reshape(pairs, 2).mean(axis=1) - row.loss
    value, se = float(means.mean()), float(means.std(ddof=1)) / math.sqrt(pairs)
    half = float(stdtrit(pairs - 1, 0.975)) * se
    estimate = Estimate(value, se, value - half, value + half, len(losses), method, _SHARPNESS_SOURCE)
    return (Found(Landscape.SHARPNESS, estimate),)


def barrier(row: CurvatureRow) -> tuple[Found, ...]:
    """Return the height of the barrier on a segment and where it is.

    Over the straight line between the ends (Entezari et al. 2022, section 2): max_t F(t) - [(1 - t) F(0) + t F(1)];
    over the larger end: max_t F(t) - max(F(0), F(1)). There is no sampling error: F is that of all the data.
    """
    if len(row.positions) != len(row.losses):
        return _no_barrier(Status.DEGENERATE, f"{len(row.positions)} positions and {len(row.losses)} losses")
    order = np.argsort(row.positions, kind="stable")
    t, loss = row.positions[order], row.losses[order]
    if len(t) < 3 or t[0] != 0.0 or t[-1] != 1.0:
        where = "none" if not len(t) else f"{len(t)} from {t[0]:g} to {t[-1]:g}"
        return _no_barrier(Status.TOO_FEW_VALUES, f"positions: {where}; expected both ends, 0 and 1, and one between")
    if not np.isfinite(loss).all():
        where = ", ".join(f"{at:g}" for at in t[~np.isfinite(loss)][:5])
        return _no_barrier(Status.NON_FINITE, f"the loss is not finite at position {where}")
    method = f"maximum over {len(t)} positions; no sampling error, a finer grid can only find more"
    line = (1.0 - t) * loss[0] + t * loss[-1]
    return (
        *_highest(t, loss - line, Landscape.BARRIER, Landscape.BARRIER_POSITION, method, _BARRIER_SOURCE),
        *_highest(
            t,
            loss - max(loss[0], loss[-1]),
            Landscape.BARRIER_OVER_ENDS,
            Landscape.BARRIER_OVER_ENDS_POSITION,
            method,
            _ENDS_SOURCE,
        ),
    )


def _highest(
    t: NDArray[np.float64],
    excess: NDArray[np.float64],
    height: Landscape,
    position: Landscape,
    method: str,
    source: str,
) -> tuple[Found, Found]:
    at = int(np.argmax(excess))
    return tuple(  # type: ignore[return-value]
        Found(name, Estimate(float(value), math.nan, math.nan, math.nan, len(t), method, source))
        for name, value in ((height, excess[at]), (position, t[at]))
    )


def _no_barrier(status: Status, reason: str) -> tuple[Found, ...]:
    names = [name for name in Landscape if name is not Landscape.SHARPNESS]
    return tuple(_missing(name, status, reason, "none", _BARRIER_SOURCE) for name in names)


def _missing(name: Landscape, status: Status, reason: str, method: str, source: str) -> Found:
    return Found(name, Estimate(math.nan, math.nan, math.nan, math.nan, 0, method, source), status, reason)
