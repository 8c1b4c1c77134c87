"""The forms that fit rows: all coordinates of a draw, as they are and over their columns' scales."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats import _null
from gradnoise.analyzer.stats._assemble import (
    MEDIAN_SCALE,
    MIN_COORDINATES,
    MIN_ROWS,
    nothing,
    refuse,
    refuse_coordinates,
    result,
    row_notes,
    sum_results,
)
from gradnoise.analyzer.stats._estimate import MIN_VALUES, Status
from gradnoise.analyzer.stats._jackknife import GROUPS
from gradnoise.analyzer.stats._reading import means_without, prepare, refit, row_core
from gradnoise.analyzer.stats._standard import halves, leave_one_out

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._form_result import FormResult
    from gradnoise.analyzer.stats._reading import Core, Input
    from gradnoise.analyzer.stats.contrasts import Contrast


def across_parameter(noise: Contrast | ArrayLike) -> FormResult:
    """SαS index over the coordinates of each draw, averaged over the draws (Simsekli et al. 2019, "dimension-wise").

    A spread of scales over coordinates reads as a heavy tail here, whatever the law of each of them. Needs 10
    rows and 30 coordinates. Coordinates bound by a linear relation (rows that sum to 0, as a softmax layer's
    bias has; all moving together) give ``degenerate``.
    """
    given = prepare(noise)
    refusal = refuse("across_parameter", given, MIN_ROWS) or refuse_coordinates("across_parameter", given)
    if refusal is not None:
        return refusal
    core = row_core(given.matrix, given.group, MIN_VALUES)
    if core.failure is not None:
        return nothing(
            "across_parameter", given, core.failure, f"fewer than two rows could be fitted; most are {core.failure}"
        )
    return result(
        "across_parameter",
        given,
        core,
        core.null_inverse,
        given.matrix.shape[1],
        sum_results(given, given.original, "across_parameter", core),
        "1 / mean over rows of 1/α̂ (maximum likelihood); delete-a-group jackknife over draws",
        MEDIAN_SCALE,
        width=given.matrix.shape[1],
        warnings=row_notes(given),
    )


def standardized(noise: Contrast | ArrayLike) -> FormResult:
    """As ``across_parameter``, each value divided by a robust scale of its column over the *other* rows.

    The scale is the half moment (mean √|u|)² over the column's other non-zero values; columns that are mostly
    zero have none and are left out. That removes the spread of scales and leaves the tail. Gaussian columns
    divided so are not Gaussian but a little heavier-tailed, the more so the fewer the rows: ``null_alpha`` and
    the p-values are simulated for the same number of rows and coordinates. Other laws read too heavy by as much
    (SαS(1.7) reads 1.68 at 64 rows); the interval is centred without that bias, which is taken from a second reading
    over the scales of half of the rows (bias ∝ 1/rows; what is left is 0.0005 in 1/α at 64 rows, 0.003 at 32). A tail
    that all coordinates of a draw share, a common factor of its row, is not seen here; where rows differ so a warning
    says so.
    """
    given = prepare(noise)
    refusal = refuse("standardized", given, MIN_ROWS) or refuse_coordinates("standardized", given)
    if refusal is not None:
        return refusal
    z = leave_one_out(given.matrix)
    used = np.atleast_1d(np.isfinite(z).all(axis=0))
    if used.sum() < MIN_COORDINATES:
        return nothing(
            "standardized",
            given,
            Status.TOO_FEW_VALUES,
            f"{int(used.sum())} of {len(used)} columns have a scale above 0, at least {MIN_COORDINATES} needed",
        )
    z = z[:, used]
    core = row_core(z, given.group, MIN_VALUES)
    if core.failure is not None:
        return nothing(
            "standardized", given, core.failure, f"fewer than two rows could be fitted; most are {core.failure}"
        )
    core = dataclasses.replace(
        core,
        p=_null.p_value_standardised(core.ratio, core.n, len(given.matrix)),
        replicates=_restandardised(given, core, used),
    )
    # Sums are of standardised rows, in their places among the rows that were dropped.
    placed = z
    if len(given.original) != len(given.matrix):
        placed = np.full((len(given.original), z.shape[1]), np.nan)
        placed[np.isfinite(given.original).all(axis=1)] = z
    warnings = row_notes(given)
    if not used.all():
        warnings += (f"{int((~used).sum())} of {len(used)} columns have scale 0 and were left out",)
    return result(
        "standardized",
        given,
        core,
        _null.inverse_alpha_standardised(*z.shape),
        int(used.sum()),
        sum_results(given, placed, "standardized", core),
        "1 / mean over rows of 1/α̂ of values over their column's scale; jackknife over draws, bias of halves",
        MEDIAN_SCALE,
        width=z.shape[1],
        warnings=warnings,
    )


def _restandardised(given: Input, core: Core, used: np.ndarray[Any, np.dtype[np.bool_]]) -> Floats:
    """Replicates of 1/α as if the rows outside each group had been standardised anew, without as many fits.

    Dividing by scales of K rows shifts a reading by about b/K, so that readings over half of the rows lie b/K above:
    r' − r, row by row. A replicate without a tenth of the rows, r_(g) + (r' − r)/(G−1), then has the bias that
    the jackknife takes off, and the rows' scatter of the corrected 2r − r'.
    """
    z = halves(given.matrix)[:, used]
    usable = np.isfinite(z).all(axis=0)
    if usable.sum() < MIN_COORDINATES:
        return core.replicates
    shift = refit(z[:, usable], core) - core.units
    group = given.group[core.fitted]
    # G r̄ − (G−1) mean(replicates) must be the mean of 2r − r'.
    corrected = means_without(core.units - shift, group)
    return np.asarray(corrected - corrected.mean() + core.inverse + float(shift.mean()) / (GROUPS - 1))
