"""The forms that take a matrix as a whole: all values at once, and sums of whole rows."""

import math
from typing import Any

import numpy as np
import pytest

from gradnoise.analyzer.stats import InvalidInput, Status, Verdict, contrasts, forms, sketch, stable


def _vector(noise: Any, seed: int = 0) -> forms.FormResult:
    return forms.vector(noise, rng=np.random.default_rng(seed))


def test_pooled_is_the_fit_of_all_values() -> None:
    rng = np.random.default_rng(1)
    for noise in (stable.rvs(1.6, 2.0, (60, 200), rng), rng.standard_t(4, (60, 200)).astype(np.float32)):
        result, exact = forms.pooled(noise), stable.fit(noise.ravel())
        assert result.alpha.value == pytest.approx(exact.alpha.value, abs=2e-4)
        assert result.scale.value == pytest.approx(exact.scale.value, rel=2e-4)
        assert result.rows_used == 60
        assert result.tested == 1
        tiny = forms.pooled(noise * np.float32(1e-25))
        assert tiny.alpha.value == pytest.approx(result.alpha.value, abs=1e-4)


def test_pooled_reads_scales_of_coordinates_and_of_draws_as_tail() -> None:
    rng = np.random.default_rng(2)
    gaussian = forms.pooled(rng.standard_normal((100, 100)))
    assert gaussian.alpha.value == pytest.approx(2.0, abs=0.01)
    assert gaussian.verdict is Verdict.GAUSSIAN
    for spread in (np.exp(rng.normal(size=(1, 100))), np.exp(rng.normal(size=(100, 1)))):
        result = forms.pooled(rng.standard_normal((100, 100)) * spread)
        assert result.alpha.high < 1.5
        assert result.gaussian_rejected
        assert result.sums[1].trend is forms.Trend.UNCLEAR  # a spread of scales survives every sum
    assert any("pooled" in warning for warning in gaussian.warnings)


def test_pooled_interval_resamples_draws() -> None:
    rng, covered = np.random.default_rng(3), []
    for _ in range(100):
        # 40 coordinates that are four, on different scales.
        alpha = forms.pooled(np.repeat(stable.rvs(1.6, 1.0, (100, 4), rng), 10, axis=1)).alpha
        covered.append(alpha.low <= 1.6 <= alpha.high)
    assert 0.86 <= np.mean(covered) <= 1


def test_vector_is_exact_for_stable_rows_whatever_their_dependence() -> None:
    rng = np.random.default_rng(4)
    read = [1 / _vector(stable.rvs(1.5, 1.0, (64, 20), rng)).alpha.value for _ in range(25)]
    assert np.mean(read) == pytest.approx(1 / 1.5, abs=4 * np.std(read) / 5)
    # Sub-Gaussian rows √A G, A positive stable(α/2): every projection is SαS, every row is Gaussian.
    alpha = 1.4
    read = []
    for _ in range(25):
        angle, waiting = rng.uniform(0, math.pi, (64, 1)), rng.exponential(size=(64, 1))
        h = alpha / 2  # Kanter 1975
        positive = np.sin(h * angle) / np.sin(angle) ** (1 / h) * (np.sin((1 - h) * angle) / waiting) ** ((1 - h) / h)
        read.append(1 / _vector(np.sqrt(positive) * rng.standard_normal((64, 20))).alpha.value)
    assert np.mean(read) == pytest.approx(1 / alpha, abs=4 * np.std(read) / 5)


def test_vector_of_gaussian_rows_reads_two_whatever_their_covariance() -> None:
    rng, read, covered = np.random.default_rng(5), [], []
    for _ in range(40):
        mixed = rng.standard_normal((64, 5)) @ rng.standard_normal((5, 40)) * np.exp(rng.normal(size=40))
        result = _vector(mixed)
        read.append(1 / result.alpha.value)
        covered.append(result.alpha.low <= 2.0 <= result.alpha.high)
        assert result.null_alpha == 2.0
    assert np.mean(read) == pytest.approx(0.5, abs=4 * np.std(read) / math.sqrt(40))
    assert np.mean(covered) > 0.85


def test_vector_sums_climb_for_finite_variance() -> None:
    rng = np.random.default_rng(6)
    rows = np.exp(rng.normal(size=(512, 1))) * rng.standard_normal((512, 50))
    result = _vector(rows)
    four, sixteen = result.sums
    assert four.alpha is not None
    assert sixteen.alpha is not None
    assert result.alpha.value < four.alpha.value < sixteen.alpha.value
    assert sixteen.trend is forms.Trend.CLIMBING
    assert result.verdict is Verdict.HEAVY_FINITE_VARIANCE
    assert result.scale.value == pytest.approx(math.exp(np.log(np.linalg.norm(rows, axis=1)).mean()))


def test_vector_says_what_it_cannot_read() -> None:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((80, 8))
    short = _vector(contrasts.pair(rows))
    assert short.status is Status.TOO_FEW_DRAWS
    assert "40 finite noise rows, at least 64" in short.reason
    result = _vector(rows)
    assert result.status in (Status.OK, Status.AT_BOUNDARY)
    assert result.sums[1].alpha is None
    assert "at least 16" in result.sums[1].reason
    assert any("80 rows" in warning for warning in result.warnings)
    assert not _vector(rng.standard_normal((128, 8))).warnings
    rows[5:30] = 0
    assert "55 disjoint rows" in _vector(rows).reason
    assert _vector(np.zeros((64, 8))).status is Status.ALL_ZERO
    assert _vector(np.ones((64, 8))).status is Status.DEGENERATE
    assert _vector(np.tile([[1.0], [-1.0]], (32, 8))).status is Status.DEGENERATE
    # Differences share draws: only every second row counts.
    assert _vector(contrasts.difference(rng.standard_normal((130, 8)))).sums[0].sums == 65 // 2
    for form in (forms.pooled, _vector):
        with pytest.raises(InvalidInput, match="noise"):
            form(np.ones(5))
        assert form(np.empty((70, 0))).status is Status.TOO_FEW_VALUES
    assert forms.pooled(rows[:29]).status is Status.TOO_FEW_DRAWS
    assert forms.pooled(np.eye(40)[:, :20]).status is Status.TOO_FEW_VALUES


def test_vector_scale_and_generator() -> None:
    noise = stable.rvs(1.5, 1.0, (64, 16), np.random.default_rng(8))
    one, two, tiny = _vector(noise), _vector(noise), _vector(1e-200 * noise)
    assert one.alpha == two.alpha
    assert tiny.alpha.value == pytest.approx(one.alpha.value, rel=1e-9)
    assert tiny.scale.value == pytest.approx(1e-200 * one.scale.value, rel=1e-9)


def test_counts_of_rows_read_as_the_rows_themselves() -> None:
    rng = np.random.default_rng(11)
    matrix = (stable.rvs(1.6, 1e-6, (64, 500), rng) * np.exp(rng.normal(size=500))).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.02] = 0.0
    rows = [sketch.update(sketch.zero(), row) for row in matrix]
    whole, counted = forms.pooled(matrix), forms.pooled_sketches(rows, reference="pair")
    assert counted.alpha.value == pytest.approx(whole.alpha.value, abs=1e-6)
    assert counted.scale.value == pytest.approx(whole.scale.value, rel=1e-6)
    assert counted.alpha.low == pytest.approx(whole.alpha.low, abs=0.01)
    assert counted.alpha.high == pytest.approx(whole.alpha.high, abs=0.01)
    assert (counted.null_alpha, counted.zeros) == pytest.approx((whole.null_alpha, whole.zeros))
    assert (counted.gaussian_rejected, counted.verdict) == (whole.gaussian_rejected, whole.verdict)
    assert (counted.columns, counted.rows_used, counted.reference) == (500, 64, "pair")
    assert [s.alpha for s in counted.sums] == [None, None]
    assert all("no sums" in s.reason for s in counted.sums)


def test_counts_of_rows_that_carry_no_law() -> None:
    rng = np.random.default_rng(12)
    rows = [sketch.update(sketch.zero(), rng.normal(size=50)) for _ in range(20)]
    assert forms.pooled_sketches(rows[:9]).status is Status.TOO_FEW_DRAWS
    assert forms.pooled_sketches([]).status is Status.TOO_FEW_VALUES
    zeros = [sketch.update(sketch.zero(), np.zeros(50))] * 20
    assert forms.pooled_sketches(zeros).status is Status.ALL_ZERO
    bad = [sketch.update(row, np.array([np.nan])) if i == 3 else row for i, row in enumerate(rows)]
    found = forms.pooled_sketches(bad)
    assert (found.non_finite, found.rows_used) == (1, 19)
    assert any("1 of 20" in warning for warning in found.warnings)
    assert found.alpha.value == pytest.approx(forms.pooled_sketches(rows[:3] + rows[4:]).alpha.value)
