"""What the metrics read without alignment: a random orthogonal frame between H and Σ, of which isotropic noise is one.

For a Haar-random rotation Q and traceless symmetric A, B of dimension d, E Tr(A QBQᵀ) = 0 and
Var Tr(A QBQᵀ) = 2 ‖A‖² ‖B‖² / ((d−1)(d+2)) (Collins & Śniady 2006, by second-order Weingarten calculus). Isotropic
noise has B = 0: then only the finite number of draws is left, for normal noise Var(uᵀAu) = 2‖A‖² (Tr Σ/d)².
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtri

from gradnoise.analyzer.stats._curved import Known, Unknown
from gradnoise.analyzer.stats._estimate import Z95, Estimate

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._setting import Setting

_TURNED = 32
"""Simulated matrices of either kind: their mean is known to an eighth of its spread."""

__all__ = [
    "FRAME",
    "ISOTROPIC",
    "direction_null",
    "isotropic_rank",
    "isotropic_square",
    "of_matrix",
    "off_diagonal_null",
    "positive_null",
    "relative_variance",
]

FRAME = "random orthogonal frame, draws as many as here"
ISOTROPIC = "isotropic noise of the same trace, draws as many as here"


def relative_variance(
    given: Setting, trace: float, square: float, *, sampled: bool = True, error: float = 0.0
) -> float:
    """Variance of d Tr(AΣ) / (Tr A Tr Σ), mean 1, over frames and (``sampled``) draws; A by its trace and ‖A‖²_F.

    ``error`` is the relative variance of an estimated Tr A, which then stands in the value or in its null, not in both.
    NaN where Σ is not known well enough.
    """
    d = given.measured.dimension
    if isinstance(given.trace, Unknown) or trace == 0:
        return math.nan
    of_a = np.float64(trace) ** 2  # numpy's numbers leave their range without an error
    apart = max(square / of_a - 1.0 / d, 0.0)
    draws = len(given.trace) - 1
    spread = 0.0
    if not isinstance(given.square, Unknown) and d > 1:
        spread = max(given.square[0] / given.trace[0] ** 2 - 1.0 / d, 0.0)
    frame = 2.0 * apart * spread * d**2 / ((d - 1.0) * (d + 2.0)) if d > 1 else 0.0
    return float(frame + error + (2.0 * apart / draws if sampled else 0.0))


def of_matrix(given: Setting, value: float, trace_h: Known, square_h: Known) -> Estimate:
    """Null ``value`` of what is made of Tr(HΣ)."""
    error = trace_h.relative().variance
    relative = relative_variance(given, trace_h.value, square_h.value, error=error)
    assert not isinstance(given.trace, Unknown)
    return positive_null(value, relative, len(given.trace) - 1)


def positive_null(value: float, relative: float, n: float, method: str = FRAME) -> Estimate:
    """A positive value with relative variance ``relative``: quantiles of the χ² law of that mean and variance."""
    if not math.isfinite(relative):
        return Estimate(value, math.nan, math.nan, math.nan, n, method)
    if relative < 1e-4 or value <= 0:
        se = abs(value) * math.sqrt(relative)
        return Estimate(value, se, value - Z95 * se, value + Z95 * se, n, method)
    freedom = 2.0 / relative
    low, high = (value * float(chdtri(freedom, p)) / freedom for p in (0.975, 0.025))
    return Estimate(value, value * math.sqrt(relative), low, high, n, method)


def direction_null(given: Setting) -> Estimate | None:
    """Of c_ii: Tr Σ / d."""
    if isinstance(given.trace, Unknown):
        return None
    value = float(given.trace[0]) / given.measured.dimension
    return positive_null(value, relative_variance(given, 1.0, 1.0), len(given.trace) - 1)


def isotropic_square(given: Setting) -> Estimate | None:
    """Of Tr Σ²: (Tr Σ)²/d, with the error of its estimate from K normal draws.

    Var of the mean of (u_a·u_b)² over pairs is 4/K² (Tr Σ²)² + 8/K Tr Σ⁴ to leading order (Chen, Zhang & Zhong 2010).
    The second term is what the square of the estimated trace has too: of their ratio the first is left.
    """
    if isinstance(given.trace, Unknown):
        return None
    draws = len(given.trace) - 1
    value = float(given.trace[0] ** 2) / given.measured.dimension
    se = value * 2.0 / draws
    return Estimate(value, se, value - Z95 * se, value + Z95 * se, draws, ISOTROPIC)


def isotropic_rank(given: Setting) -> Estimate:
    """Of (Tr Σ)² / Tr Σ²: d."""
    d, draws = float(given.measured.dimension), given.measured.draws
    se = 2.0 * d / draws
    # Its inverse is what has a symmetric error.
    low, high = d / (1.0 + Z95 * 2.0 / draws), d / (1.0 - Z95 * 2.0 / draws)
    return Estimate(d, se, low, high, draws, ISOTROPIC)


def off_diagonal_null(given: Setting, k: int) -> Estimate | None:
    """Of Σ_{i≠j} c_ij² / Σ_ij c_ij²: of matrices whose c_ii vary as in a random frame, by r of their square.

    Draws add, at a share s, 4 (k−1)/k / K² (of the squares of what is 0) and 8 s (1−s)³/(k K) (of the others). Of
    isotropic noise, which every frame is as good as another for, r and the null are 0.
    """
    relative = relative_variance(given, 1.0, 1.0, sampled=False)
    if not math.isfinite(relative):
        return None
    share, frame = _turned_share(k, relative) if relative > 0 else (0.0, 0.0)
    assert not isinstance(given.trace, Unknown)
    draws = len(given.trace) - 1
    se = math.sqrt(frame + 4.0 * (k - 1.0) / k / draws**2 + 8.0 * share * (1.0 - share) ** 3 / (k * draws))
    return Estimate(share, se, share - Z95 * se, min(share + Z95 * se, 1.0), draws, FRAME)


def _turned_share(k: int, relative: float) -> tuple[float, float]:
    """Mean and variance of the share off the diagonal; simulated, always with the same numbers.

    Of a spectrum T and Q alone are known. Half of the matrices are of one with as many equal eigenvalues as it takes
    (Wishart, 2/r degrees of freedom), half of one large eigenvalue among small equal ones: the truth lies between.
    """
    rng, freedom = np.random.default_rng(0), 2.0 / relative
    if freedom < k:
        root = rng.standard_normal((_TURNED, k, max(round(freedom), 1)))
    else:  # Bartlett 1933: a triangular root, with χ² laws on its diagonal
        root = np.tril(rng.standard_normal((_TURNED, k, k)), -1)
        at = np.arange(k)
        root[:, at, at] = np.sqrt(rng.chisquare(freedom - at, (_TURNED, k)))
    equal = (root @ root.transpose(0, 2, 1)) ** 2
    first = 1.0 - np.trace(equal, axis1=1, axis2=2) / equal.sum(axis=(1, 2))
    large = min(math.sqrt(relative / 2.0), 1.0)
    along = rng.standard_normal((_TURNED, k)) ** 2
    diagonal = ((1.0 - large + large * along) ** 2).sum(axis=1)
    beside = large**2 * (along.sum(axis=1) ** 2 - (along**2).sum(axis=1))
    share = np.concatenate([first, beside / (beside + diagonal)])
    return float(share.mean()), float(share.var(ddof=1))
