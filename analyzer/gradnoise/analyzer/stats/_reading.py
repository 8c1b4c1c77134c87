"""The work common to all forms: fits with their jackknife replicates, sums, and checks of the matrix."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gradnoise.analyzer.stats import _engine, _fit, _null
from gradnoise.analyzer.stats._estimate import Status, as_real
from gradnoise.analyzer.stats._jackknife import GROUPS, correction_error, groups
from gradnoise.analyzer.stats._table import ALPHA_MIN
from gradnoise.analyzer.stats.contrasts import Contrast

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
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
    n: Floats
    """Number of values of each unit that was fitted, and its p-value."""
    p: Floats
    ratio: Floats = dataclasses.field(default_factory=lambda: np.empty(0))
    """Likelihood ratio of each."""
    units: Floats = dataclasses.field(default_factory=lambda: np.empty(0))
    """1/α̂ of each."""
    fits: Floats = dataclasses.field(default_factory=lambda: np.empty((0, 3)))
    """(α̂, ln σ̂, 0) of each: starts for further fits."""
    fitted: Mask = dataclasses.field(default_factory=lambda: np.empty(0, dtype=bool))
    """Which units were fitted."""
    unit_replicates: Floats = dataclasses.field(default_factory=lambda: np.empty((0, 0)))
    """(groups × units) replicates of 1/α̂; empty where units are rows, which belong to one group each."""
    correction: float = 0.0
    """Standard error of the bias correction of 1/α, of as many independent units."""
    failure: Status | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """A noise matrix as the forms take it."""

    matrix: Matrix
    """Finite rows."""
    group: Ints
    """Jackknife group of each row, by its position before rows were dropped."""
    original: Matrix
    reference: str
    draws_per_row: int
    stride: int
    non_finite: int
    zeros: float
    warnings: tuple[str, ...]


def prepare(noise: Contrast | ArrayLike) -> Input:
    """Rows with NaN or infinity dropped and counted. Raises ``InvalidInput`` for what is no real matrix."""
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


def _core(
    rows: Floats,
    fitted: Mask,
    replicates: Floats,
    scale_replicates: Floats,
    unit_replicates: Floats,
) -> Core:
    """What the fitted units say; ``rows`` are theirs."""
    alpha, log_scale, n = rows[:, _fit.ALPHA], rows[:, _fit.LOG_SCALE], rows[:, _fit.N_USED]
    inverse = 1.0 / alpha
    ratio = 2.0 * (rows[:, _fit.LOGLIK] - rows[:, _fit.GAUSS_LOGLIK])
    return Core(
        inverse=float(inverse.mean()),
        replicates=replicates,
        scale=float(np.median(np.exp(log_scale))),
        scale_replicates=scale_replicates,
        null_inverse=float(_null.inverse_alpha(n).mean()),
        floor=float(np.sqrt(np.sum(_null.inverse_alpha_sd(n) ** 2))) / len(n),
        lowest=float(np.mean(inverse >= (1 - 1e-6) / ALPHA_MIN)),
        ratio=ratio,
        n=n,
        p=_null.p_value(ratio, n),
        units=inverse,
        fits=np.column_stack([alpha, log_scale, np.zeros(len(alpha))]),
        fitted=fitted,
        unit_replicates=unit_replicates,
        correction=correction_error(inverse, unit_replicates) if unit_replicates.size else 0.0,
    )


def _no_core(rows: Floats) -> Core:
    nothing, none = np.full(GROUPS, np.nan), np.empty(0)
    return Core(np.nan, nothing, np.nan, nothing, np.nan, np.nan, np.nan, none, none, failure=_failed(rows))


def _fitted(rows: Floats) -> Mask:
    return np.isin(rows[:, _fit.CODE].astype(int), _engine.FITTED)


def column_core(matrix: Matrix, group: Ints, least: int) -> Core:
    """Every column fitted, and refitted without each tenth of the rows from a warm start."""
    columns = np.ascontiguousarray(matrix.T)
    rows = _engine.fit_rows(columns, least=least)
    fitted = _fitted(rows)
    if not fitted.any():
        return _no_core(rows)
    columns, rows = (columns[fitted], rows[fitted]) if not fitted.all() else (columns, rows)
    inverse, sigma = 1.0 / rows[:, _fit.ALPHA], np.exp(rows[:, _fit.LOG_SCALE])
    warm = np.column_stack([rows[:, _fit.ALPHA], rows[:, _fit.LOG_SCALE], np.zeros(len(rows))])
    replicates = np.tile(inverse, (GROUPS, 1))
    scale_replicates = np.full(GROUPS, np.median(sigma))
    for g in range(GROUPS):
        keep = group != g
        if keep.all():
            continue
        again = _engine.fit_rows(columns[:, keep], least=2, warm=warm)
        ok = _fitted(again)
        replicates[g] = np.where(ok, 1.0 / again[:, _fit.ALPHA], inverse)
        scale_replicates[g] = np.median(np.where(ok, np.exp(again[:, _fit.LOG_SCALE]), sigma))
    return _core(rows, fitted, replicates.mean(axis=1), scale_replicates, replicates)


def row_core(matrix: Matrix, group: Ints, least: int) -> Core:
    """Every row fitted; a replicate is the mean over the rows outside one group, no refits needed."""
    rows = _engine.fit_rows(matrix, least=least)
    fitted = _fitted(rows)
    if fitted.sum() < 2:
        return _no_core(rows)
    rows, group = rows[fitted], group[fitted]
    sigma = np.exp(rows[:, _fit.LOG_SCALE])
    replicates = means_without(1.0 / rows[:, _fit.ALPHA], group)
    scale_replicates = np.full(GROUPS, np.median(sigma))
    for g in range(GROUPS):
        keep = group != g
        if keep.any():
            scale_replicates[g] = np.median(sigma[keep])
    return _core(rows, fitted, replicates, scale_replicates, np.empty((0, 0)))


def means_without(values: Floats, group: Ints) -> Floats:
    """Mean of ``values`` outside each group; of all of them where nothing is outside."""
    means = np.full(GROUPS, values.mean())
    for g in range(GROUPS):
        keep = group != g
        if keep.any():
            means[g] = values[keep].mean()
    return means


def refit(matrix: Matrix, core: Core) -> Floats:
    """1/α̂ of the fitted rows of ``core``, refitted to their values in ``matrix`` from a warm start; the old value of
    those that cannot be fitted."""
    again = _engine.fit_rows(matrix[core.fitted], least=2, warm=core.fits)
    return np.where(_fitted(again), 1.0 / again[:, _fit.ALPHA], core.units)


def block_sums(given: Input, source: Matrix, m: int) -> tuple[Matrix, Ints]:
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
