"""From draws of the gradient to noise: what ∇F is replaced by when u = ∇F − ∇f_S is formed.

Every contrast takes draws (K × J: minibatch gradients at J coordinates) and returns a ``Contrast`` whose
``noise`` rows are what the forms are computed from. Draws with NaN or infinity are dropped and counted first:
one of them would spoil every row of ``mean``. The contrast decides what an α means, so each result carries its
``reference``.

=============  ===============================  ==========================================================
contrast       row                              good for
=============  ===============================  ==========================================================
`pair`         half-difference of two draws     α: symmetric, independent rows, ∇F cancels
`full`         exact ∇F − draw                  everything, where a pass over the data is affordable
`mean`         mean of the draws − draw         covariances at a frozen θ
`difference`   draw before − draw               a trajectory: no extra work, drift cancels to first order
`ema`          exponential average − draw       a trajectory, rows nearly of one draw; biased by drift
=============  ===============================  ==========================================================

A location-0 fit of *skewed* noise depends on the centre; ``pair`` and ``difference`` are symmetric by construction, the
others say in a warning when the median of the noise lies off its centre in a typical coordinate. Where ``pair`` finds
its half-differences off 0, the draws of a pair are not alike, and it says so.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._estimate import InvalidInput, NonFiniteValues, TooFewValues, as_real

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["Contrast", "Minibatches", "Replacement", "difference", "ema", "full", "mean", "pair"]

Matrix = np.ndarray[Any, np.dtype[Any]]

_FORGOTTEN = 0.1
"""Weight of the draws that an exponential average no longer counts as its memory."""
_OFF_CENTRE = 0.2
"""|P(u > 0) − P(u < 0)| of a typical coordinate above which noise is said to lie off its centre."""
_BY_CHANCE = 10.0
"""Over the number of rows, what its square hardly reaches by chance where coordinates are all alike (P < 0.002)."""


class Replacement(enum.StrEnum):
    """How the examples of successive minibatches are drawn from the dataset."""

    WITH = "with"
    """Every example of every minibatch anew."""
    WITHOUT = "without"
    """The examples of one minibatch differ; minibatches are independent of each other."""
    EPOCH = "epoch"
    """Minibatches are successive slices of one shuffled pass: no two of them share an example. (Of draws of several
    passes ``pair`` and ``difference`` compare neighbours, which are nearly all of one; ``mean`` and ``ema`` warn.)"""


@dataclass(frozen=True, slots=True)
class Minibatches:
    """Where draws come from, for covariances that do not depend on it.

    Raises ``InvalidInput`` unless 1 ≤ ``batch_size`` < ``dataset_size``.
    """

    dataset_size: int
    """n."""
    batch_size: int
    """B."""
    replacement: Replacement

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size < self.dataset_size:
            raise InvalidInput(
                f"batch_size: expected 1 ≤ batch_size < dataset_size, got {self.batch_size} and {self.dataset_size}; "
                "a minibatch that is the whole dataset has no noise"
            )

    def factor(self, *, cancels: bool) -> float:
        """Times the covariance of rows gives Σ = C/B, the covariance of a minibatch drawn with replacement.

        Without replacement a draw has covariance C/B (n−B)/(n−1). Two slices of one pass have covariance −C/(n−1), so
        that a row Σ c_i g_i with Σ c_i = 0 (``cancels``: all contrasts but ``full``) has Σ c_i² C/B n/(n−1).
        """
        n, b = self.dataset_size, self.batch_size
        if self.replacement is Replacement.WITH:
            return 1.0
        if self.replacement is Replacement.EPOCH and cancels:
            return (n - 1) / n
        return (n - 1) / (n - b)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Noise rows with what they were measured against."""

    noise: Matrix
    """K' × J, float32 or float64 as the draws."""
    reference: str
    """``pair``, ``full``, ``mean``, ``difference``, ``ema``; ``given`` for noise that was not made here."""
    draws: int
    """Draws handed in."""
    draws_used: int
    """Draws that some row rests on."""
    non_finite: int
    """Draws dropped for NaN or infinity."""
    draws_per_row: int
    """Draws in one row of a set of *disjoint* rows: 2 for ``pair`` and ``difference``, 1 otherwise."""
    row_stride: int
    """Every ``row_stride``-th row shares no draw with the others: 2 for ``difference`` (neighbours share one),
    the memory of the average plus one for ``ema`` (what is shared then has a tenth of its weight), else 1."""
    covariance_factor: float
    """Times the covariance of the rows gives the covariance Σ of one draw (with ``Minibatches``: of one that was drawn
    with replacement)."""
    coefficients: Floats
    """|c_i| of a row Σ c_i g_i over the draws it rests on."""
    warnings: tuple[str, ...] = ()

    def scale_factor(self, alpha: float) -> float:
        """Times the SαS scale of the rows gives the scale σ of one draw, for SαS(α) noise.

        From the law of weighted sums, σ(Σ c_i X_i) = (Σ |c_i|^α)^{1/α} σ: ``full`` σ; ``pair`` (c = ½, −½)
        2^{1/α}/2 σ; ``difference`` 2^{1/α} σ; ``mean`` [(1 − 1/K)^α + (K−1) K^{−α}]^{1/α} σ; ``ema``
        [1 + (1−β)^α / (1−β^α)]^{1/α} σ.
        """
        return float(np.sum(self.coefficients**alpha) ** (-1.0 / alpha))


def _finite(
    draws: ArrayLike, least: int, name: str
) -> tuple[Matrix, np.ndarray[Any, np.dtype[np.bool_]], tuple[str, ...]]:
    array = as_real(draws, "draws", 2)
    keep = np.isfinite(array).all(axis=1)
    lost = int(array.shape[0] - keep.sum())
    if keep.sum() < least:
        raise TooFewValues(
            f"draws: {name} expects at least {least} finite draws (rows), got {int(keep.sum())} of {array.shape[0]}"
        )
    warnings = (f"{lost} of {array.shape[0]} draws hold NaN or infinity and were dropped",) if lost else ()
    return (array if lost == 0 else array[keep]), keep, warnings


def _factor(minibatches: Minibatches | None, *, cancels: bool) -> float:
    return 1.0 if minibatches is None else minibatches.factor(cancels=cancels)


def _passes(minibatches: Minibatches | None, draws: int) -> tuple[str, ...]:
    """The warning that ``draws`` draws, which a row compares with each other, are not of one pass."""
    if minibatches is None or minibatches.replacement is not Replacement.EPOCH:
        return ()
    n, b = minibatches.dataset_size, minibatches.batch_size
    if draws * b <= n:
        return ()
    return (
        f"{draws} minibatches of {b} are more than one pass over {n} examples holds: the covariance factor is of one "
        f"pass and too small, by up to a factor of {(n - b) / n:.2f}",
    )


def _imbalance(noise: Matrix) -> float:
    """(P(u > 0) − P(u < 0))² averaged over columns, less what the finite number of rows alone gives, 1/rows."""
    signs = np.sign(noise)
    count = np.abs(signs).sum(axis=0, dtype=np.float64)
    used = count >= 2
    if not used.any():
        return 0.0
    balance = signs.sum(axis=0, dtype=np.float64)[used] / count[used]
    return float(np.mean(balance**2 - 1.0 / count[used]))


def _unlike(noise: Matrix) -> tuple[str, ...]:
    """The warning that the first draws of pairs differ in law from the second: of draws that are alike,
    half-differences are symmetric whatever their law."""
    excess = _imbalance(noise)
    if excess <= max(_OFF_CENTRE**2, _BY_CHANCE / len(noise)):
        return ()
    share = 50 * (1 + math.sqrt(excess))
    return (
        f"in a typical coordinate {share:.0f}% of the half-differences are on one side of 0: the draws of a pair are "
        "not of one law (backward passes of different losses, players that take turns, drift), and what they differ "
        "by in the mean is in the noise",
    )


def _off_centre(noise: Matrix) -> tuple[str, ...]:
    """The warning that most of the noise is on one side of 0 in a typical coordinate."""
    excess = _imbalance(noise)
    if excess <= _OFF_CENTRE**2:
        return ()
    share = 50 * (1 + math.sqrt(excess))
    return (
        f"in a typical coordinate {share:.0f}% of the noise is on one side of 0: it is skewed, has an atom (zeros of "
        "the draws), or is too heavy-tailed for this centre, and α of a law centred at 0 depends on that; compare with "
        "pairs",
    )


def pair(draws: ArrayLike, theta: ArrayLike | None = None, *, minibatches: Minibatches | None = None) -> Contrast:
    """Half-differences of disjoint pairs of draws: the default for α.

    Symmetric by construction, ∇F cancels exactly, rows are independent; covariance Σ/2. For SαS noise α is
    unchanged; for any other law it is the α of the symmetrised, once-summed noise.

    ``theta`` (length K) numbers the parameter states of the draws. Draws of one θ are paired with each other;
    where that would leave more than half of the draws alone (a burst: one draw a step) neighbours in time are
    paired instead, the drift of one step stays in the noise, and a warning says so. ``None``: all draws at one
    θ. A last odd draw is dropped. ``minibatches``: how draws were sampled, for ``covariance_factor``.

    Raises ``InvalidInput`` for draws that are no real matrix or a ``theta`` of another length, ``TooFewValues``
    below 2 draws.
    """
    array, keep, warnings = _finite(draws, 2, "pair")
    k = array.shape[0]
    first = np.arange(0, k - 1, 2)
    if theta is not None:
        states = np.asarray(theta)
        if states.shape != keep.shape:
            raise InvalidInput(f"theta: expected one entry a draw, shape {keep.shape}, got shape {states.shape}")
        states = states[keep]
        if (states[1:] != states[:-1]).any():
            starts = np.flatnonzero(np.concatenate([[True], states[1:] != states[:-1]]))
            ends = np.concatenate([starts[1:], [k]])
            within = np.concatenate([np.arange(a, b - 1, 2) for a, b in zip(starts, ends, strict=True)])
            if 4 * len(within) >= k:
                first = within
            else:
                warnings += (
                    "draws have different parameters: neighbours in time were paired, one step's drift is in the noise",
                )
    noise = (
        array[first] * 0.5 - array[first + 1] * 0.5
    )  # halved first: the difference of two finite values may overflow
    return Contrast(
        noise,
        "pair",
        len(keep),
        2 * len(first),
        int((~keep).sum()),
        draws_per_row=2,
        row_stride=1,
        covariance_factor=2.0 * _factor(minibatches, cancels=True),
        coefficients=np.full(2, 0.5),
        warnings=warnings + _unlike(noise),
    )


def full(draws: ArrayLike, gradient: ArrayLike, *, minibatches: Minibatches | None = None) -> Contrast:
    """The exact gradient ``gradient`` (length J, at the same θ and coordinates) minus each draw: u as it is defined.

    Rows are independent where draws are, covariance Σ, scale σ. Of draws without replacement Σ is smaller than C/B;
    with ``minibatches`` the covariance factor leads back to C/B. (The slices of one whole epoch sum to 0.)

    Raises as ``pair`` (one draw is enough), ``InvalidInput`` for a gradient of another length, ``NonFiniteValues``
    for one with NaN or infinity.
    """
    array, keep, warnings = _finite(draws, 1, "full")
    exact = as_real(gradient, "gradient", 1)
    if exact.shape[0] != array.shape[1]:
        raise InvalidInput(
            f"gradient: expected one entry a coordinate of the draws, {array.shape[1]}, got {exact.shape[0]}"
        )
    if not np.isfinite(exact).all():
        raise NonFiniteValues("gradient: expected finite values, got NaN or infinity; compute the full gradient again")
    noise = (exact.astype(np.float64) - array).astype(array.dtype)
    return Contrast(
        noise,
        "full",
        len(keep),
        len(array),
        int((~keep).sum()),
        draws_per_row=1,
        row_stride=1,
        covariance_factor=_factor(minibatches, cancels=False),
        coefficients=np.ones(1),
        warnings=warnings + _off_centre(noise),
    )


def mean(draws: ArrayLike, *, minibatches: Minibatches | None = None) -> Contrast:
    """Mean of the draws minus each draw, for draws at one frozen θ.

    Columns sum to 0 and rows correlate −1/(K−1): the covariance needs K/(K−1). For heavy tails the mean itself
    is heavy-tailed and the scale grows (``Contrast.scale_factor``; by 1.73 at α = 1.05 and K = 100), and skewed
    noise centred by its mean reads as lighter- or heavier-tailed than it is: prefer ``pair`` for α.

    Raises as ``pair``.
    """
    array, keep, warnings = _finite(draws, 2, "mean")
    k = array.shape[0]
    centre = array.mean(axis=0, dtype=np.float64)
    noise = (centre - array).astype(array.dtype)
    return Contrast(
        noise,
        "mean",
        len(keep),
        k,
        int((~keep).sum()),
        draws_per_row=1,
        row_stride=1,
        covariance_factor=k / (k - 1) * _factor(minibatches, cancels=True),
        coefficients=np.concatenate([[1.0 - 1.0 / k], np.full(k - 1, 1.0 / k)]),
        warnings=warnings + _passes(minibatches, len(keep)) + _off_centre(noise),
    )


def difference(draws: ArrayLike, *, minibatches: Minibatches | None = None) -> Contrast:
    """g_{t−1} − g_t, the noise of step t against the gradient before, along a trajectory.

    Costs no extra work and cancels drift to first order. Covariance 2Σ, scale 2^{1/α} σ; neighbouring rows
    share a draw (lag-1 correlation −½), and sums of neighbours telescope: sums are taken over every second row.
    Where a draw was dropped the difference spans two steps.

    Raises as ``pair``.
    """
    array, keep, warnings = _finite(draws, 2, "difference")
    return Contrast(
        array[:-1] - array[1:],
        "difference",
        len(keep),
        array.shape[0],
        int((~keep).sum()),
        draws_per_row=2,
        row_stride=2,
        covariance_factor=0.5 * _factor(minibatches, cancels=True),
        coefficients=np.ones(2),
        warnings=warnings,
    )


def ema(draws: ArrayLike, beta: float = 0.9, *, minibatches: Minibatches | None = None) -> Contrast:
    """e_{t−1} − g_t with the exponential average e of the draws before, e_t = β e_{t−1} + (1−β) g_t, bias-corrected.

    The average's weights w_i sum to 1, so that a constant ∇F cancels exactly; a moving one does not, and the rows then
    hold the drift of about 1/(1−β) steps: a warning says so. Rows begin once β^t ≤ 0.1. They share draws: a row has
    covariance (1 + Σ w_i²) Σ → 2/(1+β) Σ, neighbours correlate −(1−β)/2, and long sums of rows telescope, so that sums
    are taken over rows that lie the average's memory apart. For SαS noise the scale is
    [1 + (1−β)^α/(1−β^α)]^{1/α} σ.

    Raises as ``pair``; ``InvalidInput`` for a ``beta`` outside (0, 1), ``TooFewValues`` for no more draws than it
    takes to forget.
    """
    if not 0.0 < beta < 1.0:
        raise InvalidInput(f"beta: expected a number between 0 and 1, got {beta}")
    memory = math.ceil(math.log(_FORGOTTEN) / math.log(beta))
    array, keep, warnings = _finite(draws, memory + 1, f"ema with beta {beta:g}")
    k = array.shape[0]
    average = np.zeros(array.shape[1])
    noise = np.empty((k - memory, array.shape[1]), dtype=array.dtype)
    for t in range(k):
        if t >= memory:
            noise[t - memory] = average / (1.0 - beta**t) - array[t]
        average = beta * average + (1.0 - beta) * array[t]
    powers = beta ** np.arange(memory, k)
    # Σ w_i² of the normalised weights (1−β) β^i / (1−β^t), i < t.
    squares = (1.0 - beta) / (1.0 + beta) * (1.0 + powers) / (1.0 - powers)
    weights = beta ** np.arange(k - 1.0)
    drift = "an exponential average lags behind the gradient: its drift is in the noise, and reads as a location"
    return Contrast(
        noise,
        "ema",
        len(keep),
        k,
        int((~keep).sum()),
        draws_per_row=1,
        row_stride=memory + 1,
        covariance_factor=_factor(minibatches, cancels=True) / float(np.mean(1.0 + squares)),
        coefficients=np.concatenate([[1.0], weights / weights.sum()]),
        warnings=(*warnings, drift, *_passes(minibatches, len(keep)), *_off_centre(noise)),
    )
