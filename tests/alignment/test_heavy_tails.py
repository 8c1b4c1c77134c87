"""Rows of curvature with heavy-tailed noise, through the analysis: they say that there is no covariance, and the robust
ones hold what they are of. The same cells with 200 measurements each are ``cal_alignment_rows`` of the calibration."""

from __future__ import annotations

import pytest

from tests.calibration.cal_alignment_rows import ROBUST, cell

MEASUREMENTS = 12


@pytest.mark.parametrize(("alpha", "warned"), [(1.7, MEASUREMENTS), (2.0, 0)])
def test_noise_without_a_covariance_is_warned_of_and_its_robust_rows_hold(alpha: float, warned: int) -> None:
    counts, warnings = cell(alpha, 128, 1.0, MEASUREMENTS)
    assert warnings == warned
    for name in ("gamma", *ROBUST):
        covered, of = counts[name]
        assert of == MEASUREMENTS, name
        assert covered >= MEASUREMENTS - 3, (name, covered)  # with 95 % each, 4 or more miss in 1 of 450
