"""Are the draws independent? Autocorrelation, effective sample size, block bootstrap, draws of one epoch.

Every interval that resamples draws, the delete-a-group jackknife of the forms among them, takes draws (or stretches of
them) as independent. Here is how to check that, and what to do where it fails. Rows are draws in time order, columns
coordinates; a vector is one column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._block_bootstrap import block_bootstrap, block_length, length_of
from gradnoise.analyzer.stats._epochs import EpochAnticorrelation, epoch_anticorrelation
from gradnoise.analyzer.stats._estimate import Z95, DegenerateValues, Estimate, InvalidInput
from gradnoise.analyzer.stats._series import draw_matrix, log_magnitude, mean_acf, standardised

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

__all__ = [
    "Autocorrelation",
    "EpochAnticorrelation",
    "SerialDependence",
    "autocorrelation",
    "block_bootstrap",
    "block_length",
    "effective_sample_size",
    "epoch_anticorrelation",
    "serial_dependence",
]

LAGS = 10
NOTABLE = 3.29
"""Standard errors from the expectation (p = 0.001) from which a correlation is put into words."""


@dataclass(frozen=True, slots=True)
class Autocorrelation:
    """Correlation of draws with later draws: arrays over lags 1, 2, ..., averaged over columns."""

    value: Floats
    se: Floats
    """Bartlett's standard error; of an average over columns, from the columns' joint products."""
    expected: Floats
    """What independent draws show at lag k: −(K − k)/(K (K − 1)), because their mean was subtracted."""
    draws: int
    columns: int

    @property
    def lag(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """1, 2, ..."""
        return np.arange(1, len(self.value) + 1)

    @property
    def notable(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Lags whose correlation is more than 3.29 standard errors from ``expected``."""
        return np.abs(self.value - self.expected) > NOTABLE * self.se


@dataclass(frozen=True, slots=True)
class SerialDependence:
    """Serial dependence of a noise matrix, of the values and of their scale, in figures and words."""

    draws: Autocorrelation
    log_magnitude: Autocorrelation
    """Of ln|u|: a scale that changes over time."""
    effective: Estimate
    """Effective number of draws for an average of the values."""
    effective_log: Estimate
    """Effective number of draws for an average of ln|u|, and so for a scale."""
    block: float
    """Mean block length that ``block_bootstrap`` would use."""
    warnings: tuple[str, ...] = ()


def _autocorrelation(z: Floats, lags: int) -> Autocorrelation:
    n, columns = z.shape
    r = mean_acf(z, lags)[1:]
    k = np.arange(1, lags + 1)
    # The average over columns is the mean over t of ⟨z_t, z_{t+k}⟩/J: its error is that of a mean of uncorrelated
    # numbers, whatever the columns share, times Bartlett's factor. One Gaussian column has variance 1 there.
    products = np.array([np.mean(np.square((z[:-i] * z[i:]).mean(axis=1))) for i in k])
    variance = products * (n - k) / n**2  # r_k is 1/n times a sum of n − k products
    # Bartlett's 1 + 2 Σ ρ_j², of which r_j² is too large by the variance of r_j
    rest = np.cumsum(r**2 - variance)
    bartlett = 1.0 + 2.0 * np.maximum(np.concatenate([[0.0], rest[:-1]]), 0.0)
    return Autocorrelation(r, np.sqrt(variance * bartlett), -(n - k) / (n * (n - 1.0)), n, columns)


def autocorrelation(x: ArrayLike, lags: int = LAGS) -> Autocorrelation:
    """Autocorrelation of a series, or of draws × columns averaged over columns, at lags 1 … ``lags``.

    By statsmodels' ``acf``, columns standardised; standard errors by Bartlett's formula. Columns share their draws: the
    error of the average is taken from the products of whole rows, not from the number of columns. Constant columns are
    left out. Values are taken as they are, exact zeros included.

    Independent Gaussian draws, K = 32 to 256, spread by 0.95 to 1.03 standard errors at lags 1 to 10. Bartlett's
    formula needs a finite variance: one column of a heavier law has no standard error in the strict sense. Of SαS(1.2)
    the correlation is mostly small and now and then large, its error with it: at K = 256 the spread is 1.4 times the
    mean standard error, while 3 % (of Gaussian draws 5 %) are more than 1.96 of their own from ``expected``.

    Raises ``InvalidInput`` (also for ``lags`` not from 1 to half the draws), ``NonFiniteValues``, ``TooFewValues``
    (fewer than 30 draws), ``AllZero``, ``DegenerateValues`` (all columns constant).
    """
    matrix = draw_matrix(x)
    _check_lags(lags, len(matrix))
    return _autocorrelation(standardised(matrix), lags)


def _check_lags(lags: int, n: int) -> None:
    if not (isinstance(lags, int | np.integer) and 1 <= lags <= n // 2):
        raise InvalidInput(f"lags: expected a whole number from 1 to half the draws, {n // 2}, got {lags!r}")


def _effective(z: Floats) -> Estimate:
    n = len(z)
    r = mean_acf(z, n - 1)
    pairs = r[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    positive = int((pairs <= 0).argmax()) if (pairs <= 0).any() else len(pairs)
    # Γ_0 = 1 + r_1 is kept even if r_1 = −1 leaves nothing of it
    window = max(positive, 1)
    time = max(2.0 * float(np.minimum.accumulate(pairs[:window]).sum()) - 1.0, 1.0 / n)
    value = n / time
    relative = math.sqrt(2.0 * (2 * (2 * window - 1) + 1) / n)  # Madras & Sokal 1988, window of 2m − 1 lags
    low, high = value * math.exp(-Z95 * relative), value * math.exp(Z95 * relative)
    warnings: tuple[str, ...] = ()
    if value > n:
        # 1 + 2 Σ ρ_k is then a small difference of large numbers, and its relative error has no bound.
        low, high = min(low, float(n)), math.inf
        warnings = (f"{value:.4g}, more than the {n} draws (anti-correlated): only a lower bound, {low:.4g}, is known",)
    return Estimate(
        value,
        value * relative,
        low,
        high,
        n,
        f"initial monotone sequence, {2 * window - 1} lags",
        "Geyer 1992, §3.3; Madras & Sokal 1988",
        warnings,
    )


def effective_sample_size(x: ArrayLike) -> Estimate:
    """Number of independent draws whose mean would be as exact as that of these: K/(1 + 2 Σ ρ_k).

    The sum over lags ends where r_{2m} + r_{2m+1} is no longer positive, and those sums are made monotone (Geyer 1992);
    of a matrix, autocorrelations are averaged over columns first. For an AR(1) series K (1 − φ)/(1 + φ). It exceeds K
    for draws that are anti-correlated, such as differences of neighbours or the draws of an epoch; how far is beyond
    the estimate (MA(1), θ = −0.9, K = 2048: 70 000 in the median, 371 000 in truth), so that there the interval is
    one-sided, up to infinity from K or less, with a warning. Standard error as of one series (Madras & Sokal 1988): of
    a matrix it is less.

    Short series hide long correlations, whose sum over lags is then too small: AR(1) draws with φ = 0.9 read 7.7 in the
    median for 3.4 at K = 64 (the interval covers 82 %), 32 for 27 at K = 512; φ = 0.5 reads 25 for 21 at K = 64.

    Raises as ``autocorrelation``.
    """
    return _effective(standardised(draw_matrix(x)))


def _said(what: str, found: Autocorrelation, effective: Estimate) -> tuple[str, ...]:
    if not found.notable.any():
        return ()
    k = int(np.abs(found.value - found.expected).argmax())
    return (
        f"{what} correlate with later ones, most at lag {k + 1}: {found.value[k]:.3f} ± {found.se[k]:.3f};"
        f" {found.draws} draws are worth {effective.value:.0f}: resample blocks, not draws",
    )


def serial_dependence(noise: ArrayLike, lags: int = LAGS) -> SerialDependence:
    """Autocorrelation of the noise and of ln|noise|, what the draws are worth, and a warning in words where it matters.

    ``noise``: draws × columns in time order (or a series). Exact zeros stay in the values; ln|noise| has none there:
    they take their column's mean and are counted. Raises as ``autocorrelation``; ``DegenerateValues`` also where no
    column has two different magnitudes.
    """
    matrix = draw_matrix(noise, "noise")
    _check_lags(lags, len(matrix))
    z = standardised(matrix)
    logs, zeros = log_magnitude(matrix)
    if logs.shape[1] == 0:
        raise DegenerateValues("noise: no column has two different magnitudes in at least half of its draws")
    zl = standardised(logs)
    values, magnitudes = _autocorrelation(z, lags), _autocorrelation(zl, lags)
    effective, effective_log = _effective(z), _effective(zl)
    warnings = _said("draws", values, effective) + _said("magnitudes of draws", magnitudes, effective_log)
    if zeros > 0:
        warnings += (f"{zeros:.1%} of the values are exactly 0; their logarithms are taken as their column's mean",)
    block = max(length_of(z), length_of(zl))
    return SerialDependence(values, magnitudes, effective, effective_log, block, warnings)
