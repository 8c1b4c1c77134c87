"""The work common to all forms: fits with their jackknife replicates, sums, and checks of the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gradnoise.analyzer.stats import _engine, _fit, _null
from gradnoise.analyzer.stats._estimate import Status, as_real
from gradnoise.analyzer.stats._jackknife import GROUPS, groups
from gradnoise.analyzer.stats.contrasts import Contrast

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Matrix = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Core:
    """Numbers common to all forms: 1/α, σ, their replicates, and the tests."""

    inverse: float
    replicates: Floats
    scale: float
    scale_replicates: Floats
    null_inverse: float
    p: Floats
    failure: Status | None


@dataclass(frozen=True, slots=True)
class Input:
    matrix: Matrix
    """Finite rows."""
    group: np.ndarray[Any, np.dtype[np.int64]]
    """Jackknife group of each row, by its position before rows were dropped."""
    original: Matrix
    reference: str
    draws_per_row: int
    stride: int
    non_finite: int
    zeros: float
    warnings: tuple[str, ...]


def prepare(noise: Contrast | ArrayLike) -> Input:
    if isinstance(noise, Contrast):
        matrix, reference, warnings = noise.noise, noise.reference, noise.warnings
        draws_per_row, stride, lost = noise.draws_per_row, noise.row_stride, noise.non_finite
    else:
        matrix, reference, warnings = as_real(noise, "noise", 2), "given", ()
        draws_per_row, stride, lost = 1, 1, 0
    keep = np.atleast_1d(np.isfinite(matrix).all(axis=1))
    dropped = int(len(keep) - keep.sum())
    if dropped:
        warnings += (f"{dropped} of {len(keep)} noise rows hold NaN or infinity and were dropped",)
    clean = matrix if dropped == 0 else matrix[keep]
    zeros = float(np.mean(clean == 0)) if clean.size else 0.0
    return Input(
        clean, groups(len(keep))[keep], matrix, reference, draws_per_row, stride, lost + dropped, zeros, warnings
    )


def _failed(rows: Floats) -> Status:
    codes = rows[:, _fit.CODE].astype(int)
    values, counts = np.unique(codes[~np.isin(codes, _engine.FITTED)], return_counts=True)
    return _engine.STATUS[int(values[counts.argmax()])]


def _units(rows: Floats) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], Floats, Floats, Floats, float]:
    """Which units were fitted, and of those 1/α̂, σ̂, p-values and the null's mean 1/α̂."""
    fitted = np.isin(rows[:, _fit.CODE].astype(int), _engine.FITTED)
    good = rows[fitted]
    ratio = 2.0 * (good[:, _fit.LOGLIK] - good[:, _fit.GAUSS_LOGLIK])
    n = good[:, _fit.N_USED]
    null_inverse = float(_null.inverse_alpha(n).mean()) if len(good) else float("nan")
    return (
        fitted,
        1.0 / good[:, _fit.ALPHA],
        np.exp(good[:, _fit.LOG_SCALE]),
        _null.p_value(ratio, n),
        null_inverse,
    )


def column_core(matrix: Matrix, group: np.ndarray[Any, np.dtype[np.int64]], least: int) -> Core:
    """Every column fitted, and refitted without each tenth of the rows from a warm start."""
    columns = np.ascontiguousarray(matrix.T)
    rows = _engine.fit_rows(columns, least=least)
    fitted, inverse, sigma, p, null_inverse = _units(rows)
    nothing = np.full(GROUPS, np.nan)
    if not fitted.any():
        return Core(np.nan, nothing, np.nan, nothing, np.nan, p, _failed(rows))
    columns = columns[fitted] if not fitted.all() else columns
    warm = np.column_stack([1.0 / inverse, np.log(sigma), np.zeros(len(sigma))])
    replicates, scale_replicates = np.full(GROUPS, inverse.mean()), np.full(GROUPS, np.median(sigma))
    for g in range(GROUPS):
        keep = group != g
        if keep.all():
            continue
        again = _engine.fit_rows(columns[:, keep], least=2, warm=warm)
        ok = np.isin(again[:, _fit.CODE].astype(int), _engine.FITTED)
        replicates[g] = np.where(ok, 1.0 / again[:, _fit.ALPHA], inverse).mean()
        scale_replicates[g] = np.median(np.where(ok, np.exp(again[:, _fit.LOG_SCALE]), sigma))
    return Core(float(inverse.mean()), replicates, float(np.median(sigma)), scale_replicates, null_inverse, p, None)


def row_core(matrix: Matrix, group: np.ndarray[Any, np.dtype[np.int64]], least: int) -> Core:
    """Every row fitted; a replicate is the mean over the rows outside one group, no refits needed."""
    rows = _engine.fit_rows(matrix, least=least)
    fitted, inverse, sigma, p, null_inverse = _units(rows)
    nothing = np.full(GROUPS, np.nan)
    if fitted.sum() < 2:
        return Core(np.nan, nothing, np.nan, nothing, np.nan, p, _failed(rows))
    group = group[fitted]
    replicates, scale_replicates = np.full(GROUPS, inverse.mean()), np.full(GROUPS, np.median(sigma))
    for g in range(GROUPS):
        keep = group != g
        if keep.any():
            replicates[g], scale_replicates[g] = inverse[keep].mean(), np.median(sigma[keep])
    return Core(float(inverse.mean()), replicates, float(np.median(sigma)), scale_replicates, null_inverse, p, None)


def block_sums(given: Input, source: Matrix, m: int) -> tuple[Matrix, np.ndarray[Any, np.dtype[np.int64]]]:
    """Sums over disjoint blocks of ``m`` draws in draw order; blocks with NaN left out. And their jackknife
    groups."""
    rows = source[:: given.stride]
    length = max(m // given.draws_per_row, 1)
    blocks = len(rows) // length
    sums = rows[: blocks * length].reshape(blocks, length, rows.shape[1]).sum(axis=1)
    keep = np.isfinite(sums).all(axis=1)
    return sums[keep], groups(blocks)[keep]


def effective_coordinates(given: Input) -> float:
    """1 / mean squared cosine between the sign patterns of different rows: J for independent coordinates, 1 for
    rank one."""
    signs = np.sign(given.matrix[:256]).astype(np.float32)
    norms = np.sqrt((signs * signs).sum(axis=1))
    signs = signs[norms > 0] / norms[norms > 0, None]
    k = len(signs)
    if k < 2:
        return 1.0
    gram = signs @ signs.T
    square = float((np.square(gram, dtype=np.float64).sum() - k) / (k * (k - 1)))
    return 1.0 / max(square, 1e-12)
