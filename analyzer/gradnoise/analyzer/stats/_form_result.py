"""What every form returns, and the rule that turns it into a verdict."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradnoise.analyzer.stats._estimate import Estimate, Status, Verdict

Floats = np.ndarray[Any, np.dtype[np.float64]]

SUMS = (4, 16)
"""Draws in a sum."""
FALSE_DISCOVERY_RATE = 0.05
REJECTED_SHARE = 0.05
"""Rejecting columns (rows) that a Gaussian group may have, by share."""
GAUSSIAN_MARGIN = 0.1
"""How far below what Gaussian noise reads the interval of a group that is called Gaussian may begin."""


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
    floor: float = 0.0
    """As of ``FormResult.floor``."""


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
    """Least standard error of 1/α: that of as many independent Gaussian columns (rows)."""
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


def verdict(alpha: Estimate, null_alpha: float, rejected: float) -> Verdict:
    """The verdict rule of the module's docstring."""
    if not np.isfinite(alpha.value) or not np.isfinite(null_alpha):
        return Verdict.UNDECIDED
    if alpha.high < null_alpha and rejected > REJECTED_SHARE:
        return Verdict.NOT_GAUSSIAN
    if alpha.low >= null_alpha - GAUSSIAN_MARGIN and rejected <= REJECTED_SHARE:
        return Verdict.GAUSSIAN
    return Verdict.UNDECIDED
