"""Tail probabilities and quantiles of SαS from the table of the density; compiled.

On a cell T is a polynomial in x, so its integral is exact, and summed from the right
    P(X > z) = erfc(z/2)/2 + δ ∫_z^∞ T(x, α) dx
keeps its relative accuracy however small it is. The integral of T over the half line is 0 in theory and R ≈ 1e-11 in
the table; giving the Gaussian the weight 1 − 2δR makes P(X > 0) = 1/2 to the last bit. Beyond ``X_TAIL`` the tail
series is integrated term by term: P(X > z) = δ Σ_k b_k/(αk) z^(−αk).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from gradnoise.analyzer.stats._collapse import cell_of, panel_of, values
from gradnoise.analyzer.stats._jit import kernel
from gradnoise.analyzer.stats._table import _WIDTH, GAUSS_PEAK, TAIL_TERMS, X_TAIL, Floats, Ints, Table, table

_RECIPROCALS = tuple(1.0 / j for j in range(1, _WIDTH + 1))
# Gauss–Legendre on (0, 1): four points integrate a cell's polynomial exactly.
_NODES = (0.06943184420297371, 0.33000947820757187, 0.6699905217924281, 0.9305681557970262)
_WEIGHTS = (0.17392742256872692, 0.32607257743127307, 0.32607257743127307, 0.17392742256872692)


class Mass(NamedTuple):
    """Integrals of T over cells, in the shape the kernels take them."""

    cells: Ints
    """Number of cells, by panel."""
    beyond: Floats
    """(panel, power of local α, cell) → ∫ T from the cell's left edge to X_TAIL; one column more than cells."""


@functools.cache
def mass() -> Mass:
    """The integrals of the shipped table, made once a process."""
    tab = table()
    count = tab.cell_of.max(axis=1) + 1
    panels, powers, _ = tab.coefficients.shape
    cells = tab.mid.shape[1]
    body = tab.coefficients[:, :, TAIL_TERMS:].reshape(panels, powers, cells, _WIDTH)
    # ∫_{−1}^{1} u^j du = 2/(j+1) for even j; cells that a panel does not have are zeros.
    integral = 2.0 * (body[..., ::2] / np.arange(1, _WIDTH + 1, 2)).sum(axis=-1)
    half = np.divide(1.0, tab.inverse, out=np.zeros_like(tab.inverse), where=tab.inverse > 0)
    integral *= half[:, None, :]
    beyond = np.zeros((panels, powers, cells + 1))
    beyond[:, :, :-1] = integral[:, :, ::-1].cumsum(axis=-1)[:, :, ::-1]
    return Mass(count.astype(np.int64), beyond)


@kernel
def _beyond(integrals: Mass, panel: int, u: float, cell: int) -> float:
    """∫ T from the left edge of ``cell`` to X_TAIL at the local α ``u``."""
    value = 0.0
    for d in range(integrals.beyond.shape[1] - 1, -1, -1):
        value = value * u + integrals.beyond[panel, d, cell]
    return value


@kernel
def _power_tail(log_z: float, alpha: float, work: Floats) -> float:
    """Σ_k b_k/(αk) z^(−αk): P(X > z)/δ for z ≥ X_TAIL, the tail rows of ``work`` collapsed."""
    w = math.exp(-alpha * log_z)
    value = 0.0
    for k in range(TAIL_TERMS, 0, -1):
        value = (value + work[0, k - 1] / k) * w
    return value / alpha


@kernel
def _power_density(log_z: float, alpha: float, work: Floats) -> float:
    """Σ_k b_k z^(−αk): z f(z)/δ."""
    w = math.exp(-alpha * log_z)
    value = 0.0
    for k in range(TAIL_TERMS, 0, -1):
        value = (value + work[0, k - 1]) * w
    return value


@kernel
def _rest_of_cell(t: float, at: int, work: Floats) -> float:
    """∫_t^1 of the cell's polynomial in the local coordinate, its rows of ``work`` collapsed."""
    lower, upper = 0.0, 0.0
    for j in range(_WIDTH - 1, -1, -1):
        c = work[0, at + j] * _RECIPROCALS[j]
        lower = lower * t + c
        upper += c
    return upper - lower * t


@kernel
def tails(x: Floats, sign: float, alpha: Floats, scale: Floats, tab: Table, integrals: Mass, out: Floats) -> None:
    """P(X > ``sign``·x_i) into ``out``, ``sign`` ±1; alpha and scale of the length of ``x``, or 1. NaN stays NaN."""
    work = np.empty((1, tab.coefficients.shape[2]))
    cells = tab.mid.shape[1]
    right = np.empty(cells)
    ready = np.zeros(cells, dtype=np.int64)
    each_alpha, each_scale = int(alpha.size > 1), int(scale.size > 1)
    visit, panel, u, tail, weight = 0, 0, 0.0, 0.0, 0.0
    a = np.nan
    for i in range(x.size):
        if alpha[i * each_alpha] != a:
            a = alpha[i * each_alpha]
            visit += 1
            panel, u, _ = panel_of(tab, a)
            values(tab, panel, u, 0, TAIL_TERMS, work)
            tail = _power_tail(math.log(X_TAIL), a, work)
            weight = 0.5 - (2.0 - a) * (_beyond(integrals, panel, u, 0) + tail)
        s = scale[i * each_scale]
        v = sign * float(x[i])
        z = abs(v) / s
        delta = 2.0 - a
        if v != v:
            out[i] = np.nan
            continue
        if a == 2.0:
            out[i] = 0.5 * math.erfc(0.5 * math.copysign(z, v))
            continue
        if a == 1.0:
            out[i] = math.atan2(1.0, math.copysign(z, v)) / math.pi
            continue
        if z < X_TAIL:
            cell, t = cell_of(tab, panel, z)
            at = TAIL_TERMS + _WIDTH * cell
            if ready[cell] != visit:
                ready[cell] = visit
                values(tab, panel, u, at, _WIDTH, work)
                right[cell] = _beyond(integrals, panel, u, cell + 1) + tail
            rest = _rest_of_cell(t, at, work) / tab.inverse[panel, cell] + right[cell]
            p = weight * math.erfc(0.5 * z) + delta * rest
        else:
            log_z = math.log(z) if z < np.inf or abs(v) == np.inf else math.log(abs(v)) - math.log(s)
            p = delta * _power_tail(log_z, a, work)
        out[i] = p if v >= 0 else 1.0 - p


@kernel
def _cell_value(t: float, at: int, work: Floats) -> float:
    """The cell's polynomial, T, at the local coordinate ``t``."""
    value: float = work[0, at + _WIDTH - 1]
    for j in range(_WIDTH - 2, -1, -1):
        value = value * t + work[0, at + j]
    return value


@kernel
def _log_point_in_tail(p: float, alpha: float, work: Floats) -> float:
    """ln x of the point beyond X_TAIL with P(X > x) = ``p``: Newton on ln P against ln x, whose slope is −x f/P.

    It starts at the leading term, P ≈ δ b_1/α x^(−α).
    """
    log_p = math.log(p) - math.log(2.0 - alpha)
    log_z = max((math.log(work[0, 0] / alpha) - log_p) / alpha, math.log(X_TAIL))
    for _ in range(50):
        there = _power_tail(log_z, alpha, work)
        step = (math.log(there) - log_p) * there / _power_density(log_z, alpha, work)
        log_z += step
        if abs(step) <= 1e-12 * log_z:
            break
    return log_z


@kernel
def _point_near_median(h: float, delta: float, weight: float, mid: float, inverse: float, work: Floats) -> float:
    """x in the first cell with P(0 < X < x) = ``h``, which does not cancel. ``weight`` is the Gaussian's, (1 − 2δR)/2.

    P is concave in x, so that Newton from the left never overshoots.
    """
    z = 0.0
    for _ in range(50):
        mean = 0.0
        for n in range(4):
            mean += _WEIGHTS[n] * _cell_value((z * _NODES[n] - mid) * inverse, TAIL_TERMS, work)
        within = weight * math.erf(0.5 * z) + delta * z * mean
        slope = GAUSS_PEAK * math.exp(-0.25 * z * z) + delta * _cell_value((z - mid) * inverse, TAIL_TERMS, work)
        step = (h - within) / slope
        z += step
        if abs(step) <= 1e-12 * z:
            break
    return z


@kernel
def _point_in_cell(
    p: float, delta: float, weight: float, right: float, mid: float, inverse: float, at: int, work: Floats
) -> float:
    """x in a cell with P(X > x) = ``p``: Newton on ln P, bisection where it would leave the bracket.

    ``right`` is ∫ T from the cell's right edge to infinity.
    """
    low, high = mid - 1.0 / inverse, mid + 1.0 / inverse
    z = mid
    for _ in range(100):
        t = (z - mid) * inverse
        there = weight * math.erfc(0.5 * z) + delta * (_rest_of_cell(t, at, work) / inverse + right)
        if there > p:
            low = z
        else:
            high = z
        slope = GAUSS_PEAK * math.exp(-0.25 * z * z) + delta * _cell_value(t, at, work)
        after = z + math.log(there / p) * there / slope
        if not low <= after <= high:
            after = 0.5 * (low + high)
        step, z = after - z, after
        if abs(step) <= 1e-12 * z:
            break
    return z


@kernel
def upper_points(
    q: Floats, sign: float, alpha: Floats, scale: Floats, tab: Table, integrals: Mass, out: Floats
) -> None:
    """``sign`` times the x with P(X > x) = q_i, into ``out``; α = 2 is left to the caller. NaN stays NaN.

    A bisection over the cells' edges brackets the point inside one cell.
    """
    work = np.empty((1, tab.coefficients.shape[2]))
    cells = tab.mid.shape[1]
    edge = np.empty(cells)  # P(X > left edge of the cell)
    edge_ready, cell_ready = np.zeros(cells, dtype=np.int64), np.zeros(cells, dtype=np.int64)
    each_alpha, each_scale = int(alpha.size > 1), int(scale.size > 1)
    visit, panel, u, tail, weight, delta = 0, 0, 0.0, 0.0, 0.0, 0.0
    a = np.nan
    for i in range(q.size):
        if alpha[i * each_alpha] != a:
            a = alpha[i * each_alpha]
            delta = 2.0 - a
            visit += 1
            panel, u, _ = panel_of(tab, a)
            values(tab, panel, u, 0, TAIL_TERMS, work)
            tail = _power_tail(math.log(X_TAIL), a, work)
            weight = 0.5 - delta * (_beyond(integrals, panel, u, 0) + tail)
        s = scale[i * each_scale]
        given = float(q[i])
        # p is the smaller side's probability and h = ½ − p, both without rounding that matters.
        p = min(given, 1.0 - given)
        h = 0.5 - p
        side = sign if given <= 0.5 else -sign
        if a == 2.0:
            continue
        if p != p:
            out[i] = np.nan
        elif p == 0.0:
            out[i] = side * np.inf
        elif a == 1.0:
            out[i] = side * (s * math.tan(math.pi * h) if h < 0.25 else s / math.tan(math.pi * p))
        elif p <= delta * tail:
            log_z = _log_point_in_tail(p, a, work)
            z = math.exp(log_z)
            out[i] = side * (z * s if z < np.inf else math.exp(log_z + math.log(s)))
        else:
            cell, end = 0, integrals.cells[panel]
            while end - cell > 1:
                middle = (cell + end) // 2
                if edge_ready[middle] != visit:
                    edge_ready[middle] = visit
                    left = tab.mid[panel, middle] - 1.0 / tab.inverse[panel, middle]
                    rest = _beyond(integrals, panel, u, middle) + tail
                    edge[middle] = weight * math.erfc(0.5 * left) + delta * rest
                if edge[middle] >= p:
                    cell = middle
                else:
                    end = middle
            at, mid, inverse = TAIL_TERMS + _WIDTH * cell, tab.mid[panel, cell], tab.inverse[panel, cell]
            if cell_ready[cell] != visit:
                cell_ready[cell] = visit
                values(tab, panel, u, at, _WIDTH, work)
            if cell == 0:
                z = _point_near_median(h, delta, weight, mid, inverse, work)
            else:
                right = _beyond(integrals, panel, u, cell + 1) + tail
                z = _point_in_cell(p, delta, weight, right, mid, inverse, at, work)
            out[i] = side * z * s
