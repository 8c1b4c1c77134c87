"""What every form returns."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradnoise.analyzer.stats._estimate import Estimate, Status, Verdict
from gradnoise.analyzer.stats._table import ALPHA_MIN

Floats = np.ndarray[Any, np.dtype[np.float64]]

MANY_LOWEST = 0.05
"""Share of units at the smallest α beyond which a reading is only an upper limit."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of α̂ over columns, in ``ColumnSummary``."""


class Trend(enum.StrEnum):
    """Where α̂ goes from noise rows to sums of them, judged by a jackknife interval of the step."""

    FLAT = "flat"
    """Less than half of the way to what Gaussian noise reads, and perhaps none of it: as a stable law."""
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
    correction: float = 0.0
    lowest: float = 0.0
    """These three as of ``FormResult``."""
    trend: Trend = Trend.UNCLEAR
    """What the step from single rows to these sums says."""
    may_climb: bool = True
    """There are enough sums, for rows that differ as these do, to say that they climb."""


@dataclass(frozen=True, slots=True)
class ColumnSummary:
    """How α differs from column to column."""

    quantiles: tuple[float, ...]
    """The ``QUANTILES`` of α̂ over columns; they hold the sampling error of each column too."""
    spread: Estimate
    """Spread of α over columns *beyond* sampling error, 0 for columns of one α: ᾱ² sd(1/α) with ᾱ = 1/mean(1/α̂), which
    is the standard deviation of α where that is small (``_columns.spread``). It reads too small of few rows."""
    stable_rejected_share: float
    """Share of the fitted columns that reject SαS itself at a false-discovery rate of 5 %; NaN where not asked for."""


@dataclass(frozen=True, slots=True)
class FormResult:
    """One noise matrix read in one form. Without a value α is NaN, and ``status`` and ``reason`` say why."""

    form: str
    """``per_parameter``, ``across_parameter``, ``standardized``, ``pooled``, ``vector``, ``projection`` or
    ``row_scaled``."""
    reference: str
    """What the noise was measured against: the name of a contrast, or ``given``."""
    alpha: Estimate
    """1 / mean(1/α̂) over columns (rows); interval by delete-a-group jackknife over draws."""
    replicates: Floats
    """The jackknife replicates of 1/α, one a tenth of the draws, aligned across the groups of one window."""
    floor: float
    """Least standard error of 1/α: that of as many Gaussian columns (rows) as these are worth independent ones."""
    correction: float
    """Standard error of the bias correction that the interval of α stands around, in 1/α."""
    lowest: float
    """Share of the columns (rows) that read the smallest α that is fitted."""
    partial: bool
    """The laws were fitted to too small a part of the values for the verdict ``gaussian``."""
    scale: Estimate
    """Median over columns (rows) of σ̂ of the noise rows, in their units (``Contrast.scale_factor`` leads to
    one draw's);
    ``standardized``: in units of a column's half moment (mean √|u|)²; ``vector``: geometric mean of the norms."""
    scale_replicates: Floats
    sums: tuple[SumResult, ...]
    """α of sums of 4 and of 16 draws."""
    null_alpha: float
    """What Gaussian noise of this shape reads in this form."""
    gaussian_rejected: bool
    """α's plain interval ends below ``null_alpha`` and too many columns (rows) reject: see ``_rules``."""
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
    over_columns: ColumnSummary | None = None
    """Of ``per_parameter`` and ``projection`` for one group; else ``None``."""


def lowest_note(form: str, lowest: float) -> tuple[str, ...]:
    """Return the warning that units read the smallest α that is fitted, if many do."""
    if not lowest > MANY_LOWEST:
        return ()
    units = "rows" if form in ("across_parameter", "standardized") else "columns"
    return (f"{lowest:.0%} of the {units} read {ALPHA_MIN}, the smallest α that is fitted: α may be smaller",)


def zeros_note(zeros: float) -> tuple[str, ...]:
    """Return the warning that values are exactly 0, if any are."""
    return (f"{zeros:.1%} of the values are exactly 0; the laws are fitted to the others",) if zeros > 0 else ()


def status_of(alpha: Estimate, lowest: float) -> Status:
    """``at_boundary`` for α = 2, or where most units read the smallest α; else ``ok``."""
    return Status.AT_BOUNDARY if alpha.value >= 2.0 - 1e-9 or lowest > 0.5 else Status.OK
