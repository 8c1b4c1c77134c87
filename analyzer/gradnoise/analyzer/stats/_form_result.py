"""What every form returns, and the rule that turns it into a verdict."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradnoise.analyzer.stats._estimate import Estimate, Status, Verdict
from gradnoise.analyzer.stats._jackknife import T95, standard_error
from gradnoise.analyzer.stats._table import ALPHA_MIN

Floats = np.ndarray[Any, np.dtype[np.float64]]

SUMS = (4, 16)
"""Draws in a sum."""
FALSE_DISCOVERY_RATE = 0.05
REJECTED_SHARE = 0.05
"""Rejecting columns (rows) that a Gaussian group may have, by share."""
GAUSSIAN_MARGIN = 0.1
"""How far below what Gaussian noise reads the interval of a group that is called Gaussian may begin."""
MANY_LOWEST = 0.05
"""Share of units at the smallest α beyond which a reading is only an upper limit."""
_LEAST_WAY = 0.02  # in 1/α: α = 1.92 and above is too near to 2 for sums to show a way
_CLIMBED, _FLAT = 0.2, 0.5


class Trend(enum.StrEnum):
    """Where α̂ goes from noise rows to sums of them, judged by a jackknife interval of the step."""

    FLAT = "flat"
    """Less than half of the way to what Gaussian noise reads: as a stable law."""
    CLIMBING = "climbing"
    """More than a fifth of the way: as a law of finite variance, not as a stable one."""
    UNCLEAR = "unclear"
    """The interval allows both, or the rows read too near to Gaussian for there to be a way."""


@dataclass(frozen=True, slots=True)
class SumResult:
    """α of sums of ``m`` draws: flat in m for a stable law, climbing towards ``null_alpha`` for finite variance.

    Not so across parameters: there a spread of scales survives every sum.
    """

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
    floor: float = 0.0
    """As of ``FormResult.floor``."""
    trend: Trend = Trend.UNCLEAR
    """What the step from single rows to these sums says."""


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
    floor: float
    """Least standard error of 1/α: that of as many Gaussian columns (rows) as these are worth independent ones."""
    lowest: float
    """Share of the columns (rows) that read the smallest α that is fitted."""
    partial: bool
    """The laws were fitted to too small a part of the values for the verdict ``gaussian``."""
    scale: Estimate
    """Median over columns (rows) of σ̂ of the noise rows, in their units (``Contrast.scale_factor`` leads to
    one draw's);
    ``standardized``: in units of a column's half moment (mean √|u|)²."""
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


def verdict(low: float, high: float, null_alpha: float, rejected: float, *, partial: bool = False) -> Verdict:
    """Return the verdict on an interval (``low``, ``high``) of α.

    ``not_gaussian`` if it ends below ``null_alpha`` and more than ``REJECTED_SHARE`` of the columns (rows) reject the
    Gaussian law; ``gaussian`` if it begins at ``null_alpha`` − ``GAUSSIAN_MARGIN`` or above, no more than that share
    rejects, and the fits are not ``partial``; else ``undecided``. The interval is ``plain_interval``'s: ``null_alpha``
    is what Gaussian noise is expected to read, and that has the bias of a reading.
    """
    if high < null_alpha and rejected > REJECTED_SHARE:
        return Verdict.NOT_GAUSSIAN
    if low >= null_alpha - GAUSSIAN_MARGIN and rejected <= REJECTED_SHARE and not partial:
        return Verdict.GAUSSIAN
    return Verdict.UNDECIDED


def trend(inverse: float, replicates: Floats, sums: float, sum_replicates: Floats, null_alpha: float) -> Trend:
    """Judge the step of 1/α̂ from rows (``inverse``) to sums of them (``sums``), whose Gaussian reading is
    ``null_alpha``. Replicates of both leave out the same draws."""
    way = inverse - 1.0 / null_alpha
    if not way >= _LEAST_WAY:
        return Trend.UNCLEAR
    step = (inverse - sums) / way
    margin = T95 * standard_error((replicates - sum_replicates) / way)
    if step - margin > _CLIMBED:
        return Trend.CLIMBING
    return Trend.FLAT if step + margin < _FLAT else Trend.UNCLEAR


def lowest_note(form: str, lowest: float) -> tuple[str, ...]:
    """Return the warning that units read the smallest α that is fitted, if many do."""
    if not lowest > MANY_LOWEST:
        return ()
    units = "columns" if form == "per_parameter" else "rows"
    return (f"{lowest:.0%} of the {units} read {ALPHA_MIN}, the smallest α that is fitted: α may be smaller",)


def zeros_note(zeros: float) -> tuple[str, ...]:
    """Return the warning that values are exactly 0, if any are."""
    return (f"{zeros:.3g} of the values are exactly 0; the laws are fitted to the others",) if zeros > 0 else ()


def status_of(alpha: Estimate, lowest: float) -> Status:
    """``at_boundary`` for α = 2, or where most units read the smallest α; else ``ok``."""
    return Status.AT_BOUNDARY if alpha.value >= 2.0 - 1e-9 or lowest > 0.5 else Status.OK
