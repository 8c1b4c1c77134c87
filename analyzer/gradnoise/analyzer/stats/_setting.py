"""One measurement made ready: what is not finite is left out and counted, moments taken, gaps given a reason."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._curved import Known, Unknown, curved
from gradnoise.analyzer.stats._estimate import Status
from gradnoise.analyzer.stats._measured import Sampling
from gradnoise.analyzer.stats._moments import Moments, Ties, moments, signs, ties

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._measured import Measured

Bools = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["MIN_DRAWS", "Setting", "setting", "unknown_of"]

MIN_DRAWS = 8
"""Fewest draws that an interval is made of."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A measurement with its moments; a field that could not be had is an ``Unknown`` with the reason."""

    measured: Measured
    """Finite draws only."""
    finite: Bools
    """Per eigenvalue: whether it, its residual and its projections are finite."""
    trace_h: Known | Unknown
    square_h: Known | Unknown
    """‖H‖²_F."""
    trace: Floats | Unknown
    """Tr Σ of all draws and without each; the next ones likewise."""
    square: Floats | Unknown
    product: Floats | Unknown
    variances: Floats | Unknown
    """(K + 1, k) of the finite directions."""
    inner: tuple[Floats, Floats] | Unknown
    """‖VᵀΣV‖²_F and its diagonal part."""
    signed: Moments | Unknown
    """The same moments of u/|u|."""
    factor: float
    """C = factor · Σ: B, and (n−1)/(n−B) where minibatches are drawn without replacement; NaN for unknown B."""
    warnings: tuple[str, ...]
    """Of whatever rests on draws."""
    factor_warnings: tuple[str, ...]
    """Of whatever rests on ``factor``."""

    @property
    def values(self) -> Floats:
        """The finite eigenvalues."""
        found: Floats = self.measured.eigenvalues[self.finite]
        return found

    @property
    def residuals(self) -> Floats:
        """Their residuals; empty where none were measured."""
        found = self.measured.residuals
        return found[self.finite] if found.size else found

    @property
    def scale(self) -> float:
        """``factor``, or 1 where the batch size is unknown: then C is in units of 1/B."""
        return self.factor if math.isfinite(self.factor) else 1.0


def unknown_of(*parts: object) -> Unknown:
    """The first of ``parts`` that is missing; one of them is."""
    return next(part for part in parts if isinstance(part, Unknown))


def _finite_draws(measured: Measured) -> Measured:
    """Without the draws that hold NaN or infinity."""
    good = np.ones(measured.draws, bool)
    if not math.isfinite(float(measured.gram.sum())):
        good &= np.isfinite(np.diagonal(measured.gram))
        # One bad draw spoils a row and a column of the Gram matrix: its diagonal tells which of the two it is.
        good[good] &= np.isfinite(measured.gram[np.ix_(good, good)]).all(axis=1)
    if measured.projections.size:
        # A column of NaN is a bad direction, a row a bad draw.
        columns = np.isfinite(measured.projections).any(axis=0)
        good &= np.isfinite(measured.projections[:, columns]).all(axis=1)
    if measured.quadratic.size and np.isfinite(measured.quadratic).any():
        good &= np.isfinite(measured.quadratic)
    if good.all():
        return measured
    return dataclasses.replace(
        measured,
        gram=measured.gram[np.ix_(good, good)] if measured.gram.size else measured.gram,
        projections=measured.projections[good] if measured.projections.size else measured.projections,
        quadratic=measured.quadratic[good] if measured.quadratic.size else measured.quadratic,
        block_noise=measured.block_noise[good] if measured.block_noise.size else measured.block_noise,
    )


def _finite_directions(measured: Measured) -> Bools:
    good: Bools = np.isfinite(measured.eigenvalues)
    if measured.residuals.size:
        good &= np.isfinite(measured.residuals)
    if measured.projections.size:
        good &= np.isfinite(measured.projections).all(axis=0)
    return good


def _factor(measured: Measured) -> tuple[float, tuple[str, ...]]:
    """What makes C of Σ: E u uᵀ = C/B with replacement, C/B (n−B)/(n−1) without (also for the slices of a pass)."""
    batch, examples = measured.batch_size, measured.examples
    if batch is None:
        return math.nan, ("batch size unknown: in units of batches, not of examples",)
    replacement = False if measured.sampling is Sampling.EPOCH else measured.replacement
    if replacement:
        return float(batch), ()
    if examples is None:
        return float(batch), ("number of examples unknown: no finite-population factor (n-1)/(n-B)",)
    if replacement is None:
        return float(batch), ("with or without replacement unknown: no finite-population factor (n-1)/(n-B)",)
    if batch >= examples:
        return math.nan, (f"minibatches of {batch} of {examples} examples are the whole data",)
    return batch * (examples - 1) / (examples - batch), ()


def _repeated(gram: Floats) -> int:
    """Draws that equal an earlier one: a loader that does not shuffle, gone over twice."""
    norms = np.diagonal(gram)
    # Equal draws have equal norms: only neighbours in that order need a look.
    order = np.argsort(norms)
    one, other = order[:-1], order[1:]
    apart = norms[one] + norms[other] - 2.0 * gram[one, other]
    return int(((apart <= 1e-9 * norms[other]) & (norms[other] > 0)).sum())


def setting(given: Measured) -> Setting:
    """Make a measurement ready."""
    # Ties follow from the places of the draws in their passes: before any is left out.
    tied = ties(given)
    measured = _finite_draws(given)
    finite = _finite_directions(measured)
    projections = measured.projections[:, finite] if measured.projections.size else measured.projections
    trace_h, square_h = curved(measured)
    factor, factor_warnings = _factor(measured)
    warnings: list[str] = []
    lost = given.draws - measured.draws
    if lost:
        warnings.append(f"{lost} of {given.draws} draws left out: NaN or infinity")
    if measured.sampling is Sampling.EPOCH and not (measured.batch_size and measured.examples):
        warnings.append("draws of whole passes, but batch size or examples unknown: their ties are not corrected for")
    # Single examples do come again, drawn each anew or in another pass: that is their law.
    anew = measured.sampling is not None and measured.batch_size == 1
    if measured.gram.size and not anew and (repeated := _repeated(measured.gram)):
        warnings.append(f"{repeated} draws repeat earlier ones: intervals are too short")
    found = _moments(given, measured, projections, tied)
    return Setting(
        measured,
        finite,
        trace_h,
        square_h,
        *found,
        factor,
        tuple(warnings),
        factor_warnings,
    )


_Found = tuple[
    "Floats | Unknown",
    "Floats | Unknown",
    "Floats | Unknown",
    "Floats | Unknown",
    "tuple[Floats, Floats] | Unknown",
    "Moments | Unknown",
]


def _moments(given: Measured, measured: Measured, projections: Floats, tied: Ties) -> _Found:
    """The moments, or why there are none."""
    reason = _no_draws(given, measured)
    if reason is not None:
        return reason, reason, reason, reason, reason, reason
    found = moments(measured.gram, projections, measured.quadratic, tied)

    def there(value: Floats | None, what: str) -> Floats | Unknown:
        if value is None:
            return Unknown(Status.NOT_MEASURED, f"{what} not measured")
        if not np.isfinite(value).all():
            return Unknown(Status.NON_FINITE, f"NaN or infinity in {what}")
        return value

    inner: tuple[Floats, Floats] | Unknown = Unknown(Status.NOT_MEASURED, "the projections were not measured")
    if found.inner_square is not None and found.inner_diagonal is not None:
        inner = (found.inner_square, found.inner_diagonal)
    signed: Moments | Unknown = Unknown(Status.NOT_MEASURED, "the Gram matrix was not measured")
    if measured.gram.size:
        parts = signs(measured.gram, projections, measured.quadratic)
        signed = moments(*parts, Ties()) if len(parts[0]) >= MIN_DRAWS else Unknown(Status.ALL_ZERO, "draws are 0")
    return (
        there(found.trace, "the Gram matrix of the draws"),
        there(found.square, "the Gram matrix of the draws"),
        there(found.product, "the products u·Hu"),
        there(found.variances, "the projections"),
        inner,
        signed,
    )


def _no_draws(given: Measured, measured: Measured) -> Unknown | None:
    if given.draws == 0:
        return Unknown(Status.NOT_MEASURED, "no draws of the noise were taken")
    if measured.draws < MIN_DRAWS:
        left = f" of {given.draws}" if measured.draws < given.draws else ""
        return Unknown(Status.TOO_FEW_DRAWS, f"{measured.draws}{left} draws; an interval needs {MIN_DRAWS}")
    for part in (measured.gram, measured.projections, measured.quadratic):
        if part.size and not (part == 0).all():
            return None
    return Unknown(Status.ALL_ZERO, "every draw equals the full gradient: there is no noise")
