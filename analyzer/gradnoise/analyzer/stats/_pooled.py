"""All values of a noise matrix as one sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, _null
from gradnoise.analyzer.stats._assemble import MIN_ROWS, MIN_SUMS, nothing, refuse, result
from gradnoise.analyzer.stats._estimate import MIN_VALUES, Status
from gradnoise.analyzer.stats._form_result import SumResult
from gradnoise.analyzer.stats._jackknife import GROUPS, alpha_estimate
from gradnoise.analyzer.stats._reading import Core, block_sums, effective_coordinates, prepare
from gradnoise.analyzer.stats._rules import SUMS
from gradnoise.analyzer.stats._table import ALPHA_MIN

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._form_result import FormResult
    from gradnoise.analyzer.stats._reading import Ints, Matrix
    from gradnoise.analyzer.stats.contrasts import Contrast

_CELLS = 1 << 15
"""Positive numbers of 8 bits of exponent and 7 of mantissa: neighbours differ by 0.8 %."""


def pooled(noise: Contrast | ArrayLike) -> FormResult:
    """SαS index of all values u_kj as one sample, which is what the code of Simsekli et al. 2019 and Zhou et al. 2020
    feeds its estimator (``estimators.mmo`` is that estimator, and depends on their order besides).

    Scales of coordinates *and* of draws read as tail: rejecting the Gaussian law here says nothing about a coordinate,
    and the test takes values as independent, which a warning says. Needs 10 noise rows and 30 non-zero values. Values
    are grouped in cells of 0.8 %, whose means stand for them: α changes by less than 1e-5. The interval is a
    delete-a-group jackknife over draws.
    """
    given = prepare(noise)
    if (refusal := refuse("pooled", given, MIN_ROWS)) is not None:
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
        method = f"pooled sums of {m} draws; jackknife over draws"
        alpha = alpha_estimate(of_sums.inverse, of_sums.replicates, of_sums.floor, len(rows), method)
        sums.append(SumResult(m, alpha, 1.0 / of_sums.null_inverse, len(rows), "", of_sums.replicates, of_sums.floor))
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
        warnings=("values are pooled over coordinates and draws: a spread of scales over either reads as tail",),
    )


def _core(matrix: Matrix, group: Ints, effective: float) -> Core:
    nodes, counts = _cells(matrix, group)
    total = counts.sum(axis=0)
    # Cells that are empty without a group weigh nothing, so that one set of nodes serves all fits.
    rows = _engine.fit_rows(nodes[None, :], total, least=MIN_VALUES)
    alpha, scale = rows[0, _fit.ALPHA], np.exp(rows[0, _fit.LOG_SCALE])
    replicates, scales = np.full(GROUPS, 1.0 / alpha), np.full(GROUPS, scale)
    status = _engine.STATUS[int(rows[0, _fit.CODE])]
    warm = np.array([[alpha, np.log(scale), 0.0]])
    for g in range(GROUPS):
        rest = total - counts[g]
        if status in (Status.OK, Status.AT_BOUNDARY) and 0 < rest.sum() < total.sum():
            again = _engine.fit_rows(nodes[None, rest > 0], rest[rest > 0], least=2, warm=warm)[0]
            if int(again[_fit.CODE]) in _engine.FITTED:
                replicates[g], scales[g] = 1.0 / again[_fit.ALPHA], np.exp(again[_fit.LOG_SCALE])
    n = float(total.sum())
    ratio = np.maximum(2.0 * (rows[:, _fit.LOGLIK] - rows[:, _fit.GAUSS_LOGLIK]), 0.0)
    return Core(
        inverse=1.0 / float(alpha),
        replicates=replicates,
        scale=float(scale),
        scale_replicates=scales,
        null_inverse=float(_null.inverse_alpha(n)),
        floor=float(_null.inverse_alpha_sd(len(matrix) * effective)),
        lowest=float(alpha <= ALPHA_MIN),
        n=np.array([n]),
        p=_null.p_value(ratio, n),
        failure=None if status in (Status.OK, Status.AT_BOUNDARY) else status,
    )


def _cells(matrix: Matrix, group: Ints) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Mean |u| of each occupied cell, and its counts by jackknife group; zeros are left out."""
    unit = float(np.abs(matrix).max())
    counts, sums = np.zeros((GROUPS, _CELLS)), np.zeros(_CELLS)
    for g in range(GROUPS):
        magnitude = np.abs(matrix[group == g].ravel())
        magnitude = (magnitude[magnitude > 0] / unit).astype(np.float32)
        cell = magnitude.view(np.uint32) >> 16
        counts[g] = np.bincount(cell, minlength=_CELLS)
        sums += np.bincount(cell, magnitude, minlength=_CELLS)
    occupied = (counts.sum(axis=0) > 0) & (sums > 0)
    return sums[occupied] / counts[:, occupied].sum(axis=0) * unit, counts[:, occupied]
