"""The forms that fit columns: every coordinate over the draws, random projections, and coordinates of rescaled rows."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats import _columns, drift
from gradnoise.analyzer.stats._assemble import MEDIAN_SCALE, column_notes, nothing, refuse, result, sum_results
from gradnoise.analyzer.stats._estimate import MIN_VALUES, InvalidInput, Status, Verdict
from gradnoise.analyzer.stats._reading import column_core, effective_coordinates, prepare

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._form_result import FormResult
    from gradnoise.analyzer.stats._reading import Input
    from gradnoise.analyzer.stats.contrasts import Contrast

MIN_ROWS_PER_PARAMETER = MIN_VALUES
"""Fewest noise rows for the column forms."""
MIN_COLUMNS_ROW_SCALED, MIN_COLUMNS_JUDGED, ROWS_JUDGED = MIN_VALUES, 100, 0.05
"""Fewest columns that rows are scaled by; fewest by which something is tested; and most rows, as a share of the
columns' square, of which that is done: the scale of a row of J columns has a variance of about 1/J, which reads as tail
(Gaussian noise of 3, 30 and 100 columns reads 1.66, 1.955 and 1.986) and which ever more rows do not take away."""


def per_parameter(noise: Contrast | ArrayLike, *, rng: np.random.Generator | None = None) -> FormResult:
    """SαS index of each coordinate over the draws, averaged over the coordinates (Xie et al. 2022, "iteration-wise").

    ``noise``: a ``Contrast``, or rows × columns of noise already formed. Mixes nothing up, but needs draws:
    fewer than 30 noise rows give status ``too_few_draws``. Columns with fewer than 30 non-zero values are left
    out. ``over_columns`` says how α differs over them; with ``rng`` each of them is also tested against SαS itself
    (a simulated null: about two seconds more), and ``stable`` needs them to pass.
    """
    given = prepare(noise)
    return _by_columns("per_parameter", given, "columns", "", rng=rng)


def row_scaled(noise: Contrast | ArrayLike) -> FormResult:
    """As ``per_parameter``, each row divided by its scale relative to the others (``drift.row_log_scales``).

    For windows whose scale drifts, where drift in time reads as tail. What rows share is removed whatever its order,
    a heavy tail common to all coordinates too: set it beside ``per_parameter``, never in its place. Rows without a
    scale (half of their values 0) are left out.

    A row's scale has an error that reads as tail, and of few columns the scale is half of what it divides: fewer than
    30 give ``too_few_values``. The Gaussian law is tested from 100 columns J on and up to J²/20 rows, where that error
    is within the interval; else ``rejected_share`` is NaN, the verdict ``undecided``, and a warning says so.
    """
    given = prepare(noise)
    if (refusal := refuse("row_scaled", given, MIN_ROWS_PER_PARAMETER)) is not None:
        return refusal
    width = given.matrix.shape[1]
    if width < MIN_COLUMNS_ROW_SCALED:
        reason = f"{width} columns, at least {MIN_COLUMNS_ROW_SCALED} needed to scale a row by"
        return nothing("row_scaled", given, Status.TOO_FEW_VALUES, reason)
    scales = np.exp(drift.row_log_scales(given.matrix))
    usable = np.isfinite(scales)
    matrix = given.matrix[usable] / scales[usable, None].astype(given.matrix.dtype)
    rescaled = dataclasses.replace(given, matrix=matrix, group=given.group[usable], original=matrix)
    note: tuple[str, ...] = ()
    if not usable.all():
        note = (f"{int((~usable).sum())} of {len(usable)} rows have no scale and were left out",)
    rescaled = dataclasses.replace(rescaled, warnings=given.warnings + note)
    found = _by_columns("row_scaled", rescaled, "columns of rows over their scale", "")
    if width >= MIN_COLUMNS_JUDGED and len(matrix) <= ROWS_JUDGED * width**2:
        return found
    note = (f"the error of a row's scale over {width} columns reads as tail: nothing is tested",)
    return dataclasses.replace(
        found,
        rejected_share=math.nan,
        tested=0,
        gaussian_rejected=False,
        verdict=Verdict.UNDECIDED,
        warnings=found.warnings + note,
    )


def projection(noise: Contrast | ArrayLike, *, directions: int = 64, rng: np.random.Generator) -> FormResult:
    """SαS index of ⟨u_k, r⟩ over the draws k, for ``directions`` random unit vectors r (Panigrahi et al. 2019).

    A projection is a sum over coordinates: of independent ones of finite variance it is near Gaussian however heavy
    their tails are, while the projections of iid SαS coordinates are SαS. So ``gaussian`` here says little about
    coordinates, and a warning says so. Needs 30 noise rows and 2 coordinates. One large coordinate
    makes all projections of its row large: of SαS(1.5) coordinates the interval covers 75 % at 30 rows and 85 % at 64,
    and a warning says so. Raises ``InvalidInput`` for fewer than one direction.
    """
    if directions < 1:
        raise InvalidInput(f"directions: expected at least 1 random direction, got {directions}")
    given = prepare(noise)
    if (refusal := refuse("projection", given, MIN_ROWS_PER_PARAMETER)) is not None:
        return refusal
    width = given.matrix.shape[1]
    if width < 2:
        return nothing("projection", given, Status.TOO_FEW_VALUES, "1 coordinate, at least 2 needed")
    vectors = rng.standard_normal((width, directions))
    vectors /= np.linalg.norm(vectors, axis=0)
    # In units of the largest value no sum overflows.
    unit = float(np.abs(given.matrix).max())
    matrix = (given.matrix / unit) @ vectors * unit
    placed = np.full((len(given.original), directions), np.nan)
    placed[np.isfinite(given.original).all(axis=1)] = matrix
    projected = dataclasses.replace(given, matrix=matrix, original=placed)
    note = "a projection is a sum over coordinates: of finite variance it is nearly Gaussian whatever their tails"
    return _by_columns("projection", projected, f"{directions} random projections", note)


def _by_columns(form: str, given: Input, what: str, note: str, *, rng: np.random.Generator | None = None) -> FormResult:
    if (refusal := refuse(form, given, MIN_ROWS_PER_PARAMETER)) is not None:
        return refusal
    core = column_core(given.matrix, given.group, MIN_VALUES)
    if core.failure is not None:
        return nothing(form, given, core.failure, f"no column could be fitted; most are {core.failure}")
    # Columns that move together are worth fewer: without this the least interval would claim them all.
    used = len(core.p)
    together = math.sqrt(max(1.0, used / effective_coordinates(given)))
    core = dataclasses.replace(core, floor=core.floor * together, correction=core.correction * together)
    left_out = given.matrix.shape[1] - used
    warnings = column_notes(given) + ((note,) if note else ())
    if left_out:
        warnings += (f"{left_out} of {left_out + used} columns could not be fitted (most: too few non-zero values)",)
    return result(
        form,
        given,
        core,
        core.null_inverse,
        used,
        sum_results(given, given.original, form, core, together),
        f"1 / mean over {what} of 1/α̂ (maximum likelihood); delete-a-group jackknife over draws",
        MEDIAN_SCALE,
        width=len(given.matrix),
        warnings=warnings,
        over_columns=_columns.summary(given.matrix, core, rng),
    )
