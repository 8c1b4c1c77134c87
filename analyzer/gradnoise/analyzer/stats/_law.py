"""The law itself: density and random numbers of SαS(σ)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._estimate import InvalidInput
from gradnoise.analyzer.stats._table import ALPHA_MIN, log_density_many, table

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats


def _parameters(alpha: ArrayLike, scale: ArrayLike) -> tuple[Floats, Floats]:
    a, s = np.asarray(alpha, dtype=np.float64), np.asarray(scale, dtype=np.float64)
    if not ((a >= ALPHA_MIN) & (a <= 2.0)).all():
        raise InvalidInput(f"alpha: expected values in [{ALPHA_MIN}, 2], got {alpha!r}")
    if not ((s > 0) & np.isfinite(s)).all():
        raise InvalidInput(f"scale: expected finite values above 0, got {scale!r}")
    return a, s


def logpdf(x: ArrayLike, alpha: ArrayLike, scale: ArrayLike = 1.0) -> Any:
    """Natural logarithm of the SαS(``scale``) density at ``x``.

    The three arguments broadcast; the answer is a float64 array of the common shape, or a float for three
    scalars. NaN in ``x`` stays NaN and ±infinity gives −infinity. Raises ``InvalidInput`` for α outside [0.5,
    2] or a scale not above 0. Relative error of the density: below 1e-9; exact at α = 1 and α = 2.
    """
    a, s = _parameters(alpha, scale)
    try:
        values = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(f"x: expected numbers, got {x!r}") from None
    values, a, s = np.broadcast_arrays(values, a, s)
    flat = np.ascontiguousarray(values).ravel()
    scales = np.ascontiguousarray(s).ravel()
    with np.errstate(over="ignore"):
        z = flat / scales
    out = np.empty(z.size)
    log_density_many(z, np.ascontiguousarray(a).ravel(), table(), out)
    out -= np.log(scales)
    result = out.reshape(values.shape)
    return float(result) if result.ndim == 0 else result


def pdf(x: ArrayLike, alpha: ArrayLike, scale: ArrayLike = 1.0) -> Any:
    """Density of SαS(``scale``) at ``x``; see ``logpdf``."""
    result = np.exp(logpdf(x, alpha, scale))
    return float(result) if np.ndim(result) == 0 else result


def rvs(
    alpha: float, scale: float = 1.0, size: int | tuple[int, ...] | None = None, rng: np.random.Generator | None = None
) -> Any:
    """Random numbers from SαS(``scale``), float64 of shape ``size`` (a float for ``None``).

    Chambers, Mallows & Stuck 1976: with θ uniform on (−π/2, π/2) and W exponential,
    X = sin(αθ)/cos(θ)^{1/α} · (cos((1−α)θ)/W)^{(1−α)/α}. ``rng`` is required, so that every result can be repeated.
    """
    a, s = (float(v) for v in _parameters(float(alpha), float(scale)))
    if rng is None:
        raise InvalidInput("rng: expected a numpy.random.Generator, got None; pass numpy.random.default_rng(seed)")
    if a == 2.0:
        return rng.normal(0.0, math.sqrt(2.0) * s, size)
    theta = (rng.random(size) - 0.5) * math.pi
    if a == 1.0:
        return s * np.tan(theta)
    wait = rng.standard_exponential(size)
    body = np.sin(a * theta) / np.cos(theta) ** (1 / a)
    return s * body * (np.cos((1 - a) * theta) / wait) ** ((1 - a) / a)
