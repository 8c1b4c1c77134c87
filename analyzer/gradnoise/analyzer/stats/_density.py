"""Log-density and score of SαS at many points, each with its own α and scale if need be; compiled.

``alpha`` and ``scale`` have the length of ``x``, or 1. Everything is computed in double precision whatever the type of
``x`` and ``out``. The quotient x/σ may overflow: the tail then takes ln x − ln σ.
"""

from __future__ import annotations

import math

import numpy as np

from gradnoise.analyzer.stats._collapse import cell_of, panel_of, slopes, values
from gradnoise.analyzer.stats._jit import kernel
from gradnoise.analyzer.stats._table import (
    _WIDTH,
    GAUSS_PEAK,
    LOG_2_SQRT_PI,
    TAIL_TERMS,
    X_TAIL,
    Floats,
    Table,
)

_LOG_PI = math.log(math.pi)


@kernel
def log_densities(x: Floats, alpha: Floats, scale: Floats, tab: Table, out: Floats) -> None:
    """ln f(x_i; α_i, σ_i) into ``out``. NaN stays NaN, ±inf gives −inf."""
    work = np.empty((1, tab.coefficients.shape[2]))
    ready = np.zeros(tab.mid.shape[1] + 1, dtype=np.int64)  # by cell, the tail last: the visit that collapsed it
    tail = ready.size - 1
    each_alpha, each_scale = int(alpha.size > 1), int(scale.size > 1)
    visit, panel, u = 0, 0, 0.0
    a, s, log_s = np.nan, np.nan, 0.0
    for i in range(x.size):
        if alpha[i * each_alpha] != a:
            a = alpha[i * each_alpha]
            visit += 1
            panel, u, _ = panel_of(tab, a)
        if scale[i * each_scale] != s:
            s = scale[i * each_scale]
            log_s = math.log(s)
        v = abs(float(x[i]))
        z = v / s
        if v != v:
            out[i] = np.nan
        elif v == np.inf:
            out[i] = -np.inf
        elif a == 2.0:  # N(0, 2σ²)
            out[i] = -0.25 * z * z - LOG_2_SQRT_PI - log_s
        elif a == 1.0:  # Cauchy, σ/(π(x² + σ²)); the table agrees to 2e-10
            out[i] = log_s - _LOG_PI - 2.0 * math.log(math.hypot(v, s))
        elif z < X_TAIL:
            cell, t = cell_of(tab, panel, z)
            at = TAIL_TERMS + _WIDTH * cell
            if ready[cell] != visit:
                ready[cell] = visit
                values(tab, panel, u, at, _WIDTH, work)
            value = work[0, at + _WIDTH - 1]
            for j in range(_WIDTH - 2, -1, -1):
                value = value * t + work[0, at + j]
            out[i] = math.log(GAUSS_PEAK * math.exp(-0.25 * z * z) + (2.0 - a) * value) - log_s
        else:
            if ready[tail] != visit:
                ready[tail] = visit
                values(tab, panel, u, 0, TAIL_TERMS, work)
            log_z = math.log(z) if z < np.inf else math.log(v) - log_s
            w = math.exp(-a * log_z)
            value = work[0, TAIL_TERMS - 1]
            for k in range(TAIL_TERMS - 2, -1, -1):
                value = value * w + work[0, k]
            out[i] = math.log((2.0 - a) * value) - (1.0 + a) * log_z - log_s


@kernel
def scores(
    x: Floats, alpha: Floats, scale: Floats, tab: Table, out: Floats, out_alpha: Floats, out_scale: Floats
) -> None:
    """ln f and its derivatives in α and σ. At α = 2 the derivative from below; at ±inf the limits; NaN stays NaN."""
    work = np.empty((2, tab.coefficients.shape[2]))
    ready = np.zeros(tab.mid.shape[1] + 1, dtype=np.int64)
    tail = ready.size - 1
    each_alpha, each_scale = int(alpha.size > 1), int(scale.size > 1)
    visit, panel, u, slope = 0, 0, 0.0, 0.0
    a, s, log_s = np.nan, np.nan, 0.0
    for i in range(x.size):
        if alpha[i * each_alpha] != a:
            a = alpha[i * each_alpha]
            visit += 1
            panel, u, slope = panel_of(tab, a)
        if scale[i * each_scale] != s:
            s = scale[i * each_scale]
            log_s = math.log(s)
        v = abs(float(x[i]))
        z = v / s
        delta = 2.0 - a
        if v != v:
            out[i], out_alpha[i], out_scale[i] = np.nan, np.nan, np.nan
        elif v == np.inf:
            out[i], out_alpha[i], out_scale[i] = -np.inf, -np.inf, (a / s if a < 2.0 else np.inf)
        elif z < X_TAIL:
            cell, t = cell_of(tab, panel, z)
            at = TAIL_TERMS + _WIDTH * cell
            if ready[cell] != visit:
                ready[cell] = visit
                slopes(tab, panel, u, slope, at, _WIDTH, work)
            value, in_alpha = work[0, at + _WIDTH - 1], work[1, at + _WIDTH - 1]
            in_z = 0.0
            for j in range(_WIDTH - 2, -1, -1):
                in_z = in_z * t + value
                value = value * t + work[0, at + j]
                in_alpha = in_alpha * t + work[1, at + j]
            in_z *= tab.inverse[panel, cell]
            # f = g + δT; f_α = δT_α − T; f_z = δT_z − zg/2; ∂σ ln(f(x/σ)/σ) = −(1 + z f_z/f)/σ.
            g = GAUSS_PEAK * math.exp(-0.25 * z * z)
            f = g + delta * value
            inverse = 1.0 / f
            if a == 2.0:
                out[i] = -0.25 * z * z - LOG_2_SQRT_PI - log_s
            elif a == 1.0:
                out[i] = log_s - _LOG_PI - 2.0 * math.log(math.hypot(v, s))
            else:
                out[i] = math.log(f) - log_s
            out_alpha[i] = (delta * in_alpha - value) * inverse
            out_scale[i] = -(1.0 + z * (delta * in_z - 0.5 * z * g) * inverse) / s
        else:
            if ready[tail] != visit:
                ready[tail] = visit
                slopes(tab, panel, u, slope, 0, TAIL_TERMS, work)
            log_z = math.log(z) if z < np.inf else math.log(v) - log_s
            # f = δ z^(−1−α) Σ_k b_{k+1} w^k, w = z^(−α); in ln z each term brings −αk, in α a further −k ln z.
            w = math.exp(-a * log_z)
            value, in_alpha, weighted = 0.0, 0.0, 0.0
            for k in range(TAIL_TERMS - 1, -1, -1):
                value = value * w + work[0, k]
                in_alpha = in_alpha * w + work[1, k]
                weighted = weighted * w + k * work[0, k]
            mean_k = weighted / value
            if a == 2.0:
                # −T/f with T as above and f the Gaussian: −inf once that underflows.
                out[i] = -0.25 * z * z - LOG_2_SQRT_PI - log_s
                out_alpha[i] = -math.exp(math.log(value) - 3.0 * log_z + 0.25 * z * z + LOG_2_SQRT_PI)
                out_scale[i] = (0.5 * z * z - 1.0) / s
            else:
                out[i] = math.log(delta * value) - (1.0 + a) * log_z - log_s
                out_alpha[i] = in_alpha / value - mean_k * log_z - log_z - 1.0 / delta
                out_scale[i] = a * (1.0 + mean_k) / s
