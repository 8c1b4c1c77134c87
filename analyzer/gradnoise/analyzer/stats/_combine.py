"""Several parameter groups of one window as one reading."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradnoise.analyzer.stats._estimate import InvalidInput
from gradnoise.analyzer.stats._form_result import (
    FormResult,
    SumResult,
    Trend,
    lowest_note,
    status_of,
    zeros_note,
)
from gradnoise.analyzer.stats._jackknife import alpha_estimate, plain_interval, scale_estimate
from gradnoise.analyzer.stats._rules import SUMS, SUMS_SPEAK, rejects_gaussian, sums_say, trend, verdict

Floats = np.ndarray[Any, np.dtype[np.float64]]

_MOST_WEIGHT = 0.95
_MOST_PARTIAL = 0.5


def combine(results: Sequence[FormResult], weights: Sequence[float]) -> FormResult:
    """Results of one form for several parameter groups of one window, as one with a joint interval.

    1/α, null, shares and the replicates of 1/α are averaged with ``weights`` (group sizes, say); because the
    replicates of all groups leave out the same draws, their average carries the correlation between groups. The
    scale is the weighted geometric mean. A summary over columns is of one group only. Groups without a value are
    left out and named by position in a warning; without any the result has their most common status. Raises
    ``InvalidInput`` for no results, mixed forms, or bad weights.
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
            results[statuses.index(status)],
            zeros=zeros,
            non_finite=lost,
            columns=columns,
            columns_used=0,
            status=status,
            reason=f"none of {len(results)} groups has a value; most are {status}",
        )
    w = weight[good] / weight[good].sum()
    chosen = [results[i] for i in good]
    replicates = sum(a * r.replicates for a, r in zip(w, chosen, strict=True))
    log_scales = np.array([np.log(np.maximum(r.scale_replicates, 1e-300)) for r in chosen])
    scale_replicates = np.exp(w @ log_scales)
    inverse = float(sum(a / r.alpha.value for a, r in zip(w, chosen, strict=True)))
    n = min(r.rows_used for r in chosen)
    floor = float(sum(a * r.floor for a, r in zip(w, chosen, strict=True)))  # as if all groups moved together
    lowest = float(sum(a * r.lowest for a, r in zip(w, chosen, strict=True)))
    partial = float(sum(a for a, r in zip(w, chosen, strict=True) if r.partial)) > _MOST_PARTIAL
    method = "weighted mean of 1/α over groups; jackknife over draws, joint"
    correction = math.hypot(*(a * r.correction for a, r in zip(w, chosen, strict=True)))
    null_alpha = 1.0 / float(sum(a / r.null_alpha for a, r in zip(w, chosen, strict=True)))
    alpha = alpha_estimate(inverse, replicates, floor, n, method, correction=correction, null_alpha=null_alpha)
    share = float(sum(a * r.rejected_share for a, r in zip(w, chosen, strict=True)))
    form = chosen[0].form
    warnings = lowest_note(form, lowest) + zeros_note(zeros)
    if len(good) < len(results):
        missing = [f"{i} ({r.status})" for i, r in enumerate(results) if i not in good]
        warnings += (f"groups without a value left out: {', '.join(missing)}",)
    low, high = plain_interval(inverse, replicates, floor)
    sums = tuple(_combine_sums(chosen, w, i, inverse, replicates, floor, lowest) for i in range(len(SUMS)))
    scale = float(np.exp(sum(a * np.log(max(r.scale.value, 1e-300)) for a, r in zip(w, chosen, strict=True))))
    return FormResult(
        form=form,
        reference=references[0] if len(references) == 1 else "mixed",
        alpha=alpha,
        replicates=replicates,
        floor=floor,
        correction=correction,
        lowest=lowest,
        partial=partial,
        scale=scale_estimate(scale, scale_replicates, n, "weighted geometric mean over groups; jackknife over draws"),
        scale_replicates=scale_replicates,
        sums=sums,
        null_alpha=null_alpha,
        gaussian_rejected=rejects_gaussian(high, null_alpha, share),
        rejected_share=share,
        tested=sum(r.tested for r in chosen),
        zeros=zeros,
        non_finite=lost,
        columns=columns,
        columns_used=sum(r.columns_used for r in chosen),
        rows_used=n,
        verdict=verdict(
            low,
            high,
            null_alpha,
            share,
            sums_say(sums),
            stable_rejected=_stable_rejected(chosen, w),
            partial=partial,
        ),
        status=status_of(alpha, lowest),
        warnings=warnings,
    )


def _stable_rejected(results: Sequence[FormResult], weights: Floats) -> float:
    """Weighted share of the columns that reject SαS; NaN where no group was tested."""
    shares = np.array([np.nan if r.over_columns is None else r.over_columns.stable_rejected_share for r in results])
    tested = np.isfinite(shares)
    return float(np.average(shares[tested], weights=weights[tested])) if tested.any() else float("nan")


def _combine_sums(
    results: Sequence[FormResult],
    weights: Floats,
    index: int,
    inverse: float,
    replicates: Floats,
    floor: float,
    lowest: float,
) -> SumResult:
    """One reading of sums, where the groups that have one carry nearly all of the weight that α rests on."""
    parts = [(a, r.sums[index]) for a, r in zip(weights, results, strict=True)]
    present = [(a, s, s.alpha) for a, s in parts if s.alpha is not None]
    m = parts[0][1].m
    total = float(sum(a for a, _, _ in present))
    if total < _MOST_WEIGHT:
        reason = parts[0][1].reason if not present else f"only groups with {total:.0%} of the weight have sums of {m}"
        return SumResult(m, None, float("nan"), 0, reason)
    sums = float(sum(a / e.value for a, _, e in present)) / total
    of_sums = np.asarray(sum(a * s.replicates for a, s, _ in present) / total)
    sums_floor = float(sum(a * s.floor for a, s, _ in present) / total)
    correction = math.hypot(*(a * s.correction / total for a, s, _ in present))
    sums_lowest = float(sum(a * s.lowest for a, s, _ in present) / total)
    count = min(s.sums for _, s, _ in present)
    null_alpha = float(total / sum(a / s.null_alpha for a, s, _ in present))
    may_climb = sum(a for a, s, _ in present if s.may_climb) > _MOST_PARTIAL * total
    method = f"weighted mean of 1/α of sums of {m} draws"
    return SumResult(
        m,
        alpha_estimate(sums, of_sums, sums_floor, count, method, correction=correction, null_alpha=null_alpha),
        null_alpha,
        count,
        "",
        of_sums,
        sums_floor,
        correction,
        sums_lowest,
        trend(
            inverse,
            replicates,
            sums,
            of_sums,
            null_alpha,
            floor=math.hypot(floor, sums_floor),
            lowest=lowest,
            sums_lowest=sums_lowest,
            may_climb=may_climb,
        )
        if results[0].form in SUMS_SPEAK
        else Trend.UNCLEAR,
        may_climb,
    )
