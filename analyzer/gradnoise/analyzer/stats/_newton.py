"""Newton's method for the SαS likelihood in (α, s = ln σ[, μ]); compiled.

α = 2 is a boundary at which the likelihood is far from quadratic; it is decided by the score there (``_fit``), not by
this iteration, which stays inside.
"""

from __future__ import annotations

import math

import numpy as np

from gradnoise.analyzer.stats._jit import kernel, part
from gradnoise.analyzer.stats._likelihood import EVALUATED, Groups, Space, evaluate, row_of
from gradnoise.analyzer.stats._table import ALPHA_MIN, Floats, Ints

ALPHA_TOP = 2.0 - 1e-10
"""Above it the boundary's closed form is the answer."""
MOST_EVALUATIONS = 80


@part
def solve(out: Floats, free: float, located: bool, n: float, step: Floats) -> float:
    """Newton step for the free parameters into ``step``; returns the gain 2Δℓ it predicts, gᵀ(−H)⁻¹g.

    ``free`` is 1 if α is one of them, 0 if not.
    Where −H is not positive definite a diagonal of the size of the expected information takes its place: the
    step is then one of steepest ascent in sensible units.
    """
    g_a, g_s, g_m = out[1], out[2], out[3]
    aa, a_s, ss = -out[4], -out[5], -out[6]
    am, sm, mm = -out[7], -out[8], -out[9]
    g_a, aa, a_s, am = free * g_a, free * aa + (1.0 - free), free * a_s, free * am
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
        ok = l33 > 1e-8 * (n if free > 0.0 else 1.0)
    if not ok:
        d_s, d_m, d_a = n, (0.3 * n * scale if located else 1.0), (n if free > 0.0 else 1.0)
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
def climb(
    groups: Groups, counts: Ints, n: Floats, located: bool, tolerance: float, most: int, space: Space,
    best: Floats, outs: Floats, evaluations: Ints,
) -> None:  # fmt: skip
    """Safeguarded Newton over 0.5 ≤ α < 2 for every row of groups (the first ``counts`` of them), of weight ``n``.

    ``best`` (rows × 3) is the start, and becomes the maximum; rows whose α is NaN are left alone. ``outs``: what
    ``evaluate`` says there. A climb stops when the next step promises less than ``tolerance`` of log-likelihood, and
    takes that step; or at the ``most``-th evaluation, which if it is the first leaves α = 2 − 1e-10 at the boundary and
    everything else as it is. ``evaluations``: their number, negative if the climb stopped before its end.
    """
    step, trial, fresh = space.slots[0], space.slots[1], space.slots[2]
    for r in range(counts.size):
        theta, out = best[r], outs[r]
        if theta[0] != theta[0]:
            continue
        sample = row_of(groups, r, counts[r])
        factor = 0.0  # the first evaluation is of the start itself
        gain = np.inf
        for j in range(3):
            step[j] = 0.0
        evaluations[r] = -most
        for count in range(1, most + 1):
            for j in range(3):
                trial[j] = theta[j] + factor * step[j]
            trial[0] = min(max(trial[0], ALPHA_MIN), ALPHA_TOP)
            evaluate(sample, trial, space, fresh)
            if count > 1 and fresh[0] < out[0] - 1e-12 * (abs(out[0]) + n[r]):
                factor *= 0.3
                if factor < 1e-12:
                    evaluations[r] = count if gain < 1e-4 else -count
                    break
                continue
            for j in range(3):
                theta[j] = trial[j]
            for j in range(EVALUATED):
                out[j] = fresh[j]
            if count == most:
                break
            room = 2.0 - theta[0]
            step[1] = theta[1]
            gain = solve(out, 0.0 if theta[0] <= ALPHA_MIN and out[1] <= 0.0 else 1.0, located, n[r], step)
            wanted = step[0]
            # A step in α never takes more than 4/5 of the way to the boundary, where the likelihood may bend sharply.
            bounded = min(max(wanted, ALPHA_MIN - theta[0], -0.6), 0.8 * room)
            if gain < tolerance + 1e-13 * abs(out[0]) and bounded == wanted:
                for j in range(3):
                    theta[j] += step[j]
                out[0] += 0.5 * gain
                evaluations[r] = count
                break
            if room < 1e-9:
                evaluations[r] = count
                break
            if bounded != wanted:
                step[0] = bounded
                if out[6] < 0.0 and not located:
                    step[1] = -(out[2] + out[5] * bounded) / out[6]
            step[1] = min(max(step[1], -1.0), 1.0)
            sigma = math.exp(theta[1])
            step[2] = min(max(step[2], -sigma), sigma) if located else 0.0
            factor = 1.0
