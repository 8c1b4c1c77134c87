"""What an analysis is asked for and what it answers: options, rows, reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gradnoise.analyzer.stats import Status, Verdict
from gradnoise.wire.results import FORMS, FULL_FORMS

__all__ = [
    "AlignmentRow",
    "AnalysisOptions",
    "Contrast",
    "FitReport",
    "FitRow",
    "Plan",
    "RowStatus",
    "TailRow",
    "WindowReport",
    "forms_of",
]


class Contrast(StrEnum):
    """How noise is formed from draws: the reference it is measured against."""

    AUTO = "auto"
    """The best that is there: ``FULL`` where the window holds the exact gradient, else ``PAIR``."""
    FULL = "full"
    """The exact gradient, of a pass over the data at the same parameters."""
    PAIR = "pair"
    """Half-differences of pairs of draws."""
    MEAN = "mean"
    DIFFERENCE = "difference"
    EMA = "ema"


class RowStatus(StrEnum):
    """What may become of a row, beside what becomes of a computation (:class:`gradnoise.analyzer.stats.Status`)."""

    FAILED = "failed"
    """The analysis of the window raised an error, which the reason names."""
    NO_REFERENCE = "no_reference"
    """The exact gradient was asked for as reference, and the window holds none that fits."""


class Plan(StrEnum):
    """How much is computed for a window."""

    LIVE = "live"
    """Three forms: fits, jackknife intervals, the calibrated test, sums of 4 and of 16 draws."""
    FULL = "full"
    """Three forms more, the test of the stable law itself, the heaviness across parameters taken apart, and a warning
    of serial dependence. About three times the time."""


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """What :func:`analyse` is asked for. Which reference was used stands in every row.

    Attributes:
        plan, contrast: of the tail rows.
        tail: whether tail rows are made; alignment rows, which take a small part of the time, always are.
    """

    plan: Plan = Plan.LIVE
    contrast: Contrast = Contrast.AUTO
    tail: bool = True


@dataclass(frozen=True, slots=True)
class TailRow:
    """One row of a report: one group (or the whole model) in one form.

    The fields are the columns that :data:`gradnoise.wire.results.TAIL_SCHEMA` documents.
    """

    window: int
    kind: str
    first_step: int
    last_step: int
    thetas: int
    group: str
    size: int
    form: str
    reference: str
    draws: int
    coordinates: int
    alpha: float
    alpha_se: float
    alpha_low: float
    alpha_high: float
    null_alpha: float
    alpha_sum4: float
    alpha_sum4_low: float
    alpha_sum4_high: float
    null_alpha_sum4: float
    alpha_sum16: float
    alpha_sum16_low: float
    alpha_sum16_high: float
    null_alpha_sum16: float
    sums: str
    scale: float
    scale_se: float
    rejected_share: float
    tested: int
    gaussian_rejected: bool
    stable_rejected_share: float
    alpha_spread: float
    alpha_spread_low: float
    alpha_spread_high: float
    alpha_quantiles: tuple[float, ...]
    heaviness: float
    scale_share: float
    scale_share_low: float
    scale_share_high: float
    tail_share: float
    tail_share_low: float
    tail_share_high: float
    log_scale_sd: float
    verdict: Verdict
    status: Status | RowStatus
    reason: str
    zeros: float
    non_finite: int
    dropped: int
    drift: float
    row_scaled_alpha: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AlignmentRow:
    """One number on curvature, noise and how they lie to each other, of one part of a model.

    The fields are the columns that :data:`gradnoise.wire.results.ALIGNMENT_SCHEMA` documents.
    """

    window: int
    kind: str
    first_step: int
    last_step: int
    part: str
    dimension: int
    draws: int
    metric: str
    index: int | None
    value: float
    se: float
    low: float
    high: float
    null_value: float
    null_low: float
    null_high: float
    null_method: str
    n: int
    method: str
    reference: str
    status: Status | RowStatus
    reason: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WindowReport:
    """All rows of one window.

    Attributes:
        run, producer, window: which.
        plan: of the tail rows.
        rows: every group in every form, then the whole model in every form; none of a measurement of curvature.
        alignment: what was measured of the curvature, part by part; of other windows the noise scales.
    """

    run: str
    producer: str
    window: int
    plan: Plan
    rows: tuple[TailRow, ...]
    alignment: tuple[AlignmentRow, ...] = ()


@dataclass(frozen=True, slots=True)
class FitRow:
    """One fitted parameter of one law; the fields are the columns of ``FIT_SCHEMA``."""

    law: str
    parameter: str
    value: float
    se: float
    low: float
    high: float
    n: int
    method: str
    loglik: float
    aic: float
    bic: float
    likelihood_ratio: float
    p_value: float
    gaussian_rejected: bool
    verdict: Verdict
    reason: str
    zeros: float
    status: Status
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FitReport:
    """All laws fitted to one vector."""

    rows: tuple[FitRow, ...]


def forms_of(plan: Plan) -> tuple[str, ...]:
    """Return the forms in which a plan reads a window, in the order of its rows."""
    return FULL_FORMS if plan == Plan.FULL else FORMS
