"""The one door: a window in, rows out. Service, batch engine, command line and tests all come through here."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer._contrasts import NoReferenceError, chosen, noise_of
from gradnoise.analyzer._rows import blank, filled, with_draw_scale
from gradnoise.analyzer._sketched import sketched_row
from gradnoise.analyzer._vector_fit import fit_vector
from gradnoise.analyzer.aligning import aligned
from gradnoise.analyzer.report import (
    AlignmentRow,
    AnalysisOptions,
    Contrast,
    FitReport,
    FitRow,
    Plan,
    RowStatus,
    TailRow,
    WindowReport,
    forms_of,
)
from gradnoise.analyzer.stats import (
    StatsError,
    Status,
    Verdict,
    contrasts,
    decomposition,
    dependence,
    drift,
    forms,
)
from gradnoise.wire.results import FORMS, MODEL_GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradnoise.analyzer.windows import GroupDraws, Window

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
    "analyse",
    "fit_vector",
]

_PER_PARAMETER, _ACROSS_PARAMETER, _STANDARDIZED = FORMS

_Part = tuple["GroupDraws", forms.FormResult, TailRow]


def analyse(window: Window, options: AnalysisOptions | None = None) -> WindowReport:
    """Read a window: the tails of its noise, and how the noise lies to the curvature.

    Args:
        window: the draws, or the measurements of the curvature.
        options: what is computed; by default the live plan, against the exact gradient if there is one, else on pairs.

    Returns:
        Of draws, one tail row per group and form, then one per form for the whole model (groups weighted by their
        number of parameters). Where the window holds sketches of all parameters, they make the whole model's ``pooled``
        row, in every plan. Their noise scales are in ``alignment``, as is all that measurements of the curvature make,
        which have no tail rows. What the data cannot carry is a row with a status and a reason; nothing is left out.
        What is simulated has a seed made of the window and the group or part: the same window gives the same rows.
    """
    options = options or AnalysisOptions()
    closed = window.closed
    rows = _tails(window, options) if options.tail and not closed.measures_curvature else []
    return WindowReport(
        closed.run, closed.producer, closed.window, options.plan, tuple(rows), alignment=aligned(window)
    )


def _tails(window: Window, options: AnalysisOptions) -> list[TailRow]:
    kind, notes = chosen(window, options.contrast)
    window = replace(window, notes=(*window.notes, *notes))
    options = replace(options, contrast=kind)
    bad = _non_finite_draws(window)
    rows: list[TailRow] = []
    refused: list[Status | RowStatus] = []
    by_form: dict[str, list[_Part]] = {form: [] for form in forms_of(options.plan)}
    for group in window.groups:
        for form, (result, row) in _analyse_group(window, group, bad, options).items():
            rows.append(row)
            if result is None:
                refused.append(row.status)
            else:
                by_form[form].append((group, result, row))
    return [*rows, *_whole_model(window, by_form, refused, len(bad), options)]


def _non_finite_draws(window: Window) -> frozenset[int]:
    """Return the draws with NaN or infinity in any group: left out of all, so that groups keep the same draws."""
    bad: set[int] = set()
    for group in window.groups:
        bad.update(group.draw[~np.isfinite(group.values).all(axis=1)].tolist())
    return frozenset(bad)


def _analyse_group(
    window: Window, group: GroupDraws, bad: frozenset[int], options: AnalysisOptions
) -> dict[str, tuple[forms.FormResult | None, TailRow]]:
    keep = ~np.isin(group.draw, list(bad))
    base = blank(
        window,
        group.name,
        group.size,
        non_finite=len(bad),
        draws=len(group.draw),
        coordinates=group.values.shape[1],
        reference=options.contrast.value,
    )
    try:
        contrast = noise_of(window, group, keep, options.contrast)
    except NoReferenceError as error:
        row = replace(base, status=RowStatus.NO_REFERENCE, reason=str(error))
        return {form: (None, replace(row, form=form)) for form in forms_of(options.plan)}
    except StatsError as error:
        row = replace(base, status=Status.TOO_FEW_DRAWS, reason=f"of {len(group.draw)} recorded draws: {error}")
        return {form: (None, replace(row, form=form)) for form in forms_of(options.plan)}
    thetas = len(np.unique(group.theta[keep]))
    drifting = drift.scale_drift(contrast.noise) if thetas > 1 else 0.0
    base = replace(base, thetas=thetas, drift=drifting)
    seed = zlib.crc32(f"{window.closed.window} {group.name}".encode())
    found = _read(contrast, options.plan, np.random.default_rng(seed))
    out: dict[str, tuple[forms.FormResult | None, TailRow]] = {}
    for form, result in found.forms.items():
        row = with_draw_scale(filled(replace(base, form=form), result), contrast.scale_factor)
        if form == _PER_PARAMETER:
            row = replace(row, warnings=row.warnings + found.notes)
            row = _drifting(row, contrast) if drifting > 0 else row
        if form == _ACROSS_PARAMETER and found.parts is not None:
            row = _with_parts(row, found.parts)
        out[form] = (result, row)
    return out


@dataclass(frozen=True, slots=True)
class _Reading:
    """One group's noise in every form of a plan."""

    forms: Mapping[str, forms.FormResult]
    parts: decomposition.Decomposition | None = None
    notes: tuple[str, ...] = ()


def _read(contrast: contrasts.Contrast, plan: Plan, rng: np.random.Generator) -> _Reading:
    if plan == Plan.LIVE:
        return _Reading(_together(forms.read(contrast)))
    parts = decomposition.decompose(contrast, rng=rng)
    found = _together(parts.readings)
    found |= {
        "pooled": forms.pooled(contrast),
        "vector": forms.vector(contrast, rng=rng),
        "projection": forms.projection(contrast, rng=rng),
    }
    try:
        notes = dependence.serial_dependence(contrast.noise).warnings
    except StatsError:  # too few draws, or constant columns: the rows say so
        notes = ()
    return _Reading(found, parts, notes)


def _together(readings: forms.Readings) -> dict[str, forms.FormResult]:
    return {
        _PER_PARAMETER: readings.per_parameter,
        _ACROSS_PARAMETER: readings.across_parameter,
        _STANDARDIZED: readings.standardized,
    }


def _with_parts(row: TailRow, parts: decomposition.Decomposition) -> TailRow:
    """Set beside an across-parameter reading what its heaviness is made of."""
    note = (f"decomposition: {parts.reason}",) if parts.reason else ()
    return replace(
        row,
        heaviness=parts.total.value,
        scale_share=parts.scale_share.value,
        scale_share_low=parts.scale_share.low,
        scale_share_high=parts.scale_share.high,
        tail_share=parts.tail_share.value,
        tail_share_low=parts.tail_share.low,
        tail_share_high=parts.tail_share.high,
        log_scale_sd=parts.log_scale_sd.value,
        warnings=(*row.warnings, *parts.warnings, *note),
    )


def _drifting(row: TailRow, contrast: contrasts.Contrast) -> TailRow:
    """Set the row-scaled reading beside that of a window whose scale drifts, and let neither verdict rest on drift."""
    result = forms.row_scaled(contrast)
    row = replace(row, row_scaled_alpha=result.alpha.value)
    factor = f"{math.exp(row.drift):.2f}"
    if row.drift <= drift.DRIFT_LIMIT:
        note = f"the scale of the noise drifts by a factor of {factor} over the window"
        # Of a narrow or a long group the row-scaled reading is not tested (``forms.row_scaled``): its value must do.
        untested = math.isnan(result.rejected_share) and result.alpha.high >= result.null_alpha
        same = row.verdict == (Verdict.GAUSSIAN if untested else result.verdict)
        return replace(row, warnings=(*row.warnings, note), verdict=row.verdict if same else Verdict.UNDECIDED)
    reading = "" if math.isnan(result.alpha.value) else f" (row-scaled alpha: {result.alpha.value:.2f})"
    return replace(
        row,
        verdict=Verdict.UNDECIDED,
        status=Status.NOT_STATIONARY,
        reason=(
            f"the scale of the noise drifts by a factor of {factor} (one standard deviation) over {row.thetas} "
            f"updates, and drift in time reads as tail{reading}; probe at one theta"
        ),
    )


def _whole_model(
    window: Window,
    by_form: Mapping[str, Sequence[_Part]],
    refused: Sequence[Status | RowStatus],
    non_finite: int,
    options: AnalysisOptions,
) -> list[TailRow]:
    found = {form: _model_row(window, form, parts, refused, non_finite, options) for form, parts in by_form.items()}
    rows = {form: row for form, (_, row) in found.items()}
    per, across, standard = (found[form][0] for form in FORMS)
    if per is not None and across is not None and standard is not None:
        for form, result in _together(forms.read_together(per, across, standard)).items():
            if rows[form].status != Status.NOT_STATIONARY:
                rows[form] = replace(rows[form], verdict=result.verdict)
    sketched = sketched_row(window, _model_blank(window, non_finite, options))
    if sketched is not None:
        rows["pooled"] = sketched
    return list(rows.values())


def _model_row(
    window: Window,
    form: str,
    parts: Sequence[_Part],
    refused: Sequence[Status | RowStatus],
    non_finite: int,
    options: AnalysisOptions,
) -> tuple[forms.FormResult | None, TailRow]:
    base = replace(_model_blank(window, non_finite, options), form=form)
    size = base.size
    usable = [(group, result, row) for group, result, row in parts if math.isfinite(result.alpha.value)]
    if not usable:
        statuses = [row.status for _, _, row in parts] or [*refused] or [Status.TOO_FEW_DRAWS]
        reason = "no group of the model has a value: see the groups' rows"
        return None, replace(base, status=max(statuses, key=statuses.count), reason=reason)
    result = forms.combine([result for _, result, _ in usable], [group.size for group, _, _ in usable])
    row = filled(base, result)
    factor = math.prod(
        (part.scale / reading.scale.value) ** (group.size / sum(used.size for used, _, _ in usable))
        for group, reading, part in usable
    )
    row = replace(
        row,
        scale=factor * row.scale,
        scale_se=factor * row.scale_se,
        thetas=max(row.thetas for _, _, row in usable),
        drift=max(row.drift for _, _, row in usable),
    )
    left_out = 1.0 - sum(group.size for group, _, _ in usable) / size
    if left_out > 0:
        note = f"groups with {left_out:.1%} of the parameters have no value and are left out"
        row = replace(row, warnings=(*row.warnings, note))
    if len({result.rows_used for _, result, _ in usable}) > 1:
        note = "groups have different numbers of draws: the joint interval takes their jackknife groups as the same"
        row = replace(row, warnings=(*row.warnings, note))
    drifting = sum(group.size for group, _, row in usable if row.status == Status.NOT_STATIONARY) / size
    if drifting > 0:
        reason = f"the scale of the noise drifts in groups with {drifting:.1%} of the parameters: see their rows"
        row = replace(row, status=Status.NOT_STATIONARY, verdict=Verdict.UNDECIDED, reason=reason)
    return result, row


def _model_blank(window: Window, non_finite: int, options: AnalysisOptions) -> TailRow:
    return blank(
        window,
        MODEL_GROUP,
        sum(group.size for group in window.groups),
        non_finite=non_finite,
        draws=max((len(group.draw) for group in window.groups), default=0),
        coordinates=0,
        reference=options.contrast.value,
    )
