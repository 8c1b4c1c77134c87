"""What must follow from what: scales of H and of the noise, rotations, order of draws. Intervals hold the truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradnoise.analyzer.stats.alignment import Measured, Metric, Name
from tests.analyzer.stats.curvatures import measured, rows
from tests.calibration.cal_alignment import coverage, noise_scale_coverage

D, K, TOP = 20, 32, 6
_RNG = np.random.default_rng(31)
HESSIAN = np.diag(3.0 * np.arange(1.0, D + 1) ** -1.1)
GRADIENT = _RNG.standard_normal(D)
NOISE = _RNG.standard_normal((K, D)) * np.arange(1.0, D + 1) ** -0.5
BASE = measured(HESSIAN, NOISE, GRADIENT, TOP, 16)

SCALES = {
    # name: powers of a (H → aH) and of b (u → bu)
    Name.GAMMA: (0, 0),
    Name.GAMMA_ROBUST: (0, 0),
    Name.SCATTER: (0, 0),
    Name.PEARSON: (0, 0),
    Name.SPEARMAN: (0, 0),
    Name.OFF_DIAGONAL: (0, 0),
    Name.ANISOTROPY_GAIN: (0, 0),
    Name.ANISOTROPY_GAIN_SIGN: (0, 0),
    Name.PROJECTION_COEFFICIENT: (0, 0),
    Name.SUBSPACE_ENERGY: (0, 0),
    Name.SUBSPACE_OVERLAP: (0, 0),
    Name.MATRIX_COSINE: (0, 0),
    Name.EFFECTIVE_RANK: (0, 0),
    Name.ALPHA: (0, 0),
    Name.SLOPE: (-1, 2),
    Name.TIC_TRACE: (-1, 2),
    Name.B_SIMPLE: (0, 2),
    Name.B_NOISE: (0, 2),
    Name.B_TYPICAL: (0, 2),
    Name.TRACE_H: (1, 0),
    Name.FROBENIUS_H: (1, 0),
    Name.TRACE_SIGMA: (0, 2),
    Name.TRACE_H_SIGMA: (1, 2),
    Name.SIGMA_SQUARED: (0, 4),
    Name.TYPICAL_NORM2: (0, 2),
}


def scaled(a: float, b: float) -> Measured:
    """H → aH, u → bu."""
    return dataclasses.replace(
        BASE,
        eigenvalues=a * BASE.eigenvalues,
        residuals=a * BASE.residuals,
        gram=b * b * BASE.gram,
        projections=b * BASE.projections,
        quadratic=a * b * b * BASE.quadratic,
        gradient_quadratic=a * (BASE.gradient_quadratic or 0.0),
        trace_samples=a * BASE.trace_samples,
        square_samples=a * a * BASE.square_samples,
    )


def same(found: Metric, wanted: Metric, factor: float) -> None:
    for part in ("estimate", "null"):
        one, other = getattr(found, part), getattr(wanted, part)
        assert (one is None) == (other is None)
        if one is None:
            continue
        # A null at 0 stays there; an interval may end at the rounding of 0.
        for end in ("value", "se", "low", "high"):
            wish = factor * getattr(other, end)
            assert getattr(one, end) == pytest.approx(wish, rel=1e-4, abs=1e-6 * factor, nan_ok=True), (found, end)
    assert found.status is wanted.status


@settings(max_examples=25, deadline=None)
@given(st.floats(-8, 8), st.floats(-8, 8))
def test_scales_of_h_and_of_the_noise(log_a: float, log_b: float) -> None:
    a, b = 10.0**log_a, 10.0**log_b
    before, after = rows(BASE), rows(scaled(a, b))
    assert before.keys() == after.keys()
    for name, (of_a, of_b) in SCALES.items():
        same(after[name, None], before[name, None], a**of_a * b**of_b)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_rotation_of_the_coordinates_and_a_flip_of_the_draws_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0]
    flip = rng.choice([-1.0, 1.0], (K, 1))
    there = measured(turn @ HESSIAN @ turn.T, flip * NOISE @ turn.T, turn @ GRADIENT, TOP)
    # Probe vectors have signs in the coordinates: their samples are not the rotation's business.
    there = dataclasses.replace(there, trace_samples=BASE.trace_samples, square_samples=BASE.square_samples)
    before, after = rows(BASE), rows(there)
    for name in SCALES:
        if name is not Name.SUBSPACE_OVERLAP:
            same(after[name, None], before[name, None], 1.0)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(K)))
def test_independent_draws_have_no_order(order: list[int]) -> None:
    """But for the halves and tenths that α and the self overlap are made of."""
    at = np.array(order)
    there = dataclasses.replace(
        BASE, gram=BASE.gram[np.ix_(at, at)], projections=BASE.projections[at], quadratic=BASE.quadratic[at]
    )
    before, after = rows(BASE), rows(there)
    for name in set(SCALES) - {Name.ALPHA}:
        same(after[name, None], before[name, None], 1.0)


# Ratios over squares, and a correlation that is cut at 1: off by up to half of their spread. All else is unbiased.
BIASED = (Name.PEARSON, Name.MATRIX_COSINE, Name.EFFECTIVE_RANK)


@pytest.mark.parametrize(("draws", "repeats"), [(64, 240), (256, 120)])
def test_intervals_hold_the_truth_as_often_as_they_say(draws: int, repeats: int) -> None:
    """A modest run of the calibration: below 89 % of 240 repeats comes by chance once in 10 000 where 95 % are held."""
    tallies, truth = coverage("normal", draws, repeats, seed=101)
    assert set(tallies) == set(truth)
    for name, tally in tallies.items():
        counted = tally.inside + tally.above + tally.below
        assert counted > 0.9 * repeats, name
        assert tally.inside >= (0.89 if repeats > 200 else 0.86) * counted, (name, tally)
        values = np.asarray(tally.values)
        off = abs(values.mean() - truth[name]) / values.std()
        assert off < (0.6 if name in BIASED else 4.0 / np.sqrt(repeats)), name


@pytest.mark.parametrize(
    "thetas", [np.zeros(64), np.repeat(np.arange(64), 2), np.arange(64)], ids=("one", "pairs", "burst")
)
def test_noise_scale_from_draws_alone_holds_the_truth(thetas: np.ndarray) -> None:
    covered, _, ratio = noise_scale_coverage(thetas, 5.0, 150)
    assert covered >= 0.88
    assert 0.9 < ratio < 1.1
