"""From what the statistics found to rows of a report."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from gradnoise.analyzer.report import TailRow
from gradnoise.analyzer.stats import Estimate, Status, Verdict, forms

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradnoise.analyzer.windows import Window

__all__ = ["blank", "filled", "with_draw_scale"]

_NO_SCALE = ("standardized", "vector")
"""Forms whose scale is not that of a coordinate: values over their column's scale, norms of whole rows."""
_NO_ESTIMATE = Estimate(math.nan, math.nan, math.nan, math.nan, 0, "none")


def blank(
    window: Window,
    group: str,
    size: int,
    *,
    non_finite: int,
    draws: int,
    coordinates: int,
    reference: str,
) -> TailRow:
    """Return a row without a value, to be filled in."""
    closed = window.closed
    lost = max(0, closed.recorded - draws) if window.missing > 0 else 0
    unknown = {field.name: math.nan for field in fields(TailRow) if field.type == "float"}
    known: dict[str, Any] = {
        "window": closed.window,
        "kind": closed.kind,
        "first_step": closed.first_step,
        "last_step": closed.last_step,
        "thetas": closed.last_theta - closed.first_theta + 1,
        "group": group,
        "size": size,
        "form": "",
        "reference": reference,
        "draws": draws,
        "coordinates": coordinates,
        "tested": 0,
        "gaussian_rejected": False,
        "alpha_quantiles": (),
        "verdict": Verdict.UNDECIDED,
        "status": Status.OK,
        "reason": "",
        "sums": forms.Trend.UNCLEAR.value,
        "non_finite": non_finite,
        "dropped": closed.dropped + lost,
        "warnings": window.warnings,
    }
    return TailRow(**{**unknown, **known, "zeros": 0.0})


def filled(base: TailRow, result: forms.FormResult) -> TailRow:
    """Return a blank row with a form's numbers."""
    sums = {reading.m: reading for reading in result.sums}
    of4, of16 = (sums[m].alpha or _NO_ESTIMATE for m in (4, 16))
    notes = [f"sums of {reading.m}: {reading.reason}" for reading in result.sums if reading.reason]
    row = replace(
        base,
        coordinates=result.columns_used,
        alpha=result.alpha.value,
        alpha_se=result.alpha.se,
        alpha_low=result.alpha.low,
        alpha_high=result.alpha.high,
        null_alpha=result.null_alpha,
        scale=result.scale.value,
        scale_se=result.scale.se,
        rejected_share=result.rejected_share,
        tested=result.tested,
        gaussian_rejected=result.gaussian_rejected,
        verdict=result.verdict,
        status=result.status,
        reason=result.reason,
        zeros=result.zeros,
        alpha_sum4=of4.value,
        alpha_sum4_low=of4.low,
        alpha_sum4_high=of4.high,
        null_alpha_sum4=sums[4].null_alpha,
        alpha_sum16=of16.value,
        alpha_sum16_low=of16.low,
        alpha_sum16_high=of16.high,
        null_alpha_sum16=sums[16].null_alpha,
        sums=sums[16].trend.value,
        warnings=(*base.warnings, *result.warnings, *notes),
    )
    over = result.over_columns
    if over is None:
        return row
    return replace(
        row,
        stable_rejected_share=over.stable_rejected_share,
        alpha_spread=over.spread.value,
        alpha_spread_low=over.spread.low,
        alpha_spread_high=over.spread.high,
        alpha_quantiles=over.quantiles,
    )


def with_draw_scale(row: TailRow, factor: Callable[[float], float]) -> TailRow:
    """Return a row with the scale of one draw instead of that of the noise rows, ``factor(alpha)`` times it."""
    if row.form in _NO_SCALE:
        return replace(row, scale=math.nan, scale_se=math.nan)
    if not math.isfinite(row.alpha):
        return row
    return replace(row, scale=factor(row.alpha) * row.scale, scale_se=factor(row.alpha) * row.scale_se)
