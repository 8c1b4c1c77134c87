"""The law itself: density, score, distribution function, quantiles and random numbers of SαS(σ)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._cumulative import mass, tails, upper_points
from gradnoise.analyzer.stats._density import log_densities, scores
from gradnoise.analyzer.stats._estimate import InvalidInput, as_generator, as_numbers
from gradnoise.analyzer.stats._table import ALPHA_MIN, table

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats


@dataclass(frozen=True, slots=True)
class Score:
    """Derivatives of the log-density, of the shape and type of its result, and the log-density itself."""

    alpha: Any
    """∂ ln f/∂α, in nats per unit of α."""
    scale: Any
    """∂ ln f/∂σ, in nats per unit of σ."""
    logpdf: Any
    """ln f, which costs nothing once the others are known."""


@dataclass(frozen=True, slots=True)
class _Points:
    """Arguments as the kernels take them: flat; ``alpha`` and ``scale`` of the length of ``x``, or 1."""

    x: np.ndarray[Any, np.dtype[Any]]
    alpha: Floats
    scale: Floats
    shape: tuple[int, ...]

    def empty(self, dtype: type | None = None) -> np.ndarray[Any, np.dtype[Any]]:
        """Room for one answer a point, of the type of ``x`` by default."""
        return np.empty(self.x.size, dtype or self.x.dtype)

    def shaped(self, flat: np.ndarray[Any, np.dtype[Any]]) -> Any:
        """The answers in the common shape and in the type of ``x``; a number for numbers."""
        with np.errstate(over="ignore", under="ignore"):
            result = flat.astype(self.x.dtype, copy=False).reshape(self.shape)
        if result.ndim:
            return result
        return float(result) if result.dtype == np.float64 else result[()]


def _parameters(alpha: ArrayLike, scale: ArrayLike) -> tuple[Floats, Floats]:
    a, s = (as_numbers(v, name).astype(np.float64) for v, name in ((alpha, "alpha"), (scale, "scale")))
    if not ((a >= ALPHA_MIN) & (a <= 2.0)).all():
        raise InvalidInput(f"alpha: expected values in [{ALPHA_MIN}, 2], got {alpha!r}")
    if not ((s > 0) & np.isfinite(s)).all():
        raise InvalidInput(f"scale: expected finite values above 0, got {scale!r}")
    return a, s


def _points(x: ArrayLike, name: str, alpha: ArrayLike, scale: ArrayLike) -> _Points:
    values = as_numbers(x, name)
    a, s = _parameters(alpha, scale)
    try:
        shape = np.broadcast_shapes(values.shape, a.shape, s.shape)
    except ValueError:
        raise InvalidInput(
            f"{name}, alpha, scale: expected shapes that broadcast, got {values.shape}, {a.shape} and {s.shape}"
        ) from None

    def flat(array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
        view = np.ascontiguousarray(array).reshape(-1)
        view.flags.writeable = False  # whether copied or not: to numba a writable array is of another type
        return view

    a, s = (flat(p if p.size == 1 else np.broadcast_to(p, shape)) for p in (a, s))
    return _Points(flat(np.broadcast_to(values, shape)), a, s, shape)


def logpdf(x: ArrayLike, alpha: ArrayLike, scale: ArrayLike = 1.0) -> Any:
    """Natural logarithm of the SαS(``scale``) density at ``x``.

    The arguments broadcast. The answer has the common shape; it is float32 where ``x`` is (computed in double
    precision and rounded), float64 otherwise, and a number for three numbers. NaN in ``x`` stays NaN, ±infinity gives
    −infinity. Raises ``InvalidInput`` for α outside [0.5, 2], a scale not above 0, and what is no real number.
    Exact at α = 1 and α = 2; accuracy elsewhere: see ``stable``.
    """
    points = _points(x, "x", alpha, scale)
    out = points.empty()
    log_densities(points.x, points.alpha, points.scale, table(), out)
    return points.shaped(out)


def pdf(x: ArrayLike, alpha: ArrayLike, scale: ArrayLike = 1.0) -> Any:
    """Density of SαS(``scale``) at ``x``, in units of 1/``scale``; shapes, types and errors as in ``logpdf``.

    Infinite where the density exceeds the largest number (a scale below 1e-308).
    """
    points = _points(x, "x", alpha, scale)
    out = points.empty(np.float64)
    log_densities(points.x, points.alpha, points.scale, table(), out)
    with np.errstate(over="ignore", under="ignore"):
        np.exp(out, out=out)
    return points.shaped(out)


def score(x: ArrayLike, alpha: ArrayLike, scale: ArrayLike = 1.0) -> Score:
    """Derivatives of ``logpdf`` in α and in the scale; shapes, types and errors as there.

    At α = 2 the derivative in α is that from below, −(∂f/∂α)/f; it grows like exp(x²/4σ²)/|x|³ and is −infinity where
    that overflows, beyond |x| ≈ 53 scales. NaN in ``x`` stays NaN; at ±infinity stand the limits, −infinity and
    α/``scale`` (infinity at α = 2).
    """
    points = _points(x, "x", alpha, scale)
    value, in_alpha, in_scale = points.empty(), points.empty(), points.empty()
    scores(points.x, points.alpha, points.scale, table(), value, in_alpha, in_scale)
    return Score(points.shaped(in_alpha), points.shaped(in_scale), points.shaped(value))


def sf(x: ArrayLike, alpha: ArrayLike, scale: ArrayLike = 1.0) -> Any:
    """P(X > ``x``) of SαS(``scale``); relative accuracy also far out. Shapes, types and errors as in ``logpdf``.

    0 and 1 at ±infinity; NaN stays NaN.
    """
    return _tail(x, 1.0, alpha, scale)


def cdf(x: ArrayLike, alpha: ArrayLike, scale: ArrayLike = 1.0) -> Any:
    """P(X ≤ ``x``) of SαS(``scale``), which is ``sf(−x)``: relative accuracy in the lower tail."""
    return _tail(x, -1.0, alpha, scale)


def _tail(x: ArrayLike, sign: float, alpha: ArrayLike, scale: ArrayLike) -> Any:
    points = _points(x, "x", alpha, scale)
    out = points.empty()
    tails(points.x, sign, points.alpha, points.scale, table(), mass(), out)
    return points.shaped(out)


def ppf(q: ArrayLike, alpha: ArrayLike, scale: ArrayLike = 1.0) -> Any:
    """Quantiles of SαS(``scale``): the x with P(X ≤ x) = ``q``, in units of ``scale``.

    Shapes and types as in ``logpdf``, with ``q`` for ``x``. ∓infinity at 0 and 1, and where the quantile exceeds the
    largest number; NaN stays NaN. Near q = 1 the number q itself runs out of digits: use ``isf``. Raises
    ``InvalidInput`` for a probability outside [0, 1] and as ``logpdf`` does.
    """
    return _quantile(q, -1.0, alpha, scale)


def isf(q: ArrayLike, alpha: ArrayLike, scale: ArrayLike = 1.0) -> Any:
    """Upper quantiles of SαS(``scale``): the x with P(X > x) = ``q``. This is −``ppf(q)``, accurate for small ``q``."""
    return _quantile(q, 1.0, alpha, scale)


def _quantile(q: ArrayLike, sign: float, alpha: ArrayLike, scale: ArrayLike) -> Any:
    points = _points(q, "q", alpha, scale)
    if ((points.x < 0) | (points.x > 1)).any():
        raise InvalidInput(f"q: expected probabilities in [0, 1], got {q!r}")
    out = points.empty(np.float64)
    upper_points(points.x, sign, points.alpha, points.scale, table(), mass(), out)
    gaussian = np.broadcast_to(points.alpha == 2.0, out.shape)
    if gaussian.any():
        from scipy import special

        p = points.x[gaussian].astype(np.float64)
        small = np.minimum(p, 1.0 - p)
        z = np.where(small < 0.25, 2.0 * special.erfcinv(2.0 * small), 2.0 * special.erfinv(1.0 - 2.0 * small))
        out[gaussian] = np.where(p <= 0.5, sign, -sign) * z * np.broadcast_to(points.scale, out.shape)[gaussian]
    return points.shaped(out)


def rvs(
    alpha: ArrayLike,
    scale: ArrayLike = 1.0,
    size: int | tuple[int, ...] | None = None,
    rng: np.random.Generator | None = None,
) -> Any:
    """Random numbers from SαS(``scale``), float64 of shape ``size``; ``alpha`` and ``scale`` broadcast to it.

    ``None`` takes their common shape, a float for two numbers. ``rng`` is required, so that every result can be
    repeated. Raises ``InvalidInput`` without it, for parameters as in ``logpdf``, and for shapes that do not broadcast.
    Chambers, Mallows & Stuck 1976: with θ uniform on (−π/2, π/2) and W exponential,
    X = sin(αθ)/cos(θ)^{1/α} · (cos((1−α)θ)/W)^{(1−α)/α}.
    """
    a, s = _parameters(alpha, scale)
    rng = as_generator(rng)
    shape = np.broadcast_shapes(a.shape, s.shape) if size is None else size
    try:
        np.broadcast_to(np.broadcast_to(0, np.broadcast_shapes(a.shape, s.shape)), shape)
    except (TypeError, ValueError):
        raise InvalidInput(
            f"size: expected a shape that alpha and scale broadcast to, got {size!r} for {a.shape} and {s.shape}"
        ) from None
    if a.ndim == 0 and a == 2.0:
        return s * rng.normal(0.0, math.sqrt(2.0), shape)
    theta = (rng.random(shape) - 0.5) * math.pi
    if a.ndim == 0 and a == 1.0:
        return s * np.tan(theta)
    wait = rng.standard_exponential(shape)
    body = np.sin(a * theta) / np.cos(theta) ** (1 / a)
    return s * body * (np.cos((1 - a) * theta) / wait) ** ((1 - a) / a)
