"""From measurements of the curvature, and from the draws of other windows, to rows of alignment."""

from __future__ import annotations

import logging
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer import _landscape
from gradnoise.analyzer._landscape import Landscape
from gradnoise.analyzer._noise_scales import noise_scales
from gradnoise.analyzer.report import AlignmentRow, RowStatus
from gradnoise.analyzer.stats import Estimate, InvalidInput, StatsError, Status
from gradnoise.analyzer.stats.alignment import Matrix, Measured, Name, Sampling, align
from gradnoise.wire import MAX_COORDINATES, MAX_DRAWS, MAX_EIGENVALUES, CurvatureKind
from gradnoise.wire.results import MODEL_GROUP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradnoise.analyzer.stats.alignment import Metric
    from gradnoise.analyzer.windows import ClosedWindow, Window
    from gradnoise.wire import CurvatureRow

__all__ = ["LOSS", "METRICS", "aligned", "failed_row"]

_log = logging.getLogger(__name__)

LOSS = "loss"
"""The metric of which every measurement has a row: F at theta. Of one that failed it says why."""

METRICS: tuple[str, ...] = (LOSS, *map(str, Name), *map(str, Landscape))
"""Every metric that a row of alignment may be of."""

_NOTES = 16
_LONGEST = 500
"""Notes of a measurement, and characters of a text of it, that its rows repeat."""


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

    def metric(self, metric: Metric) -> AlignmentRow:
        """Return the row of one number of the statistics."""
        return self.row(
            metric.name,
            metric.estimate,
            index=metric.index,
            null=metric.null,
            status=metric.status,
            reason=metric.reason,
        )

    def failed(self, reason: str) -> AlignmentRow:
        """Return the row that stands where there is no other."""
        nothing = Estimate(math.nan, math.nan, math.nan, math.nan, 0, "none")
        return self.row(LOSS, nothing, status=RowStatus.FAILED, reason=reason)


def aligned(window: Window) -> tuple[AlignmentRow, ...]:
    """Return a window's rows of alignment: one measurement of the curvature after the other, or its noise scales.

    A measurement that contradicts itself, or whose analysis fails, has one row, with status ``failed`` and the reason.
    """
    return tuple(_measurements(window) if window.closed.measures_curvature else _of_draws(window))


def failed_row(closed: ClosedWindow, reason: str) -> AlignmentRow:
    """Return the one row of a window that has no other."""
    return _Subject(closed, MODEL_GROUP, closed.kind, 0, 0, ()).failed(reason)


def _of_draws(window: Window) -> Iterator[AlignmentRow]:
    closed = window.closed
    if not window.groups:
        yield failed_row(closed, "the run has no parameter groups")
    try:
        rows = [
            _Subject(closed, group, closed.kind, size, draws, window.warnings).metric(metric)
            for group, size, draws, metric in noise_scales(window)
        ]
    except Exception as error:  # the window's tails are not lost for that
        rows = [_failed(_Subject(closed, MODEL_GROUP, closed.kind, 0, 0, window.warnings), error)]
    yield from rows


def _measurements(window: Window) -> Iterator[AlignmentRow]:
    closed = window.closed
    for measured in window.curvature:
        notes = (note[:_LONGEST] for note in measured.notes[:_NOTES])
        warnings = (*window.notes, *_one_rank(closed), *notes)
        subject = _Subject(
            closed, measured.part[:_LONGEST], measured.kind, measured.dimension, measured.draws or 0, warnings
        )
        try:
            rows = list(_rows(subject, measured))
        except Exception as error:  # whatever a measurement holds: a row that says so, and the next measurement
            rows = [_failed(subject, error)]
        yield from rows
    for broken in window.unreadable:
        subject = _Subject(closed, broken.part[:_LONGEST], broken.kind[:_LONGEST], 0, 0, window.notes)
        yield subject.failed(f"the measurement contradicts itself: {broken.reason[:_LONGEST]}")
    if window.unread:
        read = len(window.curvature) + len(window.unreadable)
        yield failed_row(closed, f"{window.unread} more measurements in this window are left out: {read} are analysed")
    if not window.curvature and not window.unreadable:
        yield failed_row(closed, "the window was closed, and the store holds no measurement of it")


def _one_rank(closed: ClosedWindow) -> tuple[str, ...]:
    if closed.world_size is None or closed.world_size < 2:
        return ()
    return (f"of rank {closed.rank} of {closed.world_size} alone, and of the data that it went through",)


def _failed(subject: _Subject, error: Exception) -> AlignmentRow:
    closed = subject.closed
    where = (closed.run, closed.window, subject.part)
    if isinstance(error, StatsError):  # what was sent, and no fault of the analysis
        _log.warning("run %s, window %d, %r: %s", *where, error)
        return subject.failed(f"the measurement contradicts itself: {error}")
    _log.error("run %s, window %d, %r: analysis failed", *where, exc_info=error)
    return subject.failed(f"the analysis failed: {type(error).__name__}: {error}")


def _rows(subject: _Subject, measured: CurvatureRow) -> Iterator[AlignmentRow]:
    yield _loss(subject, measured)
    landscape = _LANDSCAPES.get(measured.kind)
    if landscape is not None:
        for found in landscape(measured):
            yield subject.row(found.name, found.estimate, status=found.status, reason=found.reason)
        return
    # What a job sends is not trusted: work grows with the cube of these.
    for what, count, most in (
        ("eigenvalues", len(measured.eigenvalues), MAX_EIGENVALUES),
        ("draws", len(measured.gram), MAX_DRAWS),
        ("coordinates", len(measured.coordinates), MAX_COORDINATES),
    ):
        if count > most:
            raise InvalidInput(f"{count} {what}: at most {most} are analysed")
    seed = zlib.crc32(f"{subject.closed.window} {subject.part}".encode())
    for metric in align(_arrays(measured), rng=np.random.default_rng(seed)):
        yield subject.metric(metric)


_LANDSCAPES = {CurvatureKind.SHARPNESS: _landscape.sharpness, CurvatureKind.BARRIER: _landscape.barrier}


def _arrays(measured: CurvatureRow) -> Measured:
    """Return a measurement as the statistics take it. Its noise is against the gradient of all the data."""
    return Measured(
        dimension=measured.dimension,
        eigenvalues=measured.eigenvalues,
        residuals=measured.residuals,
        gram=measured.gram,
        projections=measured.projections,
        quadratic=measured.quadratic,
        gradient_norm2=measured.gradient_norm2,
        gradient_quadratic=measured.gradient_quadratic,
        gradient_projections=measured.gradient_projections,
        trace_samples=measured.trace_samples,
        square_samples=measured.square_samples,
        batch_size=measured.batch_size,
        examples=measured.examples,
        sampling=_sampling(measured.sampling),
        replacement=measured.replacement,
        loss=measured.loss,
        matrix=Matrix(measured.kind),
        block=measured.block,
        block_noise=measured.block_noise,
    )


def _sampling(given: str | None) -> Sampling | None:
    try:
        return None if given is None else Sampling(given)
    except ValueError as error:
        raise InvalidInput(f"sampling: {error}") from None


def _loss(subject: _Subject, measured: CurvatureRow) -> AlignmentRow:
    method = f"mean over a pass of {measured.minibatches} minibatches, modules in mode {measured.mode}"
    n = measured.minibatches if measured.examples is None else measured.examples
    value = measured.loss
    if math.isfinite(value):
        return subject.row(LOSS, Estimate(value, math.nan, math.nan, math.nan, n, method))
    nothing = Estimate(math.nan, math.nan, math.nan, math.nan, n, method)
    return subject.row(LOSS, nothing, status=Status.NON_FINITE, reason=f"the loss over the data is {value:g}")
