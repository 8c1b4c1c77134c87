"""The work common to all forms: fits with their jackknife replicates, sums, and checks of the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gradnoise.analyzer.stats import _engine, _fit, _null
from gradnoise.analyzer.stats._estimate import Status, as_real
from gradnoise.analyzer.stats._jackknife import GROUPS, groups
from gradnoise.analyzer.stats._table import ALPHA_MIN
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
    floor: float
    """Standard error of 1/α of as many independent Gaussian units."""
    lowest: float
    """Share of the units that read the smallest α that is fitted: theirs may be smaller still."""
    ratio: Floats
    """Likelihood ratio of each unit that was fitted, and its number of values."""
    n: Floats
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


def _units(rows: Floats) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], Floats, Floats, Floats, Floats]:
    """Which units were fitted, and of those 1/α̂, σ̂, likelihood ratios and numbers of values."""
    fitted = np.isin(rows[:, _fit.CODE].astype(int), _engine.FITTED)
    good = rows[fitted]
    ratio = 2.0 * (good[:, _fit.LOGLIK] - good[:, _fit.GAUSS_LOGLIK])
    n = good[:, _fit.N_USED]
    return fitted, 1.0 / good[:, _fit.ALPHA], np.exp(good[:, _fit.LOG_SCALE]), ratio, n


def _core(
    inverse: Floats, replicates: Floats, sigma: Floats, scale_replicates: Floats, ratio: Floats, n: Floats
) -> Core:
    return Core(
        inverse=float(inverse.mean()),
        replicates=replicates,
        scale=float(np.median(sigma)),
        scale_replicates=scale_replicates,
        null_inverse=float(_null.inverse_alpha(n).mean()),
        floor=float(np.sqrt(np.sum(_null.inverse_alpha_sd(n) ** 2))) / len(n),
        lowest=float(np.mean(inverse >= (1 - 1e-6) / ALPHA_MIN)),
        ratio=ratio,
        n=n,
        p=_null.p_value(ratio, n),
        failure=None,
    )


def _no_core(rows: Floats) -> Core:
    nothing = np.full(GROUPS, np.nan)
    return Core(
        np.nan, nothing, np.nan, nothing, np.nan, np.nan, np.nan, np.empty(0), np.empty(0), np.empty(0), _failed(rows)
    )


def column_core(matrix: Matrix, group: np.ndarray[Any, np.dtype[np.int64]], least: int) -> Core:
    """Every column fitted, and refitted without each tenth of the rows from a warm start."""
    columns = np.ascontiguousarray(matrix.T)
    rows = _engine.fit_rows(columns, least=least)
    fitted, inverse, sigma, ratio, n = _units(rows)
    if not fitted.any():
        return _no_core(rows)
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
    return _core(inverse, replicates, sigma, scale_replicates, ratio, n)


def row_core(matrix: Matrix, group: np.ndarray[Any, np.dtype[np.int64]], least: int) -> Core:
    """Every row fitted; a replicate is the mean over the rows outside one group, no refits needed."""
    rows = _engine.fit_rows(matrix, least=least)
    fitted, inverse, sigma, ratio, n = _units(rows)
    if fitted.sum() < 2:
        return _no_core(rows)
    group = group[fitted]
    replicates, scale_replicates = np.full(GROUPS, inverse.mean()), np.full(GROUPS, np.median(sigma))
    for g in range(GROUPS):
        keep = group != g
        if keep.any():
            replicates[g], scale_replicates[g] = inverse[keep].mean(), np.median(sigma[keep])
    return _core(inverse, replicates, sigma, scale_replicates, ratio, n)


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
    """Independent coordinates that J are worth: J if they are independent, 1 if rows differ by a factor only.

    For Gaussian rows of correlation ρ the signs agree with mean cosine c = (2/π) arcsin ρ, so ρ = sin(πc/2), and over
    pairs of independent rows of J' independent coordinates E ρ² = 1/J'. Signs know no scale, so a spread of scales
    does not count as dependence. What finite J alone adds to the mean of ρ² is taken off.
    """
    signs = np.sign(given.matrix[:256]).astype(np.float32)
    norms = np.sqrt((signs * signs).sum(axis=1))
    signs = signs[norms > 0] / norms[norms > 0, None]
    k = len(signs)
    if k < 2:
        return 1.0
    gram = signs @ signs.T
    off = gram[np.triu_indices(k, 1)].astype(np.float64)
    chance = 1.0 / float(np.mean(norms[norms > 0] ** 2))
    excess = float(np.mean(np.sin(np.pi / 2 * np.clip(off, -1, 1)) ** 2)) - (np.pi / 2) ** 2 * chance
    return 1.0 / min(max(excess, 0.0) + chance, 1.0)
