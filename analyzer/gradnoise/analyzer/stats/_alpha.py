"""What the estimators of α share: the shape of their answer, and the sample they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._estimate import (
    MIN_VALUES,
    AllZero,
    DegenerateValues,
    Estimate,
    InvalidInput,
    NonFiniteValues,
    TooFewValues,
    as_real,
    as_weights,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaEstimate(Estimate):
    """An estimate of α, with the scale that came with it.

    ``value``, ``se``, ``low`` and ``high`` are α's. Above 2 there is no stable law: estimators whose formula goes
    there anyway (all but ``quantile``) return what it gives, with a warning, so that averages stay unbiased.
    """

    scale: Estimate | None
    """σ of SαS(σ), in units of x; ``None`` where the estimator has none (block sums)."""
    zeros: float
    """Share of exact zeros among the values."""


def any_shape(x: ArrayLike, name: str = "x") -> np.ndarray[Any, np.dtype[Any]]:
    """``x`` as a real array of as many dimensions as it has; raises ``InvalidInput``."""
    try:
        dimensions = np.ndim(x)
    except ValueError:
        raise InvalidInput(f"{name}: expected an array of numbers, got a ragged sequence") from None
    return as_real(x, name, dimensions)


def require_finite(values: np.ndarray[Any, np.dtype[Any]], name: str = "x") -> None:
    """Raise ``NonFiniteValues`` for NaN or infinity."""
    if not np.isfinite(values).all():
        raise NonFiniteValues(
            f"{name}: expected finite values, got NaN or infinity among {values.size}; drop or mend them first"
        )


def require_count(n: float, total: int, least: int = MIN_VALUES, name: str = "x") -> None:
    """Raise ``AllZero`` or ``TooFewValues`` if ``n`` non-zero values of ``total`` are not enough."""
    if n == 0 and total > 0:
        raise AllZero(f"{name}: all {total} values are exactly 0; there is no noise to estimate from")
    if n < least:
        raise TooFewValues(
            f"{name}: expected at least {least} non-zero values, got {n:g} of {total}; collect more draws"
        )


def zeros_warning(zeros: float) -> tuple[str, ...]:
    """The warning of estimators that leave zeros out."""
    return (f"{zeros:.1%} of the values are exactly 0 and were left out",) if zeros > 0 else ()


def range_warning(alpha: float) -> tuple[str, ...]:
    """The warning for a value outside (0, 2]."""
    return () if 0 < alpha <= 2 else (f"the estimate, {alpha:.4g}, is not the index of any stable law",)


def few_warning(n: float, enough: int) -> tuple[str, ...]:
    """The warning of asymptotic intervals that fewer than ``enough`` values make too short."""
    if n >= enough:
        return ()
    return (f"the interval is too short below {enough} values, here {n:g}; take that of stable.fit",)


def nonzero(x: ArrayLike, weights: ArrayLike | None = None) -> tuple[Floats, Floats, float]:
    """The non-zero values of a one-dimensional sample as float64, their weights (empty for ``None``), and the share
    of exact zeros.

    Raises ``InvalidInput``, ``NonFiniteValues``, ``AllZero``, ``TooFewValues`` and, for values that are all equal,
    ``DegenerateValues``.
    """
    values = as_real(x, "x", 1).astype(np.float64, copy=False)
    w = as_weights(weights, values.size)
    require_finite(values)
    if weights is not None:
        values, w = values[w > 0], w[w > 0]
    keep = values != 0
    total = float(w.sum()) if weights is not None else float(values.size)
    kept = float(w[keep].sum()) if weights is not None else float(keep.sum())
    require_count(min(kept, float(keep.sum())), values.size)
    nonzeros = values if kept == total else values[keep]
    if (nonzeros == nonzeros[0]).all():
        raise DegenerateValues(f"x: all {values.size} values (zeros aside) are equal; a constant has no law to fit")
    return nonzeros, w[keep] if w.size else w, 1.0 - kept / total


def from_log(log_value: float, se: float, half: float, n: float, method: str, reference: str) -> Estimate:
    """A scale from its logarithm: value exp(``log_value``), interval exp(``log_value`` ± ``half``)."""
    with np.errstate(over="ignore"):
        value, low, high = (float(np.exp(at)) for at in (log_value, log_value - half, log_value + half))
    return Estimate(value, value * se, low, high, n, method, reference)
