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
    visit, panel, u, tail, whole = 0, 0, 0.0, 0.0, 0.0
    a = np.nan
    for i in range(x.size):
        if alpha[i * each_alpha] != a:
            a = alpha[i * each_alpha]
            visit += 1
            panel, u, _ = panel_of(tab, a)
            values(tab, panel, u, 0, TAIL_TERMS, work)
            tail = _power_tail(math.log(X_TAIL), a, work)
            whole = _beyond(integrals, panel, u, 0) + tail
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
            p = (0.5 - delta * whole) * math.erfc(0.5 * z) + delta * rest
        else:
            log_z = math.log(z) if z < np.inf or abs(v) == np.inf else math.log(abs(v)) - math.log(s)
            p = delta * _power_tail(log_z, a, work)
        out[i] = p if v >= 0 else 1.0 - p


@kernel
def upper_points(
    q: Floats, sign: float, alpha: Floats, scale: Floats, tab: Table, integrals: Mass, out: Floats
) -> None:
    """``sign`` times the x with P(X > x) = q_i, into ``out``; α = 2 is left to the caller. NaN stays NaN.

    A bisection over the cells' edges brackets the point inside one cell; there Newton's method on ln P, in the tail on
    ln P against ln x. In the first cell, around the median, it solves P(0 < X < x) = ½ − q, which does not cancel.
    """
    work = np.empty((1, tab.coefficients.shape[2]))
    cells = tab.mid.shape[1]
    edge = np.empty(cells + 1)  # P(X > left edge of the cell)
    edge_ready = np.zeros(cells + 1, dtype=np.int64)
    cell_ready = np.zeros(cells, dtype=np.int64)
    each_alpha, each_scale = int(alpha.size > 1), int(scale.size > 1)
    visit, panel, u, tail, whole, count = 0, 0, 0.0, 0.0, 0.0, 0
    a = np.nan
    for i in range(q.size):
        if alpha[i * each_alpha] != a:
            a = alpha[i * each_alpha]
            visit += 1
            panel, u, _ = panel_of(tab, a)
            values(tab, panel, u, 0, TAIL_TERMS, work)
            tail = _power_tail(math.log(X_TAIL), a, work)
            whole = _beyond(integrals, panel, u, 0) + tail
            count = integrals.cells[panel]
        if a == 2.0:
            continue
        s = scale[i * each_scale]
        given = float(q[i])
        # P is the smaller side's probability and h = ½ − P, both without rounding that matters.
        p = min(given, 1.0 - given)
        h = 0.5 - p
        side = sign if given <= 0.5 else -sign
        delta = 2.0 - a
        if p != p:
            out[i] = np.nan
            continue
        if p == 0.0:
            out[i] = side * np.inf
            continue
        if a == 1.0:
            out[i] = side * (s * math.tan(math.pi * h) if h < 0.25 else s / math.tan(math.pi * p))
            continue
        if p <= delta * tail:
            # P ≈ δ b_1/α z^(−α) starts Newton in ln z; the slope of ln P is −z f/P.
            log_z = max((math.log(delta * work[0, 0] / a) - math.log(p)) / a, math.log(X_TAIL))
            for _ in range(50):
                there = _power_tail(log_z, a, work)
                step = (math.log(there) - math.log(p / delta)) * there / _power_density(log_z, a, work)
                log_z += step
                if abs(step) <= 1e-12 * log_z:
                    break
            z = math.exp(log_z)
            out[i] = side * (z * s if z < np.inf else math.exp(log_z + math.log(s)))
            continue
        low, high = 0, count  # the cell is found between these edges
        while high - low > 1:
            middle = (low + high) // 2
            if edge_ready[middle] != visit:
                edge_ready[middle] = visit
                left = tab.mid[panel, middle] - 1.0 / tab.inverse[panel, middle]
                edge[middle] = (0.5 - delta * whole) * math.erfc(0.5 * left) + delta * (
                    _beyond(integrals, panel, u, middle) + tail
                )
            if edge[middle] >= p:
                low = middle
            else:
                high = middle
        at = TAIL_TERMS + _WIDTH * low
        inverse, mid = tab.inverse[panel, low], tab.mid[panel, low]
        if cell_ready[low] != visit:
            cell_ready[low] = visit
            values(tab, panel, u, at, _WIDTH, work)
        if low == 0:
            # Concave in z, so that Newton from the left never overshoots.
            z = 0.0
            for _ in range(50):
                inside = 0.0
                for n in range(4):
                    t = (z * _NODES[n] - mid) * inverse
                    value = work[0, at + _WIDTH - 1]
                    for j in range(_WIDTH - 2, -1, -1):
                        value = value * t + work[0, at + j]
                    inside += _WEIGHTS[n] * value
                t = (z - mid) * inverse
                value = work[0, at + _WIDTH - 1]
                for j in range(_WIDTH - 2, -1, -1):
                    value = value * t + work[0, at + j]
                between = (0.5 - delta * whole) * math.erf(0.5 * z) + delta * z * inside
                step = (h - between) / (GAUSS_PEAK * math.exp(-0.25 * z * z) + delta * value)
                z += step
                if abs(step) <= 1e-12 * z:
                    break
        else:
            lowest, highest = mid - 1.0 / inverse, mid + 1.0 / inverse
            right = _beyond(integrals, panel, u, low + 1) + tail
            z = mid
            for _ in range(100):
                t = (z - mid) * inverse
                value = work[0, at + _WIDTH - 1]
                for j in range(_WIDTH - 2, -1, -1):
                    value = value * t + work[0, at + j]
                there = (0.5 - delta * whole) * math.erfc(0.5 * z) + delta * (
                    _rest_of_cell(t, at, work) / inverse + right
                )
                if there > p:
                    lowest = z
                else:
                    highest = z
                step = math.log(there / p) * there / (GAUSS_PEAK * math.exp(-0.25 * z * z) + delta * value)
                after = z + step
                if not lowest <= after <= highest:
                    after = 0.5 * (lowest + highest)
                step, z = after - z, after
                if abs(step) <= 1e-12 * z:
                    break
        out[i] = side * z * s
