"""Newton's method for the SαS likelihood in (α, s = ln σ[, μ]), and the profile interval of α; compiled.

α = 2 is a boundary at which the likelihood is far from quadratic; it is decided by the score there (``_fit``), not by
this iteration, which stays inside.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradnoise.analyzer.stats._jit import kernel
from gradnoise.analyzer.stats._likelihood import evaluate
from gradnoise.analyzer.stats._table import ALPHA_MIN, Table

Floats = np.ndarray[Any, np.dtype[np.float64]]

DROP = 1.9207294103470627
"""Half the 95 % point of χ²₁: what the profile log-likelihood may lose inside the interval."""
ROOT = 1.959963984540054
ALPHA_TOP = 2.0 - 1e-10
"""Above it the boundary's closed form is the answer."""
_MAX_EVALUATIONS = 80


@kernel
def solve(out: Floats, free_alpha: bool, located: bool, n: float, step: Floats) -> float:
    """Newton step for the free parameters into ``step``; returns the gain 2Δℓ it predicts, gᵀ(−H)⁻¹g.

    Where −H is not positive definite a diagonal of the size of the expected information takes its place: the
    step is then one of steepest ascent in sensible units.
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
        return float(max(g_a * step[0] + g_s * step[1] + g_m * step[2], 1e-6))
    l33 = math.sqrt(l33)
    y1 = g_s / l11
    y2 = (g_m - l21 * y1) / l22
    y3 = (g_a - l31 * y1 - l32 * y2) / l33
    step[0] = y3 / l33
    step[2] = (y2 - l32 * step[0]) / l22
    step[1] = (y1 - l21 * step[2] - l31 * step[0]) / l11
    return float(y1 * y1 + y2 * y2 + y3 * y3)


@kernel
def maximise(
    x: Floats,
    w: Floats,
    n: float,
    theta: Floats,
    located: bool,
    tolerance: float,
    tab: Table,
    work: Floats,
    out: Floats,
) -> int:
    """Safeguarded Newton from ``theta`` (changed in place) over 0.5 ≤ α < 2; ``out`` as of ``evaluate``.

    Stops when the next step promises less than ``tolerance`` of log-likelihood, and takes that step. Returns the
    number of evaluations, negative if it stopped for another reason.
    """
    step = np.zeros(3)
    trial = np.empty(3)
    fresh = np.empty(10)
    factor = 0.0  # the first evaluation is of the start itself
    gain = np.inf
    for count in range(1, _MAX_EVALUATIONS + 1):
        for j in range(3):
            trial[j] = theta[j] + factor * step[j]
        trial[0] = min(max(trial[0], ALPHA_MIN), ALPHA_TOP)
        evaluate(x, w, trial, located, tab, work, fresh)
        if count > 1 and fresh[0] < out[0] - 1e-12 * (abs(out[0]) + n):
            factor *= 0.3
            if factor < 1e-12:
                return count if gain < 1e-4 else -count
            continue
        for j in range(3):
            theta[j] = trial[j]
        for j in range(10):
            out[j] = fresh[j]
        room = 2.0 - theta[0]
        step[1] = theta[1]
        gain = solve(out, not (theta[0] <= ALPHA_MIN and out[1] <= 0.0), located, n, step)
        wanted = step[0]
        # A step in α never takes more than 4/5 of the way to the boundary, where the likelihood may bend sharply.
        bounded = min(max(wanted, ALPHA_MIN - theta[0], -0.6), 0.8 * room)
        if gain < tolerance + 1e-13 * abs(out[0]) and bounded == wanted:
            for j in range(3):
                theta[j] += step[j]
            out[0] += 0.5 * gain
            return count
        if room < 1e-9:
            return count
        if bounded != wanted:
            step[0] = bounded
            if out[6] < 0.0 and not located:
                step[1] = -(out[2] + out[5] * bounded) / out[6]
        step[1] = min(max(step[1], -1.0), 1.0)
        sigma = math.exp(theta[1])
        step[2] = min(max(step[2], -sigma), sigma) if located else 0.0
        factor = 1.0
    return -_MAX_EVALUATIONS


@kernel
def profile_end(
    x: Floats, w: Floats, n: float, best: Floats, top: float, start: float, side: float, located: bool,
    tab: Table, work: Floats, out: Floats,
) -> float:  # fmt: skip
    """The end of α's 95 % profile-likelihood interval on ``side`` (−1 low, +1 high): ℓ_p(α) = ``top`` − 1.92.

    ``best`` is θ̂ and ``top`` its log-likelihood; ``start`` the first guess. The caller has made sure that the
    end lies strictly inside (0.5, 2) or this returns the boundary. Secant-safeguarded Newton on the signed root
    √(2(ℓ̂ − ℓ_p)), which is almost linear in α; the nuisance parameters follow by one Newton step an
    evaluation.
    """
    theta = best.copy()
    step = np.empty(3)
    inside = best[0]
    outside = ALPHA_MIN if side < 0.0 else ALPHA_TOP
    alpha = min(max(start, ALPHA_MIN), ALPHA_TOP)
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
        if abs(drop - DROP) < 1e-3:
            return alpha
        if drop < DROP:
            inside = alpha
            if alpha == outside:
                return outside
        else:
            outside = alpha
            checked = True
        root = math.sqrt(2.0 * drop)
        new = np.nan
        if root > 0.0 and slope * side < 0.0:
            new = alpha + (ROOT - root) * root / (-slope)
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
