"""From the numbers of a form to its result; what all forms refuse, and what they say about their matrix."""

from __future__ import annotations

import math

import numpy as np

from gradnoise.analyzer.stats import _null, drift
from gradnoise.analyzer.stats._estimate import MIN_VALUES, Estimate, Status, Verdict
from gradnoise.analyzer.stats._form_result import (
    ColumnSummary,
    FormResult,
    SumResult,
    Trend,
    lowest_note,
    status_of,
    zeros_note,
)
from gradnoise.analyzer.stats._jackknife import GROUPS, alpha_estimate, plain_interval, scale_estimate
from gradnoise.analyzer.stats._multiple import rejected_share
from gradnoise.analyzer.stats._reading import (
    Core,
    Input,
    Matrix,
    block_sums,
    column_core,
    effective_coordinates,
    row_core,
)
from gradnoise.analyzer.stats._rules import (
    FALSE_DISCOVERY_RATE,
    LEAST_SUMS,
    LEAST_SUMS_OF_ROWS,
    SUMS,
    SUMS_SPEAK,
    WIDE_ROW_SPREAD,
    rejects_gaussian,
    sums_say,
    trend,
    verdict,
)

MIN_ROWS = GROUPS
"""Fewest noise rows for any form: one for each jackknife group."""
MIN_COORDINATES = MIN_VALUES
"""Fewest coordinates for the row forms."""
MIN_SUMS = 16
"""Fewest sums a sum's α is given for."""
MOST_ZEROS, LEAST_USED = 0.05, 0.5
"""Zeros among the fitted values, and fitted share of the columns, beyond which nothing is called Gaussian."""
ROW_SPREAD = 0.1
"""Standard deviation of ln(scale) from row to row, common to all coordinates, that the row forms mention."""
FEW_ROWS = 100
"""Rows below which intervals of column forms cover too seldom where rows differ by ``WIDE_ROW_SPREAD``
(``tests/calibration/cal_forms.py``)."""
_ZERO_SUM = 1e-4  # |Σ u| / Σ |u| of a row: rounding of float32 leaves 1e-6, independent coordinates 1/√J
_MIN_EFFECTIVE = 3.0
_FEW_EFFECTIVE = 30.0
MEDIAN_SCALE = "median of σ̂; interval by jackknife over draws"
_BY_COLUMNS = ("per_parameter", "projection", "row_scaled")


def nothing(form: str, given: Input, status: Status, reason: str) -> FormResult:
    """A result without a value, and why."""
    nan = float("nan")
    empty = Estimate(nan, nan, nan, nan, 0, "none", "")
    return FormResult(
        form=form,
        reference=given.reference,
        alpha=empty,
        replicates=np.full(GROUPS, nan),
        floor=nan,
        correction=nan,
        lowest=nan,
        partial=True,
        scale=empty,
        scale_replicates=np.full(GROUPS, nan),
        sums=tuple(SumResult(m, None, nan, 0, reason) for m in SUMS),
        null_alpha=nan,
        gaussian_rejected=False,
        rejected_share=nan,
        tested=0,
        zeros=given.zeros,
        non_finite=given.non_finite,
        columns=given.original.shape[1],
        columns_used=0,
        rows_used=given.matrix.shape[0],
        verdict=Verdict.UNDECIDED,
        status=status,
        reason=reason,
        warnings=given.warnings,
    )


def sum_results(given: Input, source: Matrix, form: str, single: Core, together: float = 1.0) -> tuple[SumResult, ...]:
    """The same form of sums of draws, beside its reading ``single`` of the rows."""
    results = []
    by_columns = form in _BY_COLUMNS
    alike = not (by_columns and drift.row_spread(given.matrix) > WIDE_ROW_SPREAD)
    for m in SUMS:
        sums, group = block_sums(given, source, m)
        count = len(sums)
        if count < MIN_SUMS:
            results.append(
                SumResult(
                    m, None, float("nan"), count, f"{count} disjoint sums of {m} draws, at least {MIN_SUMS} needed"
                )
            )
            continue
        core = column_core(sums, group, MIN_SUMS) if by_columns else row_core(sums, group, MIN_VALUES)
        if core.failure is not None:
            results.append(SumResult(m, None, float("nan"), count, f"no sum could be fitted: {core.failure}"))
            continue
        null_inverse = core.null_inverse
        if form == "standardized":
            null_inverse = _null.inverse_alpha_standardised(given.matrix.shape[0], source.shape[1])
        floor = core.floor * together
        method = f"{form} of sums of {m} draws; jackknife over draws"
        correction = core.correction * together
        null_alpha = 1.0 / null_inverse
        alpha = alpha_estimate(
            core.inverse, core.replicates, floor, count, method, correction=correction, null_alpha=null_alpha
        )
        goes = Trend.UNCLEAR
        enough = not by_columns or count * len(core.p) / together**2 >= LEAST_SUMS
        may_climb = enough and (alike or count >= LEAST_SUMS_OF_ROWS)
        if form in SUMS_SPEAK:
            goes = trend(
                single.inverse,
                single.replicates,
                core.inverse,
                core.replicates,
                null_alpha,
                floor=math.hypot(single.floor, floor),
                lowest=single.lowest,
                sums_lowest=core.lowest,
                may_climb=may_climb,
            )
        results.append(
            SumResult(m, alpha, null_alpha, count, "", core.replicates, floor, correction, core.lowest, goes, may_climb)
        )
    return tuple(results)


def result(
    form: str,
    given: Input,
    core: Core,
    null_inverse: float,
    columns_used: int,
    sums: tuple[SumResult, ...],
    method: str,
    scale_method: str,
    *,
    width: int,
    warnings: tuple[str, ...] = (),
    over_columns: ColumnSummary | None = None,
) -> FormResult:
    """The result of a form; ``width`` values were there for each unit, zeros included."""
    n = given.matrix.shape[0]
    null_alpha = 1.0 / null_inverse
    alpha = alpha_estimate(
        core.inverse, core.replicates, core.floor, n, method, correction=core.correction, null_alpha=null_alpha
    )
    share = rejected_share(core.p, FALSE_DISCOVERY_RATE)
    zeros_fitted = 1.0 - float(core.n.sum()) / (width * len(core.n))
    partial = zeros_fitted > MOST_ZEROS or columns_used < LEAST_USED * given.original.shape[1]
    low, high = plain_interval(core.inverse, core.replicates, core.floor)
    return FormResult(
        form=form,
        reference=given.reference,
        alpha=alpha,
        replicates=core.replicates,
        floor=core.floor,
        correction=core.correction,
        lowest=core.lowest,
        partial=partial,
        scale=scale_estimate(core.scale, core.scale_replicates, n, scale_method),
        scale_replicates=core.scale_replicates,
        sums=sums,
        null_alpha=null_alpha,
        gaussian_rejected=rejects_gaussian(high, null_alpha, share),
        rejected_share=share,
        tested=len(core.p),
        zeros=given.zeros,
        non_finite=given.non_finite,
        columns=given.original.shape[1],
        columns_used=columns_used,
        rows_used=n,
        verdict=verdict(
            low,
            high,
            null_alpha,
            share,
            sums_say(sums),
            stable_rejected=math.nan if over_columns is None else over_columns.stable_rejected_share,
            partial=partial,
        ),
        status=status_of(alpha, core.lowest),
        warnings=given.warnings + warnings + zeros_note(given.zeros) + lowest_note(form, core.lowest),
        over_columns=over_columns,
    )


def refuse(form: str, given: Input, least: int) -> FormResult | None:
    """The result of a matrix that no form can read, or ``None``."""
    rows = given.matrix.shape[0]
    if given.original.shape[1] == 0:
        return nothing(form, given, Status.TOO_FEW_VALUES, "the matrix has no columns")
    if rows < least:
        status = Status.NON_FINITE if len(given.original) >= least else Status.TOO_FEW_DRAWS
        return nothing(form, given, status, f"{rows} finite noise rows, at least {least} needed")
    if given.zeros == 1.0:
        return nothing(form, given, Status.ALL_ZERO, "every value is exactly 0")
    return None


def refuse_coordinates(form: str, given: Input) -> FormResult | None:
    """The result of a matrix whose rows no form can read, or ``None``."""
    width = given.matrix.shape[1]
    if width < MIN_COORDINATES:
        return nothing(form, given, Status.TOO_FEW_VALUES, f"{width} coordinates, at least {MIN_COORDINATES} needed")
    total = np.abs(given.matrix).sum(axis=1, dtype=np.float64)
    net = np.abs(given.matrix.sum(axis=1, dtype=np.float64))
    if np.median(net / np.where(total > 0, total, 1.0)) < _ZERO_SUM:
        return nothing(
            form,
            given,
            Status.DEGENERATE,
            "the coordinates of each row sum to 0 (as those of a softmax layer's bias do)",
        )
    effective = effective_coordinates(given)
    if effective < _MIN_EFFECTIVE:
        return nothing(
            form,
            given,
            Status.DEGENERATE,
            f"the coordinates move together: they are worth {effective:.1f} independent ones",
        )
    return None


def column_notes(given: Input) -> tuple[str, ...]:
    """What must be known about rows to read a form that fits columns."""
    rows = len(given.matrix)
    if rows >= FEW_ROWS or not drift.row_spread(given.matrix) > WIDE_ROW_SPREAD:
        return ()
    return (
        f"all coordinates of a draw share a scale that differs much from row to row: with {rows} rows the interval is "
        "too short",
    )


def coordinate_notes(given: Input) -> tuple[str, ...]:
    """That the coordinates are worth few independent ones, where they are."""
    effective = effective_coordinates(given)
    if effective >= _FEW_EFFECTIVE:
        return ()
    return (f"by their signs the {given.matrix.shape[1]} coordinates are worth {effective:.0f} independent ones",)


def row_notes(given: Input) -> tuple[str, ...]:
    """What must be known about coordinates and rows to read a form that fits rows."""
    notes = coordinate_notes(given)
    spread = drift.row_spread(given.matrix)
    if spread > ROW_SPREAD:
        notes += (
            f"all coordinates of a draw share a scale that differs by a factor of {math.exp(spread):.2f} (one standard "
            "deviation) from row to row: a tail they share does not show within rows, only per parameter",
        )
    return notes
