"""The forms in which one noise matrix is read, and what each of them reads when the noise is Gaussian.

A noise matrix U has a row a draw and a column a coordinate of one parameter group. ``per_parameter`` fits every
column, ``across_parameter`` every row, ``standardized`` every row after each column was divided by a robust
scale of itself. They answer different questions and on real gradients they disagree: across parameters a spread
of scales reads as a heavy tail. Never report one of them alone.

Each form averages **1/α̂** over its columns (rows), because that is closer to unbiased than α̂ is. The interval
resamples draws, never columns (``_jackknife``). Beside α stands ``null_alpha``, what Gaussian noise of the same
shape reads in the same form.

Verdict (``verdict``): ``not_gaussian`` if α's interval ends below ``null_alpha`` and more than
``REJECTED_SHARE`` of the columns (rows) reject the Gaussian at a false-discovery rate of
``FALSE_DISCOVERY_RATE``; ``gaussian`` if the interval begins at ``null_alpha`` − ``GAUSSIAN_MARGIN`` or above
and no more than that share rejects; otherwise ``undecided``.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from gradnoise.analyzer.stats import _null
from gradnoise.analyzer.stats._combine import combine
from gradnoise.analyzer.stats._estimate import MIN_VALUES, Estimate, Status, Verdict
from gradnoise.analyzer.stats._form_result import (
    FALSE_DISCOVERY_RATE,
    GAUSSIAN_MARGIN,
    MANY_LOWEST,
    REJECTED_SHARE,
    SUMS,
    FormResult,
    SumResult,
    Trend,
    lowest_note,
    status_of,
    trend,
    verdict,
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
    prepare,
    row_core,
)
from gradnoise.analyzer.stats._standard import leave_one_out
from gradnoise.analyzer.stats.contrasts import Contrast

__all__ = [
    "FALSE_DISCOVERY_RATE",
    "GAUSSIAN_MARGIN",
    "REJECTED_SHARE",
    "SUMS",
    "FormResult",
    "SumResult",
    "Trend",
    "across_parameter",
    "combine",
    "per_parameter",
    "standardized",
    "verdict",
]

MIN_ROWS_PER_PARAMETER = MIN_VALUES
"""Fewest noise rows for the per-parameter form."""
MIN_ROWS = GROUPS
"""Fewest noise rows for the row forms: one for each jackknife group."""
MIN_COORDINATES = MIN_VALUES
"""Fewest coordinates for the row forms."""
MIN_SUMS = 16
"""Fewest sums a sum's α is given for."""
MOST_ZEROS, LEAST_USED = 0.05, 0.5
"""Zeros among the fitted values, and fitted share of the columns, beyond which nothing is called Gaussian."""
_ZERO_SUM = 1e-4  # |Σ u| / Σ |u| of a row: rounding of float32 leaves 1e-6, independent coordinates 1/√J
_MIN_EFFECTIVE = 3.0
_FEW_EFFECTIVE = 30.0


def per_parameter(noise: Contrast | ArrayLike) -> FormResult:
    """SαS index of each coordinate over the draws, averaged over the coordinates (Xie et al. 2022, "iteration-wise").

    ``noise``: a ``Contrast``, or rows × columns of noise already formed. Mixes nothing up, but needs draws:
    fewer than 30 noise rows give status ``too_few_draws``. Columns with fewer than 30 non-zero values are left
    out.
    """
    given = prepare(noise)
    if (refusal := _refuse("per_parameter", given, MIN_ROWS_PER_PARAMETER)) is not None:
        return refusal
    core = column_core(given.matrix, given.group, MIN_VALUES)
    if core.failure is not None:
        return _nothing("per_parameter", given, core.failure, f"no column could be fitted; most are {core.failure}")
    # Columns that move together are worth fewer: without this the least interval would claim them all.
    used = len(core.p)
    together = math.sqrt(max(1.0, used / effective_coordinates(given)))
    core = dataclasses.replace(core, floor=core.floor * together)
    left_out = given.matrix.shape[1] - used
    warnings: tuple[str, ...] = ()
    if left_out:
        warnings = (f"{left_out} of {left_out + used} columns could not be fitted (most: too few non-zero values)",)
    return _result(
        "per_parameter",
        given,
        core,
        core.null_inverse,
        used,
        _sum_results(given, given.original, "per_parameter", core, together),
        "1 / mean over columns of 1/α̂ (maximum likelihood); delete-a-group jackknife over draws",
        warnings,
    )


def across_parameter(noise: Contrast | ArrayLike) -> FormResult:
    """SαS index over the coordinates of each draw, averaged over the draws (Simsekli et al. 2019, "dimension-wise").

    A spread of scales over coordinates reads as a heavy tail here, whatever the law of each of them. Needs 10
    rows and 30 coordinates. Coordinates bound by a linear relation (rows that sum to 0, as a softmax layer's
    bias has; all moving together) give ``degenerate``.
    """
    given = prepare(noise)
    refusal = _refuse("across_parameter", given, MIN_ROWS) or _refuse_coordinates("across_parameter", given)
    if refusal is not None:
        return refusal
    core = row_core(given.matrix, given.group, MIN_VALUES)
    if core.failure is not None:
        return _nothing(
            "across_parameter", given, core.failure, f"fewer than two rows could be fitted; most are {core.failure}"
        )
    return _result(
        "across_parameter",
        given,
        core,
        core.null_inverse,
        given.matrix.shape[1],
        _sum_results(given, given.original, "across_parameter", core),
        "1 / mean over rows of 1/α̂ (maximum likelihood); delete-a-group jackknife over draws",
        _dependence(given),
    )


def standardized(noise: Contrast | ArrayLike) -> FormResult:
    """As ``across_parameter``, each value divided by a robust scale of its column over the *other* rows.

    The scale is the half moment (mean √|u|)² over the column's other non-zero values; columns that are mostly
    zero have none and are left out. That removes the spread of scales and leaves the tail. Gaussian columns
    divided so are not Gaussian but a little heavier-tailed, the more so the fewer the rows: ``null_alpha`` and
    the p-values are simulated for the same number of rows and coordinates. The jackknife deletes rows and does
    not standardise the others anew.
    """
    given = prepare(noise)
    refusal = _refuse("standardized", given, MIN_ROWS) or _refuse_coordinates("standardized", given)
    if refusal is not None:
        return refusal
    z = leave_one_out(given.matrix)
    used = np.atleast_1d(np.isfinite(z).all(axis=0))
    if used.sum() < MIN_COORDINATES:
        return _nothing(
            "standardized",
            given,
            Status.TOO_FEW_VALUES,
            f"{int(used.sum())} of {len(used)} columns have a scale above 0, at least {MIN_COORDINATES} needed",
        )
    z = z[:, used]
    core = row_core(z, given.group, MIN_VALUES)
    if core.failure is not None:
        return _nothing(
            "standardized", given, core.failure, f"fewer than two rows could be fitted; most are {core.failure}"
        )
    core = dataclasses.replace(core, p=_null.p_value_standardised(core.ratio, core.n, len(given.matrix)))
    # Sums are of standardised rows, in their places among the rows that were dropped.
    placed = z
    if len(given.original) != len(given.matrix):
        placed = np.full((len(given.original), z.shape[1]), np.nan)
        placed[np.isfinite(given.original).all(axis=1)] = z
    warnings = _dependence(given)
    if not used.all():
        warnings += (f"{int((~used).sum())} of {len(used)} columns have scale 0 and were left out",)
    return _result(
        "standardized",
        given,
        core,
        _null.inverse_alpha_standardised(*z.shape),
        int(used.sum()),
        _sum_results(given, placed, "standardized", core),
        "1 / mean over rows of 1/α̂ of values over their column's scale; delete-a-group jackknife over draws",
        warnings,
    )


def _nothing(form: str, given: Input, status: Status, reason: str) -> FormResult:
    nan = float("nan")
    empty = Estimate(nan, nan, nan, nan, 0, "none", "")
    return FormResult(
        form=form,
        reference=given.reference,
        alpha=empty,
        replicates=np.full(GROUPS, nan),
        floor=nan,
        lowest=nan,
        partial=True,
        scale=empty,
        scale_replicates=np.full(GROUPS, nan),
        sums=tuple(SumResult(m, None, nan, 0, reason) for m in SUMS),
        null_alpha=nan,
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


def _sum_results(given: Input, source: Matrix, form: str, single: Core, together: float = 1.0) -> tuple[SumResult, ...]:
    results = []
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
        core = column_core(sums, group, MIN_SUMS) if form == "per_parameter" else row_core(sums, group, MIN_VALUES)
        if core.failure is not None:
            results.append(SumResult(m, None, float("nan"), count, f"no sum could be fitted: {core.failure}"))
            continue
        null_inverse = core.null_inverse
        if form == "standardized":
            null_inverse = _null.inverse_alpha_standardised(given.matrix.shape[0], source.shape[1])
        floor = core.floor * together
        method = f"{form} of sums of {m} draws; jackknife over draws"
        alpha = alpha_estimate(core.inverse, core.replicates, floor, count, method)
        null_alpha = 1.0 / null_inverse
        goes = Trend.UNCLEAR
        if form != "across_parameter" and max(single.lowest, core.lowest) <= MANY_LOWEST:
            goes = trend(single.inverse, single.replicates, core.inverse, core.replicates, null_alpha)
        results.append(SumResult(m, alpha, null_alpha, count, "", core.replicates, floor, goes))
    return tuple(results)


def _result(form: str, given: Input, core: Core, null_inverse: float, columns_used: int, sums: tuple[SumResult, ...],
            method: str, warnings: tuple[str, ...] = ()) -> FormResult:  # fmt: skip
    n = given.matrix.shape[0]
    alpha = alpha_estimate(core.inverse, core.replicates, core.floor, n, method)
    null_alpha = 1.0 / null_inverse
    share = rejected_share(core.p, FALSE_DISCOVERY_RATE)
    warnings += zeros_note(given.zeros) + lowest_note(form, core.lowest)
    width = n if form == "per_parameter" else columns_used
    zeros_fitted = 1.0 - float(core.n.sum()) / (width * len(core.n))
    partial = zeros_fitted > MOST_ZEROS or columns_used < LEAST_USED * given.original.shape[1]
    return FormResult(
        form=form,
        reference=given.reference,
        alpha=alpha,
        replicates=core.replicates,
        floor=core.floor,
        lowest=core.lowest,
        partial=partial,
        scale=scale_estimate(core.scale, core.scale_replicates, n, "median; interval by jackknife over draws"),
        scale_replicates=core.scale_replicates,
        sums=sums,
        null_alpha=null_alpha,
        rejected_share=share,
        tested=len(core.p),
        zeros=given.zeros,
        non_finite=given.non_finite,
        columns=given.original.shape[1],
        columns_used=columns_used,
        rows_used=n,
        verdict=verdict(*plain_interval(core.inverse, core.replicates, core.floor), null_alpha, share, partial=partial),
        status=status_of(alpha, core.lowest),
        warnings=given.warnings + warnings,
    )


def _refuse(form: str, given: Input, least: int) -> FormResult | None:
    rows = given.matrix.shape[0]
    if given.original.shape[1] == 0:
        return _nothing(form, given, Status.TOO_FEW_VALUES, "the matrix has no columns")
    if rows < least:
        status = Status.NON_FINITE if len(given.original) >= least else Status.TOO_FEW_DRAWS
        return _nothing(form, given, status, f"{rows} finite noise rows, at least {least} needed")
    if given.zeros == 1.0:
        return _nothing(form, given, Status.ALL_ZERO, "every value is exactly 0")
    return None


def _refuse_coordinates(form: str, given: Input) -> FormResult | None:
    width = given.matrix.shape[1]
    if width < MIN_COORDINATES:
        return _nothing(form, given, Status.TOO_FEW_VALUES, f"{width} coordinates, at least {MIN_COORDINATES} needed")
    total = np.abs(given.matrix).sum(axis=1, dtype=np.float64)
    net = np.abs(given.matrix.sum(axis=1, dtype=np.float64))
    if np.median(net / np.where(total > 0, total, 1.0)) < _ZERO_SUM:
        return _nothing(
            form,
            given,
            Status.DEGENERATE,
            "the coordinates of each row sum to 0 (as those of a softmax layer's bias do)",
        )
    effective = effective_coordinates(given)
    if effective < _MIN_EFFECTIVE:
        return _nothing(
            form,
            given,
            Status.DEGENERATE,
            f"the coordinates move together: they are worth {effective:.1f} independent ones",
        )
    return None


def _dependence(given: Input) -> tuple[str, ...]:
    effective = effective_coordinates(given)
    if effective >= _FEW_EFFECTIVE:
        return ()
    return (f"by their signs the {given.matrix.shape[1]} coordinates are worth {effective:.0f} independent ones",)
