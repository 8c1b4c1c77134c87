"""The fit of one sample and of many, from raw values to a row of numbers; compiled.

A fit decides the boundary first. At α = 2 the score −Σ T(z_i)/f(z_i; 2) of the Gaussian fit is positive or zero exactly
when no value is too large for it; the likelihood, near the boundary Σ ln(1 + δ r_i) with δ = 2 − α and so concave in δ,
then has its maximum at α = 2. Otherwise Newton's method runs from a start made of two quantiles of |x|, and the better
of its result and the Gaussian is kept.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradnoise.analyzer.stats._jit import kernel
from gradnoise.analyzer.stats._likelihood import boundary_score, log_likelihood
from gradnoise.analyzer.stats._newton import ALPHA_TOP, DROP, ROOT, maximise, profile_end
from gradnoise.analyzer.stats._table import ALPHA_MIN, LOG_2_SQRT_PI, Table

Floats = np.ndarray[Any, np.dtype[np.float64]]

CODE_OK, CODE_BOUNDARY, CODE_TOO_FEW, CODE_ALL_ZERO, CODE_NON_FINITE, CODE_CONSTANT, CODE_NO_CONVERGENCE = range(7)

# Columns of a result row.
CODE, ALPHA, LOG_SCALE, LOCATION, LOGLIK, SE_ALPHA, SE_LOG_SCALE, SE_LOCATION, LOW, HIGH = range(10)
GAUSS_LOGLIK, GAUSS_LOG_SCALE, GAUSS_LOCATION, N_USED, N_ZERO, EVALUATIONS = range(10, 16)
FIELDS = 16

_TOLERANCE = 1e-7
_ATOM_RATIO = 0.01
_WARM_TOLERANCE = 1e-4  # a warm start is a jackknife replicate: a millionth of a standard error is enough


@kernel
def select(a: Floats, w: Floats, p: float) -> float:
    """The value below which a share ``p`` of the weight lies; reorders ``a`` and ``w`` (empty for equal weights)."""
    left, right = 0, a.size - 1
    weighted = w.size > 0
    target = 0.0
    if weighted:
        for i in range(w.size):
            target += w[i]
        target *= p
    else:
        target = min(math.floor(p * a.size), a.size - 1.0) + 0.5
    while left < right:
        pivot = a[(left + right) >> 1]
        i, j = left, right
        while i <= j:
            while a[i] < pivot:
                i += 1
            while a[j] > pivot:
                j -= 1
            if i <= j:
                a[i], a[j] = a[j], a[i]
                if weighted:
                    w[i], w[j] = w[j], w[i]
                i += 1
                j -= 1
        # Now a[left..j] ≤ pivot = a[j+1..i−1] ≤ a[i..right].
        low = 0.0
        middle = 0.0
        if weighted:
            for k in range(left, j + 1):
                low += w[k]
            for k in range(j + 1, i):
                middle += w[k]
        else:
            low, middle = j + 1.0 - left, i - j - 1.0
        if target <= low:
            right = j
        elif target > low + middle:
            left = i
            target -= low + middle
        else:
            return float(pivot)
    return float(a[left])


@kernel
def quantile_of(
    x: Floats, w: Floats, centre: float, absolute: bool, p: float, buffer: Floats, weights: Floats
) -> float:
    """``select`` on a copy of x, or of |x − centre|."""
    for i in range(x.size):
        buffer[i] = abs(x[i] - centre) if absolute else x[i]
    for i in range(w.size):
        weights[i] = w[i]
    value: float = select(buffer[: x.size], weights[: w.size], p)
    return value


@kernel
def interpolate(at: float, x: Floats, y: Floats) -> float:
    """Linear interpolation for a monotone ``x``, rising or falling; constant outside."""
    sign = 1.0 if x[-1] > x[0] else -1.0
    i = 1
    while i < x.size - 1 and sign * x[i] < sign * at:
        i += 1
    u = min(max((at - x[i - 1]) / (x[i] - x[i - 1]), 0.0), 1.0)
    return float(y[i - 1] + u * (y[i] - y[i - 1]))


@kernel
def fit_one(
    x: Floats, w: Floats, located: bool, intervals: bool, warm: Floats, tab: Table, work: Floats, buffer: Floats,
    weights: Floats, row: Floats,
) -> None:  # fmt: skip
    """Fit one sample of finite, non-zero values into ``row``; ``x`` is overwritten.

    ``warm`` is NaN or a start (α, ln σ, μ) in units of x.
    """
    out, kept = np.zeros(10), np.zeros(10)
    theta = np.zeros(3)
    size = x.size
    weighted = w.size > 0
    n = float(size)
    if weighted:
        n = 0.0
        for i in range(size):
            n += w[i]
    # Units in which the data are of order 1: the fit is then equivariant and no square overflows.
    started = warm[0] == warm[0]
    centre, lower = 0.0, 1.0
    if started:
        centre, unit = warm[2], math.exp(warm[1])
        theta[0] = min(max(warm[0], ALPHA_MIN + 0.01), 1.99)
    else:
        if located:
            centre = quantile_of(x, w, 0.0, False, 0.5, buffer, weights)
        unit = quantile_of(x, w, centre, True, 0.5, buffer, weights)
        upper = quantile_of(x, w, centre, True, 0.9, buffer, weights)
        if unit == 0.0:
            unit = upper
        for i in range(size):
            if unit == 0.0:
                unit = abs(x[i] - centre)
        if unit == 0.0:
            row[CODE] = CODE_CONSTANT
            return
        lower = quantile_of(x, w, centre, True, 0.1, buffer, weights) / unit
        theta[0] = min(max(interpolate(upper / unit, tab.start_ratio, tab.start_alpha), 0.55), 1.95)
        theta[1] = -math.log(interpolate(theta[0], tab.start_alpha, tab.start_q50))
    # Gaussian: σ² = mean (x − μ)² / 2.
    g_mu, biggest = 0.0, 0.0
    for i in range(size):
        x[i] = (x[i] - centre) / unit if located else abs(x[i]) / unit
        if located:
            g_mu += (w[i] if weighted else 1.0) * x[i] / n
    for i in range(size):
        biggest = max(biggest, abs(x[i] - g_mu))
    square = 0.0
    for i in range(size):
        d = (x[i] - g_mu) / biggest
        square += (w[i] if weighted else 1.0) * d * d
    if not square > 0.0:
        row[CODE] = CODE_CONSTANT
        return
    g_s = 0.5 * math.log(0.5 * square / n) + math.log(biggest)
    g_loglik = -0.5 * n - n * (LOG_2_SQRT_PI + g_s)
    score = -np.inf
    if not started or warm[0] > 1.9:
        score = boundary_score(x, w, g_s, g_mu, tab, work)
    boundary = score >= 0.0 and (started or log_likelihood(x, w, theta, tab, work) <= g_loglik)
    converged = True
    row[EVALUATIONS] = 0.0
    # A second start where a tenth of the values is a hundred times smaller than their median, as in no stable law of
    # the table: values near an atom make a second maximum, of small σ and small α.
    attempts = 2 if not located and 0.0 < lower < _ATOM_RATIO else (0 if boundary else 1)
    best, found = -np.inf, np.zeros(3)
    for attempt in range(attempts):
        if attempt == 1:
            theta[0], theta[1], theta[2] = 0.55, math.log(lower), 0.0
        count = maximise(x, w, n, theta, located, _WARM_TOLERANCE if started else _TOLERANCE, tab, work, out)
        row[EVALUATIONS] += abs(count)
        if attempt == 0 or out[0] > best:
            best, converged = out[0], count > 0
            for j in range(3):
                found[j] = theta[j]
            for j in range(10):
                kept[j] = out[j]
    for j in range(3):
        theta[j] = found[j]
    for j in range(10):
        out[j] = kept[j]
    boundary = g_loglik >= best or theta[0] >= ALPHA_TOP
    log_unit = math.log(unit)
    row[GAUSS_LOGLIK] = g_loglik - n * log_unit
    row[GAUSS_LOG_SCALE] = g_s + log_unit
    row[GAUSS_LOCATION] = centre + g_mu * unit
    row[N_USED] = n
    floor = False
    top = out[0]
    if boundary:
        row[CODE] = CODE_BOUNDARY
        theta[0], theta[1], theta[2] = 2.0, g_s, g_mu
        top = g_loglik
        row[SE_LOG_SCALE] = math.sqrt(0.5 / n)
        if located:
            row[SE_LOCATION] = math.exp(g_s) * unit * math.sqrt(2.0 / n)
        reach = min(DROP / max(score, 1e-3), 1.5 / math.sqrt(n))
    else:
        floor = theta[0] <= ALPHA_MIN
        row[CODE] = CODE_NO_CONVERGENCE
        if converged:
            row[CODE] = CODE_BOUNDARY if floor else CODE_OK
        # Inverse observed information of (α, s) and, with location, of (α, s, μ), by cofactors.
        aa, a_s, ss, am, sm, mm = -out[4], -out[5], -out[6], -out[7], -out[8], -out[9]
        if not located:
            am, sm, mm = 0.0, 0.0, 1.0
        if floor:  # α is not free there: the information of the others alone
            aa, a_s, am = 1.0, 0.0, 0.0
        c_aa, c_ss, c_mm = ss * mm - sm * sm, aa * mm - am * am, aa * ss - a_s * a_s
        det = aa * c_aa - a_s * (a_s * mm - sm * am) + am * (a_s * sm - ss * am)
        reach = 0.1
        if c_aa / det > 0.0 and not floor:
            reach = ROOT * math.sqrt(c_aa / det)
            row[SE_ALPHA] = reach / ROOT
        if c_ss / det > 0.0:
            row[SE_LOG_SCALE] = math.sqrt(c_ss / det)
        if located and c_mm / det > 0.0:
            row[SE_LOCATION] = math.sqrt(c_mm / det) * unit
    row[ALPHA], row[LOG_SCALE], row[LOCATION] = theta[0], theta[1] + log_unit, centre + theta[2] * unit
    row[LOGLIK] = top - n * log_unit
    if not intervals:
        return
    row[LOW], row[HIGH] = ALPHA_MIN, 2.0
    for side in (-1.0, 1.0):
        if side < 0.0 and floor:
            continue
        if side > 0.0 and (boundary or top - g_loglik <= DROP):
            continue
        guess = theta[0] - reach if side < 0.0 else min(theta[0] + reach, 2.0 - 0.2 * (2.0 - theta[0]))
        end = profile_end(x, w, n, theta, top, guess, side, located, tab, work, out)
        if side < 0.0:
            row[LOW] = end
        else:
            row[HIGH] = end


@kernel
def fit_rows(
    values: Floats, w: Floats, located: bool, intervals: bool, least: int, warm: Floats, tab: Table, rows: Floats
) -> None:
    """Fit every row of ``values`` (samples × draws) into ``rows`` (samples × ``FIELDS``).

    ``w`` is empty or one weight a draw; ``warm`` empty or a start a row. Exact zeros, which no continuous law produces,
    are left out and counted. A row with NaN or infinity, or with fewer than ``least`` values left, gets a code and no
    fit.
    """
    size = values.shape[1]
    weighted = w.size > 0
    x, v = np.empty(size), np.empty(w.size)
    buffer, weights = np.empty(size), np.empty(w.size)
    work = np.empty((3, tab.coefficients.shape[2]))
    start = np.full(3, np.nan)
    for r in range(values.shape[0]):
        row = rows[r]
        for j in range(FIELDS):
            row[j] = np.nan
        kept, zeros, weight_kept = 0, 0.0, 0.0
        finite, constant = True, True
        for i in range(size):
            value = values[r, i]
            q = w[i] if weighted else 1.0
            if not math.isfinite(value):
                finite = False
            if q == 0.0:
                continue
            if value == 0.0:
                zeros += q
                continue
            if kept > 0 and value != x[0]:
                constant = False
            x[kept] = value
            if weighted:
                v[kept] = q
            weight_kept += q
            kept += 1
        row[N_USED], row[N_ZERO] = weight_kept, zeros
        if not finite:
            row[CODE] = CODE_NON_FINITE
        elif kept == 0 and zeros > 0.0:
            row[CODE] = CODE_ALL_ZERO
        elif kept < least or weight_kept < least:
            row[CODE] = CODE_TOO_FEW
        elif constant:
            row[CODE] = CODE_CONSTANT
        else:
            if warm.size > 0:
                for j in range(3):
                    start[j] = warm[r, j]
            fit_one(
                x[:kept], v[: kept if weighted else 0], located, intervals, start, tab, work, buffer, weights, row
            )  # fmt: skip
