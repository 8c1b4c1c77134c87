"""From measurements of the curvature, and from the draws of other windows, to rows of alignment."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradnoise.analyzer import _landscape
from gradnoise.analyzer._landscape import Landscape
from gradnoise.analyzer.report import AlignmentRow, RowStatus
from gradnoise.analyzer.stats import Estimate, Status
from gradnoise.wire import CurvatureKind
from gradnoise.wire.results import MODEL_GROUP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradnoise.analyzer.windows import ClosedWindow, Window
    from gradnoise.wire import CurvatureRow

__all__ = ["LOSS", "METRICS", "aligned", "failed_row"]

_log = logging.getLogger(__name__)

LOSS = "loss"
"""The metric of which every measurement has a row: F at theta. Of one that failed it says why."""

METRICS: tuple[str, ...] = (LOSS, *map(str, Landscape))
"""Every metric that a row of alignment may be of."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """What rows are of: all that they have in common."""

    closed: ClosedWindow
    part: str
    kind: str
    dimension: int
    draws: int
    warnings: tuple[str, ...]

    def row(
        self,
        metric: str,
        estimate: Estimate,
        *,
        index: int | None = None,
        null: Estimate | None = None,
        status: Status | RowStatus = Status.OK,
        reason: str = "",
    ) -> AlignmentRow:
        """Return one row."""
        closed = self.closed
        return AlignmentRow(
            window=closed.window,
            kind=self.kind,
            first_step=closed.first_step,
            last_step=closed.last_step,
            part=self.part,
            dimension=self.dimension,
            draws=self.draws,
            metric=metric,
            index=index,
            value=float(estimate.value),
            se=float(estimate.se),
            low=float(estimate.low),
            high=float(estimate.high),
            null_value=math.nan if null is None else float(null.value),
            null_low=math.nan if null is None else float(null.low),
            null_high=math.nan if null is None else float(null.high),
            null_method="" if null is None else null.method,
            n=int(estimate.n) if math.isfinite(estimate.n) else 0,
            method=estimate.method,
            reference=estimate.reference,
            status=status,
            reason=reason,
            warnings=(*self.warnings, *estimate.warnings),
        )

    def failed(self, reason: str) -> AlignmentRow:
        """Return the row that stands where there is no other."""
        nothing = Estimate(math.nan, math.nan, math.nan, math.nan, 0, "none")
        return self.row(LOSS, nothing, status=RowStatus.FAILED, reason=reason)


def aligned(window: Window) -> tuple[AlignmentRow, ...]:
    """Return a window's rows of alignment: one measurement of the curvature after the other.

    A measurement that contradicts itself, or whose analysis fails, has one row, with status ``failed`` and the reason.
    """
    return tuple(_measurements(window)) if window.closed.measures_curvature else ()


def failed_row(closed: ClosedWindow, reason: str) -> AlignmentRow:
    """Return the one row of a window that has no other."""
    return _Subject(closed, MODEL_GROUP, closed.kind, 0, 0, ()).failed(reason)


def _measurements(window: Window) -> Iterator[AlignmentRow]:
    closed = window.closed
    for measured in window.curvature:
        warnings = (*window.notes, *measured.notes)
        subject = _Subject(closed, measured.part, measured.kind, measured.dimension, measured.draws or 0, warnings)
        try:
            rows = list(_rows(subject, measured))
        except Exception as error:  # whatever a measurement holds: a row that says so, and the next measurement
            _log.exception("run %s, window %d: %s: analysis failed", closed.run, closed.window, measured.part)
            rows = [subject.failed(f"the analysis failed: {type(error).__name__}: {error}")]
        yield from rows
    for broken in window.unreadable:
        yield _Subject(closed, broken.part, broken.kind, 0, 0, window.notes).failed(
            f"the measurement contradicts itself: {broken.reason}"
        )
    if not window.curvature and not window.unreadable:
        yield failed_row(closed, "the window was closed, and the store holds no measurement of it")


def _rows(subject: _Subject, measured: CurvatureRow) -> Iterator[AlignmentRow]:
    yield _loss(subject, measured)
    landscape = _LANDSCAPES.get(measured.kind)
    if landscape is not None:
        for found in landscape(measured):
            yield subject.row(found.name, found.estimate, status=found.status, reason=found.reason)


_LANDSCAPES = {CurvatureKind.SHARPNESS: _landscape.sharpness, CurvatureKind.BARRIER: _landscape.barrier}


def _loss(subject: _Subject, measured: CurvatureRow) -> AlignmentRow:
    method = f"mean over a pass of {measured.minibatches} minibatches, modules in mode {measured.mode}"
    n = measured.minibatches if measured.examples is None else measured.examples
    value = measured.loss
    if math.isfinite(value):
        return subject.row(LOSS, Estimate(value, math.nan, math.nan, math.nan, n, method))
    nothing = Estimate(math.nan, math.nan, math.nan, math.nan, n, method)
    return subject.row(LOSS, nothing, status=Status.NON_FINITE, reason=f"the loss over the data is {value:g}")
