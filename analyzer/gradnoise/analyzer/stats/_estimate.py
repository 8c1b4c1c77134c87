"""The one shape of an estimate, the enums of states and verdicts, and the errors of this package."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

MIN_VALUES = 30
"""Fewest non-zero values any fit accepts: below it a four-figure interval would be decoration."""
Z95 = 1.959963984540054
"""97.5 % point of the standard normal law: half width of a 95 % interval in standard errors."""


class Status(enum.StrEnum):
    """What became of a computation. Everything but ``ok`` and ``at_boundary`` means: there is no value."""

    OK = "ok"
    """A value with an interval inside the parameter space."""
    AT_BOUNDARY = "at_boundary"
    """A value on the edge of what is allowed: α̂ = 2, the normal reading of Gaussian data, or α̂ = 0.5, the
    table's end."""
    TOO_FEW_DRAWS = "too_few_draws"
    """Fewer draws (rows) than the form needs."""
    TOO_FEW_VALUES = "too_few_values"
    """Fewer non-zero values (or coordinates) than a fit needs."""
    ALL_ZERO = "all_zero"
    """Every value is exactly 0."""
    DEGENERATE = "degenerate"
    """The values carry no law: constant, or coordinates bound by an exact linear relation."""
    NON_FINITE = "non_finite"
    """NaN or infinity among the values."""
    NOT_STATIONARY = "not_stationary"
    """The scale drifts over the window by more than the stated limit; set by whoever knows the order of the draws."""
    NO_CONVERGENCE = "no_convergence"
    """The iteration stopped without meeting its tolerance."""
    NOT_MEASURED = "not_measured"
    """Something that the quantity is made of was not measured."""


class Verdict(enum.StrEnum):
    """What the evidence says about the law of the noise."""

    GAUSSIAN = "gaussian"
    """Nothing speaks against a Gaussian, and the sample was large enough for something to."""
    STABLE = "stable"
    """The Gaussian is rejected and SαS, α < 2, is the best of the laws compared."""
    HEAVY_FINITE_VARIANCE = "heavy_finite_variance"
    """The Gaussian is rejected and a heavy-tailed law of finite variance fits better than SαS."""
    SCALE_MIXTURE = "scale_mixture"
    """Gaussian parameter by parameter, on scales so different that together they look heavy-tailed. Needs the matrix:
    one vector cannot tell it from the law before."""
    UNDECIDED = "undecided"
    """The evidence stays below the margin that a verdict needs."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its uncertainty.

    Every number is a float, or a float64 array over columns where the estimate is of many columns at once. What
    could not be computed is NaN, and then the result that holds the estimate has a status and a reason.
    """

    value: Any
    se: Any
    """Standard error, in units of ``value``."""
    low: Any
    high: Any
    """Ends of the 95 % interval."""
    n: Any
    """Number of values (sum of weights, number of resampled groups ...) that the value rests on."""
    method: str
    """How value and interval were made, in a few words."""
    reference: str = ""
    """Published source, by author, year and equation."""
    warnings: tuple[str, ...] = ()

    def at(self, j: int) -> Estimate:
        """The estimate of column ``j``, of an estimate of many columns."""
        value, se, low, high, n = (float(v[j]) for v in (self.value, self.se, self.low, self.high, self.n))
        return Estimate(value, se, low, high, n, self.method, self.reference)


class StatsError(ValueError):
    """Input that no result can be made of. ``status`` says the same in one word."""

    status: Status = Status.DEGENERATE


class InvalidInput(StatsError):
    """Values of the wrong kind, shape or range (text, three dimensions, a negative weight, α outside [0.5, 2])."""


class TooFewValues(StatsError):
    """Fewer values than the estimator's minimum."""

    status = Status.TOO_FEW_VALUES


class NonFiniteValues(StatsError):
    """NaN or infinity among the values."""

    status = Status.NON_FINITE


class DegenerateValues(StatsError):
    """Values without a law: constant or all zero."""


class AllZero(DegenerateValues):
    """Every value is exactly 0."""

    status = Status.ALL_ZERO


class NoConvergence(StatsError):
    """An iteration did not meet its tolerance."""

    status = Status.NO_CONVERGENCE


_HINTS = {"Contrast": "pass its .noise", "Sketch": "use sketch.finalize, or sketch.values with weights"}


def as_generator(rng: object) -> np.random.Generator:
    """``rng`` if it is a numpy random generator. Raises ``InvalidInput``."""
    if not isinstance(rng, np.random.Generator):
        raise InvalidInput(f"rng: expected a numpy.random.Generator, got {rng!r}; pass numpy.random.default_rng(seed)")
    return rng


def as_numbers(values: object, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    """``values`` as a real array: float32 and float64 kept, other numbers made float64.

    Raises ``InvalidInput`` naming the argument for text, objects, complex numbers and masked values.
    """
    if np.ma.is_masked(values):
        raise InvalidInput(f"{name}: expected numbers, got an array with masked values; pass {name}.compressed()")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{name}: expected numbers, got something numpy cannot read: {error}") from None
    if array.dtype.kind == "O" and array.ndim == 0:
        kind = type(values).__name__
        raise InvalidInput(f"{name}: expected an array of numbers, got {kind}; {_HINTS.get(kind, 'convert it first')}")
    if array.dtype.kind not in "fiub":
        raise InvalidInput(
            f"{name}: expected real numbers, got an array of dtype {array.dtype}; convert it to float64 first"
        )
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def as_real(values: object, name: str, dimensions: int) -> np.ndarray[Any, np.dtype[Any]]:
    """``as_numbers`` of ``dimensions`` dimensions; another shape raises ``InvalidInput``."""
    array = as_numbers(values, name)
    if array.ndim != dimensions:
        raise InvalidInput(f"{name}: expected {dimensions} dimension(s), got shape {array.shape}")
    return array


def as_weights(weights: object, n: int, name: str = "weights") -> Floats:
    """Frequency weights as float64 of length ``n``; empty for ``None`` (all ones). Raises ``InvalidInput``."""
    if weights is None:
        return np.empty(0)
    array = as_real(weights, name, 1).astype(np.float64)
    if array.size != n:
        raise InvalidInput(f"{name}: expected one weight a value, {n}, got {array.size}")
    if not np.isfinite(array).all() or (array < 0).any():
        raise InvalidInput(f"{name}: expected finite, non-negative frequency weights; drop or mend the others first")
    return array
