"""The log-density of SαS(σ) on tensors: any device, batched, differentiable in x, α and the scale.

The twin of ``stable.logpdf`` on the same table. Only this module of the package imports torch; nothing imports it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

try:
    import torch
except ImportError as error:  # pragma: no cover
    raise ImportError("stable_torch needs PyTorch: pip install 'gradnoise[torch]'") from error

from gradnoise.analyzer.stats._estimate import InvalidInput
from gradnoise.analyzer.stats._table import (
    _WIDTH,
    ALPHA_MIN,
    GAUSS_PEAK,
    LOG_2_SQRT_PI,
    TAIL_TERMS,
    X_TAIL,
    table,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["logpdf"]


class _Buffers(NamedTuple):
    """The table on one device in one type; see ``_table.Table``."""

    interior: Tensor
    """Panel edges but the first and the last."""
    middle: Tensor
    slope: Tensor
    """By panel: its middle, and the local coordinate's derivative in α."""
    cell_of: Tensor
    mid: Tensor
    inverse: Tensor
    coefficients: Tensor


_TABLE = table()
_LOADED: dict[tuple[torch.device, torch.dtype], _Buffers] = {}


def _buffers(device: torch.device, dtype: torch.dtype) -> _Buffers:
    """The table on ``device``, copied there once."""
    key = (device, dtype)
    if key not in _LOADED:
        tab, edges = _TABLE, _TABLE.edges
        real = (edges[1:-1], (edges[1:] + edges[:-1]) / 2, 2 / (edges[1:] - edges[:-1]))
        interior, middle, slope, mid, inverse, coefficients = (
            torch.as_tensor(v, dtype=dtype, device=device) for v in (*real, tab.mid, tab.inverse, tab.coefficients)
        )
        cell_of = torch.as_tensor(tab.cell_of, device=device)
        _LOADED[key] = _Buffers(interior, middle, slope, cell_of, mid, inverse, coefficients)
    return _LOADED[key]


def _derivative(j: int, order: int) -> float:
    """The factor of the ``order``-th derivative of the ``j``-th power."""
    return float(math.perm(j, order))


def _bins(z: Tensor) -> Tensor:
    """Fine bins of 0 ≤ z < X_TAIL, off the bits of 1 + 16 z: sixteen to an octave."""
    shifted = 1.0 + 16.0 * z
    if z.dtype == torch.float64:
        return (shifted.view(torch.int64) >> 48) - (1023 << 4)
    return ((shifted.view(torch.int32) >> 19) - (127 << 4)).long()


class _Excess(torch.autograd.Function):
    """∂^m/∂z^m ∂^n/∂α^n of T(z, α) = (f(z; α) − f(z; 2))/(2 − α), 0 ≤ z < X_TAIL.

    Polynomials in both, so that every derivative is one more of the same kind: derivatives of any order, and nothing to
    remember for them but z and α.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, alpha: Tensor, m: int, n: int) -> Tensor:
        """``alpha`` broadcasts to the shape of ``z``; both have at least one dimension."""
        tab = _buffers(z.device, z.dtype)
        powers, rows = tab.coefficients.shape[1:]
        panel = torch.searchsorted(tab.interior, alpha.contiguous())
        slope = tab.slope[panel]
        u = (alpha - tab.middle[panel]) * slope
        where = panel.expand(z.shape)
        cell = tab.cell_of[where, _bins(z)]
        inverse = tab.inverse[where, cell]
        t = (z - tab.mid[where, cell]) * inverse
        first = TAIL_TERMS + _WIDTH * cell
        value = torch.zeros_like(z)
        if alpha.numel() * rows <= z.numel() * _WIDTH:
            # Few α: all rows at each of them, then a look-up per point.
            u, collapsed = u.reshape(-1, 1), torch.zeros((), dtype=z.dtype, device=z.device)
            per_alpha = tab.coefficients[panel.reshape(-1)]
            for d in range(powers - 1, n - 1, -1):
                collapsed = collapsed * u + _derivative(d, n) * per_alpha[:, d]
            collapsed = collapsed.expand(alpha.numel(), rows).reshape(-1)
            which = torch.arange(alpha.numel(), device=z.device).reshape(alpha.shape).expand(z.shape)
            at = which * rows + first
            for j in range(_WIDTH - 1, m - 1, -1):
                value = value * t + _derivative(j, m) * collapsed[at + j]
        else:
            flat = tab.coefficients.reshape(-1)
            at = where * (powers * rows) + first
            for j in range(_WIDTH - 1, m - 1, -1):
                c = torch.zeros_like(z)
                for d in range(powers - 1, n - 1, -1):
                    c = c * u + _derivative(d, n) * flat[at + (d * rows + j)]
                value = value * t + _derivative(j, m) * c
        return value * inverse**m * slope**n

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, alpha, ctx.m, ctx.n = inputs
        ctx.save_for_backward(z, alpha)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        z, alpha = ctx.saved_tensors
        in_z = grad * _excess(z, alpha, ctx.m + 1, ctx.n) if ctx.needs_input_grad[0] else None
        in_alpha = None
        if ctx.needs_input_grad[1]:
            in_alpha = (grad * _excess(z, alpha, ctx.m, ctx.n + 1)).sum_to_size(alpha.shape)
        return in_z, in_alpha, None, None


def _excess(z: Tensor, alpha: Tensor, m: int = 0, n: int = 0) -> Tensor:
    result: Tensor = _Excess.apply(z, alpha, m, n)  # type: ignore[no-untyped-call]
    return result


def _tail_coefficients(alpha: Tensor, delta: Tensor) -> list[Tensor]:
    """b_1 ... b_K of the tail series f = δ Σ_k b_k z^(−αk−1), each of the shape of ``alpha``.

    b_k = (−1)^{k+1} Γ(αk+1) sin(kπα/2)/(π k! δ). With θ = πδ/2 that is Γ(αk+1)/k! · sin(kθ)/2θ, and sin(kθ) =
    sin θ U_{k−1}(cos θ), U Chebyshev's polynomials of the second kind: smooth at δ = 0 however often differentiated.
    """
    theta = (0.5 * math.pi) * delta
    small = theta < 0.02
    square = theta * theta
    away = torch.where(small, 1.0, theta)
    sinc = torch.where(small, 1 - square / 6 * (1 - square / 20 * (1 - square / 42)), torch.sin(away) / away)
    cosine = torch.cos(theta)
    before, chebyshev = torch.zeros_like(theta), torch.ones_like(theta)
    result = []
    for k in range(1, TAIL_TERMS + 1):
        result.append(torch.exp(torch.lgamma(alpha * k + 1.0) - math.lgamma(k + 1)) * (0.5 * sinc * chebyshev))
        before, chebyshev = chebyshev, 2.0 * cosine * chebyshev - before
    return result


def _tail_series(log_z: Tensor, alpha: Tensor, delta: Tensor) -> Tensor:
    """Σ_k b_{k+1} z^(−αk), the tail's density over δ z^(−1−α)."""
    w = torch.exp(-alpha * log_z)
    coefficients = _tail_coefficients(alpha, delta)
    series = coefficients[-1].expand(w.shape)
    for b in coefficients[-2::-1]:
        series = series * w + b
    return series


def _at_two(z: Tensor, t: Tensor, delta: Tensor) -> Tensor:
    """ln(g + δT) as ln g + ln(1 + δT/g): at δ = 0 the Gaussian's value, and the derivatives of both.

    Where 1/g overflows it is cut.
    """
    exponent = 0.25 * z * z + LOG_2_SQRT_PI
    largest = math.log(torch.finfo(z.dtype).max) - 3.0
    return torch.log1p(delta * t * torch.exp(exponent.clamp(max=largest))) - exponent


def _check(value: Tensor | float, name: str, low: float, high: float) -> None:
    if not isinstance(value, torch.Tensor) and (not low <= value <= high or math.isinf(value)):
        raise InvalidInput(f"{name}: expected a number in [{low:g}, {high:g}], got {value!r}")


def _like(value: Tensor | float, x: Tensor) -> Tensor:
    return value.to(x) if isinstance(value, torch.Tensor) else x.new_tensor(value)


def logpdf(x: Tensor, alpha: Tensor | float, scale: Tensor | float = 1.0) -> Tensor:
    """Natural logarithm of the SαS(``scale``) density at ``x``, a float32 or float64 tensor on any device.

    The arguments broadcast; the answer is of the type and on the device of ``x``, to which ``alpha`` and ``scale`` are
    brought. Derivatives of any order in all three by autograd; at α = 2 the derivative in α is that from below.
    NaN in ``x`` stays NaN, ±infinity gives −infinity. A tensor is not checked, which would stall a GPU: where
    ``alpha`` lies outside [0.5, 2] or ``scale`` is not above 0 the answer is NaN. Numbers out of range, and an ``x`` of
    another type, raise ``InvalidInput``.

    In float64 it agrees with ``stable.logpdf`` to 2e-10. In float32 its error is below 4e-6 + 5e-7 |ln f|, ``x`` and
    ``scale`` taken as the float32 numbers they are; give α near 2 as a number or in float64, since 2 − α counts.
    """
    if not isinstance(x, torch.Tensor) or x.dtype not in (torch.float32, torch.float64):
        raise InvalidInput(f"x: expected a float32 or float64 tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    _check(alpha, "alpha", ALPHA_MIN, 2.0)
    _check(scale, "scale", torch.finfo(x.dtype).tiny, math.inf)
    # 2 − α before it is rounded to the type of x: near α = 2 the tail is proportional to it.
    a, delta, s = _like(alpha, x), _like(2.0 - alpha, x), _like(scale, x)
    answer = torch.broadcast_shapes(x.shape, a.shape, s.shape)
    # At least one dimension: an index tensor without any would be read off the device.
    x, a, delta, s = torch.atleast_1d(x, a, delta, s)
    shape = torch.broadcast_shapes(x.shape, a.shape, s.shape)
    # Not abs(), whose second derivative at 0 autograd takes for 0.
    magnitude = torch.where(x < 0, -x, x)
    z = (magnitude / s).expand(shape)
    inner, gaussian = z < X_TAIL, (delta == 0).expand(shape)
    # Each branch sees harmless values where another is taken: an infinity there would turn gradients into NaN.
    z_in = torch.where(inner, z, 0.0)
    excess = _excess(z_in, a)
    density = GAUSS_PEAK * torch.exp(-0.25 * z_in * z_in) + delta * excess
    centre = torch.log(torch.where(inner & ~gaussian, density, 1.0))

    finite = torch.isfinite(z)
    far = torch.where(finite, 1.0, magnitude)  # x/σ overflowed
    log_z = torch.where(finite, torch.log(torch.where(inner | ~finite, X_TAIL, z)), torch.log(far) - torch.log(s))
    series = _tail_series(log_z, a, delta)
    tail = torch.log(torch.where(gaussian, 1.0, delta) * series) - (1.0 + a) * log_z

    t = torch.where(inner, excess, series * torch.exp(-(1.0 + a) * log_z))
    limit = _at_two(torch.where(gaussian, z, 0.0), torch.where(gaussian, t, 0.0), delta)

    result = torch.where(gaussian, limit, torch.where(inner, centre, tail)) - torch.log(s)
    return torch.where((a >= ALPHA_MIN) & (delta >= 0) & (s > 0), result, math.nan).reshape(answer)
