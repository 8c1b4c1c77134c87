"""Tr Σ² from minibatches that are slices of passes: exactly, whatever the law of the examples.

Two slices of one pass have no example in common. The mean of (u_a · u_b)² over such pairs lacks the terms of an example
with itself, which Tr Σ² of n examples has. They are a share of about (mean |g|⁴ / Tr C²)/n: the effective rank over n
where examples are alike, and many times that where few of them make most of the noise. Nothing of it is seen in the
correlation of slices, which is what their sum's being fixed brings.

Of n centred gradients g_i let A = Σ|g_i|⁴, Q = Σ_ij (g_i · g_j)² = n² Tr C², R = (Σ|g_i|²)². Every fourth moment of
slices is linear in Q, R and A: sums over different examples come from Σ_j g_j = 0 (the polykays of Tukey 1956, of
vectors). So the means of (u_a·u_b)², |u_a|²|u_b|² over pairs and of |u_a|⁴ over draws make Tr Σ² by three weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["Weights", "slice_weights"]

# Coefficients of (Q, R, A) in sums over different examples of
_ALONG = np.array([1.0, 0.0, -1.0])  # (g_i·g_j)²
_APART = np.array([0.0, 1.0, -1.0])  # |g_i|² |g_j|²
_LONG = np.array([0.0, 0.0, -1.0])  # |g_i|² (g_i·g_j)
_ALONG_3 = np.array([-1.0, 0.0, 2.0])  # (g_i·g_j)(g_i·g_k)
_APART_3 = np.array([0.0, -1.0, 2.0])  # |g_i|² (g_j·g_k)
_ALL = np.array([2.0, 1.0, -6.0])  # (g_i·g_j)(g_k·g_l)

_LARGEST = 100.0
"""Weight beyond which the equations tell next to nothing."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the three statistics."""

    products: float
    norms: float
    fourth: float

    def square(self, products: Floats, norms: Floats, fourth: Floats) -> Floats:
        """Tr Σ² from the means of (u_a·u_b)², of |u_a|²|u_b|² and of |u_a|⁴."""
        result: Floats = self.products * products + self.norms * norms + self.fourth * fourth
        return result


def slice_weights(share: float, batch: int, examples: int) -> Weights | None:
    """Weights for slices of ``batch`` of ``examples``, a ``share`` of whose pairs are of one pass.

    Pairs of different passes are independent. None where the equations have no solution.
    """
    b, n = float(batch), float(examples)
    if n < 4:
        return None
    two, three, four = n * (n - 1), n * (n - 1) * (n - 2), n * (n - 1) * (n - 2) * (n - 3)
    rest = (b - 1) * (b - 1) * _ALL / four
    products = _ALONG / two + 2 * (b - 1) * _ALONG_3 / three + rest
    norms = _APART / two + 2 * (b - 1) * _APART_3 / three + rest
    fourth = (
        np.array([0.0, 0.0, 1.0]) / (n * b)
        + (b - 1) / b * (4 * _LONG + _APART + 2 * _ALONG) / two
        + (b - 1) * (b - 2) / b * (2 * _APART_3 + 4 * _ALONG_3) / three
        + (b - 1) * (b - 2) * (b - 3) / b * _ALL / four
    )
    # In units of 1/b²: (Tr Σ² , (Tr Σ)²) = ((n−b)/(n−1))² / n² (Q, R).
    unit = ((n - b) / (n - 1) / n) ** 2
    square, trace = np.array([unit, 0.0, 0.0]), np.array([0.0, unit, 0.0])
    given = np.array([share * products + (1 - share) * square, share * norms + (1 - share) * trace, fourth])
    of = np.array([n * n, n * n, n])  # Q, R and A in units of their size
    try:
        found = np.linalg.solve((given * of).T, square * of)
    except np.linalg.LinAlgError:
        return None
    if not (np.isfinite(found).all() and np.abs(found).max() <= _LARGEST):
        return None
    return Weights(*(float(each) for each in found))
