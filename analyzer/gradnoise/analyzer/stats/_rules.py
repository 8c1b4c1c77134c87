"""The rules by which a reading becomes a verdict: every threshold of the forms is here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradnoise.analyzer.stats._estimate import Verdict
from gradnoise.analyzer.stats._form_result import MANY_LOWEST, Trend
from gradnoise.analyzer.stats._jackknife import T95, standard_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._form_result import SumResult

SUMS = (4, 16)
"""Draws in a sum."""
SUMS_SPEAK = ("per_parameter", "projection", "row_scaled", "standardized", "vector")
"""Forms in which sums tell a stable law from finite variance: in others a spread of scales survives every sum."""
FALSE_DISCOVERY_RATE = 0.05
REJECTED_SHARE = 0.05
"""Columns (rows) that a group may have, by share, that reject a law which it is nevertheless said to follow."""
GAUSSIAN_MARGIN = 0.1
"""How far below what Gaussian noise reads the interval of a group that is called Gaussian may begin."""
LEAST_WAY = 0.02
"""Least distance, in 1/α, from what Gaussian noise reads at which sums have a way to go: α = 1.92."""
WIDE_ROW_SPREAD = 0.3
"""Standard deviation of ln(scale) from row to row, common to all columns, beyond which these are not worth many: their
intervals cover too seldom (at 32 rows of a standard deviation of 0.6 three in four times), and one large row decides
where 16 sums go."""
LEAST_SUMS, LEAST_SUMS_OF_ROWS = 256, 64
"""Sums that may climb: by as many columns as are independent of each other, and of rows that differ so. (Of fewer, 16
sums of one to four columns of SαS(1.5), all come to read α̂ = 2 in one sample of ten.)"""
CLIMBED, FLAT, STILL = 0.2, 0.5, 0.1
"""Share of that way that sums have gone beyond doubt if they climb; certainly have not if they are flat; and may not
have gone beyond doubt if they are (16 sums of SαS noise seem to have gone 0.1, 32 sums 0.03)."""


def trend(
    inverse: float,
    replicates: Floats,
    sums: float,
    sum_replicates: Floats,
    null_alpha: float,
    *,
    floor: float = 0.0,
    lowest: float = 0.0,
    sums_lowest: float = 0.0,
    may_climb: bool = True,
) -> Trend:
    """Judge the step of 1/α̂ from rows (``inverse``) to sums of them (``sums``), whose Gaussian reading is
    ``null_alpha``. Replicates of both leave out the same draws.

    With the 95 % interval of the step as a share of the way to that reading: ``climbing`` if all of it lies above
    ``CLIMBED``; ``flat`` if all of it lies below ``FLAT`` and some of it below ``STILL``; else ``unclear``. Of a stable
    law the share is 0; of laws of finite variance that sums of 16 hardly change, as exp(4|z|) with a sign, it is small.

    ``floor``: least standard error of the step: a few columns of few sums read α̂ = 2 in every replicate, without any.
    ``may_climb``: there are enough sums for climbing to be said (``LEAST_SUMS``).

    ``lowest``, ``sums_lowest``: shares of rows' and sums' units that read the smallest α that is fitted. Beyond
    ``MANY_LOWEST`` the rows' 1/α is larger than it reads and has gone more of the way than it seems, so that it may be
    climbing but is not called flat; of such sums nothing is said.
    """
    way = inverse - 1.0 / null_alpha
    if not way >= LEAST_WAY or sums_lowest > MANY_LOWEST:
        return Trend.UNCLEAR
    step = (inverse - sums) / way
    margin = T95 * max(standard_error(replicates - sum_replicates), floor) / way
    if step - margin > CLIMBED and may_climb:
        return Trend.CLIMBING
    flat = step + margin < FLAT and step - margin < STILL and lowest <= MANY_LOWEST
    return Trend.FLAT if flat else Trend.UNCLEAR


def sums_say(sums: Sequence[SumResult]) -> Trend:
    """What the longest sums say: a law of finite variance with heavy tails climbs slowly, and short sums look flat."""
    return sums[-1].trend if sums else Trend.UNCLEAR


def rejects_gaussian(high: float, null_alpha: float, rejected: float) -> bool:
    """Whether an interval of α that ends at ``high``, and the share ``rejected`` of columns (rows) that reject the
    Gaussian law, speak against it together: with enough draws some column always rejects."""
    return high < null_alpha and rejected > REJECTED_SHARE


def verdict(
    low: float,
    high: float,
    null_alpha: float,
    rejected: float,
    sums: Trend = Trend.UNCLEAR,
    *,
    stable_rejected: float = math.nan,
    partial: bool = False,
) -> Verdict:
    """Return the verdict on an interval (``low``, ``high``) of α.

    - The Gaussian law is rejected (``rejects_gaussian``): ``stable`` if ``sums`` are flat and, where that was tested,
      at most ``REJECTED_SHARE`` of the columns reject SαS; ``heavy_finite_variance`` if sums climb; else ``undecided``.
    - ``gaussian`` if the interval begins at ``null_alpha`` − ``GAUSSIAN_MARGIN`` or above, at most ``REJECTED_SHARE``
      of the columns (rows) rejects the Gaussian law, and the fits are not ``partial``.
    - Else ``undecided``.

    The interval is ``plain_interval``'s: ``null_alpha`` is what Gaussian noise is expected to read, and that has the
    bias of a reading. Across parameters sums say nothing (a spread of scales survives every sum), so that a rejection
    there decides nothing: ``read`` puts the forms of one matrix together.
    """
    if rejects_gaussian(high, null_alpha, rejected):
        if sums is Trend.CLIMBING:
            return Verdict.HEAVY_FINITE_VARIANCE
        flat = sums is Trend.FLAT and not stable_rejected > REJECTED_SHARE
        return Verdict.STABLE if flat else Verdict.UNDECIDED
    if low >= null_alpha - GAUSSIAN_MARGIN and rejected <= REJECTED_SHARE and not partial:
        return Verdict.GAUSSIAN
    return Verdict.UNDECIDED
