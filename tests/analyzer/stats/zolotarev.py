"""The symmetric stable law by another road: Zolotarev's integrals in Nolan's form, in 30 digits.

Nolan, Commun. Statist. Stochastic Models 13 (1997), theorem 1, at β = 0, α ≠ 1, x > 0, with
V(θ) = (cos θ/sin αθ)^{α/(α−1)} cos((α−1)θ)/cos θ and p = x^{α/(α−1)}:
    f(x) = α/(π|α−1| x) ∫_0^{π/2} pV exp(−pV) dθ
    P(X > x) = (1/π) ∫_0^{π/2} exp(−pV) dθ for α > 1, with 1 − exp(−pV) for α < 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np

REFERENCE = Path(__file__).resolve().parents[2] / "reference" / "sas_logpdf.csv"


def reference() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Rows (α, x, ln f), from a 30-digit computation; see the file's head."""
    lines = [line for line in REFERENCE.read_text().splitlines() if line[:1].isdigit()]
    return np.array([line.split(",") for line in lines], dtype=float)


def _integral(x: Any, alpha: Any, integrand: Callable[[Any], Any]) -> Any:
    """∫_0^{π/2} of a function of pV(θ), split around the θ where pV is 1."""
    a, z = mpmath.mpf(alpha), mpmath.mpf(x)
    b = a / (a - 1)
    top = mpmath.pi / 2

    def log_pv(t: Any) -> Any:
        return b * mpmath.log(z * mpmath.cos(t) / mpmath.sin(a * t)) + mpmath.log(
            mpmath.cos((a - 1) * t) / mpmath.cos(t)
        )

    # V is monotone, so bisection finds where pV = e^level; breaks there keep every piece smooth.
    def crossing(level: float) -> Any:
        low, high = mpmath.mpf(0), top
        rising = alpha < 1
        for _ in range(90):
            middle = (low + high) / 2
            if (log_pv(middle) < level) == rising:
                low = middle
            else:
                high = middle
        return low

    breaks = sorted({mpmath.mpf(0), top, *(crossing(level) for level in (-12.0, -3.0, 0.0, 1.5, 4.0))})
    return mpmath.quad(lambda t: integrand(mpmath.exp(log_pv(t))), breaks)


def _density(x: Any, alpha: Any) -> Any:
    whole = _integral(x, alpha, lambda v: v * mpmath.exp(-v))
    return alpha * whole / (mpmath.pi * abs(alpha - 1) * x)


def density(x: float, alpha: float) -> float:
    """f(x; α) of SαS(1)."""
    with mpmath.workdps(30):
        return float(_density(mpmath.mpf(x), mpmath.mpf(alpha)))


def score(x: float, alpha: float) -> tuple[float, float]:
    """∂ ln f/∂α and, at σ = 1, ∂ ln(f(x/σ)/σ)/∂σ: central differences, whose error at 30 digits is about 1e-18."""
    with mpmath.workdps(30):
        a, z, h = mpmath.mpf(alpha), mpmath.mpf(x), mpmath.mpf("1e-9")
        in_alpha = mpmath.log(_density(z, a + h) / _density(z, a - h)) / (2 * h)
        in_x = mpmath.log(_density(z + h, a) / _density(z - h, a)) / (2 * h)
        return float(in_alpha), float(-1 - z * in_x)


def tail(x: float, alpha: float) -> float:
    """P(X > x) of SαS(1)."""
    with mpmath.workdps(30):
        if alpha > 1:
            whole = _integral(x, alpha, lambda v: mpmath.exp(-v))
        else:
            whole = _integral(x, alpha, lambda v: -mpmath.expm1(-v))
        return float(whole / mpmath.pi)
