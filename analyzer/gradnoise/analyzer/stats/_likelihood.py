"""The SαS log-likelihood of a weighted sample, with exact derivatives; compiled.

ℓ(α, s, μ) = Σ w_i [ln f((x_i − μ)/e^s; α) − s], s = ln σ. Derivatives are those of the table, so the observed
information costs nothing extra.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradnoise.analyzer.stats._jit import kernel
from gradnoise.analyzer.stats._table import GAUSS_PEAK, X_TAIL, Table, collapse, derivatives, excess, log_density

Floats = np.ndarray[Any, np.dtype[np.float64]]


@kernel
def evaluate(x: Floats, w: Floats, theta: Floats, located: bool, tab: Table, work: Floats, out: Floats) -> None:
    """ℓ (out[0]), its gradient (1..3: α, s, μ) and Hessian (4..9: αα, αs, ss, αμ, sμ, μμ) at ``theta``."""
    alpha, s, mu = theta[0], theta[1], theta[2]
    panel = collapse(tab, alpha, work)
    inverse = math.exp(-s)
    total = 0.0
    l0, g_a, g_s, h_aa, h_as, h_ss = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    g_m, h_am, h_sm, h_mm = 0.0, 0.0, 0.0, 0.0
    weighted = w.size > 0
    for i in range(x.size):
        v = (x[i] - mu) * inverse
        z = abs(v)
        f, f_a, f_z, f_aa, f_az, f_zz = derivatives(z, alpha, panel, tab, work)
        q = w[i] if weighted else 1.0
        total += q
        l0 += q * f
        g_a += q * f_a
        g_s -= q * z * f_z
        h_aa += q * f_aa
        h_as -= q * z * f_az
        h_ss += q * (z * f_z + z * z * f_zz)
        if located:
            q = math.copysign(q * inverse, v)
            g_m -= q * f_z
            h_am -= q * f_az
            h_sm += q * (f_z + z * f_zz)
            h_mm += abs(q) * inverse * f_zz
    out[0] = l0 - total * s
    out[1], out[2], out[3] = g_a, g_s - total, g_m
    out[4], out[5], out[6], out[7], out[8], out[9] = h_aa, h_as, h_ss, h_am, h_sm, h_mm


@kernel
def log_likelihood(x: Floats, w: Floats, theta: Floats, tab: Table, work: Floats) -> float:
    """ℓ alone."""
    panel = collapse(tab, theta[0], work)
    inverse = math.exp(-theta[1])
    value, total = 0.0, 0.0
    for i in range(x.size):
        q = w[i] if w.size > 0 else 1.0
        total += q
        value += q * log_density(abs(x[i] - theta[2]) * inverse, theta[0], panel, tab, work)
    return float(value - total * theta[1])


@kernel
def boundary_score(x: Floats, w: Floats, s: float, mu: float, tab: Table, work: Floats) -> float:
    """∂ℓ/∂α at α = 2, −Σ w T(z, 2)/f(z; 2): −inf as soon as one value is impossible under the Gaussian."""
    panel = collapse(tab, 2.0, work)
    inverse = math.exp(-s)
    score = 0.0
    for i in range(x.size):
        z = abs(x[i] - mu) * inverse
        q = w[i] if w.size > 0 else 1.0
        if z >= X_TAIL:
            return -np.inf
        score -= q * excess(z, panel, tab, work) * math.exp(0.25 * z * z) / GAUSS_PEAK
    return score
