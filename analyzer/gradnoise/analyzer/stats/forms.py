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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, _null
from gradnoise.analyzer.stats._estimate import MIN_VALUES, Estimate, InvalidInput, Status, Verdict, as_real
from gradnoise.analyzer.stats._jackknife import GROUPS, alpha_estimate, groups, scale_estimate
from gradnoise.analyzer.stats._multiple import rejected_share
from gradnoise.analyzer.stats._standard import leave_one_out
from gradnoise.analyzer.stats.contrasts import Contrast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = [
    "FormResult",
    "SumResult",
    "across_parameter",
    "combine",
    "per_parameter",
    "standardized",
    "verdict",
]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Matrix = np.ndarray[Any, np.dtype[Any]]

MIN_ROWS_PER_PARAMETER = MIN_VALUES
"""Fewest noise rows for the per-parameter form."""
MIN_ROWS = GROUPS
"""Fewest noise rows for the row forms: one for each jackknife group."""
MIN_COORDINATES = MIN_VALUES
"""Fewest coordinates for the row forms."""
MIN_SUMS = 16
"""Fewest sums a sum's α is given for."""
SUMS = (4, 16)
"""Draws in a sum."""
FALSE_DISCOVERY_RATE = 0.05
REJECTED_SHARE = 0.05
GAUSSIAN_MARGIN = 0.1
_ZERO_SUM = 1e-4
_MIN_EFFECTIVE = 3.0
_FEW_EFFECTIVE = 30.0


@dataclass(frozen=True, slots=True)
class SumResult:
    """α of sums of ``m`` draws: flat in m for a stable law, climbing to 2 for any law of finite variance."""

    m: int
    alpha: Estimate | None
    """``None`` with a ``reason`` where there are too few sums."""
    null_alpha: float
    """What Gaussian noise reads here; NaN without an estimate."""
    sums: int
    """Number of disjoint sums."""
    reason: str = ""
    replicates: Floats = dataclasses.field(default_factory=lambda: np.empty(0))
    """Jackknife replicates of 1/α."""


@dataclass(frozen=True, slots=True)
class FormResult:
    """One noise matrix read in one form. Without a value α is NaN, and ``status`` and ``reason`` say why."""

    form: str
    """``per_parameter``, ``across_parameter`` or ``standardized``."""
    reference: str
    """What the noise was measured against: ``pair``, ``mean``, ``difference`` or ``given``."""
    alpha: Estimate
    """1 / mean(1/α̂) over columns (rows); interval by delete-a-group jackknife over draws."""
    replicates: Floats
    """The jackknife replicates of 1/α, one a tenth of the draws, aligned across the groups of one window."""
    scale: Estimate
    """Median over columns (rows) of σ̂ of the noise rows, in their units (``Contrast.scale_factor`` leads to
    one draw's);
    ``standardized``: in units of a column's median |u|."""
    scale_replicates: Floats
    sums: tuple[SumResult, ...]
    """α of sums of 4 and of 16 draws."""
    null_alpha: float
    """What Gaussian noise of this shape reads in this form."""
    rejected_share: float
    """Share of ``tested`` that rejects the Gaussian law at a false-discovery rate of 5 % (Benjamini–Hochberg)."""
    tested: int
    """Columns (rows) fitted and tested."""
    zeros: float
    """Share of exact zeros in the matrix."""
    non_finite: int
    """Draws (or rows) dropped for NaN or infinity."""
    columns: int
    columns_used: int
    rows_used: int
    verdict: Verdict
    status: Status
    reason: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Core:
    """Numbers common to all forms: 1/α, σ, their replicates, and the tests."""

    inverse: float
    replicates: Floats
    scale: float
    scale_replicates: Floats
    null_inverse: float
    p: Floats
    failure: Status | None


@dataclass(frozen=True, slots=True)
class _Input:
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


def _prepare(noise: Contrast | ArrayLike) -> _Input:
    if isinstance(noise, Contrast):
        matrix, reference, warnings = noise.noise, noise.reference, noise.warnings
        draws_per_row, stride, lost = noise.draws_per_row, noise.row_stride, noise.non_finite
    else:
        matrix, reference, warnings = as_real(noise, "noise", 2), "given", ()
        draws_per_row, stride, lost = 1, 1, 0
    keep = np.isfinite(matrix).all(axis=1)
    dropped = int(len(keep) - keep.sum())
    if dropped:
        warnings += (f"{dropped} of {len(keep)} noise rows hold NaN or infinity and were dropped",)
    clean = matrix if dropped == 0 else matrix[keep]
    zeros = float(np.mean(clean == 0)) if clean.size else 0.0
    return _Input(
        clean, groups(len(keep))[keep], matrix, reference, draws_per_row, stride, lost + dropped, zeros, warnings
    )


def verdict(alpha: Estimate, null_alpha: float, rejected: float) -> Verdict:
    """The verdict rule of the module's docstring."""
    if not np.isfinite(alpha.value) or not np.isfinite(null_alpha):
        return Verdict.UNDECIDED
    if alpha.high < null_alpha and rejected > REJECTED_SHARE:
        return Verdict.NOT_GAUSSIAN
    if alpha.low >= null_alpha - GAUSSIAN_MARGIN and rejected <= REJECTED_SHARE:
        return Verdict.GAUSSIAN
    return Verdict.UNDECIDED


def _nothing(form: str, given: _Input, status: Status, reason: str) -> FormResult:
    nan = float("nan")
    empty = Estimate(nan, nan, nan, nan, 0, "none", "")
    return FormResult(
        form=form, reference=given.reference, alpha=empty, replicates=np.full(GROUPS, nan), scale=empty,
        scale_replicates=np.full(GROUPS, nan), sums=tuple(SumResult(m, None, nan, 0, reason) for m in SUMS), null_alpha=nan,
        rejected_share=nan, tested=0, zeros=given.zeros, non_finite=given.non_finite, columns=given.original.shape[1],
        columns_used=0, rows_used=given.matrix.shape[0], verdict=Verdict.UNDECIDED, status=status, reason=reason,
        warnings=given.warnings,
    )  # fmt: skip


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


def _column_core(matrix: Matrix, group: np.ndarray[Any, np.dtype[np.int64]], least: int) -> _Core:
    """Every column fitted, and refitted without each tenth of the rows from a warm start."""
    columns = np.ascontiguousarray(matrix.T)
    rows = _engine.fit_rows(columns, least=least)
    fitted, inverse, sigma, p, null_inverse = _units(rows)
    nothing = np.full(GROUPS, np.nan)
    if not fitted.any():
        return _Core(np.nan, nothing, np.nan, nothing, np.nan, p, _failed(rows))
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
    return _Core(float(inverse.mean()), replicates, float(np.median(sigma)), scale_replicates, null_inverse, p, None)


def _row_core(matrix: Matrix, group: np.ndarray[Any, np.dtype[np.int64]], least: int) -> _Core:
    """Every row fitted; a replicate is the mean over the rows outside one group, no refits needed."""
    rows = _engine.fit_rows(matrix, least=least)
    fitted, inverse, sigma, p, null_inverse = _units(rows)
    nothing = np.full(GROUPS, np.nan)
    if fitted.sum() < 2:
        return _Core(np.nan, nothing, np.nan, nothing, np.nan, p, _failed(rows))
    group = group[fitted]
    replicates, scale_replicates = np.full(GROUPS, inverse.mean()), np.full(GROUPS, np.median(sigma))
    for g in range(GROUPS):
        keep = group != g
        if keep.any():
            replicates[g], scale_replicates[g] = inverse[keep].mean(), np.median(sigma[keep])
    return _Core(float(inverse.mean()), replicates, float(np.median(sigma)), scale_replicates, null_inverse, p, None)


def _block_sums(given: _Input, source: Matrix, m: int) -> tuple[Matrix, np.ndarray[Any, np.dtype[np.int64]]]:
    """Sums over disjoint blocks of ``m`` draws in draw order; blocks with NaN left out. And their jackknife
    groups."""
    rows = source[:: given.stride]
    length = max(m // given.draws_per_row, 1)
    blocks = len(rows) // length
    sums = rows[: blocks * length].reshape(blocks, length, rows.shape[1]).sum(axis=1)
    keep = np.isfinite(sums).all(axis=1)
    return sums[keep], groups(blocks)[keep]


def _sum_results(given: _Input, source: Matrix, form: str) -> tuple[SumResult, ...]:
    results = []
    for m in SUMS:
        sums, group = _block_sums(given, source, m)
        count = len(sums)
        if count < MIN_SUMS:
            results.append(
                SumResult(
                    m, None, float("nan"), count, f"{count} disjoint sums of {m} draws, at least {MIN_SUMS} needed"
                )
            )
            continue
        core = _column_core(sums, group, MIN_SUMS) if form == "per_parameter" else _row_core(sums, group, MIN_VALUES)
        if core.failure is not None:
            results.append(SumResult(m, None, float("nan"), count, f"no sum could be fitted: {core.failure}"))
            continue
        null_inverse = core.null_inverse
        if form == "standardized":
            null_inverse = _null.inverse_alpha_standardised(given.matrix.shape[0], source.shape[1])
        alpha = alpha_estimate(
            core.inverse, core.replicates, count, f"{form} of sums of {m} draws; jackknife over draws"
        )
        results.append(SumResult(m, alpha, 1.0 / null_inverse, count, "", core.replicates))
    return tuple(results)


def _result(form: str, given: _Input, core: _Core, null_inverse: float, columns_used: int, sums: tuple[SumResult, ...],
            method: str, warnings: tuple[str, ...] = ()) -> FormResult:  # fmt: skip
    n = given.matrix.shape[0]
    alpha = alpha_estimate(core.inverse, core.replicates, n, method)
    null_alpha = 1.0 / null_inverse
    share = rejected_share(core.p, FALSE_DISCOVERY_RATE)
    if given.zeros > 0:
        warnings += (f"{given.zeros:.3g} of the values are exactly 0; the laws are fitted to the others",)
    return FormResult(
        form=form, reference=given.reference, alpha=alpha, replicates=core.replicates,
        scale=scale_estimate(core.scale, core.scale_replicates, n, "median; interval by jackknife over draws"),
        scale_replicates=core.scale_replicates, sums=sums, null_alpha=null_alpha, rejected_share=share, tested=len(core.p),
        zeros=given.zeros, non_finite=given.non_finite, columns=given.original.shape[1], columns_used=columns_used,
        rows_used=n, verdict=verdict(alpha, null_alpha, share),
        status=Status.AT_BOUNDARY if alpha.value >= 2.0 - 1e-9 else Status.OK, warnings=given.warnings + warnings,
    )  # fmt: skip


def per_parameter(noise: Contrast | ArrayLike) -> FormResult:
    """SαS index of each coordinate over the draws, averaged over the coordinates (Xie et al. 2022, "iteration-wise").

    ``noise``: a ``Contrast``, or rows × columns of noise already formed. Mixes nothing up, but needs draws:
    fewer than 30 noise rows give status ``too_few_draws``. Columns with fewer than 30 non-zero values are left
    out.
    """
    given = _prepare(noise)
    if (refusal := _refuse("per_parameter", given, MIN_ROWS_PER_PARAMETER)) is not None:
        return refusal
    core = _column_core(given.matrix, given.group, MIN_VALUES)
    if core.failure is not None:
        return _nothing("per_parameter", given, core.failure, f"no column could be fitted; most are {core.failure}")
    return _result(
        "per_parameter", given, core, core.null_inverse, len(core.p), _sum_results(given, given.original, "per_parameter"),
        "1 / mean over columns of 1/α̂ (maximum likelihood); delete-a-group jackknife over draws",
    )  # fmt: skip


def across_parameter(noise: Contrast | ArrayLike) -> FormResult:
    """SαS index over the coordinates of each draw, averaged over the draws (Simsekli et al. 2019, "dimension-wise").

    A spread of scales over coordinates reads as a heavy tail here, whatever the law of each of them. Needs 10
    rows and 30 coordinates. Coordinates bound by a linear relation (rows that sum to 0, as a softmax layer's
    bias has; all moving together) give ``degenerate``.
    """
    given = _prepare(noise)
    refusal = _refuse("across_parameter", given, MIN_ROWS) or _refuse_coordinates("across_parameter", given)
    if refusal is not None:
        return refusal
    core = _row_core(given.matrix, given.group, MIN_VALUES)
    if core.failure is not None:
        return _nothing(
            "across_parameter", given, core.failure, f"fewer than two rows could be fitted; most are {core.failure}"
        )
    return _result(
        "across_parameter", given, core, core.null_inverse, given.matrix.shape[1],
        _sum_results(given, given.original, "across_parameter"),
        "1 / mean over rows of 1/α̂ (maximum likelihood); delete-a-group jackknife over draws",
        _dependence(given),
    )  # fmt: skip


def standardized(noise: Contrast | ArrayLike) -> FormResult:
    """As ``across_parameter``, each value divided by the median |u| of its column over the *other* rows.

    That removes the spread of scales and leaves the tail. Gaussian columns divided so are not Gaussian but
    heavier-tailed, the more so the fewer the rows: ``null_alpha`` is simulated at the same number of rows and
    coordinates, and so is the meaning of the verdict; the share of rejecting rows is measured against the
    Gaussian itself. Columns whose scale is 0 are left out. The jackknife deletes rows and does not standardise
    the others anew.
    """
    given = _prepare(noise)
    refusal = _refuse("standardized", given, MIN_ROWS) or _refuse_coordinates("standardized", given)
    if refusal is not None:
        return refusal
    z = leave_one_out(given.matrix)
    used = np.isfinite(z).all(axis=0)
    if used.sum() < MIN_COORDINATES:
        return _nothing(
            "standardized", given, Status.TOO_FEW_VALUES,
            f"{int(used.sum())} of {len(used)} columns have a scale above 0, at least {MIN_COORDINATES} needed",
        )  # fmt: skip
    z = z[:, used]
    core = _row_core(z, given.group, MIN_VALUES)
    if core.failure is not None:
        return _nothing(
            "standardized", given, core.failure, f"fewer than two rows could be fitted; most are {core.failure}"
        )
    # Sums are of standardised rows, in their places among the rows that were dropped.
    placed = z
    if len(given.original) != len(given.matrix):
        placed = np.full((len(given.original), z.shape[1]), np.nan)
        placed[np.isfinite(given.original).all(axis=1)] = z
    warnings = _dependence(given)
    if not used.all():
        warnings += (f"{int((~used).sum())} of {len(used)} columns have scale 0 and were left out",)
    return _result(
        "standardized", given, core, _null.inverse_alpha_standardised(*z.shape), int(used.sum()),
        _sum_results(given, placed, "standardized"),
        "1 / mean over rows of 1/α̂ of values over their column's median |u|; delete-a-group jackknife over draws",
        warnings,
    )  # fmt: skip


def _refuse(form: str, given: _Input, least: int) -> FormResult | None:
    rows = given.matrix.shape[0]
    if given.original.shape[1] == 0:
        return _nothing(form, given, Status.TOO_FEW_VALUES, "the matrix has no columns")
    if rows < least:
        status = Status.NON_FINITE if len(given.original) >= least else Status.TOO_FEW_DRAWS
        return _nothing(form, given, status, f"{rows} finite noise rows, at least {least} needed")
    if given.zeros == 1.0:
        return _nothing(form, given, Status.ALL_ZERO, "every value is exactly 0")
    return None


def _refuse_coordinates(form: str, given: _Input) -> FormResult | None:
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
    effective = _effective_coordinates(given)
    if effective < _MIN_EFFECTIVE:
        return _nothing(
            form,
            given,
            Status.DEGENERATE,
            f"the coordinates move together: they are worth {effective:.1f} independent ones",
        )
    return None


def _effective_coordinates(given: _Input) -> float:
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


def _dependence(given: _Input) -> tuple[str, ...]:
    effective = _effective_coordinates(given)
    if effective >= _FEW_EFFECTIVE:
        return ()
    return (
        f"the {given.matrix.shape[1]} coordinates are dependent: by their signs they are worth {effective:.0f} independent ones",
    )


def combine(results: Sequence[FormResult], weights: Sequence[float]) -> FormResult:
    """Results of one form for several parameter groups of one window, as one with a joint interval.

    1/α, null, shares and the replicates of 1/α are averaged with ``weights`` (group sizes, say); because the
    replicates of all groups leave out the same draws, their average carries the correlation between groups. The
    scale is the weighted geometric mean. Groups without a value are left out and named by position in a
    warning; without any the result has their most common status. Raises ``InvalidInput`` for no results, mixed
    forms, or bad weights.
    """
    weight = np.asarray(weights, dtype=np.float64)
    if len(results) == 0 or weight.shape != (len(results),):
        raise InvalidInput(
            f"combine: expected one weight a result and at least one, got {len(results)} and {weight.shape}"
        )
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.sum() > 0):
        raise InvalidInput(f"combine: expected finite weights, none negative, some above 0, got {list(weights)}")
    if len({r.form for r in results}) > 1:
        raise InvalidInput(f"combine: expected results of one form, got {sorted({r.form for r in results})}")
    good = [i for i, r in enumerate(results) if np.isfinite(r.alpha.value) and weight[i] > 0]
    zeros = float(np.average([r.zeros for r in results], weights=weight))
    lost = max(r.non_finite for r in results)
    columns = sum(r.columns for r in results)
    references = sorted({r.reference for r in results})
    if not good:
        statuses = [r.status for r in results]
        status = max(set(statuses), key=statuses.count)
        return dataclasses.replace(
            results[statuses.index(status)], zeros=zeros, non_finite=lost, columns=columns, columns_used=0, status=status,
            reason=f"none of {len(results)} groups has a value; most are {status}",
        )  # fmt: skip
    w = weight[good] / weight[good].sum()
    chosen = [results[i] for i in good]
    replicates = sum(a * r.replicates for a, r in zip(w, chosen, strict=True))
    log_scales = np.array([np.log(np.maximum(r.scale_replicates, 1e-300)) for r in chosen])
    scale_replicates = np.exp(w @ log_scales)
    inverse = float(sum(a / r.alpha.value for a, r in zip(w, chosen, strict=True)))
    n = min(r.rows_used for r in chosen)
    alpha = alpha_estimate(inverse, replicates, n, "weighted mean of 1/α over groups; jackknife over draws, joint")
    null_alpha = 1.0 / float(sum(a / r.null_alpha for a, r in zip(w, chosen, strict=True)))
    share = float(sum(a * r.rejected_share for a, r in zip(w, chosen, strict=True)))
    warnings: tuple[str, ...] = ()
    if len(good) < len(results):
        missing = [f"{i} ({r.status})" for i, r in enumerate(results) if i not in good]
        warnings = (f"groups without a value left out: {', '.join(missing)}",)
    scale = float(np.exp(sum(a * np.log(max(r.scale.value, 1e-300)) for a, r in zip(w, chosen, strict=True))))
    return FormResult(
        form=chosen[0].form, reference=references[0] if len(references) == 1 else "mixed", alpha=alpha, replicates=replicates,
        scale=scale_estimate(scale, scale_replicates, n, "weighted geometric mean over groups; jackknife over draws"),
        scale_replicates=scale_replicates, sums=tuple(_combine_sums(chosen, w, i) for i in range(len(SUMS))),
        null_alpha=null_alpha, rejected_share=share, tested=sum(r.tested for r in chosen), zeros=zeros, non_finite=lost,
        columns=columns, columns_used=sum(r.columns_used for r in chosen), rows_used=n,
        verdict=verdict(alpha, null_alpha, share), status=Status.AT_BOUNDARY if alpha.value >= 2.0 - 1e-9 else Status.OK,
        warnings=warnings,
    )  # fmt: skip


def _combine_sums(results: Sequence[FormResult], weights: Floats, index: int) -> SumResult:
    parts = [(a, r.sums[index]) for a, r in zip(weights, results, strict=True)]
    present = [(a, s, s.alpha) for a, s in parts if s.alpha is not None]
    if not present:
        return dataclasses.replace(parts[0][1])
    total = sum(a for a, _, _ in present)
    inverse = sum(a / e.value for a, _, e in present) / total
    replicates = sum(a * s.replicates for a, s, _ in present) / total
    count = min(s.sums for _, s, _ in present)
    m = present[0][1].m
    return SumResult(
        m, alpha_estimate(float(inverse), np.asarray(replicates), count, f"weighted mean of 1/α of sums of {m} draws"),
        float(total / sum(a / s.null_alpha for a, s, _ in present)), count, "", np.asarray(replicates),
    )  # fmt: skip
