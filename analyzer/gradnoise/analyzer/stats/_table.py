"""The tabulated SαS(1) density and its derivatives: what every kernel of this package evaluates.

``_data/stable.npz`` is made by ``tools/make_stable_table.py``, which documents the representation: with δ = 2 − α,
f(x; α) = f(x; 2) + δ T(x, α), T a polynomial in α and x on cells, and beyond ``X_TAIL`` the tail series
f = δ Σ_k b_k(α) x^(−αk−1).

A kernel first *collapses* the table at one α (every coefficient becomes a number and its two α-derivatives;
about 2 µs), then evaluates points with one exponential and one logarithm each.
"""

from __future__ import annotations

import functools
import math
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from gradnoise.analyzer.stats._jit import kernel

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

ALPHA_MIN = 0.5
"""Smallest α of the table; the fit's lower boundary."""
X_TAIL = 31.9375
"""From here on the tail series is used."""
_INVERSE_C = 16.0
_FINE_SHIFT = 48  # 52 mantissa bits less log2 of 16 fine bins in an octave
_FINE_OFFSET = 1023 << 4
_WIDTH = 8  # coefficients of a cell: degree 7 in x
TAIL_TERMS = 12
LOG_2_SQRT_PI = math.log(2.0 * math.sqrt(math.pi))
GAUSS_PEAK = 0.5 / math.sqrt(math.pi)


class Table(NamedTuple):
    """The table as arrays, in the shape the kernels take it."""

    edges: Floats
    """α at the panel edges, ascending."""
    cell_of: Ints
    """(panel, fine bin) → cell."""
    mid: Floats
    """(panel, cell) → x at the cell's middle."""
    inverse: Floats
    """(panel, cell) → 1 / half width of the cell."""
    coefficients: Floats
    """(panel, power of local α, row): ``TAIL_TERMS`` rows of b_k, then 8 rows a cell (powers of the local x)."""
    start_alpha: Floats
    start_q50: Floats
    start_ratio: Floats
    """Median of |X| and its 90 % point over its median, by α: the starting value of a fit."""


@functools.cache
def table() -> Table:
    """Load the shipped table once a process."""
    with resources.files(__package__).joinpath("_data/stable.npz").open("rb") as file, np.load(file) as data:
        if (
            float(data["x_tail"]) != X_TAIL
            or float(data["c"]) * _INVERSE_C != 1.0
            or int(data["split"]) != 16
            or float(data["edges"][0]) != ALPHA_MIN
        ):
            raise RuntimeError("stable.npz does not belong to this version of the code: run tools/make_stable_table.py")
        return Table(
            edges=np.ascontiguousarray(data["edges"]),
            cell_of=np.ascontiguousarray(data["cell_of"]),
            mid=np.ascontiguousarray(data["mid"]),
            inverse=np.ascontiguousarray(data["inverse"]),
            coefficients=np.ascontiguousarray(data["coefficients"]),
            start_alpha=np.ascontiguousarray(data["start_alpha"]),
            start_q50=np.ascontiguousarray(data["start_q50"]),
            start_ratio=np.ascontiguousarray(data["start_ratio"]),
        )


@kernel
def collapse(tab: Table, alpha: float, work: Floats) -> int:
    """Fill ``work`` (3 × rows: value, ∂α, ∂α²) with the coefficients at ``alpha``; return the panel."""
    panel = 0
    while panel < tab.edges.size - 2 and alpha > tab.edges[panel + 1]:
        panel += 1
    half = 0.5 * (tab.edges[panel + 1] - tab.edges[panel])
    u = (alpha - 0.5 * (tab.edges[panel + 1] + tab.edges[panel])) / half
    degree = tab.coefficients.shape[1] - 1
    rows = tab.coefficients.shape[2]
    for i in range(rows):
        work[0, i] = tab.coefficients[panel, degree, i]
        work[1, i] = 0.0
        work[2, i] = 0.0
    for d in range(degree - 1, -1, -1):
        for i in range(rows):
            work[2, i] = work[2, i] * u + work[1, i]
            work[1, i] = work[1, i] * u + work[0, i]
            work[0, i] = work[0, i] * u + tab.coefficients[panel, d, i]
    first, second = 1.0 / half, 2.0 / (half * half)
    for i in range(rows):
        work[1, i] *= first
        work[2, i] *= second
    return panel


@kernel
def excess(z: float, panel: int, tab: Table, work: Floats) -> float:
    """T(z, α) = (f(z; α) − f(z; 2)) / (2 − α) for 0 ≤ z < X_TAIL."""
    fine = (np.float64(1.0 + z * _INVERSE_C).view(np.int64) >> _FINE_SHIFT) - _FINE_OFFSET
    cell = tab.cell_of[panel, fine]
    u = (z - tab.mid[panel, cell]) * tab.inverse[panel, cell]
    at = TAIL_TERMS + _WIDTH * cell
    value: float = work[0, at + _WIDTH - 1]
    for j in range(_WIDTH - 2, -1, -1):
        value = value * u + work[0, at + j]
    return value


@kernel
def log_density(z: float, alpha: float, panel: int, tab: Table, work: Floats) -> float:
    """ln f(z; α) for z ≥ 0, ``work`` collapsed at ``alpha``."""
    delta = 2.0 - alpha
    if delta == 0.0:
        return -0.25 * z * z - LOG_2_SQRT_PI
    if alpha == 1.0 and z < 1e8:  # Cauchy, exactly; the table agrees to 2e-10
        return -math.log(math.pi * (1.0 + z * z))
    if z < X_TAIL:
        return math.log(GAUSS_PEAK * math.exp(-0.25 * z * z) + delta * excess(z, panel, tab, work))
    log_z = math.log(z)
    w = math.exp(-alpha * log_z)
    value = 0.0
    for k in range(TAIL_TERMS - 1, -1, -1):
        value = value * w + work[0, k]
    return math.log(delta * value) - (1.0 + alpha) * log_z


@kernel
def derivatives(
    z: float, alpha: float, panel: int, tab: Table, work: Floats
) -> tuple[float, float, float, float, float, float]:
    """L = ln f(z; α) and L_α, L_z, L_αα, L_αz, L_zz at z ≥ 0, α < 2, ``work`` collapsed at ``alpha``."""
    delta = 2.0 - alpha
    if z < X_TAIL:
        fine = (np.float64(1.0 + z * _INVERSE_C).view(np.int64) >> _FINE_SHIFT) - _FINE_OFFSET
        cell = tab.cell_of[panel, fine]
        slope = tab.inverse[panel, cell]
        u = (z - tab.mid[panel, cell]) * slope
        at = TAIL_TERMS + _WIDTH * cell
        t = work[0, at + _WIDTH - 1]
        t_z = 0.0
        t_zz = 0.0
        t_a = work[1, at + _WIDTH - 1]
        t_az = 0.0
        t_aa = work[2, at + _WIDTH - 1]
        for j in range(_WIDTH - 2, -1, -1):
            t_zz = t_zz * u + t_z
            t_z = t_z * u + t
            t = t * u + work[0, at + j]
            t_az = t_az * u + t_a
            t_a = t_a * u + work[1, at + j]
            t_aa = t_aa * u + work[2, at + j]
        t_z *= slope
        t_az *= slope
        t_zz *= 2.0 * slope * slope
        g = GAUSS_PEAK * math.exp(-0.25 * z * z)
        f = g + delta * t
        inverse = 1.0 / f
        f_a = (delta * t_a - t) * inverse
        f_z = (delta * t_z - 0.5 * z * g) * inverse
        f_aa = (delta * t_aa - 2.0 * t_a) * inverse
        f_az = (delta * t_az - t_z) * inverse
        f_zz = (delta * t_zz + (0.25 * z * z - 0.5) * g) * inverse
        return math.log(f), f_a, f_z, f_aa - f_a * f_a, f_az - f_a * f_z, f_zz - f_z * f_z
    log_z = math.log(z)
    w = math.exp(-alpha * log_z)
    b = 0.0
    b_a = 0.0
    b_l = 0.0
    b_aa = 0.0
    b_al = 0.0
    b_ll = 0.0
    power = 1.0
    for k in range(TAIL_TERMS):
        # Term k of B = Σ b_{k+1}(α) exp(−α k ln z); l = ln z.
        c, c_a, c_aa = work[0, k] * power, work[1, k] * power, work[2, k] * power
        b += c
        b_a += c_a - k * log_z * c
        b_aa += c_aa - 2.0 * k * log_z * c_a + k * k * log_z * log_z * c
        b_l -= alpha * k * c
        b_ll += alpha * alpha * k * k * c
        b_al += alpha * k * k * log_z * c - k * c - alpha * k * c_a
        power *= w
    r_a, r_l = b_a / b, b_l / b
    l_l = r_l - 1.0 - alpha
    l_ll = b_ll / b - r_l * r_l
    l_al = b_al / b - r_a * r_l - 1.0
    return (
        math.log(delta * b) - (1.0 + alpha) * log_z,
        r_a - 1.0 / delta - log_z,
        l_l / z,
        b_aa / b - r_a * r_a - 1.0 / (delta * delta),
        l_al / z,
        (l_ll - l_l) / (z * z),
    )


@kernel
def log_density_many(z: Floats, alpha: Floats, tab: Table, out: Floats) -> None:
    """ln f(|z_i|; α_i) into ``out``; runs of equal α share one collapse. NaN stays NaN, ±inf gives −inf."""
    work = np.empty((3, tab.coefficients.shape[2]))
    last = np.nan
    panel = 0
    for i in range(z.size):
        if alpha[i] != last:
            last = alpha[i]
            panel = collapse(tab, last, work)
        x = abs(z[i])
        if x != x:
            out[i] = np.nan
        elif x == np.inf:
            out[i] = -np.inf
        else:
            out[i] = log_density(x, last, panel, tab, work)
