"""The SαS log-likelihood of a sample given in groups, with exact derivatives; compiled.

A *group* is a number of values that lie close together: their weight W = Σ w, their mean x, their spread
M = Σ w (x_i − x)² and their skew N = Σ w (x_i − x)³. One value is a group without spread and skew. With
L(z) = ln f(z; α), z = |x − μ|/σ, s = ln σ, and the sign of N turned with that of x − μ,

    ℓ(α, s, μ) = Σ W (L(z) − s) + M/(2σ²) L_zz(z) + N/(6σ³) L_zzz(z),

which is the sum over all values up to the fourth moment of the groups. The gradient is that of the first two terms, the
Hessian that of the first: one steers, the other decides.

Points go through the table in blocks: a loop fetches the coefficients of each point's cell, a second one, without
branches, calculates. Only so does the compiler use vector instructions; the exponential and the logarithm are
written out for the same reason.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gradnoise.analyzer.stats._jit import part, summing
from gradnoise.analyzer.stats._table import (
    _FINE_OFFSET,
    _FINE_SHIFT,
    _INVERSE_C,
    _WIDTH,
    DEGREE_ALPHA,
    GAUSS_PEAK,
    TAIL_TERMS,
    X_TAIL,
    Floats,
    Ints,
    table,
)

_BLOCK = 64
"""Points that go through the table together: their coefficients fit the first-level cache."""
_BLOCK_ROWS = 3 * _WIDTH + 7
_SLOPE, _LOCAL, _Z, _WEIGHT, _SPREAD, _SKEW, _SIGN = range(3 * _WIDTH, _BLOCK_ROWS)
EVALUATED = 10
"""Numbers that ``evaluate`` returns."""
_SLOTS = 3
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # their sum is ln 2, to 90 bits
_ROOT_HALF_BITS = 0x3FE6A09E667F3BCD  # the bits of √½


class Groups(NamedTuple):
    """A sample, in the shape the kernels take it: arrays of one length."""

    x: Floats
    """Mean of the group's values."""
    weight: Floats
    spread: Floats
    """Σ w (x_i − x)² over the group."""
    skew: Floats
    """Σ w (x_i − x)³."""


class Space(NamedTuple):
    """What a kernel works with: the table, and the memory of one thread."""

    edges: Floats
    cell_of: Ints
    mid: Floats
    inverse: Floats
    coefficients: Floats
    work: Floats
    """(3, rows of the table): the table at one α and its two derivatives in α."""
    block: Floats
    """(``_BLOCK_ROWS``, ``_BLOCK``)."""
    slots: Floats
    """A few short vectors."""


def space() -> Space:
    """The shipped table and fresh memory."""
    tab = table()
    return Space(
        tab.edges,
        tab.cell_of,
        tab.mid,
        tab.inverse,
        tab.coefficients,
        np.empty((3, tab.coefficients.shape[2])),
        np.empty((_BLOCK_ROWS, _BLOCK)),
        np.empty((_SLOTS, EVALUATED)),
    )


@part
def collapse(space: Space, alpha: float) -> int:
    """Fill ``space.work`` (value, ∂α, ∂α²) with the coefficients at ``alpha``; return the panel."""
    panel = 0
    while panel < space.edges.size - 2 and alpha > space.edges[panel + 1]:
        panel += 1
    half = 0.5 * (space.edges[panel + 1] - space.edges[panel])
    u = (alpha - 0.5 * (space.edges[panel + 1] + space.edges[panel])) / half
    first, second = 1.0 / half, 2.0 / (half * half)
    coefficients = space.coefficients[panel]
    value, slope, bend = space.work[0], space.work[1], space.work[2]
    for i in range(value.size):
        v, v_a, v_aa = coefficients[DEGREE_ALPHA, i], 0.0, 0.0
        for d in range(DEGREE_ALPHA - 1, -1, -1):
            v_aa = v_aa * u + v_a
            v_a = v_a * u + v
            v = v * u + coefficients[d, i]
        value[i], slope[i], bend[i] = v, v_a * first, v_aa * second
    return panel


@part
def _exp(a: float) -> float:
    """e^a for −700 ≤ a ≤ 0: 2^k e^r, |r| ≤ ½ ln 2, by the Taylor series of e^r."""
    k = np.int64(a * _LOG2_E - 0.5)
    kf = np.float64(k)
    r = (a - kf * _LN2_HIGH) - kf * _LN2_LOW
    p = 1 / 479001600
    p = p * r + 1 / 39916800
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 1 / 2
    p = p * r + 1.0
    p = p * r + 1.0
    scale: float = np.int64((k + 1023) << 52).view(np.float64)
    return p * scale


@part
def _log(v: float) -> float:
    """ln v for normal v > 0: k ln 2 + 2 artanh((m − 1)/(m + 1)), √½ ≤ m < √2, by the series of artanh."""
    bits = np.float64(v).view(np.int64)
    k = (bits - _ROOT_HALF_BITS) >> 52
    m = np.int64(bits - (k << 52)).view(np.float64)
    r = (m - 1.0) / (m + 1.0)
    s = r * r
    p = 1 / 17
    p = p * s + 1 / 15
    p = p * s + 1 / 13
    p = p * s + 1 / 11
    p = p * s + 1 / 9
    p = p * s + 1 / 7
    p = p * s + 1 / 5
    p = p * s + 1 / 3
    return np.float64(k) * (_LN2_HIGH + _LN2_LOW) + 2.0 * r * (1.0 + s * p)


@part
def _fetch(groups: Groups, start: int, count: int, theta: Floats, panel: int, space: Space, out: Floats) -> None:
    """Fill the block with ``count`` groups; those in the tail go to ``out`` at once and stay as weight 0 at z = 0."""
    block = space.block
    value, slope, bend = space.work[0], space.work[1], space.work[2]
    inverse = math.exp(-theta[1])
    for i in range(count):
        v = (groups.x[start + i] - theta[2]) * inverse
        q, k = groups.weight[start + i], 0.5 * groups.spread[start + i] * inverse * inverse
        z, sign = abs(v), math.copysign(1.0, v)
        skew = sign * groups.skew[start + i] * inverse * inverse * inverse / 6.0
        if not z < X_TAIL:  # NaN too, which has no cell: σ of 0 or infinity, on the way to no convergence
            _add_tail(z, q, k, skew, sign, theta[0], space.work, out)
            z, q, k, skew = 0.0, 0.0, 0.0, 0.0
        fine = (np.float64(1.0 + z * _INVERSE_C).view(np.int64) >> _FINE_SHIFT) - _FINE_OFFSET
        cell = space.cell_of[panel, fine]
        at = TAIL_TERMS + _WIDTH * cell
        for j in range(_WIDTH):
            block[j, i] = value[at + j]
            block[_WIDTH + j, i] = slope[at + j]
            block[2 * _WIDTH + j, i] = bend[at + j]
        block[_SLOPE, i] = space.inverse[panel, cell]
        block[_LOCAL, i] = (z - space.mid[panel, cell]) * space.inverse[panel, cell]
        block[_Z, i] = z
        block[_WEIGHT, i] = q
        block[_SPREAD, i] = k
        block[_SKEW, i] = skew
        block[_SIGN, i] = sign


@summing
def _add_block(block: Floats, count: int, delta: float, out: Floats) -> None:
    """Add the central points of a block to ``out``, lengths in units of σ: f = g + δT, g the Gaussian density."""
    l0 = g_a = g_s = g_m = 0.0
    h_aa = h_as = h_ss = h_am = h_sm = h_mm = 0.0
    for i in range(count):
        slope, u, z = block[_SLOPE, i], block[_LOCAL, i], block[_Z, i]
        q, k, sign = block[_WEIGHT, i], block[_SPREAD, i], block[_SIGN, i]
        t = block[_WIDTH - 1, i]
        t_a = block[2 * _WIDTH - 1, i]
        t_z = t_zz = t_zzz = t_az = t_azz = 0.0
        t_aa = block[3 * _WIDTH - 1, i]
        for j in range(_WIDTH - 2, -1, -1):
            t_zzz = t_zzz * u + t_zz
            t_zz = t_zz * u + t_z
            t_z = t_z * u + t
            t = t * u + block[j, i]
            t_azz = t_azz * u + t_az
            t_az = t_az * u + t_a
            t_a = t_a * u + block[_WIDTH + j, i]
            t_aa = t_aa * u + block[2 * _WIDTH + j, i]
        square = slope * slope
        t_z *= slope
        t_az *= slope
        t_zz *= 2.0 * square
        t_azz *= 2.0 * square
        t_zzz *= 6.0 * square * slope
        g = GAUSS_PEAK * _exp(-0.25 * z * z)
        f = g + delta * t
        inverse = 1.0 / f
        a = (delta * t_a - t) * inverse
        p = (delta * t_z - 0.5 * z * g) * inverse
        r = (delta * t_zz + (0.25 * z * z - 0.5) * g) * inverse
        # L_αα, L_αz, L_zz, and for the spread L_zzz, L_αzz.
        l_aa = (delta * t_aa - 2.0 * t_a) * inverse - a * a
        l_az = (delta * t_az - t_z) * inverse - a * p
        l_zz = r - p * p
        l_zzz = (delta * t_zzz + (0.75 - 0.125 * z * z) * z * g) * inverse - 3.0 * p * r + 2.0 * p * p * p
        l_azz = (delta * t_azz - t_zz) * inverse - r * a - 2.0 * p * l_az
        l0 += q * _log(f) + k * l_zz + block[_SKEW, i] * l_zzz
        g_a += q * a + k * l_azz
        g_s -= q * z * p + k * (2.0 * l_zz + z * l_zzz)
        g_m -= sign * (q * p + k * l_zzz)
        h_aa += q * l_aa
        h_as -= q * z * l_az
        h_ss += q * z * (p + z * l_zz)
        h_am -= q * sign * l_az
        h_sm += q * sign * (p + z * l_zz)
        h_mm += q * l_zz
    out[0] += l0
    out[1] += g_a
    out[2] += g_s
    out[3] += g_m
    out[4] += h_aa
    out[5] += h_as
    out[6] += h_ss
    out[7] += h_am
    out[8] += h_sm
    out[9] += h_mm


@part
def _add_tail(z: float, q: float, k: float, skew: float, sign: float, alpha: float, work: Floats, out: Floats) -> None:
    """Add one point of the tail to ``out``: f = δ z^(−1−α) B, B = Σ b_{k+1}(α) e^(−αkl), l = ln z."""
    delta = 2.0 - alpha
    log_z = math.log(z)
    w = math.exp(-alpha * log_z)
    b = b_a = b_l = b_aa = b_al = b_ll = b_all = b_lll = 0.0
    power = 1.0
    for j in range(TAIL_TERMS):
        c, c_a, c_aa = work[0, j] * power, work[1, j] * power, work[2, j] * power
        d = -alpha * j  # ∂/∂l; and ∂/∂α = ∂ of the coefficient − j l
        slope = c_a - j * log_z * c
        b += c
        b_a += slope
        b_aa += c_aa - 2.0 * j * log_z * c_a + j * j * log_z * log_z * c
        b_l += d * c
        b_al += d * slope - j * c
        b_ll += d * d * c
        b_all += d * d * slope - 2.0 * d * j * c
        b_lll += d * d * d * c
        power *= w
    a, p, r = b_a / b, b_l / b, b_ll / b
    l_al = b_al / b - a * p
    l_ll = r - p * p
    l_lll = b_lll / b - 3.0 * p * r + 2.0 * p * p * p
    l_all = b_all / b - r * a - 2.0 * p * l_al
    # L = ln δ + ln B − (1 + α) l; then from l to z.
    l_l, l_al = p - 1.0 - alpha, l_al - 1.0
    l_a = a - 1.0 / delta - log_z
    l_z, l_az = l_l / z, l_al / z
    l_zz = (l_ll - l_l) / (z * z)
    l_zzz = (l_lll - 3.0 * l_ll + 2.0 * l_l) / (z * z * z)
    l_azz = (l_all - l_al) / (z * z)
    out[0] += q * (math.log(delta * b) - (1.0 + alpha) * log_z) + k * l_zz + skew * l_zzz
    out[1] += q * l_a + k * l_azz
    out[2] -= q * l_l + k * (2.0 * l_zz + z * l_zzz)
    out[3] -= sign * (q * l_z + k * l_zzz)
    out[4] += q * (b_aa / b - a * a - 1.0 / (delta * delta))
    out[5] -= q * l_al
    out[6] += q * l_ll
    out[7] -= q * sign * l_az
    out[8] += q * sign * (l_z + z * l_zz)
    out[9] += q * l_zz


@part
def evaluate(groups: Groups, theta: Floats, space: Space, out: Floats) -> None:
    """ℓ (out[0]), its gradient (1..3: α, s, μ) and Hessian (4..9: αα, αs, ss, αμ, sμ, μμ) at ``theta``, α < 2."""
    for j in range(EVALUATED):
        out[j] = 0.0
    panel = collapse(space, theta[0])
    for start in range(0, groups.x.size, _BLOCK):
        count = min(_BLOCK, groups.x.size - start)
        _fetch(groups, start, count, theta, panel, space, out)
        _add_block(space.block, count, 2.0 - theta[0], out)
    total = 0.0
    for i in range(groups.x.size):
        total += groups.weight[i]
    out[0] -= total * theta[1]
    out[2] -= total
    inverse = math.exp(-theta[1])
    out[3] *= inverse
    out[7] *= inverse
    out[8] *= inverse
    out[9] *= inverse * inverse


@part
def row_of(groups: Groups, r: int, count: int) -> Groups:
    """The first ``count`` groups of row ``r``, of many samples in rows."""
    return Groups(groups.x[r, :count], groups.weight[r, :count], groups.spread[r, :count], groups.skew[r, :count])
