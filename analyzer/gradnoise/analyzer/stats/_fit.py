"""The fit of many samples: from values, over their groups, to a row of numbers each.

A fit decides the boundary first. At α = 2 the score −Σ T(z_i)/f(z_i; 2) of the Gaussian fit is positive or zero exactly
when no value is too large for it; the likelihood, near the boundary Σ ln(1 + δ r_i) with δ = 2 − α and so concave in δ,
then has its maximum at α = 2. Otherwise Newton's method runs from a start made of two quantiles of |x|, and the better
of its result and the Gaussian is kept.

Everything is computed from groups of values (``_groups``), in units in which they are of order 1: the fit is then
equivariant and no square overflows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradnoise.analyzer.stats import _groups as g
from gradnoise.analyzer.stats._likelihood import EVALUATED, Groups, Space
from gradnoise.analyzer.stats._newton import ALPHA_TOP, MOST_EVALUATIONS, climb
from gradnoise.analyzer.stats._profile import DROP, ROOT, ends
from gradnoise.analyzer.stats._table import (
    ALPHA_MIN,
    LOG_2_SQRT_PI,
    Floats,
    Ints,
    table,
)

CODE_OK, CODE_BOUNDARY, CODE_TOO_FEW, CODE_ALL_ZERO, CODE_NON_FINITE, CODE_CONSTANT, CODE_NO_CONVERGENCE = range(7)
FITTED = (CODE_OK, CODE_BOUNDARY)

# Columns of a result row.
CODE, ALPHA, LOG_SCALE, LOCATION, LOGLIK, SE_ALPHA, SE_LOG_SCALE, SE_LOCATION, LOW, HIGH = range(10)
GAUSS_LOGLIK, GAUSS_LOG_SCALE, GAUSS_LOCATION, N_USED, N_ZERO, EVALUATIONS = range(10, 16)
FIELDS = 16

_TOLERANCE = 1e-7
_ATOM_RATIO = 0.01
_WARM_TOLERANCE = 1e-4  # a warm start is a jackknife replicate: a millionth of a standard error is enough
_WARM_GAUSS = 1.9  # warm starts below it do not ask for the boundary


def fit_groups(
    sample: g.Grouped, *, located: bool, intervals: bool, least: int, warm: Floats | None, space: Space
) -> Floats:
    """Maximum likelihood for every grouped sample: (samples × ``FIELDS``).

    A sample with NaN or infinity, or with fewer than ``least`` non-zero values, gets a code and no fit. ``warm``: a
    start (α, ln σ, μ) for each sample, in units of the values.
    """
    frames = sample.frames
    rows = np.full((len(frames), FIELDS), np.nan)
    n, unit, centre = frames[:, g.WEIGHT], frames[:, g.UNIT], frames[:, g.CENTRE]
    with np.errstate(all="ignore"):  # samples without a fit divide by zero here, and are left at NaN
        # Gaussian: σ² = mean (x − μ)² / 2.
        gauss = np.zeros((len(frames), 3))
        variance = frames[:, g.SQUARE] / n
        if located:
            gauss[:, 2] = frames[:, g.MEAN]
            variance -= (frames[:, g.MEAN] / frames[:, g.SPAN]) ** 2
        code = _codes(frames, variance, least)
        asked = code == CODE_OK
        gauss[:, 0] = 2.0
        gauss[:, 1] = 0.5 * np.log(0.5 * variance) + np.log(frames[:, g.SPAN])
        gauss_loglik = -n * (0.5 + LOG_2_SQRT_PI + gauss[:, 1])
        log_unit = np.log(unit)
        rows[:, N_USED], rows[:, N_ZERO] = n, frames[:, g.ZEROS]
        rows[:, GAUSS_LOGLIK] = gauss_loglik - n * log_unit
        rows[:, GAUSS_LOG_SCALE] = gauss[:, 1] + log_unit
        rows[:, GAUSS_LOCATION] = centre + gauss[:, 2] * unit
        groups = (sample.groups, np.where(asked, frames[:, g.GROUPS], 0.0).astype(np.int64))
        look = np.where(asked[:, None], gauss, np.nan)
        tolerance = _TOLERANCE
        if warm is None:
            start, second = _starts(frames, located)
        else:
            start = np.column_stack(
                [np.clip(warm[:, 0], ALPHA_MIN + 0.01, 1.99), warm[:, 1] - log_unit, (warm[:, 2] - centre) / unit]
            )
            second = np.full_like(start, np.nan)
            look[warm[:, 0] <= _WARM_GAUSS] = np.nan
            tolerance = _WARM_TOLERANCE
        evaluations = np.zeros(len(frames), dtype=np.int64)
        at_two = np.full((len(frames), EVALUATED), np.nan)
        climb(*groups, n, located, tolerance, 1, space, look, at_two, evaluations)
        theta, out = np.where(asked[:, None], start, np.nan), np.full((len(frames), EVALUATED), -np.inf)
        # Where the score at the boundary is for it, and the start no better, there is nothing to climb.
        settled = (at_two[:, 1] >= 0) & np.isnan(second[:, 0])
        climb(*groups, n, located, tolerance, 1, space, np.where(settled[:, None], theta, np.nan), out, evaluations)
        settled &= out[:, 0] <= gauss_loglik
        theta[settled] = np.nan
        evaluations[:] = 0
        climb(*groups, n, located, tolerance, MOST_EVALUATIONS, space, theta, out, evaluations)
        if not np.isnan(second).all():
            _climb_again(groups, n, located, space, np.where(asked[:, None], second, np.nan), theta, out, evaluations)
        boundary = (gauss_loglik >= out[:, 0]) | (theta[:, 0] >= ALPHA_TOP)
        floor = ~boundary & (theta[:, 0] <= ALPHA_MIN)
        code[asked & (boundary | floor)] = CODE_BOUNDARY
        code[asked & ~boundary & (evaluations < 0)] = CODE_NO_CONVERGENCE
        errors = _standard_errors(out, located, floor)
        errors[boundary] = np.nan
        errors[boundary, 1] = np.sqrt(0.5 / n[boundary])
        if located:
            errors[boundary, 2] = np.exp(gauss[boundary, 1]) * np.sqrt(2.0 / n[boundary])
        theta[boundary] = gauss[boundary]
        top = np.where(boundary, gauss_loglik, out[:, 0])
        rows[:, CODE], rows[:, EVALUATIONS] = code, np.abs(evaluations)
        rows[:, ALPHA], rows[:, LOG_SCALE] = theta[:, 0], theta[:, 1] + log_unit
        rows[:, LOCATION] = centre + theta[:, 2] * unit
        rows[:, LOGLIK] = top - n * log_unit
        rows[:, SE_ALPHA], rows[:, SE_LOG_SCALE], rows[:, SE_LOCATION] = errors[:, 0], errors[:, 1], errors[:, 2] * unit
        if intervals:
            reach = np.where(np.isfinite(errors[:, 0]), ROOT * errors[:, 0], 0.1)
            reach[boundary] = np.minimum(DROP / np.maximum(at_two[:, 1], 1e-3), 1.5 / np.sqrt(n))[boundary]
            ridges = np.where(boundary, -at_two[:, 5] / at_two[:, 6], -out[:, 5] / out[:, 6])
            ridges[~np.isfinite(ridges)] = 0.0
            # The profile leans away from the boundary, the more the nearer it is; by so much, over n = 200 ... 2000.
            room = 2.0 - theta[:, 0]
            near = np.where(boundary, 0.0, np.minimum(reach / room, 1.5))
            below = np.where(boundary, reach, reach * (0.95 + 0.26 * near))
            above = np.minimum(reach * (1.05 - 0.29 * near), 0.8 * room)
            guesses = np.column_stack([theta[:, 0] - below, theta[:, 0] + above])
            guesses[floor, 0] = np.nan
            guesses[boundary | (top - gauss_loglik <= DROP), 1] = np.nan
            guesses[~np.isin(code, FITTED)] = np.nan
            found = np.tile([ALPHA_MIN, 2.0], (len(frames), 1))
            ends(*groups, n, located, theta, top, ridges, guesses, space, found)
            rows[:, LOW], rows[:, HIGH] = found[:, 0], found[:, 1]
    rows[np.isin(code, FITTED) & ~_sound(rows, intervals), CODE] = CODE_NO_CONVERGENCE
    return rows


def _sound(rows: Floats, intervals: bool) -> Any:
    """Whether a fit is one: values whose squares leave the range of numbers in every unit climb to anything."""
    sound = np.isfinite(rows[:, [ALPHA, LOG_SCALE, LOGLIK, GAUSS_LOGLIK]]).all(axis=1)
    if intervals:
        sound &= (rows[:, LOW] <= rows[:, ALPHA]) & (rows[:, ALPHA] <= rows[:, HIGH])
    return sound


def _codes(frames: Floats, variance: Floats, least: int) -> Floats:
    """Why a sample cannot be fitted; ``CODE_OK`` where it can."""
    return np.select(
        [
            frames[:, g.NON_FINITE] > 0,
            (frames[:, g.COUNT] == 0) & (frames[:, g.ZEROS] > 0),
            (frames[:, g.COUNT] < least) | (frames[:, g.WEIGHT] < least),
            (frames[:, g.DIFFERENT] == 0) | ~(variance > 0),
        ],
        [CODE_NON_FINITE, CODE_ALL_ZERO, CODE_TOO_FEW, CODE_CONSTANT],
        CODE_OK,
    )


def _starts(frames: Floats, located: bool) -> tuple[Floats, Floats]:
    """First and second starts (samples × 3) from quantiles of |x|; the second is NaN for most."""
    tab = table()
    lower, upper = frames[:, g.LOWER], frames[:, g.UPPER]
    median = np.where(frames[:, g.MEDIAN] > 0, frames[:, g.MEDIAN], np.where(upper > 0, upper, 1.0))
    alpha = np.clip(np.interp(upper / median, tab.start_ratio[::-1], tab.start_alpha[::-1]), 0.55, 1.95)
    log_scale = np.log(median / np.interp(alpha, tab.start_alpha, tab.start_q50))
    start = np.column_stack([alpha, log_scale, np.zeros(len(frames))])
    # A second start where a tenth of the values is a hundred times smaller than their median, as in no stable law of
    # the table: values near an atom make a second maximum, of small σ and small α.
    second = np.column_stack([np.full(len(frames), 0.55), np.log(lower), np.zeros(len(frames))])
    second[~((lower > 0) & (lower < _ATOM_RATIO * median)) | located] = np.nan
    return start, second


def _climb_again(
    groups: tuple[Groups, Ints], n: Floats, located: bool, space: Space, second: Floats,
    theta: Floats, out: Floats, evaluations: Ints,
) -> None:  # fmt: skip
    """Climb from the second starts, and keep what is higher than ``out``."""
    other_out, other_evaluations = np.full_like(out, -np.inf), np.zeros_like(evaluations)
    climb(*groups, n, located, _TOLERANCE, MOST_EVALUATIONS, space, second, other_out, other_evaluations)
    better = other_out[:, 0] > out[:, 0]
    theta[better], out[better], evaluations[better] = second[better], other_out[better], other_evaluations[better]


def _standard_errors(out: Floats, located: bool, floor: Any) -> Floats:
    """(samples × 3) from the inverse observed information of (α, s) and, with location, of (α, s, μ), by cofactors;
    NaN where that is not positive, and for α where it stands at the ``floor`` of the table."""
    aa, a_s, ss, am, sm, mm = (-out[:, j] for j in range(4, 10))
    if not located:
        am, sm, mm = np.zeros_like(aa), np.zeros_like(aa), np.ones_like(aa)
    # At the floor α is not free: the information of the others alone.
    aa, a_s, am = np.where(floor, 1.0, aa), np.where(floor, 0.0, a_s), np.where(floor, 0.0, am)
    cofactors = np.stack([ss * mm - sm * sm, aa * mm - am * am, aa * ss - a_s * a_s], axis=1)
    det = aa * cofactors[:, 0] - a_s * (a_s * mm - sm * am) + am * (a_s * sm - ss * am)
    squares = cofactors / det[:, None]
    errors = np.where(squares > 0, np.sqrt(np.abs(squares)), np.nan)
    errors[floor, 0] = np.nan
    if not located:
        errors[:, 2] = np.nan
    return errors
