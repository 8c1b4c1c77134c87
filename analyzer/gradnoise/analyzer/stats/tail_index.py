"""Indices of the tail alone: Hill, Pickands, and the moment estimator of Dekkers, Einmahl & de Haan.

These are estimators of a **tail index**, the exponent a in P(|X| > x) ~ x^(−a), from the k largest values of |x|;
never of the stable index α. For SαS, α < 2, the two are the same number in the limit, but the tail begins late: at
α = 1.9 the 200 largest of 20 000 values read 2.6. A Gaussian has no such exponent: its reading (9 there) grows with the
sample and is not 2. Whether a law is stable is a question for ``compare``.

Each result gives the extreme-value index γ with its error and the tail index 1/γ. The choice of k decides: look at the
``*_plot`` for a stretch where the reading is flat. Values enter by their magnitude; exact zeros are small values like
others. Standard errors are asymptotic, for independent values and no bias from k too large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._alpha import require_finite
from gradnoise.analyzer.stats._estimate import (
    MIN_VALUES,
    Z95,
    AllZero,
    DegenerateValues,
    Estimate,
    InvalidInput,
    TooFewValues,
    as_real,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["TailIndex", "TailPlot", "hill", "hill_plot", "moment", "moment_plot", "pickands", "pickands_plot"]

Ints = np.ndarray[Any, np.dtype[np.int64]]

_LEAST_K = 2
_HILL = "Hill 1975"
_PICKANDS = "Pickands 1975; Dekkers & de Haan 1989"
_MOMENT = "Dekkers, Einmahl & de Haan 1989"


@dataclass(frozen=True, slots=True)
class TailIndex:
    """The tail as seen by the largest values of one sample."""

    tail_index: Estimate
    """1/γ. Interval: that of γ, inverted. Infinite where γ̂ ≤ 0: no power-law tail."""
    extreme_value_index: Estimate
    """γ: above 0 a power law, 0 an exponential (or Gaussian) tail, below 0 an end point."""
    k: int
    """Number of values above the threshold."""
    threshold: float
    """|x| at which the tail was cut, in units of x: the (k + 1)-th largest (Pickands: the 4k-th)."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TailPlot:
    """A tail estimator at many k: arrays of one length. NaN where equal order statistics leave no value."""

    k: Ints
    tail_index: Floats
    """1/γ; infinite where γ̂ ≤ 0."""
    low: Floats
    high: Floats
    """Ends of the 95 % interval of the tail index."""
    extreme_value_index: Floats
    se: Floats
    """Standard error of γ̂."""
    threshold: Floats
    method: str
    reference: str


def _ordered(x: ArrayLike) -> Floats:
    """|x| in falling order; raises as the public functions document."""
    values = np.abs(as_real(x, "x", 1).astype(np.float64, copy=False))
    require_finite(values)
    if values.size < MIN_VALUES:
        raise TooFewValues(f"x: expected at least {MIN_VALUES} values, got {values.size}")
    if not values.any():
        raise AllZero(f"x: all {values.size} values are exactly 0; there is no tail")
    return np.sort(values)[::-1]


def _choose(ks: ArrayLike | None, most: int, name: str) -> Ints:
    """The values of k as integers within [2, ``most``]; all of them for ``None``."""
    if ks is None:
        return np.arange(_LEAST_K, most + 1)
    given = np.atleast_1d(np.asarray(ks))
    if given.ndim != 1 or given.dtype.kind not in "iu" or given.size == 0:
        raise InvalidInput(f"{name}: expected whole numbers, got {ks!r}")
    if given.min() < _LEAST_K or given.max() > most:
        raise InvalidInput(
            f"{name}: expected numbers from {_LEAST_K} to {most} (non-zero values above the threshold, the threshold"
            f" itself not 0), got {ks!r}"
        )
    return given.astype(np.int64)


def _log_excesses(ordered: Floats) -> tuple[Floats, Floats, Floats]:
    """M₁(k) and M₂(k), the mean of ln X_(i) − ln X_(k+1) over i ≤ k and of its square, for k = 1, 2, ...; ln X."""
    logs = np.log(ordered[ordered > 0])
    logs -= logs[0]  # ≤ 0; the unit does not matter and sums stay small
    k = np.arange(1, logs.size)
    first, second = np.cumsum(logs)[:-1] / k, np.cumsum(logs**2)[:-1] / k
    at = logs[1:]
    return first - at, np.maximum(second - 2 * at * first + at**2, 0.0), logs


def _hill(ordered: Floats, k: Ints) -> tuple[Floats, Floats]:
    """γ̂ = M₁ with standard error γ̂/√k (Hill 1975)."""
    gamma = _log_excesses(ordered)[0][k - 1]
    gamma = np.where(gamma > 0, gamma, np.nan)
    return gamma, gamma / np.sqrt(k)


def _moment(ordered: Floats, k: Ints) -> tuple[Floats, Floats]:
    """γ̂ = M₁ + 1 − ½ (1 − M₁²/M₂)⁻¹ (Dekkers, Einmahl & de Haan 1989).

    k Var: 1 + γ² for γ ≥ 0, else (1−γ)²(1−2γ) [4 − 8 (1−2γ)/(1−3γ) + (5−11γ)(1−2γ)/((1−3γ)(1−4γ))].
    """
    m1, m2, _ = _log_excesses(ordered)
    m1, m2 = m1[k - 1], m2[k - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        gamma = m1 + 1.0 - 0.5 / (1.0 - m1**2 / m2)
    gamma = np.where(np.isfinite(gamma), gamma, np.nan)
    g = np.minimum(gamma, 0.0)
    below = (1 - g) ** 2 * (1 - 2 * g)
    below = below * (4 - 8 * (1 - 2 * g) / (1 - 3 * g) + (5 - 11 * g) * (1 - 2 * g) / ((1 - 3 * g) * (1 - 4 * g)))
    return gamma, np.sqrt(np.where(gamma >= 0, 1 + gamma**2, below) / k)


def _pickands(ordered: Floats, k: Ints) -> tuple[Floats, Floats]:
    """γ̂ = log₂ [(X_(k) − X_(2k)) / (X_(2k) − X_(4k))] (Pickands 1975).

    k Var: γ² (2^(2γ+1) + 1) / (2 (2^γ − 1) ln 2)² (Dekkers & de Haan 1989); 3/(4 ln⁴2) at γ = 0.
    """
    upper, lower = ordered[k - 1] - ordered[2 * k - 1], ordered[2 * k - 1] - ordered[4 * k - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        gamma = np.log2(upper) - np.log2(lower)  # the quotient may overflow
    gamma = np.where(np.isfinite(gamma), gamma, np.nan)
    # With a = |γ|, a/(1 − 2^(−a)) is γ/(2^γ − 1) for γ < 0, and 2^γ times that for γ > 0: nothing overflows.
    a, ln2 = np.abs(gamma), math.log(2.0)
    far = a > 1e-8
    ratio = np.where(far, a / np.where(far, -np.expm1(-a * ln2), 1.0), 1.0 / ln2)
    shrunk = np.exp2(-2 * a)
    root = np.sqrt(np.where(gamma > 0, 2 + shrunk, 2 * shrunk + 1))
    return gamma, np.where(np.isnan(gamma), np.nan, ratio * root / (2 * ln2) / np.sqrt(k))


def _inverted(gamma: Floats, se: Floats) -> tuple[Floats, Floats, Floats]:
    """Value and ends of 1/γ; infinite for γ ≤ 0."""

    def over(g: Floats) -> Floats:
        inverse: Floats = np.where(np.isnan(g), np.nan, np.divide(1.0, g, out=np.full_like(g, np.inf), where=g > 0))
        return inverse

    return over(gamma), over(gamma + Z95 * se), over(gamma - Z95 * se)


def _plot(
    x: ArrayLike,
    ks: ArrayLike | None,
    estimate: Callable[[Floats, Ints], tuple[Floats, Floats]],
    reach: int,
    method: str,
    reference: str,
    name: str = "ks",
) -> TailPlot:
    """``estimate`` at all ``ks``; the threshold is order statistic k + 1, or 4k (``reach`` 4)."""
    ordered = _ordered(x)
    positive = int(np.count_nonzero(ordered))
    k = _choose(ks, positive // 4 if reach == 4 else positive - 1, name)
    gamma, se = estimate(ordered, k)
    value, low, high = _inverted(gamma, se)
    threshold = ordered[4 * k - 1] if reach == 4 else ordered[k]
    return TailPlot(k, value, low, high, gamma, se, threshold, method, reference)


def _single(plot: TailPlot, n: int) -> TailIndex:
    gamma, se, value = float(plot.extreme_value_index[0]), float(plot.se[0]), float(plot.tail_index[0])
    k, threshold = int(plot.k[0]), float(plot.threshold[0])
    if math.isnan(gamma):
        raise DegenerateValues(
            f"x: the {k} largest magnitudes of {n} are equal where they must differ; take another k or look for atoms"
        )
    # d(1/γ) = −dγ/γ²
    tail = Estimate(value, se * value**2, float(plot.low[0]), float(plot.high[0]), k, plot.method, plot.reference)
    index = Estimate(gamma, se, gamma - Z95 * se, gamma + Z95 * se, k, plot.method, plot.reference)
    warnings = () if gamma > 0 else (f"the extreme-value index, {gamma:.3g}, is not above 0: no power-law tail",)
    return TailIndex(tail, index, k, threshold, warnings)


def hill_plot(x: ArrayLike, ks: ArrayLike | None = None) -> TailPlot:
    """``hill`` at all ``ks`` (whole numbers; ``None``: 2 to the number of non-zero values less one), in one pass."""
    return _plot(x, ks, _hill, 1, "Hill", _HILL)


def moment_plot(x: ArrayLike, ks: ArrayLike | None = None) -> TailPlot:
    """``moment`` at all ``ks`` (whole numbers; ``None``: 2 to the number of non-zero values less one), in one pass."""
    return _plot(x, ks, _moment, 1, "moment", _MOMENT)


def pickands_plot(x: ArrayLike, ks: ArrayLike | None = None) -> TailPlot:
    """``pickands`` at all ``ks`` (whole numbers; ``None``: 2 to a quarter of the non-zero values), in one pass."""
    return _plot(x, ks, _pickands, 4, "Pickands", _PICKANDS)


def hill(x: ArrayLike, k: int) -> TailIndex:
    """Hill's estimator of the tail index of |x| from its ``k`` largest values.

    γ̂ = mean of ln X_(i) − ln X_(k+1) over the k largest, standard error γ̂/√k: maximum likelihood for an exact Pareto
    tail, and always a finite tail index, for laws without one too. A *tail* index, never the stable α: see the module.

    ``x``: one dimension, at least 30 values. 2 ≤ k below the number of non-zero values. Raises ``InvalidInput`` (also
    for k), ``NonFiniteValues``, ``TooFewValues``, ``AllZero``, ``DegenerateValues`` (the k + 1 largest are equal).
    """
    return _single(_plot(x, k, _hill, 1, "Hill", _HILL, "k"), np.size(x))


def moment(x: ArrayLike, k: int) -> TailIndex:
    """The moment estimator (Dekkers, Einmahl & de Haan 1989) from the ``k`` largest values of |x|.

    γ̂ = M₁ + 1 − ½/(1 − M₁²/M₂), M_j the mean of (ln X_(i) − ln X_(k+1))^j: unlike Hill's it may find that there is no
    power-law tail (γ̂ ≤ 0, tail index infinite, with a warning). A *tail* index, never the stable α: see the module.
    Arguments and errors as of ``hill``.
    """
    return _single(_plot(x, k, _moment, 1, "moment", _MOMENT, "k"), np.size(x))


def pickands(x: ArrayLike, k: int) -> TailIndex:
    """Pickands' estimator from the ``k``-th, 2k-th and 4k-th largest values of |x|.

    γ̂ = log₂ of (X_(k) − X_(2k))/(X_(2k) − X_(4k)): free of location and scale, consistent for every γ, and noisy. A
    *tail* index, never the stable α: see the module. Arguments and errors as of ``hill``, but k at most a quarter of
    the number of non-zero values.
    """
    return _single(_plot(x, k, _pickands, 4, "Pickands", _PICKANDS, "k"), np.size(x))
