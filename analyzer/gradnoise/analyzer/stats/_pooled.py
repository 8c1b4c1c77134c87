"""All values of a noise matrix as one sample."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, _null, sketch
from gradnoise.analyzer.stats._assemble import MIN_SUMS, column_notes, nothing, refuse, result
from gradnoise.analyzer.stats._estimate import MIN_VALUES, Status
from gradnoise.analyzer.stats._form_result import SumResult
from gradnoise.analyzer.stats._jackknife import GROUPS, alpha_estimate, groups
from gradnoise.analyzer.stats._reading import Core, Input, block_sums, effective_coordinates, prepare
from gradnoise.analyzer.stats._rules import SUMS
from gradnoise.analyzer.stats._table import ALPHA_MIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._form_result import FormResult
    from gradnoise.analyzer.stats._reading import Ints, Matrix
    from gradnoise.analyzer.stats.contrasts import Contrast

MIN_ROWS_POOLED = MIN_VALUES
"""Fewest noise rows."""


def pooled(noise: Contrast | ArrayLike) -> FormResult:
    """SαS index of all values u_kj as one sample, which is what the code of Simsekli et al. 2019 and Zhou et al. 2020
    feeds its estimator (``estimators.mmo`` is that estimator, and depends on their order besides).

    Scales of coordinates *and* of draws read as tail: rejecting the Gaussian law here says nothing about a coordinate,
    and the test takes values as independent, which a warning says. Needs 30 noise rows and 30 non-zero values. Values
    are counted in cells of 0.8 % (``sketch``), by which α changes by less than a hundredth of its standard error. The
    interval is a delete-a-group jackknife over draws: where these share a heavy-tailed factor (sub-Gaussian rows,
    α = 1.5) it covers 81 % at 30 rows, 90 % at 64 and 99 % at 128, and below 100 rows a warning says so.
    """
    given = prepare(noise)
    if (refusal := refuse("pooled", given, MIN_ROWS_POOLED)) is not None:
        return refusal
    effective = effective_coordinates(given)
    core = _core(given.matrix, given.group, effective)
    if core.failure is not None:
        return nothing("pooled", given, core.failure, f"the pooled values could not be fitted: {core.failure}")
    sums = []
    for m in SUMS:
        rows, group = block_sums(given, given.original, m)
        if len(rows) < MIN_SUMS:
            reason = f"{len(rows)} disjoint sums of {m} draws, at least {MIN_SUMS} needed"
            sums.append(SumResult(m, None, float("nan"), len(rows), reason))
            continue
        of_sums = _core(rows, group, effective)
        if of_sums.failure is not None:
            reason = f"no sum could be fitted: {of_sums.failure}"
            sums.append(SumResult(m, None, float("nan"), len(rows), reason))
            continue
        null_alpha = 1.0 / of_sums.null_inverse
        method = f"pooled sums of {m} draws; jackknife over draws"
        alpha = alpha_estimate(
            of_sums.inverse, of_sums.replicates, of_sums.floor, len(rows), method, null_alpha=null_alpha
        )
        sums.append(SumResult(m, alpha, null_alpha, len(rows), "", of_sums.replicates, of_sums.floor))
    return result(
        "pooled",
        given,
        core,
        core.null_inverse,
        given.matrix.shape[1],
        tuple(sums),
        "maximum likelihood on all values in cells of 0.8 %; delete-a-group jackknife over draws",
        "σ̂ of all values; interval by jackknife over draws",
        width=given.matrix.size,
        warnings=(
            "values are pooled over coordinates and draws: a spread of scales over either reads as tail",
            *column_notes(given),
        ),
    )


def pooled_sketches(rows: Sequence[sketch.Sketch], *, reference: str = "given") -> FormResult:
    """``pooled`` of noise rows of which only the counts are there: one sketch a row, as of a whole model's parameters.

    Rows with NaN or infinity are left out and counted. Sums of rows are not in their counts, nor how many independent
    coordinates they are worth: the sums have a reason, and the interval is the jackknife's alone. Needs a row for each
    of its ten groups. ``reference``: what the noise was measured against.
    """
    finite = [row.non_finite == 0 for row in rows]
    group = groups(len(rows))
    parts = [sketch.zero() for _ in range(GROUPS)]
    for row, fine, g in zip(rows, finite, group.tolist(), strict=True):
        if fine:
            parts[g] = sketch.merge(parts[g], row)
    whole = functools.reduce(sketch.merge, parts)
    width = max((row.n for row in rows), default=0)
    lost = len(rows) - sum(finite)
    # The matrix that was counted, of which nothing is read but its shape.
    shape = np.broadcast_to(np.float32(0), (sum(finite), width))
    notes = (f"{lost} of {len(rows)} noise rows hold NaN or infinity and were dropped",) if lost else ()
    given = Input(shape, group[finite], shape, reference, 1, 1, lost, whole.zeros / max(whole.n, 1), notes)
    if (refusal := refuse("pooled", given, GROUPS)) is not None:
        return refusal
    core = _core_of(parts, whole.n - whole.zeros)
    if core.failure is not None:
        return nothing("pooled", given, core.failure, f"the pooled values could not be fitted: {core.failure}")
    reason = "counts of rows hold no sums of them"
    return result(
        "pooled",
        given,
        core,
        core.null_inverse,
        width,
        tuple(SumResult(m, None, float("nan"), 0, reason) for m in SUMS),
        "maximum likelihood on all values in cells of 0.8 %; delete-a-group jackknife over rows",
        "σ̂ of all values; interval by jackknife over rows",
        width=whole.n,
        warnings=("values are pooled over coordinates and draws: a spread of scales over either reads as tail",),
    )


def _core(matrix: Matrix, group: Ints, effective: float) -> Core:
    # In units of the largest value nothing leaves the range of the sketch's cells but what is 1e-38 of it. A power of
    # two keeps bfloat16 numbers what they are.
    unit = math.ldexp(1.0, math.frexp(float(np.abs(matrix).max()))[1] - 1)
    parts = [sketch.update(sketch.zero(), matrix[group == g] / unit) for g in range(GROUPS)]
    return _core_of(parts, len(matrix) * effective, unit)


def _core_of(parts: Sequence[sketch.Sketch], independent: float, unit: float = 1.0) -> Core:
    """What the values counted in ``parts``, one a jackknife group, say together; they are in units of ``unit`` and
    worth ``independent`` independent ones."""
    whole = functools.reduce(sketch.merge, parts)
    row = _fitted(whole, MIN_VALUES, None)
    status = _engine.STATUS[int(row[_fit.CODE])]
    if status not in (Status.OK, Status.AT_BOUNDARY):
        nothing, none = np.full(GROUPS, np.nan), np.empty(0)
        return Core(np.nan, nothing, np.nan, nothing, np.nan, np.nan, np.nan, none, none, failure=status)
    start = np.array([[row[_fit.ALPHA], row[_fit.LOG_SCALE], 0.0]])
    replicates, log_scales = np.full(GROUPS, 1.0 / row[_fit.ALPHA]), np.full(GROUPS, row[_fit.LOG_SCALE])
    for g, part in enumerate(parts):
        if part.n:
            again = _fitted(sketch.Sketch(whole.counts - part.counts, whole.inexact - part.inexact), 2, start)
            if int(again[_fit.CODE]) in _engine.FITTED:
                replicates[g], log_scales[g] = 1.0 / again[_fit.ALPHA], again[_fit.LOG_SCALE]
    n = row[_fit.N_USED]
    ratio = np.array([max(2.0 * (row[_fit.LOGLIK] - row[_fit.GAUSS_LOGLIK]), 0.0)])
    return Core(
        inverse=1.0 / float(row[_fit.ALPHA]),
        replicates=replicates,
        scale=unit * float(np.exp(row[_fit.LOG_SCALE])),
        scale_replicates=unit * np.exp(log_scales),
        null_inverse=float(_null.inverse_alpha(n)),
        floor=float(_null.inverse_alpha_sd(independent)),
        lowest=float(row[_fit.ALPHA] <= ALPHA_MIN),
        n=np.array([float(n)]),
        p=_null.p_value(ratio, n),
    )


def _fitted(counts: sketch.Sketch, least: int, start: Floats | None) -> Floats:
    values, weights = sketch.values(counts)
    return np.asarray(_engine.fit_rows(values[None, :], weights, least=least, warm=start)[0])
