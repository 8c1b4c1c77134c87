"""Block sums of whole rows, by their norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from gradnoise.analyzer.stats._assemble import nothing, refuse, result
from gradnoise.analyzer.stats._estimate import Status
from gradnoise.analyzer.stats._form_result import SumResult
from gradnoise.analyzer.stats._jackknife import GROUPS, alpha_estimate, standard_error
from gradnoise.analyzer.stats._reading import Core, means_without, prepare
from gradnoise.analyzer.stats._rules import SUMS, trend

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._form_result import FormResult
    from gradnoise.analyzer.stats._reading import Ints
    from gradnoise.analyzer.stats.contrasts import Contrast

BLOCK = 4
"""Sums in a sum: 1/α is the growth of ln‖sum‖ from r rows to 4 r."""
MIN_ROWS_VECTOR, _SHORT = 64, 128
"""Fewest rows, and rows below which a warning says that the interval is too short."""
_MIN_SUMS = 4 * BLOCK
"""Fewest sums: four disjoint blocks."""
_BLOCKS, _BLOCKS_WITHOUT = 1 << 15, 1 << 13
"""Random blocks for the value, and for each replicate; divided by r, as each costs r² and says as much as r."""
_CHUNK = 1 << 20
_MOST_CANCELLED = 0.05


@dataclass(frozen=True, slots=True)
class _Growth:
    inverse: float
    replicates: Floats


def vector(noise: Contrast | ArrayLike, *, rng: np.random.Generator) -> FormResult:
    """α of the rows as vectors: how ‖Σ u‖ grows with the number of rows in the sum.

    A sum of m iid SαS vectors is m^{1/α} times one in law, so that 1/α = (E ln‖Σ_{4r} u‖ − E ln‖Σ_r u‖) / ln 4 with
    r = 1 (block sums, Mohammadi et al. 2015, of vectors; norms are positive and have no SαS likelihood). Means are over
    random disjoint groupings of the rows, whatever their order in time. ``sums``: the same from sums of 4 and of 16
    draws, flat for stable vectors, climbing for finite variance.

    Gaussian rows read exactly 2 in expectation, whatever their covariance, so that a spread of scales over coordinates
    does not matter; α̂ may exceed 2. Few coordinates with large scales dominate. Needs 64 noise rows; memory: rows² × 8
    bytes. The interval is a delete-a-group jackknife over draws; of SαS(1.5) rows it covers 85 % at 64 rows and 90 % at
    128. Sums need 16 of them.
    """
    given = prepare(noise)
    if (refusal := refuse("vector", given, MIN_ROWS_VECTOR)) is not None:
        return refusal
    # Rows that share draws telescope when they are added: disjoint ones only.
    placed = np.zeros(len(given.original), dtype=bool)
    placed[:: given.stride] = True
    disjoint = placed[np.isfinite(given.original).all(axis=1)]
    matrix, group = given.matrix[disjoint], given.group[disjoint]
    unit = float(np.abs(matrix).max(initial=0.0)) or 1.0
    matrix = matrix.astype(np.float64) / unit
    square = np.einsum("kj,kj->k", matrix, matrix)
    matrix, group, square = matrix[square > 0], group[square > 0], square[square > 0]
    rows = len(matrix)
    if rows < MIN_ROWS_VECTOR:
        reason = f"{rows} disjoint rows that are not all zero, at least {MIN_ROWS_VECTOR} needed"
        return nothing("vector", given, Status.TOO_FEW_DRAWS, reason)
    gram = matrix @ matrix.T
    single = _growth(gram, group, 1, rng)
    error = standard_error(single.replicates)
    if not (math.isfinite(single.inverse) and error > 0):
        return nothing("vector", given, Status.DEGENERATE, "sums of rows cancel exactly, or all rows are alike")
    sums = []
    for m in SUMS:
        r = max(m // given.draws_per_row, 1)
        if rows < _MIN_SUMS * r:
            reason = f"{rows // r} disjoint sums of {m} draws, at least {_MIN_SUMS} needed"
            sums.append(SumResult(m, None, math.nan, rows // r, reason))
            continue
        of = _growth(gram, group, r, rng)
        alpha = alpha_estimate(
            of.inverse, of.replicates, 0.0, rows // r, f"growth of norms from sums of {m} draws; jackknife"
        )
        goes = trend(single.inverse, single.replicates, of.inverse, of.replicates, 2.0)
        sums.append(SumResult(m, alpha, 2.0, rows // r, "", of.replicates, trend=goes))
    logs = 0.5 * np.log(square)
    core = Core(
        inverse=single.inverse,
        replicates=single.replicates,
        scale=unit * math.exp(float(logs.mean())),
        scale_replicates=unit * np.exp(means_without(logs, group)),
        null_inverse=0.5,
        floor=0.0,
        lowest=0.0,
        n=np.array([float(given.matrix.shape[1])]),
        # One-sided: Student's t of 1/α̂ − ½ with the jackknife's standard error.
        p=np.array([float(special.stdtr(GROUPS - 1, (0.5 - single.inverse) / error))]),
    )
    return result(
        "vector",
        given,
        core,
        0.5,
        given.matrix.shape[1],
        tuple(sums),
        f"growth of the norms of sums from 1 to {BLOCK} rows, random groupings; jackknife over draws",
        "geometric mean of the norms; interval by jackknife over draws",
        width=given.matrix.shape[1],
        warnings=(f"{rows} rows: below {_SHORT} the interval is too short",) if rows < _SHORT else (),
    )


def _growth(gram: Floats, group: Ints, r: int, rng: np.random.Generator) -> _Growth:
    """1/α from blocks of r to blocks of 4 r rows, and its replicates without each group.

    An incomplete U-statistic has no bias of order 1/rows: replicates are shifted to the value, so that the difference
    of their Monte-Carlo errors is not taken for one.
    """
    everything = np.arange(len(gram))
    inverse = _mean_gain(gram, everything, r, _BLOCKS // r, rng) / math.log(BLOCK)
    replicates = np.full(GROUPS, inverse)
    for g in range(GROUPS):
        rest = everything[group != g]
        if BLOCK * r <= len(rest) < len(gram):
            replicates[g] = _mean_gain(gram, rest, r, _BLOCKS_WITHOUT // r, rng) / math.log(BLOCK)
    return _Growth(inverse, replicates - replicates.mean() + inverse)


def _mean_gain(gram: Floats, rows: Ints, r: int, blocks: int, rng: np.random.Generator) -> float:
    """Mean of ln‖Σ_{4r} u‖ − ¼ Σ_q ln‖Σ_r^(q) u‖ over random blocks of 4 r rows, cut into four of r.

    ‖Σ_{i∈b} u_i‖² = Σ_{i,k∈b} ⟨u_i, u_k⟩: no sum of rows is formed. NaN where many sums cancel exactly.
    """
    length = BLOCK * r
    each = len(rows) // length
    total, count, cancelled = 0.0, 0, 0
    step = max(_CHUNK // length**2 // each, 1)
    left = -(-blocks // each)
    while left > 0:
        shuffled = rng.permuted(np.tile(rows, (min(step, left), 1)), axis=1)
        left -= len(shuffled)
        block = shuffled[:, : each * length].reshape(-1, length)
        inner = gram[block[:, :, None], block[:, None, :]]
        whole = inner.sum(axis=(1, 2))
        parts = np.einsum("bqiqk->bq", inner.reshape(-1, BLOCK, r, BLOCK, r))
        used = (whole > 0) & (parts > 0).all(axis=1)
        gain = 0.5 * (np.log(whole[used]) - np.log(parts[used]).mean(axis=1))
        total, count = total + float(gain.sum()), count + len(gain)
        cancelled += len(used) - len(gain)
    return total / count if cancelled <= _MOST_CANCELLED * count else math.nan
