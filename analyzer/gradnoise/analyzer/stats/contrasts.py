"""From draws of the gradient to noise: what ∇F is replaced by when u = ∇F − ∇f_S is formed.

Every contrast takes draws (K × J: minibatch gradients at J coordinates) and returns a ``Contrast`` whose
``noise`` rows are what the forms are computed from. Draws with NaN or infinity are dropped and counted first:
one of them would spoil every row of ``mean``. The contrast decides what an α means, so each result carries its
``reference``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._estimate import InvalidInput, TooFewValues, as_real

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Contrast", "difference", "mean", "pair"]

Matrix = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Noise rows with what they were measured against."""

    noise: Matrix
    """K' × J, float32 or float64 as the draws."""
    reference: str
    """``pair``, ``mean``, ``difference``; ``given`` for noise that was not made here."""
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
    else 1."""
    covariance_factor: float
    """Times the covariance of the rows gives the covariance Σ of one draw."""
    warnings: tuple[str, ...] = ()

    def scale_factor(self, alpha: float) -> float:
        """Times the SαS scale of the rows gives the scale σ of one draw, for SαS(α) noise.

        From the law of weighted sums, σ(Σ c_i X_i) = (Σ |c_i|^α)^{1/α} σ: ``pair`` (c = ½, −½) σ_pair = 2^{1/α}/2 σ;
        ``difference`` 2^{1/α} σ; ``mean`` [(1 − 1/K)^α + (K−1) K^{−α}]^{1/α} σ.
        """
        if self.reference == "pair":
            return float(2.0 ** (1.0 - 1.0 / alpha))
        if self.reference == "difference":
            return float(2.0 ** (-1.0 / alpha))
        if self.reference == "mean":
            k = self.draws_used
            return float(((1 - 1 / k) ** alpha + (k - 1) * k ** (-alpha)) ** (-1 / alpha))
        return 1.0


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


def pair(draws: ArrayLike, theta: ArrayLike | None = None) -> Contrast:
    """Half-differences of disjoint pairs of draws: the default for α.

    Symmetric by construction, ∇F cancels exactly, rows are independent; covariance Σ/2. For SαS noise α is
    unchanged; for any other law it is the α of the symmetrised, once-summed noise.

    ``theta`` (length K) numbers the parameter states of the draws. Draws of one θ are paired with each other;
    where that would leave more than half of the draws alone (a burst: one draw a step) neighbours in time are
    paired instead, the drift of one step stays in the noise, and a warning says so. ``None``: all draws at one
    θ. A last odd draw is dropped.

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
    noise = array[first] - array[first + 1]
    noise *= 0.5
    return Contrast(
        noise, "pair", len(keep), 2 * len(first), int((~keep).sum()), 2, 1, covariance_factor=2.0, warnings=warnings
    )


def mean(draws: ArrayLike) -> Contrast:
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
        noise, "mean", len(keep), k, int((~keep).sum()), 1, 1, covariance_factor=k / (k - 1), warnings=warnings
    )


def difference(draws: ArrayLike) -> Contrast:
    """g_{t−1} − g_t, the noise of step t against the gradient before, along a trajectory.

    Costs no extra work and cancels drift to first order. Covariance 2Σ, scale 2^{1/α} σ; neighbouring rows
    share a draw (lag-1 correlation −½), and sums of neighbours telescope: sums are taken over every second row.
    Where a draw was dropped the difference spans two steps.

    Raises as ``pair``.
    """
    array, keep, warnings = _finite(draws, 2, "difference")
    return Contrast(
        array[:-1] - array[1:], "difference", len(keep), array.shape[0], int((~keep).sum()), 2, 2,
        covariance_factor=0.5, warnings=warnings,
    )  # fmt: skip
