"""Compiled maximum likelihood of the SαS law: Newton's method in (α, s = ln σ[, μ]) and the profile interval of α.

The log-likelihood of weighted values is ℓ = Σ w_i [ln f((x_i − μ)/σ; α) − ln σ]. Derivatives are exact (of the table), so
the observed information costs nothing extra. α = 2 is a boundary at which the likelihood is far from quadratic; it is
decided by the score there, not by the iteration.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradnoise.analyzer.stats._jit import kernel
from gradnoise.analyzer.stats._table import (
    ALPHA_MIN,
    GAUSS_PEAK,
    LOG_2_SQRT_PI,
    X_TAIL,
    Table,
    collapse,
    derivatives,
    excess,
    log_density,
)

Floats = np.ndarray[Any, np.dtype[np.float64]]

CODE_OK, CODE_BOUNDARY, CODE_TOO_FEW, CODE_ALL_ZERO, CODE_NON_FINITE, CODE_CONSTANT, CODE_NO_CONVERGENCE = range(7)

# Columns of a result row.
CODE, ALPHA, LOG_SCALE, LOCATION, LOGLIK, SE_ALPHA, SE_LOG_SCALE, SE_LOCATION, LOW, HIGH = range(10)
GAUSS_LOGLIK, GAUSS_LOG_SCALE, GAUSS_LOCATION, N_USED, N_ZERO, ITERATIONS = range(10, 16)
FIELDS = 16

_DROP = 1.9207294103470627  # half the 95 % point of χ²₁
_ROOT = 1.959963984540054
_TOLERANCE = 1e-9  # of the log-likelihood still to be gained
_MAX_ITERATIONS = 80
_ALPHA_TOP = 2.0 - 1e-10  # above it the boundary's closed form is the answer


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
    return value - total * theta[1]


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


@kernel
def solve(out: Floats, free_alpha: bool, located: bool, n: float, step: Floats) -> float:
    """Newton step for the free parameters into ``step``; returns the gain 2Δℓ it predicts, gᵀ(−H)⁻¹g.

    Where −H is not positive definite a diagonal of the size of the expected information takes its place: the step is then
    one of steepest ascent in sensible units.
    """
    g_a, g_s, g_m = out[1], out[2], out[3]
    aa, a_s, ss = -out[4], -out[5], -out[6]
    am, sm, mm = -out[7], -out[8], -out[9]
    if not free_alpha:
        g_a, aa, a_s, am = 0.0, 1.0, 0.0, 0.0
    if not located:
        g_m, mm, am, sm = 0.0, 1.0, 0.0, 0.0
    scale = math.exp(-2.0 * step[1])  # step[1] comes in as s: the information on μ goes with 1/σ²
    # Cholesky by hand, order s, μ, α.
    l11 = ss
    ok = l11 > 1e-8 * n
    if ok:
        l11 = math.sqrt(l11)
        l21 = sm / l11
        l22 = mm - l21 * l21
        ok = l22 > 1e-10 * (n * scale if located else 1.0)
    if ok:
        l22 = math.sqrt(l22)
        l31 = a_s / l11
        l32 = (am - l31 * l21) / l22
        l33 = aa - l31 * l31 - l32 * l32
        ok = l33 > 1e-8 * (n if free_alpha else 1.0)
    if not ok:
        d_s, d_m, d_a = n, (0.3 * n * scale if located else 1.0), (n if free_alpha else 1.0)
        step[0], step[1], step[2] = g_a / max(d_a, abs(aa)), g_s / max(d_s, abs(ss)), g_m / max(d_m, abs(mm))
        return max(g_a * step[0] + g_s * step[1] + g_m * step[2], 1e-6)
    l33 = math.sqrt(l33)
    y1 = g_s / l11
    y2 = (g_m - l21 * y1) / l22
    y3 = (g_a - l31 * y1 - l32 * y2) / l33
    step[0] = y3 / l33
    step[2] = (y2 - l32 * step[0]) / l22
    step[1] = (y1 - l21 * step[2] - l31 * step[0]) / l11
    return y1 * y1 + y2 * y2 + y3 * y3


@kernel
def maximise(
    x: Floats, w: Floats, n: float, theta: Floats, located: bool, tab: Table, work: Floats, out: Floats
) -> int:
    """Safeguarded Newton from ``theta`` (changed in place) over 0.5 ≤ α < 2; ``out`` as of ``evaluate``.

    Returns the number of evaluations, negative if the tolerance was not met.
    """
    step = np.empty(3)
    trial = np.empty(3)
    fresh = np.empty(10)
    evaluate(x, w, theta, located, tab, work, out)
    count = 1
    while count < _MAX_ITERATIONS:
        at_floor = theta[0] <= ALPHA_MIN and out[1] <= 0.0
        step[1] = theta[1]
        gain = solve(out, not at_floor, located, n, step)
        room = 2.0 - theta[0]
        wanted = step[0]
        # A step in α never takes more than 4/5 of the way to the boundary, where the likelihood may bend sharply.
        bounded = min(max(wanted, ALPHA_MIN - theta[0], -0.6), 0.8 * room)
        if bounded != wanted:
            step[0] = bounded
            if out[6] < 0.0 and not located:
                step[1] = -(out[2] + out[5] * bounded) / out[6]
        step[1] = min(max(step[1], -1.0), 1.0)
        sigma = math.exp(theta[1])
        step[2] = min(max(step[2], -sigma), sigma) if located else 0.0
        if gain < _TOLERANCE + 1e-13 * abs(out[0]) and bounded == wanted:
            for j in range(3):
                theta[j] += step[j]
            theta[0] = min(max(theta[0], ALPHA_MIN), 2.0)
            out[0] += 0.5 * gain
            return count
        if room < 2.0 - _ALPHA_TOP:
            return count
        factor = 1.0
        moved = False
        for _ in range(25):
            for j in range(3):
                trial[j] = theta[j] + factor * step[j]
            trial[0] = min(max(trial[0], ALPHA_MIN), _ALPHA_TOP)
            evaluate(x, w, trial, located, tab, work, fresh)
            count += 1
            if fresh[0] >= out[0] - 1e-12 * (abs(out[0]) + n):
                moved = True
                break
            factor *= 0.3
        if not moved:
            return count if gain < 1e-4 else -count
        theta[:] = trial
        out[:] = fresh
    return -count


@kernel
def profile_end(
    x: Floats, w: Floats, n: float, best: Floats, top: float, start: float, side: float, located: bool,
    tab: Table, work: Floats, out: Floats,
) -> float:  # fmt: skip
    """The end of α's 95 % profile-likelihood interval on ``side`` (−1 low, +1 high): ℓ_p(α) = ``top`` − 1.92.

    ``best`` is θ̂ and ``top`` its log-likelihood; ``start`` the first guess. The caller has made sure that the end lies
    strictly inside (0.5, 2) or this returns the boundary. Secant-safeguarded Newton on the signed root √(2(ℓ̂ − ℓ_p)),
    which is almost linear in α; the nuisance parameters follow by one Newton step an evaluation.
    """
    theta = best.copy()
    step = np.empty(3)
    inside = best[0]
    outside = ALPHA_MIN if side < 0.0 else _ALPHA_TOP
    alpha = min(max(start, ALPHA_MIN), _ALPHA_TOP)
    checked = False
    for _ in range(40):
        theta[0] = alpha
        profile, slope = 0.0, 0.0
        for _inner in range(8):
            evaluate(x, w, theta, located, tab, work, out)
            step[1] = theta[1]
            gain = solve(out, False, located, n, step)
            profile = out[0] + 0.5 * gain
            slope = out[1] + out[5] * step[1] + out[7] * step[2]
            theta[1] += min(max(step[1], -0.5), 0.5)
            if located:
                sigma = math.exp(theta[1])
                theta[2] += min(max(step[2], -0.5 * sigma), 0.5 * sigma)
            if gain < 0.02:
                break
        drop = max(top - profile, 0.0)
        if abs(drop - _DROP) < 1e-3:
            return alpha
        if drop < _DROP:
            inside = alpha
            if alpha == outside:
                return outside
        else:
            outside = alpha
            checked = True
        root = math.sqrt(2.0 * drop)
        new = np.nan
        if root > 0.0 and slope * side < 0.0:
            new = alpha + (_ROOT - root) * root / (-slope)
        low, high = min(inside, outside), max(inside, outside)
        if not (new > low and new < high):
            if not checked and side < 0.0 and new <= low:
                new = ALPHA_MIN
            elif high > 1.9 and low < 2.0:
                # Halve ln(2 − α) rather than α: the likelihood lives on that scale near the boundary.
                new = 2.0 - math.sqrt((2.0 - low) * max(2.0 - high, 1e-9))
            else:
                new = 0.5 * (low + high)
        if abs(new - alpha) < 1e-7:
            return new
        # Let σ follow α along the ridge before the next evaluation.
        if out[6] < 0.0 and not located:
            theta[1] -= out[5] / out[6] * (new - alpha)
        alpha = new
    return alpha


@kernel
def kth(a: Floats, k: int) -> float:
    """The k-th smallest of ``a``, which is reordered (Hoare's selection)."""
    left, right = 0, a.size - 1
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
                i += 1
                j -= 1
        if k <= j:
            right = j
        elif k >= i:
            left = i
        else:
            break
    return a[k]


@kernel
def weighted_quantile(a: Floats, w: Floats, p: float) -> float:
    """Smallest value whose share of the weight reaches ``p``; ``a`` may be reordered when unweighted."""
    if w.size == 0:
        return kth(a, min(int(p * a.size), a.size - 1))
    order = np.argsort(a)
    total = w.sum() * p
    reached = 0.0
    for i in order:
        reached += w[i]
        if reached >= total:
            return float(a[i])
    return float(a[order[-1]])


@kernel
def fit_one(x: Floats, w: Floats, located: bool, intervals: bool, warm: Floats, tab: Table, row: Floats) -> None:
    """Fit one sample of finite, non-zero values into ``row``; ``warm`` is NaN or a start (α, ln σ, μ) in units of x."""
    work = np.empty((3, tab.coefficients.shape[2]))
    out = np.empty(10)
    theta = np.zeros(3)
    n = float(x.size) if w.size == 0 else w.sum()
    # Units in which the data are of order 1: the fit is then equivariant and no square overflows.
    centre = weighted_quantile(x.copy(), w, 0.5) if located else 0.0
    y = np.abs(x - centre)
    unit = weighted_quantile(y.copy(), w, 0.5)
    if unit == 0.0:
        unit = y.max()
    if unit == 0.0:
        row[CODE] = CODE_CONSTANT
        return
    upper = weighted_quantile(y.copy(), w, 0.9) / unit
    if located:
        y = (x - centre) / unit
    else:
        y /= unit
    # Gaussian: σ² = mean (x − μ)² / 2.
    g_mu = 0.0
    if located:
        for i in range(y.size):
            g_mu += (w[i] if w.size > 0 else 1.0) * y[i]
        g_mu /= n
    biggest = 0.0
    for i in range(y.size):
        biggest = max(biggest, abs(y[i] - g_mu))
    square = 0.0
    for i in range(y.size):
        d = (y[i] - g_mu) / biggest
        square += (w[i] if w.size > 0 else 1.0) * d * d
    if biggest == 0.0 or square == 0.0:
        row[CODE] = CODE_CONSTANT
        return
    g_s = 0.5 * math.log(0.5 * square / n) + math.log(biggest)
    g_loglik = -0.5 * n - n * (LOG_2_SQRT_PI + g_s)
    score = boundary_score(y, w, g_s, g_mu, tab, work)
    if warm[0] == warm[0]:
        theta[0] = min(max(warm[0], ALPHA_MIN + 0.01), 1.99)
        theta[1] = warm[1] - math.log(unit)
        theta[2] = (warm[2] - centre) / unit
    else:
        theta[0] = np.interp(-upper, -tab.start_ratio, tab.start_alpha)
        theta[0] = min(max(theta[0], 0.55), 1.95)
        theta[1] = -math.log(np.interp(theta[0], tab.start_alpha, tab.start_q50))
    count = 0
    boundary = score >= 0.0 and log_likelihood(y, w, theta, tab, work) <= g_loglik
    converged = True
    if not boundary:
        count = maximise(y, w, n, theta, located, tab, work, out)
        converged = count > 0
        boundary = g_loglik >= out[0] or theta[0] >= _ALPHA_TOP
    log_unit = math.log(unit)
    row[GAUSS_LOGLIK] = g_loglik - n * log_unit
    row[GAUSS_LOG_SCALE] = g_s + log_unit
    row[GAUSS_LOCATION] = centre + g_mu * unit
    row[N_USED] = n
    row[ITERATIONS] = abs(count)
    row[LOW], row[HIGH] = np.nan, np.nan
    if boundary:
        row[CODE] = CODE_BOUNDARY
        row[ALPHA], row[LOG_SCALE], row[LOCATION] = 2.0, row[GAUSS_LOG_SCALE], row[GAUSS_LOCATION]
        row[LOGLIK] = row[GAUSS_LOGLIK]
        row[SE_ALPHA] = np.nan
        row[SE_LOG_SCALE] = math.sqrt(0.5 / n)
        row[SE_LOCATION] = math.exp(row[LOG_SCALE]) * math.sqrt(2.0 / n) if located else np.nan
        if intervals:
            theta[0], theta[1], theta[2] = 2.0, g_s, g_mu
            guess = min(_DROP / max(score, 1e-3), 1.5 / math.sqrt(n))
            row[LOW] = profile_end(y, w, n, theta, g_loglik, 2.0 - guess, -1.0, located, tab, work, out)
            row[HIGH] = 2.0
        return
    row[CODE] = CODE_OK if converged else CODE_NO_CONVERGENCE
    floor = theta[0] <= ALPHA_MIN
    if floor and converged:
        row[CODE] = CODE_BOUNDARY
    row[ALPHA], row[LOG_SCALE] = theta[0], theta[1] + log_unit
    row[LOCATION] = centre + theta[2] * unit
    row[LOGLIK] = max(out[0], g_loglik) - n * log_unit
    # Inverse observed information: of (α, s) and, with location, of (α, s, μ) by cofactors.
    aa, a_s, ss, am, sm, mm = -out[4], -out[5], -out[6], -out[7], -out[8], -out[9]
    if not located:
        am, sm, mm = 0.0, 0.0, 1.0
    c_aa, c_ss, c_mm = ss * mm - sm * sm, aa * mm - am * am, aa * ss - a_s * a_s
    det = aa * c_aa - a_s * (a_s * mm - sm * am) + am * (a_s * sm - ss * am)
    se_alpha = math.sqrt(c_aa / det) if c_aa / det > 0.0 else np.nan
    row[SE_ALPHA] = np.nan if floor else se_alpha
    row[SE_LOG_SCALE] = math.sqrt(c_ss / det) if c_ss / det > 0.0 else np.nan
    row[SE_LOCATION] = math.sqrt(c_mm / det) * unit if located and c_mm / det > 0.0 else np.nan
    if intervals:
        top = out[0]
        reach = _ROOT * se_alpha if se_alpha == se_alpha else 0.1
        best = theta.copy()
        row[LOW] = ALPHA_MIN
        if not floor:
            row[LOW] = profile_end(y, w, n, best, top, best[0] - reach, -1.0, located, tab, work, out)
        row[HIGH] = 2.0
        if top - g_loglik > _DROP:
            guess = min(best[0] + reach, 2.0 - 0.2 * (2.0 - best[0]))
            row[HIGH] = profile_end(y, w, n, best, top, guess, 1.0, located, tab, work, out)


@kernel
def fit_rows(
    values: Any, w: Floats, located: bool, intervals: bool, least: int, warm: Floats, tab: Table, rows: Floats
) -> None:
    """Fit every row of ``values`` (samples × draws, float32 or float64) into ``rows`` (samples × ``FIELDS``).

    ``w`` is empty or one weight a draw; ``warm`` empty or a start a row. Exact zeros, which no continuous law produces, are
    left out and counted. A row with NaN or infinity, or with fewer than ``least`` values left, gets a code and no fit.
    """
    size = values.shape[1]
    x = np.empty(size)
    v = np.empty(w.size)
    none = np.full(3, np.nan)
    for r in range(values.shape[0]):
        row = rows[r]
        row[:] = np.nan
        kept, zeros, weight_kept = 0, 0.0, 0.0
        finite = True
        constant = True
        for i in range(size):
            value = float(values[r, i])
            q = w[i] if w.size > 0 else 1.0
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
            if w.size > 0:
                v[kept] = q
            weight_kept += q
            kept += 1
        row[N_USED], row[N_ZERO], row[ITERATIONS] = weight_kept, zeros, 0.0
        if not finite:
            row[CODE] = CODE_NON_FINITE
        elif kept == 0 and zeros > 0.0:
            row[CODE] = CODE_ALL_ZERO
        elif kept < least or weight_kept < least:
            row[CODE] = CODE_TOO_FEW
        elif constant:
            row[CODE] = CODE_CONSTANT
        else:
            fit_one(
                x[:kept], v[: kept if w.size > 0 else 0], located, intervals,
                warm[r] if warm.size > 0 else none, tab, row,
            )  # fmt: skip
