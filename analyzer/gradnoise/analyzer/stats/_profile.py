"""The profile-likelihood interval of α; compiled."""

from __future__ import annotations

import math

import numpy as np

from gradnoise.analyzer.stats._jit import kernel
from gradnoise.analyzer.stats._likelihood import Groups, Space, evaluate, row_of
from gradnoise.analyzer.stats._newton import ALPHA_TOP, solve
from gradnoise.analyzer.stats._table import ALPHA_MIN, Floats, Ints

DROP = 1.9207294103470627
"""Half the 95 % point of χ²₁: what the profile log-likelihood may lose inside the interval."""
ROOT = 1.959963984540054
_CLOSE = 0.05  # of a drop: the step that follows leaves about its square


@kernel
def ends(
    groups: Groups, counts: Ints, n: Floats, located: bool, best: Floats, top: Floats,
    ridges: Floats, guesses: Floats, space: Space, found: Floats,
) -> None:  # fmt: skip
    """Both ends of α's 95 % profile-likelihood interval, ℓ_p(α) = ``top`` − 1.92, for every row of groups.

    ``best`` is θ̂, ``top`` its log-likelihood and ``ridges`` ds/dα of the profile there. ``guesses`` (rows × 2: low,
    high) is where to look first, NaN for an end that is not asked for; the caller has made sure that the end lies
    inside (0.5, 2), or the boundary is the answer. Secant-safeguarded Newton on the signed root √(2(ℓ̂ − ℓ_p)), which is
    almost linear in α; the nuisance parameters follow by one Newton step an evaluation.
    """
    step, theta, out = space.slots[0], space.slots[1], space.slots[2]
    for index in range(2 * counts.size):
        r, side = index >> 1, 2.0 * (index & 1) - 1.0
        alpha = guesses[r, index & 1]
        if alpha != alpha:
            continue
        sample = row_of(groups, r, counts[r])
        inside = best[r, 0]
        outside = ALPHA_MIN if side < 0.0 else ALPHA_TOP
        alpha = min(max(alpha, ALPHA_MIN), ALPHA_TOP)
        theta[1], theta[2] = best[r, 1] + ridges[r] * (alpha - inside), best[r, 2]
        checked = False
        for _ in range(40):
            theta[0] = alpha
            profile, slope = 0.0, 0.0
            for _inner in range(8):
                evaluate(sample, theta, space, out)
                step[1] = theta[1]
                gain = solve(out, 0.0, located, n[r], step)
                profile = out[0] + 0.5 * gain
                slope = out[1] + out[5] * step[1] + out[7] * step[2]
                theta[1] += min(max(step[1], -0.5), 0.5)
                if located:
                    sigma = math.exp(theta[1])
                    theta[2] += min(max(step[2], -0.5 * sigma), 0.5 * sigma)
                if gain < 0.02:
                    break
            drop = max(top[r] - profile, 0.0)
            if drop < DROP and alpha == outside:
                break
            root = math.sqrt(2.0 * drop)
            new = np.nan
            if root > 0.0 and slope * side < 0.0:
                new = alpha + (ROOT - root) * root / (-slope)
            if abs(drop - DROP) < _CLOSE:
                alpha = new if new == new else alpha
                break
            if drop < DROP:
                inside = alpha
            else:
                outside = alpha
                checked = True
            low, high = min(inside, outside), max(inside, outside)
            if not (new > low and new < high):
                if not checked and side < 0.0 and new <= low:
                    new = ALPHA_MIN
                elif high > 1.9 and low < 2.0:
                    # Halve ln(2 − α) rather than α: the likelihood lives on that scale near the boundary.
                    new = 2.0 - math.sqrt((2.0 - low) * max(2.0 - high, 1e-9))
                else:
                    new = 0.5 * (low + high)
            moved = new - alpha
            # Let σ follow α along the ridge before the next evaluation.
            if out[6] < 0.0 and not located:
                theta[1] -= out[5] / out[6] * moved
            alpha = new
            if abs(moved) < 1e-7:
                break
        found[r, index & 1] = alpha
