"""Moments of gradient noise from its Gram matrix, projections and quadratic forms, of all draws and without each.

Everything here is unbiased for Σ = E u uᵀ, the covariance of the noise of one minibatch about the exact gradient. A
square of Σ is estimated from pairs of *different* draws: the pair of a draw with itself would add (Tr Σ)²/K. Draws of
one pass share no example, and their pairs miss what an example has with itself: fourth moments put that back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._measured import NoiseReference, Sampling
from gradnoise.analyzer.stats._slices import Weights, slice_weights

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._measured import Measured

__all__ = ["Moments", "Ties", "jackknife_means", "moments", "signs", "ties"]


@dataclass(frozen=True, slots=True)
class Ties:
    """How draws hang together: the share of the pairs that do, and −Cov(u_a, u_b) / Σ of such a pair."""

    share: float = 0.0
    strength: float = 0.0
    """ρ."""
    scale: float = 1.0
    """Times the second moment of a draw gives Σ: K/(K−1) about the mean of the draws."""
    slices: Weights | None = None
    """Of the statistics that make Tr Σ² of slices of passes; None of other draws."""


def ties(measured: Measured) -> Ties:
    """The ties of the draws of a measurement.

    Two minibatches of one pass share no example: Cov(u_a, u_b) = −C/(n−1) = −Σ B/(n−B). About the mean of the draws
    Cov(u_a, u_b) = −Σ'/(K−1), Σ' the covariance of a centred draw.
    """
    draws = measured.draws
    if measured.reference is NoiseReference.MEAN:
        return Ties(1.0, 1.0 / (draws - 1), draws / (draws - 1)) if draws > 1 else Ties()
    batch, examples = measured.batch_size, measured.examples
    if measured.sampling is not Sampling.EPOCH or not batch or not examples or batch >= examples or draws < 2:
        return Ties()
    whole, rest = divmod(draws, examples // batch)
    pairs = whole * (examples // batch) * (examples // batch - 1) + rest * (rest - 1)
    share = pairs / (draws * (draws - 1))
    return Ties(share, batch / (examples - batch), slices=slice_weights(share, batch, examples))


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments, each with a first axis of K + 1: of all draws, then without each of them. None where not measured."""

    draws: int
    trace: Floats | None
    """Tr Σ."""
    square: Floats | None
    """Tr Σ²."""
    product: Floats | None
    """Tr(HΣ)."""
    variances: Floats | None
    """c_ii = v_iᵀΣv_i; (K + 1, k)."""
    inner_square: Floats | None
    """‖VᵀΣV‖²_F."""
    inner_diagonal: Floats | None
    """Σ_i c_ii²."""


def jackknife_means(values: Floats) -> Floats:
    """Means over the first axis (K, ...) of all and without each: (K + 1, ...)."""
    total = values.sum(axis=0)
    return np.concatenate([(total / len(values))[None], (total - values) / (len(values) - 1)])


def _pair_means(rows: Floats) -> Floats:
    """Means of f(a, b) over pairs a ≠ b, of all and without each draw, from the sums over b of each a."""
    n, total = len(rows), float(rows.sum())
    return np.concatenate([[total / (n * (n - 1))], (total - 2.0 * rows) / ((n - 1) * (n - 2))])


def _square(products: Floats, norms: Floats, tied: Ties, draws: int) -> Floats:
    """Tr Σ² from Σ_b≠a (u_a · u_b)² of each draw and from |u_a|².

    Of slices of passes exactly, whatever the law of the examples (``_slices``). Else, for normal u with Cov(u_a, u_b) =
    −ρΣ in a share f of the pairs, E (u_a·u_b)² averages (1 + fρ²) Tr Σ² + fρ² (Tr Σ)², and E (mean |u|²)² = (Tr Σ)² +
    2/K Tr Σ² (1 + f(K−1)ρ²). Other laws change the second equation only, by fρ²/K: next to nothing.
    """
    pairs = _pair_means(products)
    result: Floats
    if tied.slices is not None:
        squares = norms**2
        beside = _pair_means(norms * norms.sum() - squares)
        result = tied.slices.square(pairs, beside, jackknife_means(squares))
        return result
    tie = tied.share * tied.strength**2
    count = np.full(len(pairs), draws - 1.0)
    count[0] = draws
    share = 1.0 + tie - 2.0 * tie / count * (1.0 + tie * (count - 1.0))
    result = (pairs - tie * jackknife_means(norms) ** 2) / share * tied.scale**2
    return result


def _squares_along(squares: Floats, tied: Ties) -> Floats:
    """Σ_i c_ii² from the squared projections (K, k)."""
    fourth = np.einsum("ki,ki->k", squares, squares)
    pairs = _pair_means(squares @ squares.sum(axis=0) - fourth)
    if tied.slices is not None:  # along one direction a squared product is the product of the squares
        return tied.slices.square(pairs, pairs, jackknife_means(fourth))
    tie = 1.0 + 2.0 * tied.share * tied.strength**2  # E p_a² p_b² = c² (1 + 2ρ²) for a tied pair
    result: Floats = pairs / tie * tied.scale**2
    return result


def moments(gram: Floats, projections: Floats, quadratic: Floats, tied: Ties) -> Moments:
    """Moments of finite draws; an empty array stands for what was not measured.

    Needs 3 draws. Cost: K² + K k².
    """
    draws = max(len(gram), len(projections), len(quadratic))
    trace = square = product = variances = inner_square = inner_diagonal = None
    if gram.size:
        norms = np.diagonal(gram)
        square = _square(np.einsum("ab,ab->a", gram, gram) - norms**2, norms, tied, draws)
        trace = jackknife_means(norms) * tied.scale
    if quadratic.size:
        product = jackknife_means(quadratic) * tied.scale
    if projections.size:
        squares = projections**2
        energy = squares.sum(axis=1)
        # Σ_b (p_a · p_b)² = p_aᵀ (PᵀP) p_a, without the K × K matrix.
        along = np.einsum("ki,ki->k", projections @ (projections.T @ projections), projections)
        inner_square = _square(along - energy**2, energy, tied, draws)
        inner_diagonal = _squares_along(squares, tied)
        variances = jackknife_means(squares) * tied.scale
    return Moments(draws, trace, square, product, variances, inner_square, inner_diagonal)


def signs(gram: Floats, projections: Floats, quadratic: Floats) -> tuple[Floats, Floats, Floats]:
    """The same of the directions u_k / |u_k|, whose second moments exist whatever the tails: the spatial-sign scatter.

    (Visuri, Koivunen & Oja 2000; about the known centre 0.) Draws that are exactly 0 have none and are left out.
    """
    norms = np.sqrt(np.diagonal(gram))
    used = norms > 0
    if not used.all():
        norms, gram = norms[used], gram[np.ix_(used, used)]
        projections, quadratic = (part[used] if part.size else part for part in (projections, quadratic))
    inverse = 1.0 / norms
    scaled = gram * inverse
    scaled *= inverse[:, None]
    return (
        scaled,
        projections * inverse[:, None] if projections.size else projections,
        quadratic * inverse**2 if quadratic.size else quadratic,
    )
