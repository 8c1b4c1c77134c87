"""Maximum likelihood of the finite-variance rivals of SαS; compiled, apart from the kernels of the stable fit.

The values come in units of their median size, so that no power over- or underflows. Student's t and the generalised
Gaussian have one shape parameter each; given it, scale and location are easy, so both are fitted by a root of the
profile score in the shape, found by the Illinois variant of regula falsi (Dowell & Jarratt, BIT 11, 1971), which needs
no second derivative and cannot leave its bracket. The mixture is fitted by EM accelerated by squared extrapolation
(SQUAREM: Varadhan & Roland, Scand. J. Statist. 35, 2008, scheme S3).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradnoise.analyzer.stats._jit import kernel

Floats = np.ndarray[Any, np.dtype[np.float64]]

STUDENT, GENERALISED = 0, 1

KAPPA_MIN = 1e-4
"""1/ν below which Student's t counts as Gaussian."""
BETA_MIN, BETA_MAX = 0.3, 10.0
"""Shapes of the generalised Gaussian that are fitted."""
LEAST_SCALE = 1e-3
"""Least narrow scale of the mixture, in median sizes: a component on one tiny value alone is no law."""
MIX_TOLERANCE = 1e-4
"""Log-likelihood that a cycle of the mixture's iteration must gain to go on."""
_INNER, _OUTER, _CYCLES, _WARM_UP = 100, 60, 60, 5
_STARTS = 4
_LOG_2_PI = math.log(2.0 * math.pi)


@kernel
def digamma(x: float) -> float:
    """ψ(x) for x > 0, by recurrence to x ≥ 6 and the asymptotic series (Abramowitz & Stegun 6.3.5, 6.3.18)."""
    shift = 0.0
    while x < 6.0:
        shift -= 1.0 / x
        x += 1.0
    r = 1.0 / (x * x)
    series = r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r * (1 / 240 - r * (1 / 132 - r * 691 / 32760)))))
    return float(shift + math.log(x) - 0.5 / x - series)


@kernel
def student_inner(x: Floats, kappa: float, located: bool, place: Floats) -> None:
    """Scale and location of the t law with 1/ν = ``kappa`` into ``place`` = (ln σ, μ), from its start.

    With r = 1/(1 + κ z²): (1 + κ) mean(z² r) = 1 by Newton in ln σ, and μ = Σ r x / Σ r (iterated weights).
    """
    n = x.size
    for _ in range(_INNER):
        inverse = math.exp(-place[0])
        first, second, total, moment = 0.0, 0.0, 0.0, 0.0
        for i in range(n):
            z = (x[i] - place[1]) * inverse
            r = 1.0 / (1.0 + kappa * z * z)
            a = z * z * r
            first += a
            second += a * r
            total += r
            moment += r * z
        step = ((1.0 + kappa) * first / n - 1.0) / (2.0 * (1.0 + kappa) * second / n)
        place[0] += min(max(step, -1.0), 1.0)
        shift = moment / total if located else 0.0
        place[1] += shift / inverse
        if abs(step) < 1e-7 and abs(shift) < 1e-7:
            return


@kernel
def student_loglik(x: Floats, kappa: float, s: float, mu: float) -> float:
    """ℓ of Student's t with ν = 1/κ, scale e^s and location μ."""
    nu, inverse = 1.0 / kappa, math.exp(-s)
    total = 0.0
    for i in range(x.size):
        z = (x[i] - mu) * inverse
        total += math.log1p(kappa * z * z)
    constant = math.lgamma(0.5 * (nu + 1.0)) - math.lgamma(0.5 * nu) - 0.5 * math.log(math.pi * nu) - s
    return float(x.size * constant - 0.5 * (nu + 1.0) * total)


@kernel
def student_score(x: Floats, kappa: float, s: float, mu: float) -> float:
    """∂ℓ/∂κ = −ν² ∂ℓ/∂ν at fixed scale and location."""
    nu, inverse = 1.0 / kappa, math.exp(-s)
    logs, ratios = 0.0, 0.0
    for i in range(x.size):
        z = (x[i] - mu) * inverse
        q = kappa * z * z
        logs += math.log1p(q)
        ratios += q / (1.0 + q)
    slope = 0.5 * x.size * (digamma(0.5 * (nu + 1.0)) - digamma(0.5 * nu) - kappa)
    return float(-nu * nu * (slope - 0.5 * logs + 0.5 * (1.0 + kappa) * ratios))


@kernel
def power_moments(x: Floats, mu: float, beta: float) -> tuple[float, float]:
    """Mean of |x − μ|^β, and of |x − μ|^β ln |x − μ|."""
    first, second = 0.0, 0.0
    for i in range(x.size):
        size = abs(x[i] - mu)
        if size > 0.0:
            log = math.log(size)
            power = math.exp(beta * log)
            first += power
            second += power * log
    return first / x.size, second / x.size


@kernel
def generalised_score(x: Floats, beta: float, mu: float) -> float:
    """∂ℓ/∂β of the generalised Gaussian with its scale maximised out, a^β = β mean |x − μ|^β."""
    m, m_log = power_moments(x, mu, beta)
    b = 1.0 / beta
    return float(x.size * (b + b * b * (digamma(b) + math.log(beta * m)) - b * m_log / m))


@kernel
def generalised_loglik(x: Floats, beta: float, s: float, mu: float) -> float:
    """ℓ of f(x) = β / (2 a Γ(1/β)) exp(−(|x − μ|/a)^β), a = e^s."""
    m, _ = power_moments(x, mu, beta)
    constant = math.log(0.5 * beta) - math.lgamma(1.0 / beta) - s
    return float(x.size * (constant - m * math.exp(-beta * s)))


@kernel
def profile_score(law: int, x: Floats, shape: float, located: bool, place: Floats) -> float:
    """Score of the shape at the best scale (and for the t law the best location) given it."""
    if law == STUDENT:
        student_inner(x, shape, located, place)
        return student_score(x, shape, place[0], place[1])
    return generalised_score(x, shape, place[1])


@kernel
def best_shape(law: int, x: Floats, low: float, high: float, located: bool, place: Floats) -> float:
    """The shape in [low, high] where the profile score falls through 0; an end where it has one sign.

    ``place`` is left at the scale and location of the last shape tried: call the inner fit once more.
    """
    g_low = profile_score(law, x, low, located, place)
    if g_low <= 0.0:
        return low
    g_high = profile_score(law, x, high, located, place)
    if g_high >= 0.0:
        return high
    # Σ² of the score is of order n: at |g| < 1e-4 √n the log-likelihood is short of its top by 1e-8.
    enough = 1e-4 * math.sqrt(x.size)
    side = 0
    at = low
    for _ in range(_OUTER):
        at = (g_high * low - g_low * high) / (g_high - g_low)
        g = profile_score(law, x, at, located, place)
        if abs(g) < enough or high - low < 1e-7 * high:
            return at
        if g > 0.0:
            low, g_low = at, g
            if side == 1:
                g_high *= 0.5
            side = 1
        else:
            high, g_high = at, g
            if side == -1:
                g_low *= 0.5
            side = -1
    return at


@kernel
def power_centre(x: Floats, beta: float) -> float:
    """argmin of Σ |x − μ|^β for sorted ``x``: by a root of its derivative for β > 1; for β ≤ 1 the best of up to 33
    order statistics within three standard errors of the median."""
    n = x.size
    middle = n // 2
    reach = min(middle, int(1.5 * math.sqrt(n)) + 1)
    if beta <= 1.0:
        best, found = np.inf, x[middle]
        step = max(1, reach // 16)
        for i in range(max(middle - reach, 0), min(middle + reach + 1, n), step):
            value, _ = power_moments(x, x[i], beta)
            if value < best:
                best, found = value, x[i]
        return float(found)
    low, high = x[middle - reach], x[min(middle + reach, n - 1)]
    g_low, g_high = centre_slope(x, low, beta), centre_slope(x, high, beta)
    if g_low >= 0.0 or g_high <= 0.0:  # three standard errors do not hold the root: the whole range does
        low, high = x[0], x[n - 1]
        g_low, g_high = centre_slope(x, low, beta), centre_slope(x, high, beta)
    at, side = low, 0
    for _ in range(_OUTER):
        at = (g_high * low - g_low * high) / (g_high - g_low)
        g = centre_slope(x, at, beta)
        if g == 0.0 or high - low < 1e-6:
            break
        if g < 0.0:
            low, g_low = at, g
            if side == -1:
                g_high *= 0.5
            side = -1
        else:
            high, g_high = at, g
            if side == 1:
                g_low *= 0.5
            side = 1
        if abs(g) < 1e-6 * n:
            break
    return float(at)


@kernel
def centre_slope(x: Floats, mu: float, beta: float) -> float:
    """Derivative in μ of Σ |x − μ|^β, over β."""
    total = 0.0
    for i in range(x.size):
        d = mu - x[i]
        if d != 0.0:
            total += math.copysign(abs(d) ** (beta - 1.0), d)
    return total


@kernel
def mixture_step(x: Floats, located: bool, theta: Floats, new: Floats) -> float:
    """One EM step for π N(μ, e^{2a}) + (1 − π) N(μ, e^{2b}), ``theta`` = (logit π, a, b, μ); returns ℓ at ``theta``."""
    n = x.size
    a, b, mu = theta[1], theta[2], theta[3]
    # ln of the odds of the first component, [π/s₁ exp(−y/2s₁²)] / [(1−π)/s₂ exp(−y/2s₂²)] = c − d y.
    c = theta[0] - a + b
    u, v = math.exp(-2.0 * a), math.exp(-2.0 * b)
    d = 0.5 * (u - v)
    share, narrow, wide, total, logs, moved = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    product = 1.0
    for i in range(n):
        y = (x[i] - mu) * (x[i] - mu)
        log_odds = c - d * y
        if log_odds > 30.0:
            r = 1.0
            logs += log_odds
        else:
            odds = math.exp(log_odds)
            r = odds / (1.0 + odds)
            product *= 1.0 + odds  # ln(1 + odds) is summed over products of eight
        if (i & 7) == 7:
            logs += math.log(product)
            product = 1.0
        share += r
        narrow += r * y
        total += y
        if located:
            moved += (r * u + (1.0 - r) * v) * (x[i] - mu)
    logs += math.log(product)
    wide = total - narrow
    # ln(1 − π) = −ln(1 + e^{logit π})
    loglik = logs - 0.5 * v * total - n * (0.5 * _LOG_2_PI + b + math.log1p(math.exp(min(theta[0], 700.0))))
    share = min(max(share, 1e-3), n - 1e-3)
    new[0] = math.log(share / (n - share))
    new[1] = 0.5 * math.log(max(narrow / share, LEAST_SCALE * LEAST_SCALE))
    new[2] = 0.5 * math.log(max(wide / (n - share), LEAST_SCALE * LEAST_SCALE))
    new[3] = mu + moved / (share * u + (n - share) * v) if located else mu
    return float(loglik)


@kernel
def mixture_squarem(x: Floats, located: bool, theta: Floats, cycles: int) -> float:
    """Accelerated EM from ``theta`` (changed in place); returns ℓ. An extrapolation that loses likelihood is undone."""
    one, two, far, next_ = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    value = mixture_step(x, located, theta, one)
    for _ in range(cycles):
        middle = mixture_step(x, located, one, two)
        rr, vv = 0.0, 0.0
        for j in range(4):
            r = one[j] - theta[j]
            v = two[j] - one[j] - r
            rr += r * r
            vv += v * v
        length = -math.sqrt(rr / vv) if vv > 0.0 else -1.0
        length = min(max(length, -64.0), -1.0)
        for j in range(4):
            r = one[j] - theta[j]
            v = two[j] - one[j] - r
            far[j] = theta[j] - 2.0 * length * r + length * length * v
        far[0] = min(max(far[0], -20.0), 20.0)
        floor = math.log(LEAST_SCALE)
        far[1], far[2] = min(max(far[1], floor), 300.0), min(max(far[2], floor), 300.0)
        reached = mixture_step(x, located, far, next_)
        if not reached >= middle:
            reached = mixture_step(x, located, two, next_)
            for j in range(4):
                far[j] = two[j]
        gain = reached - value
        for j in range(4):
            theta[j] = far[j]
            one[j] = next_[j]
        value = reached
        if gain < MIX_TOLERANCE:
            break
    return float(value)


@kernel
def mixture_fit(x: Floats, sizes: Floats, located: bool, mu: float, theta: Floats) -> float:
    """The mixture from four starts, whose wide component holds the largest 90, 40, 8 and 1 % of the values: where all
    have a small wide part, EM may end on one Gaussian, a saddle from which a spike in the middle is not seen. The two
    best after ``_WARM_UP`` cycles are followed. ``sizes`` is |x − μ| sorted; ``theta`` gets the result; returns ℓ."""
    n = x.size
    starts = np.empty((_STARTS, 4))
    values = np.empty(_STARTS)
    for k in range(_STARTS):
        part = (0.9, 0.4, 0.08, 0.01)[k]
        cut = min(max(int(n * (1.0 - part)), 1), n - 2)
        low, high = 0.0, 0.0
        for i in range(n):
            if i < cut:
                low += sizes[i] * sizes[i]
            else:
                high += sizes[i] * sizes[i]
        starts[k, 0] = math.log((1.0 - part) / part)
        starts[k, 1] = max(0.5 * math.log(low / cut), math.log(LEAST_SCALE))
        starts[k, 2] = 0.5 * math.log(high / (n - cut))
        starts[k, 3] = mu
        values[k] = mixture_squarem(x, located, starts[k], _WARM_UP)
    order = np.argsort(values)
    for k in order[_STARTS - 2 :]:
        values[k] = mixture_squarem(x, located, starts[k], _CYCLES)
    best = np.argmax(values)
    for j in range(4):
        theta[j] = starts[best, j]
    if theta[1] > theta[2]:
        theta[0], theta[1], theta[2] = -theta[0], theta[2], theta[1]
    return float(values[best])
