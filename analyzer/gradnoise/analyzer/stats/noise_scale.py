"""Noise scale (critical batch size) B_simple = Tr C / |∇F|² from draws of the gradient alone.

No full gradient is needed. Of draws at one θ (a probe, microbatches, ranks), E |g_a − g_b|²/2 = Tr C/B and
E g_a·g_b = |∇F|² for a ≠ b (McCandlish et al. 2018, appendix A.1, with every pair of draws in the place of two batch
sizes). Several θ are pooled. Where each draw has its own θ, neighbours stand in for pairs, with a warning.

The draws hold sampled coordinates of each parameter group: sums over them are scaled to the group's size, and the error
of the sample of coordinates is part of every interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

from gradnoise.analyzer.stats._draw_pairs import Design, Sums, design, sums
from gradnoise.analyzer.stats._estimate import Estimate, InvalidInput, Status
from gradnoise.analyzer.stats._interval import Part, combined
from gradnoise.analyzer.stats._metric import Metric, Name, missing
from gradnoise.analyzer.stats.contrasts import Minibatches, Replacement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["WHOLE", "Gradients", "Scale", "noise_scale"]

WHOLE = "*"
"""The name that the whole model goes by."""
_SOURCE = "McCandlish et al. 2018, appendix A.1"
_FIELLER = "ratio of pair means, Fieller's interval"


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """Draws of one parameter group's gradient.

    Raises:
        InvalidInput: arrays of other shapes than documented, fewer parameters than coordinates.
    """

    name: str
    size: int
    """Parameters in the group."""
    values: np.ndarray[Any, np.dtype[Any]]
    """(K, J): K minibatch gradients at J coordinates of the group, in time order."""
    theta: np.ndarray[Any, np.dtype[Any]]
    """(K,): draws of equal number are of one θ."""
    draw: np.ndarray[Any, np.dtype[Any]]
    """(K,): which minibatch, equal across groups."""
    batch_size: np.ndarray[Any, np.dtype[Any]] | None = None
    """(K,): examples in the minibatch, 0 where unknown; None where no draw's is known."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise InvalidInput(f"{self.name}: expected draws x coordinates, got shape {self.values.shape}")
        draws, coordinates = self.values.shape
        for name in ("theta", "draw", "batch_size"):
            found = getattr(self, name)
            if found is not None and found.shape != (draws,):
                raise InvalidInput(f"{self.name}: expected {name} of shape ({draws},), got {found.shape}")
        if self.size < coordinates:
            raise InvalidInput(f"{self.name}: {coordinates} coordinates of a group of {self.size} parameters")


@dataclass(frozen=True, slots=True)
class Scale:
    """The noise scale of one group, or of the whole model."""

    group: str
    """``*`` for the whole model."""
    metrics: tuple[Metric, ...]
    """``b_simple``, ``trace_sigma`` (of one minibatch), ``gradient_norm2``, each with status and reason."""


def noise_scale(
    groups: Sequence[Gradients], *, examples: int | None = None, replacement: Replacement | None = None
) -> tuple[Scale, ...]:
    """B_simple, Tr Σ and |∇F|² of each group and, last, of the whole model.

    Of a model, sums of the groups' traces and squared norms over the draws that all groups have. B_simple is in
    examples where every draw's batch size is known, else in batches, with a warning; with several batch sizes their
    harmonic mean counts. Intervals: delete-one jackknife over draws (over θ where there are 8 or more), or over
    tenths of the window for neighbours; for the ratio Fieller's (1954), which has no upper end where |∇F|² is not told
    from 0.

    Args:
        groups: the draws.
        examples: n, examples in the data, if known; with ``replacement`` it corrects for their finite number.
        replacement: how examples are drawn, if known.

    Raises:
        InvalidInput: two groups of one name, or a batch size of ``examples`` or more.
    """
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise InvalidInput(f"groups: names must differ, got {sorted(names)}")
    with np.errstate(all="ignore"):  # what leaves the range of numbers is found, and gets a status
        found = [_scale(group.name, (group,), examples, replacement) for group in groups]
        if groups:
            found.append(_scale(WHOLE, tuple(groups), examples, replacement))
    return tuple(found)


def _scale(name: str, groups: tuple[Gradients, ...], examples: int | None, replacement: Replacement | None) -> Scale:
    warnings: list[str] = []
    filled = tuple(group for group in groups if group.values.size)
    if len(filled) < len(groups):
        warnings.append(f"{len(groups) - len(filled)} of {len(groups)} groups have no draws and are left out")
    if not filled:
        return _none(name, Status.TOO_FEW_DRAWS, "no draws")
    kept = _common(filled, warnings)
    first = filled[0]
    plan = design(first.theta[kept[0]])
    if plan.units < 2:
        reason = f"{len(kept[0])} draws at {plan.thetas} θ: too few to compare"
        return _none(name, Status.TOO_FEW_DRAWS, reason, len(kept[0]))
    if not plan.pairs:
        warnings.append("neighbouring draws are of different θ: drift is read as noise, and |∇F|² is along the way")
    total = _added([sums(group.values[rows], group.size, plan) for group, rows in zip(filled, kept, strict=True)])
    # Squares of the two are what Fieller's interval is made of.
    if not (np.isfinite(total.replicates**2).all() and np.isfinite(total.covariance()).all()):
        reason = "squares of these gradients are beyond the range of double precision"
        return _none(name, Status.NON_FINITE, reason, plan.units)
    if total.trace == 0 and total.norm2 == 0:
        return _none(name, Status.ALL_ZERO, "every gradient is 0", plan.units)
    batch = _batch(first, kept[0][plan.rows])
    return Scale(name, _metrics(_corrected(total, batch, examples, replacement), batch, plan, tuple(warnings)))


def _none(name: str, status: Status, reason: str, n: int = 0) -> Scale:
    of = (Name.B_SIMPLE, Name.TRACE_SIGMA, Name.GRADIENT_NORM2)
    return Scale(name, tuple(missing(each, status, reason, n=n) for each in of))


def _common(groups: tuple[Gradients, ...], warnings: list[str]) -> list[np.ndarray[Any, np.dtype[np.intp]]]:
    """Rows of each group whose draw every group has, finite."""
    finite = [np.isfinite(group.values).all(axis=1) for group in groups]
    keys = [list(zip(group.theta.tolist(), group.draw.tolist(), strict=True)) for group in groups]
    if all(key == keys[0] for key in keys):
        good = np.logical_and.reduce(finite)
        rows = [np.flatnonzero(good)] * len(groups)
        lost = len(good) - len(rows[0])
    else:
        shared = set.intersection(
            *({k for k, f in zip(key, ok, strict=True) if f} for key, ok in zip(keys, finite, strict=True))
        )
        rows = [np.array([i for i, k in enumerate(key) if k in shared], np.intp) for key in keys]
        lost = max(len(key) for key in keys) - len(shared)
    if lost:
        warnings.append(f"{lost} draws left out: NaN or infinity, or missing in a group")
    return rows


def _added(parts: list[Sums]) -> Sums:
    """The sums of several groups: their draws are the same, their samples of coordinates independent."""
    return Sums(
        np.sum([part.replicates for part in parts], axis=0),
        parts[0].weights,
        np.sum([part.coordinates for part in parts], axis=0),
    )


def _batch(group: Gradients, rows: Any) -> float:
    """Harmonic mean of the batch sizes; NaN where one is unknown."""
    if group.batch_size is None or not rows.size:
        return math.nan
    sizes = group.batch_size[rows]
    return float(1.0 / np.mean(1.0 / sizes)) if (sizes > 0).all() else math.nan


def _corrected(found: Sums, batch: float, examples: int | None, replacement: Replacement | None) -> Sums:
    """Corrected for the finite number of examples.

    Two slices of one pass have covariance −C/(n−1): half the squared difference of two has C/B n/(n−1), and their
    product is short of |∇F|² by Tr C/(n−1). Independent minibatches without replacement have C/B (n−B)/(n−1).
    """
    if examples is None or replacement is None or math.isnan(batch):
        return found
    factor = Minibatches(examples, max(round(batch), 1), replacement).factor(cancels=True)
    epoch = replacement is Replacement.EPOCH
    # Tr Σ of a minibatch with replacement, Tr C/B, and |∇F|²: linear in what was found.
    turn = np.array([[factor, 0.0], [batch * factor / (examples - 1) if epoch else 0.0, 1.0]])
    return Sums(found.replicates @ turn.T, found.weights, turn @ found.coordinates @ turn.T)


def _metrics(found: Sums, batch: float, plan: Design, warnings: tuple[str, ...]) -> tuple[Metric, ...]:
    covariance = found.covariance()
    freedom = plan.units - plan.strata
    unit = batch if math.isfinite(batch) else 1.0
    of_ratio = warnings
    if math.isnan(batch):
        of_ratio += ("batch size unknown: in units of batches, not of examples",)
    trace, norm2 = found.trace, found.norm2
    how = "pairs of draws" if plan.pairs else "neighbouring draws"
    rows = []
    for name, value, variance in (
        (Name.TRACE_SIGMA, trace, covariance[0, 0]),
        (Name.GRADIENT_NORM2, norm2, covariance[1, 1]),
    ):
        log = name is Name.TRACE_SIGMA and value > 0
        part = Part(variance / value**2 if log else variance, freedom)
        method = f"{how}, jackknife"
        estimate = combined(value, (part,), n=plan.units, method=method, reference=_SOURCE, log=log, warnings=warnings)
        rows.append(Metric(name, None, estimate, None))
    low, high = fieller(trace, norm2, covariance, float(stdtrit(freedom, 0.975)))
    if norm2 <= 0:
        error = math.sqrt(covariance[1, 1])
        reason = f"|∇F|² is estimated as {norm2:.3g} ± {error:.2g}: not told from 0; take more draws"
        nan = Estimate(math.nan, math.nan, low * unit, math.inf, plan.units, _FIELLER, _SOURCE, of_ratio)
        return Metric(Name.B_SIMPLE, None, nan, None, Status.DEGENERATE, reason), *rows
    ratio = trace / norm2
    if math.isinf(ratio):
        reason = f"|∇F|² = {norm2:.3g} is beyond the range of double precision below Tr Σ"
        return missing(Name.B_SIMPLE, Status.NON_FINITE, reason, n=plan.units, method=_FIELLER), *rows
    gradient = np.array([1.0, -ratio]) / norm2
    se = math.sqrt(max(float(gradient @ covariance @ gradient), 0.0))
    if math.isinf(high):
        of_ratio += ("|∇F|² is not told from 0: no upper end",)
    estimate = Estimate(ratio * unit, se * unit, low * unit, high * unit, plan.units, _FIELLER, _SOURCE, of_ratio)
    return Metric(Name.B_SIMPLE, None, estimate, None), *rows


def fieller(over: float, under: float, covariance: Floats, t: float) -> tuple[float, float]:
    """Ends of the positive ratios ρ with (over − ρ under)² ≤ t² Var(over − ρ under) (Fieller 1954), that is
    a ρ² − 2 b ρ + c ≤ 0; where they are in two pieces, of both.

    The upper end is infinite where ``under`` is not told from 0 or below it; the lower one at least 0.
    """
    a = under**2 - t * t * covariance[1, 1]
    b = over * under - t * t * covariance[0, 1]
    c = over**2 - t * t * covariance[0, 0]
    root = b * b - a * c
    if root < 0:  # only where a < 0: every ratio will do
        return 0.0, math.inf
    if a > 0 and under > 0:
        # The root of larger size first, the other from their product: no cancellation.
        far = b + math.copysign(math.sqrt(root), b)
        ends = sorted((far / a, c / far if far else 0.0))
        return max(ends[0], 0.0), ends[1]
    if a > 0:  # the gradient estimate is significantly negative: impossible but by chance
        return 0.0, math.inf
    # Outside two roots: of one sign where 0 is in as well, else from the positive one on, without cancellation.
    if c <= 0:
        return 0.0, math.inf
    if b > 0:
        return c / (b + math.sqrt(root)), math.inf
    return ((b - math.sqrt(root)) / a if a < 0 else 0.0), math.inf
