"""Draws of one epoch are drawn without replacement, and so anti-correlated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._estimate import Estimate, InvalidInput, TooFewValues, as_real
from gradnoise.analyzer.stats._series import draw_matrix, standardised

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

_LEAST_EPOCHS = 3
_ROUNDED = 0.01
"""Relative error of the expected correlation that a rounded number of batches may bring."""
_CLOSE = 0.02
"""Complete epochs all have the same mean, up to rounding, and the interval no length: then this much is agreement."""


@dataclass(frozen=True, slots=True)
class EpochAnticorrelation:
    """Correlation between draws of one epoch."""

    correlation: Estimate
    expected: float
    """−1/(batches − 1): all minibatches of an epoch together are the data set."""
    without_replacement: bool | None
    """Whether the draws are as if drawn without replacement; ``None`` where both or neither would explain them."""
    epochs: int
    warnings: tuple[str, ...] = ()


def epoch_anticorrelation(
    draws: ArrayLike, epoch: ArrayLike, *, batches: float, batch_size: ArrayLike | None = None
) -> EpochAnticorrelation:
    """Correlation between minibatch gradients of one epoch, against what drawing without replacement predicts.

    The ``batches`` = n/B minibatches of an epoch are the data set: their gradients sum to ``batches`` · ∇F exactly, so
    that 0 = Var Σ g = M Σ + M (M − 1) Cov(g_a, g_b) and any two of them correlate by **−1/(M − 1)**. Draws of different
    epochs are independent. (Consequence: covariances from pairs or the mean of one epoch's draws estimate
    C/B · n/(n − 1), without the factor (n − B)/(n − 1) of independent draws without replacement.)

    ``draws``: K × J, gradients (or noise) **at one frozen θ**; ``epoch``: K labels, which epoch each was drawn in. At
    least 3 epochs, two draws in one of them. The estimate is the intraclass correlation
    (MSB − MSW)/(MSB + (m − 1) MSW) of the analysis of variance between and within epochs, standardised columns pooled:
    no centre is needed, and the −1/(K − 1) of centring does not enter. Its error is a jackknife over epochs, interval
    Student's t. Drift of θ from epoch to epoch reads as positive correlation. (Anti-correlated noise of epochs:
    Kühn & Rosenow, arXiv:2306.05300.)

    **A short last batch** (a data loader's default where B does not divide n) has B/b times the variance and would read
    as drift. −1/(M − 1) with M = n/B, not a whole number then, holds between the full batches, and only they are used:
    ``batch_size``, K numbers of samples, says which draws have another than the most common size. Without it, where an
    epoch holds more draws than ``batches`` rounded down, the last of its rows is taken for the short one. What is left
    out is said in ``warnings``.

    Raises ``InvalidInput`` (also where the sizes of a complete epoch do not add up to ``batches``, such as for their
    number rounded up), ``NonFiniteValues``, ``TooFewValues`` (epochs), ``AllZero``, ``DegenerateValues`` (all columns
    constant).
    """
    from scipy import special  # 0.1 s to import: only where it is used

    matrix = as_real(draws, "draws", 2)
    labels = np.asarray(epoch)
    if labels.shape != (len(matrix),):
        raise InvalidInput(f"epoch: expected one label a draw, shape ({len(matrix)},), got shape {labels.shape}")
    if not (math.isfinite(batches) and batches >= 2):
        raise InvalidInput(f"batches: expected the minibatches of an epoch, at least 2, got {batches!r}")
    full, warnings = _full_batches(labels, batches, batch_size)
    matrix, labels = matrix[full], labels[full]
    _, index, size = np.unique(labels, return_inverse=True, return_counts=True)
    epochs = len(size)
    if epochs < _LEAST_EPOCHS or size.max() < 2:
        raise TooFewValues(
            f"epoch: expected at least {_LEAST_EPOCHS} epochs, two draws in one of them, got {epochs} epochs of at most"
            f" {size.max(initial=0)} draws"
        )
    z = standardised(draw_matrix(matrix, "draws"))
    sums = np.zeros((epochs, z.shape[1]))
    np.add.at(sums, index, z)
    within = np.bincount(index, np.sum(z**2, axis=1)) - np.sum(sums**2, axis=1) / size
    value = _intraclass(sums, within, size)
    without = [np.arange(epochs) != e for e in range(epochs)]
    replicates = np.array([_intraclass(sums[keep], within[keep], size[keep]) for keep in without])
    se = math.sqrt((epochs - 1) / epochs * float(np.sum((replicates - replicates.mean()) ** 2)))
    half = float(special.stdtrit(epochs - 1, 0.975)) * se
    expected = -1.0 / (batches - 1.0)
    agrees = abs(value - expected) <= max(half, _CLOSE * abs(expected))
    independent = abs(value) <= half
    words = f"{value:.4g} ± {se:.2g} between draws of one epoch"
    if agrees and independent:
        warnings += (f"{words}: too few epochs to tell drawing without replacement ({expected:.4g}) from independence",)
    elif agrees:
        warnings += (f"{words}: drawn without replacement ({expected:.4g} expected), not independent",)
    elif not independent:
        why = "did θ drift, or is the last batch of an epoch a short one (batches = n/B, batch_size)?"
        warnings += (f"{words}: neither independent nor as drawn without replacement ({expected:.4g}); {why}",)
    return EpochAnticorrelation(
        correlation=Estimate(
            value, se, value - half, value + half, epochs, "intraclass correlation of epochs, jackknife over epochs"
        ),
        expected=expected,
        without_replacement=None if agrees == independent else agrees,
        epochs=epochs,
        warnings=warnings,
    )


def _full_batches(
    labels: np.ndarray[Any, np.dtype[Any]], batches: float, batch_size: ArrayLike | None
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], tuple[str, ...]]:
    """Which draws are of the full size, and what to say of the others; raises as ``epoch_anticorrelation``."""
    _, index, size = np.unique(labels, return_inverse=True, return_counts=True)
    most = math.ceil(batches)
    if size.max(initial=0) > most:
        raise InvalidInput(f"epoch: expected at most {most} draws an epoch, got {size.max()}")
    if batch_size is None:
        last = len(labels) - 1 - np.unique(labels[::-1], return_index=True)[1]
        short = np.zeros(len(labels), bool)
        short[last[size > math.floor(batches)]] = True
        how = f"the last draw of epochs with more than {batches:.6g}, rounded down, is taken for a short batch"
    else:
        samples = as_real(batch_size, "batch_size", 1)
        if samples.shape != labels.shape or not (np.isfinite(samples) & (samples > 0)).all():
            raise InvalidInput(f"batch_size: expected one positive number a draw, {len(labels)} of them")
        sizes, count = np.unique(samples, return_counts=True)
        common = sizes[::-1][np.argmax(count[::-1])] if sizes.size else 1.0  # of equally common ones the largest
        held = np.bincount(index, samples / common)[size == most]
        if held.size and np.abs(held - batches).max() > _ROUNDED * (batches - 1.0):
            raise InvalidInput(
                f"batches: expected samples over batch size, {held[0]:.6g} by the sizes of a complete epoch, got"
                f" {batches:.6g}"
            )
        short = samples != common
        how = f"batches of another size than {common:g} have another variance"
    if not short.any():
        return ~short, ()
    return ~short, (f"{np.count_nonzero(short)} of {len(labels)} draws left out: {how}",)


def _intraclass(sums: Floats, within: Floats, size: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """Intraclass correlation from each epoch's sums (epochs × columns), sum of squares within, and number of draws."""
    groups, count = len(size), int(size.sum())
    between = np.sum(sums**2 / size[:, None]) - np.sum(np.sum(sums, axis=0) ** 2) / count
    msb, msw = between / (groups - 1), np.sum(within) / max(count - groups, 1)
    mean_size = (count - np.sum(size**2) / count) / (groups - 1)
    return float((msb - msw) / (msb + (mean_size - 1) * msw))
