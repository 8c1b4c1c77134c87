"""Draws of one epoch are drawn without replacement, and so anti-correlated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from gradnoise.analyzer.stats._estimate import (
    Estimate,
    InvalidInput,
    TooFewValues,
    as_real,
)
from gradnoise.analyzer.stats._series import draw_matrix, standardised

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


_LEAST_EPOCHS = 3


@dataclass(frozen=True, slots=True)
class EpochAnticorrelation:
    """Correlation between draws of one epoch."""

    correlation: Estimate
    expected: float
    """−1/(batches − 1): all minibatches of an epoch together are the data set."""
    without_replacement: bool | None
    """Whether the draws are as if drawn without replacement; ``None`` where the error is too large to tell."""
    epochs: int
    warnings: tuple[str, ...] = ()


def epoch_anticorrelation(draws: ArrayLike, epoch: ArrayLike, *, batches: float) -> EpochAnticorrelation:
    """Correlation between minibatch gradients of one epoch, against what drawing without replacement predicts.

    The ``batches`` = n/B minibatches of an epoch are the data set: their gradients sum to ``batches`` · ∇F exactly, so
    that 0 = Var Σ g = M Σ + M (M − 1) Cov(g_a, g_b) and any two of them correlate by **−1/(M − 1)**. Draws of different
    epochs are independent. (Consequence: covariances from pairs or the mean of one epoch's draws estimate
    C/B · n/(n − 1), without the factor (n − B)/(n − 1) of independent draws without replacement.)

    ``draws``: K × J, gradients (or noise) **at one frozen θ**; ``epoch``: K labels, which epoch each was drawn in. At
    least 3 epochs, two draws in one of them. The estimate is the intraclass correlation
    (MSB − MSW)/(MSB + (m − 1) MSW) of the analysis of variance between and within epochs, standardised columns pooled:
    no centre is needed, and the −1/(K − 1) of centring does not enter. Its error is a jackknife over epochs, interval
    Student's t. Drift of θ from epoch to epoch reads as positive correlation.

    Raises ``InvalidInput``, ``NonFiniteValues``, ``TooFewValues`` (epochs), ``AllZero``, ``DegenerateValues`` (all
    columns constant).
    """
    matrix = as_real(draws, "draws", 2)
    labels = np.asarray(epoch)
    if labels.shape != (len(matrix),):
        raise InvalidInput(f"epoch: expected one label a draw, shape ({len(matrix)},), got shape {labels.shape}")
    if not (math.isfinite(batches) and batches >= 2):
        raise InvalidInput(f"batches: expected the minibatches of an epoch, at least 2, got {batches!r}")
    names, index, size = np.unique(labels, return_inverse=True, return_counts=True)
    epochs = len(names)
    if epochs < _LEAST_EPOCHS or size.max() < 2:
        raise TooFewValues(
            f"epoch: expected at least {_LEAST_EPOCHS} epochs, two draws in one of them, got {epochs} epochs of at most"
            f" {size.max(initial=0)} draws"
        )
    if size.max() > math.ceil(batches):
        raise InvalidInput(f"epoch: expected at most {math.ceil(batches)} draws an epoch, got {size.max()}")
    z = standardised(draw_matrix(matrix, "draws"))
    sums = np.zeros((epochs, z.shape[1]))
    np.add.at(sums, index, z)
    squares = np.bincount(index, np.sum(z**2, axis=1))
    within = squares - np.sum(sums**2, axis=1) / size

    def intraclass(keep: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
        m, count, groups = size[keep], float(size[keep].sum()), int(keep.sum())
        between = np.sum(sums[keep] ** 2 / m[:, None]) - np.sum(np.sum(sums[keep], axis=0) ** 2) / count
        msb, msw = between / (groups - 1), np.sum(within[keep]) / max(count - groups, 1.0)
        mean_size = (count - np.sum(m**2) / count) / (groups - 1)
        return float((msb - msw) / (msb + (mean_size - 1) * msw))

    everyone = np.ones(epochs, dtype=bool)
    value = intraclass(everyone)
    replicates = np.array([intraclass(everyone & (np.arange(epochs) != e)) for e in range(epochs)])
    se = math.sqrt((epochs - 1) / epochs * float(np.sum((replicates - replicates.mean()) ** 2)))
    half = float(special.stdtrit(epochs - 1, 0.975)) * se
    expected = -1.0 / (batches - 1.0)
    agrees, independent = abs(value - expected) <= half, abs(value) <= half
    method = "intraclass correlation of epochs, jackknife over epochs"
    found = Estimate(value, se, value - half, value + half, epochs, method)
    # Complete epochs sum to the same gradient up to rounding: an interval of no length.
    agrees = agrees or math.isclose(value, expected, rel_tol=0.02)
    told = None if agrees == independent else agrees
    words = f"{value:.4g} ± {se:.2g} between draws of one epoch"
    if told:
        warnings: tuple[str, ...] = (f"{words}: drawn without replacement ({expected:.4g} expected), not independent",)
    elif told is False:
        warnings = ()
    elif agrees:
        warnings = (f"{words}: too few epochs to tell drawing without replacement ({expected:.4g}) from independence",)
    else:
        warnings = (f"{words}: neither independent nor as drawn without replacement ({expected:.4g}); did θ drift?",)
    return EpochAnticorrelation(found, expected, told, epochs, warnings)
