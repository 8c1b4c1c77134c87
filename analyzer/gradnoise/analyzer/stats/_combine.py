"""Several parameter groups of one window as one reading."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradnoise.analyzer.stats._estimate import InvalidInput, Status
from gradnoise.analyzer.stats._form_result import SUMS, FormResult, SumResult, verdict
from gradnoise.analyzer.stats._jackknife import alpha_estimate, scale_estimate

Floats = np.ndarray[Any, np.dtype[np.float64]]


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
    floor = float(np.sqrt(sum((a * r.floor) ** 2 for a, r in zip(w, chosen, strict=True))))
    method = "weighted mean of 1/α over groups; jackknife over draws, joint"
    alpha = alpha_estimate(inverse, replicates, floor, n, method)
    null_alpha = 1.0 / float(sum(a / r.null_alpha for a, r in zip(w, chosen, strict=True)))
    share = float(sum(a * r.rejected_share for a, r in zip(w, chosen, strict=True)))
    warnings: tuple[str, ...] = ()
    if len(good) < len(results):
        missing = [f"{i} ({r.status})" for i, r in enumerate(results) if i not in good]
        warnings = (f"groups without a value left out: {', '.join(missing)}",)
    scale = float(np.exp(sum(a * np.log(max(r.scale.value, 1e-300)) for a, r in zip(w, chosen, strict=True))))
    return FormResult(
        form=chosen[0].form,
        reference=references[0] if len(references) == 1 else "mixed",
        alpha=alpha,
        replicates=replicates,
        floor=floor,
        scale=scale_estimate(scale, scale_replicates, n, "weighted geometric mean over groups; jackknife over draws"),
        scale_replicates=scale_replicates,
        sums=tuple(_combine_sums(chosen, w, i) for i in range(len(SUMS))),
        null_alpha=null_alpha,
        rejected_share=share,
        tested=sum(r.tested for r in chosen),
        zeros=zeros,
        non_finite=lost,
        columns=columns,
        columns_used=sum(r.columns_used for r in chosen),
        rows_used=n,
        verdict=verdict(alpha, null_alpha, share),
        status=Status.AT_BOUNDARY if alpha.value >= 2.0 - 1e-9 else Status.OK,
        warnings=warnings,
    )


def _combine_sums(results: Sequence[FormResult], weights: Floats, index: int) -> SumResult:
    parts = [(a, r.sums[index]) for a, r in zip(weights, results, strict=True)]
    present = [(a, s, s.alpha) for a, s in parts if s.alpha is not None]
    if not present:
        return dataclasses.replace(parts[0][1])
    total = sum(a for a, _, _ in present)
    inverse = sum(a / e.value for a, _, e in present) / total
    replicates = sum(a * s.replicates for a, s, _ in present) / total
    count = min(s.sums for _, s, _ in present)
    floor = float(np.sqrt(sum((a * s.floor) ** 2 for a, s, _ in present)) / total)
    m = present[0][1].m
    return SumResult(
        m,
        alpha_estimate(
            float(inverse), np.asarray(replicates), floor, count, f"weighted mean of 1/α of sums of {m} draws"
        ),
        float(total / sum(a / s.null_alpha for a, s, _ in present)),
        count,
        "",
        np.asarray(replicates),
        floor,
    )
