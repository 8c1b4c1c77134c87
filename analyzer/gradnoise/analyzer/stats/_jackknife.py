"""Delete-a-group jackknife over draws: the interval of everything that is averaged over columns.

Columns share their draws, so their errors are correlated and the spread over columns says nothing about the
error of a mean over them. Leaving out a tenth of the draws at a time changes all columns together, as another
set of draws would (Kott, J. Official Statist. 17, 2001).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradnoise.analyzer.stats._estimate import Estimate

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

GROUPS = 10
T95 = 2.2621571627409915
"""97.5 % point of Student's t with ``GROUPS`` − 1 degrees of freedom."""


def groups(rows: int) -> Ints:
    """Group of each of ``rows`` rows: contiguous blocks, so that dependence between neighbours stays inside a
    group."""
    return (np.arange(rows) * GROUPS) // max(rows, 1)


def standard_error(replicates: Floats) -> float:
    """√((G−1)/G Σ (r_g − r̄)²) over the G replicates, each made without one group."""
    g = len(replicates)
    return float(np.sqrt((g - 1) / g * np.sum((replicates - replicates.mean()) ** 2)))


def alpha_estimate(
    inverse: float,
    replicates: Floats,
    floor: float,
    n: float,
    method: str,
    *,
    correction: float = 0.0,
    null_alpha: float = np.inf,
) -> Estimate:
    """α = 1/``inverse`` with its interval from the replicates of 1/α, cut at α = 2.

    The interval stands around the bias-corrected G/α̂ − (G−1) mean(1/α̂ without one group) (Quenouille 1956), and is
    extended to hold the value: with many columns the O(1/draws) bias of a column's α̂ is as large as the error of their
    mean. ``floor`` is the least standard error of 1/α that is believed. At the boundary α̂ = 2 every replicate may be
    the same number, and a few columns would claim an interval of no length. ``correction`` is the standard error of the
    bias correction (``correction_error``), which the replicates' own spread does not show.

    ``null_alpha`` is what Gaussian noise reads: where the plain interval holds it, this one holds 2, since near the
    boundary the bias is not of order 1/draws and not all of it is taken off.
    """
    se = float(np.hypot(max(standard_error(replicates), floor), correction))
    g = len(replicates)
    centre = g * inverse - (g - 1) * float(replicates.mean())
    low, high = 1.0 / max(centre + T95 * se, 0.5), 1.0 / max(centre - T95 * se, 0.5)
    value = 1.0 / inverse
    if plain_interval(inverse, replicates, floor)[1] >= null_alpha:
        high = 2.0
    return Estimate(value, value * value * se, min(low, value), max(high, value), n, method)


def correction_error(units: Floats, replicates: Floats) -> float:
    """Standard error of the mean bias correction (G−1)(mean over groups of x_gj − x_j) over independent columns j.

    With few draws a column's correction is about as noisy as the column itself (at 32 draws of SαS(1.7) the corrected
    mean has 1.6 times the standard deviation of the mean, and intervals without this term cover 79 %).
    """
    corrections = (len(replicates) - 1) * (replicates.mean(axis=0) - units)
    return float(corrections.std(ddof=1) / np.sqrt(len(units))) if len(units) > 1 else 0.0


def plain_interval(inverse: float, replicates: Floats, floor: float) -> tuple[float, float]:
    """95 % interval of the reading 1/``inverse`` itself, not bias-corrected: what a simulated reading of Gaussian
    noise (``null_alpha``), which has the same bias, can be compared with."""
    margin = T95 * max(standard_error(replicates), floor)
    return 1.0 / (inverse + margin), 1.0 / max(inverse - margin, 0.5)


def scale_estimate(scale: float, replicates: Floats, n: float, method: str) -> Estimate:
    """A scale with its interval from the replicates, on the logarithmic scale."""
    if not (scale > 0 and (replicates > 0).all()):
        nan = float("nan")
        return Estimate(scale, nan, nan, nan, n, method)
    se = standard_error(np.log(replicates))
    return Estimate(scale, scale * se, scale * np.exp(-T95 * se), scale * np.exp(T95 * se), n, method)
