"""The three forms on matrices of known law."""

import math
from typing import Any

import numpy as np
import pytest

from gradnoise.analyzer.stats import InvalidInput, Status, Verdict, _null, contrasts, forms, stable
from gradnoise.analyzer.stats._standard import leave_one_out

ALL = (forms.per_parameter, forms.across_parameter, forms.standardized)


def _lognormal_gaussian(k: int, j: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(k, j)) * np.exp(rng.normal(size=j))


def test_gaussian_with_spread_scales() -> None:
    c = contrasts.pair(_lognormal_gaussian(512, 300, 1))
    per, across, standard = (form(c) for form in ALL)
    for result in (per, standard):
        assert result.alpha.value == pytest.approx(result.null_alpha, abs=0.012)
        assert result.verdict is Verdict.GAUSSIAN
        assert result.rejected_share < 0.02
        for s in result.sums:
            assert s.alpha is not None
            assert s.alpha.value == pytest.approx(s.null_alpha, abs=0.04)
        assert not result.gaussian_rejected
    assert across.alpha.value < 1.3
    assert across.gaussian_rejected
    assert across.verdict is Verdict.UNDECIDED  # alone it cannot tell scales from tails
    assert across.rejected_share == 1


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_stable_noise(spread: float) -> None:
    rng = np.random.default_rng(2)
    scales = np.exp(spread * rng.normal(size=300))
    c = contrasts.pair(stable.rvs(1.7, 1.0, (512, 300), rng) * scales)
    results = [form(c) for form in ALL]
    for result in results[:: 1 if spread == 0 else 2]:
        assert result.alpha.low < 1.7 < result.alpha.high, result.form
        assert result.alpha.high - result.alpha.low < 0.06
        assert result.gaussian_rejected
        assert result.verdict is (Verdict.UNDECIDED if result.form == "across_parameter" else Verdict.STABLE)
        for s in result.sums:  # a stable law stays where it is
            assert s.alpha is not None
            assert s.alpha.value == pytest.approx(1.7, abs=0.06)
            assert s.sums == 512 // s.m
    # Half-differences have scale 2^(1/α)/2 σ.
    factor = c.scale_factor(1.7)
    assert factor * results[0].scale.value == pytest.approx(float(np.median(scales)), rel=0.05)
    assert results[0].scale.low < results[0].scale.value < results[0].scale.high


def test_finite_variance_climbs_with_the_sums() -> None:
    c = contrasts.pair(np.random.default_rng(3).standard_t(3, (512, 200)))
    result = forms.per_parameter(c)
    four, sixteen = result.sums
    assert four.alpha is not None
    assert sixteen.alpha is not None
    assert result.alpha.value + 0.05 < four.alpha.value < sixteen.alpha.value - 0.03
    assert result.verdict is Verdict.HEAVY_FINITE_VARIANCE


def test_intervals_cover_where_columns_share_draws() -> None:
    rng, covered = np.random.default_rng(4), []
    truth = 1.7
    for _ in range(120):
        sources = stable.rvs(truth, 1.0, (200, 3), rng)
        noise = np.repeat(sources, 4, axis=1) * np.exp(rng.normal(size=12))
        alpha = forms.per_parameter(noise).alpha
        covered.append(alpha.low <= truth <= alpha.high)
    assert 0.88 <= np.mean(covered) <= 0.995


def test_row_intervals_cover() -> None:
    rng, covered = np.random.default_rng(5), []
    for _ in range(150):
        alpha = forms.across_parameter(stable.rvs(1.6, 1.0, (40, 150), rng)).alpha
        covered.append(alpha.low <= 1.6 <= alpha.high)
    # The mean of 1/α̂ has a bias of about 1/n beside its standard error.
    assert 0.85 <= np.mean(covered) <= 0.99


def test_standardised_intervals_are_centred_without_the_bias_of_their_scales() -> None:
    rng, covered, centres = np.random.default_rng(21), [], []
    for _ in range(60):
        result = forms.standardized(stable.rvs(1.7, 1.0, (64, 200), rng) * np.exp(rng.normal(size=200)))
        alpha = result.alpha
        covered.append(alpha.low <= 1.7 <= alpha.high)
        centres.append(10 / alpha.value - 9 * result.replicates.mean())
    assert np.mean(covered) >= 0.88
    assert np.mean(centres) == pytest.approx(1 / 1.7, abs=0.002)


def test_contrasts_agree_on_stable_noise() -> None:
    draws = stable.rvs(1.6, 1.0, (300, 100), np.random.default_rng(6)) + 3.0
    pair, difference = forms.per_parameter(contrasts.pair(draws)), forms.per_parameter(contrasts.difference(draws))
    assert (pair.reference, difference.reference) == ("pair", "difference")
    assert pair.alpha.value == pytest.approx(difference.alpha.value, abs=0.05)
    # Neighbouring differences telescope: their sums must be taken over every second row.
    assert [s.sums for s in difference.sums] == [300 // 4, 300 // 16]
    assert difference.sums[0].alpha is not None
    assert difference.sums[0].alpha.value == pytest.approx(1.6, abs=0.1)


def test_few_sums_have_a_reason() -> None:
    result = forms.per_parameter(contrasts.pair(_lognormal_gaussian(100, 40, 7)))
    four, sixteen = result.sums
    assert four.alpha is not None
    assert sixteen.alpha is None
    assert "at least 16" in sixteen.reason
    assert math.isnan(sixteen.null_alpha)


def test_leave_one_out_scale() -> None:
    rng = np.random.default_rng(8)
    for k in (2, 3, 8, 30):
        u = rng.normal(size=(k, 5)) * 10.0 ** np.array([-300, -20, 0, 20, 300])
        rest = [[np.delete(u[:, j], i) for j in range(5)] for i in range(k)]
        scales = [[np.mean(np.sqrt(np.abs(others))) ** 2 for others in row] for row in rest]
        np.testing.assert_allclose(leave_one_out(u), u / scales)
    sparse = rng.normal(size=(9, 1))
    sparse[:3] = 0
    expected = np.mean(np.sqrt(np.abs(sparse[4:]))) ** 2
    assert leave_one_out(sparse)[3, 0] == pytest.approx(sparse[3, 0] / expected)
    assert leave_one_out(sparse)[0, 0] == 0
    u = np.ones((10, 2))
    u[:6, 0] = 0
    assert np.isnan(leave_one_out(u)[:, 0]).all()


def test_standardised_rejections_are_calibrated_for_few_rows() -> None:
    rng, shares, rejected, verdicts = np.random.default_rng(20), [], [], []
    for _ in range(40):
        result = forms.standardized(rng.normal(size=(40, 300)) * np.exp(rng.normal(size=300)))
        shares.append(result.rejected_share)
        rejected.append(result.gaussian_rejected)
        verdicts.append(result.verdict)
    assert np.mean(shares) < 0.03
    assert sum(rejected) <= 1
    assert verdicts.count(Verdict.GAUSSIAN) >= 30


@pytest.mark.parametrize(("rows", "columns"), [(20, 70), (40, 300), (150, 150)])
def test_standardised_null_is_that_of_the_same_shape(rows: int, columns: int) -> None:
    rng = np.random.default_rng(9)
    inverse = [
        1 / forms.standardized(rng.normal(size=(rows, columns)) * np.exp(rng.normal(size=columns))).alpha.value
        for _ in range(12)
    ]
    expected = _null.inverse_alpha_standardised(rows, columns)
    assert np.mean(inverse) == pytest.approx(expected, abs=max(5 * np.std(inverse) / math.sqrt(12), 0.002))


@pytest.mark.parametrize("form", ALL)
def test_all_zero(form: Any) -> None:
    result = form(np.zeros((60, 60)))
    assert result.status is Status.ALL_ZERO
    assert result.reason
    assert math.isnan(result.alpha.value)
    assert result.zeros == 1
    assert result.verdict is Verdict.UNDECIDED
    assert [s.alpha for s in result.sums] == [None, None]


@pytest.mark.parametrize(
    ("form", "rows"), [(forms.per_parameter, 29), (forms.across_parameter, 9), (forms.standardized, 9)]
)
def test_too_few_draws(form: Any, rows: int) -> None:
    noise = np.random.default_rng(10).normal(size=(rows + 1, 50))
    assert form(noise).status in (Status.OK, Status.AT_BOUNDARY)
    result = form(noise[:rows])
    assert result.status is Status.TOO_FEW_DRAWS
    assert str(rows) in result.reason
    assert result.verdict is Verdict.UNDECIDED


def test_row_forms_need_coordinates_that_are_free() -> None:
    rng = np.random.default_rng(11)
    softmax = rng.normal(size=(100, 40))
    softmax -= softmax.mean(axis=1, keepdims=True)
    rank_one = rng.normal(size=(100, 1)) * rng.normal(size=40)
    for form in ALL[1:]:
        assert form(rng.normal(size=(100, 29))).status is Status.TOO_FEW_VALUES
        assert form(softmax).status is Status.DEGENERATE
        assert form(softmax.astype(np.float32)).status is Status.DEGENERATE
        assert form(rank_one).status is Status.DEGENERATE
    assert "sum to 0" in forms.across_parameter(softmax).reason
    assert "together" in forms.across_parameter(rank_one).reason
    assert forms.per_parameter(softmax).status is Status.OK
    some = rng.normal(size=(100, 12)) @ rng.normal(size=(12, 200))
    dependent = forms.across_parameter(some)
    assert any("independent" in warning for warning in dependent.warnings)


def test_zeros_and_dead_columns() -> None:
    noise = np.random.default_rng(12).normal(size=(100, 60))
    noise[:, :10] = 0
    noise[:80, 10:15] = 0
    per, across, standard = (form(noise) for form in ALL)
    assert per.columns == 60
    assert per.columns_used == per.tested == 45
    assert per.zeros == pytest.approx((10 * 100 + 5 * 80) / 6000)
    assert standard.columns_used == 45
    assert any("scale 0" in warning for warning in standard.warnings)
    assert across.columns_used == 60
    assert across.tested == 100
    for result in (per, across, standard):
        assert np.isfinite(result.alpha.value)
        assert any("exactly 0" in warning for warning in result.warnings)
    dead = np.random.default_rng(13).normal(size=(100, 60))
    dead[:, :40] = 0
    assert forms.standardized(dead).status is Status.TOO_FEW_VALUES
    sparse = np.where(np.random.default_rng(14).random((100, 60)) < 0.9, 0.0, noise)
    assert forms.per_parameter(sparse).status is Status.TOO_FEW_VALUES


@pytest.mark.parametrize("form", ALL)
def test_rows_that_are_not_finite_are_dropped_and_counted(form: Any) -> None:
    noise = np.random.default_rng(15).standard_t(3, (128, 40))
    bad = noise.copy()
    bad[5, 3], bad[77, 0] = np.nan, -np.inf
    result, clean = form(bad), form(np.delete(noise, [5, 77], axis=0))
    assert result.non_finite == 2
    assert result.rows_used == 126
    assert result.alpha.value == pytest.approx(clean.alpha.value, abs=1e-9)
    assert result.sums[0].sums == 30  # the two blocks of four with a hole are left out
    assert any("2 of 128" in warning for warning in result.warnings)
    bad[:, 0] = np.nan
    assert form(bad).status is Status.NON_FINITE
    draws = contrasts.pair(np.where(np.arange(128)[:, None] == 9, np.nan, noise))
    assert form(draws).non_finite == 1


@pytest.mark.parametrize("form", ALL)
def test_scale_and_precision(form: Any) -> None:
    noise = stable.rvs(1.5, 1.0, (80, 64), np.random.default_rng(16))
    one, tiny = form(noise), form(1e-30 * noise)
    assert tiny.alpha.value == pytest.approx(one.alpha.value, abs=1e-6)
    assert form(noise.astype(np.float32)).alpha.value == pytest.approx(one.alpha.value, abs=1e-5)
    if form is not forms.standardized:
        assert tiny.scale.value == pytest.approx(1e-30 * one.scale.value, rel=1e-5)


def test_combined_groups_keep_their_common_errors() -> None:
    rng = np.random.default_rng(17)
    draws = stable.rvs(1.6, 1.0, (200, 60), rng)
    one = forms.per_parameter(draws)
    twice = forms.combine([one, one], [3.0, 1.0])
    assert twice.alpha.value == pytest.approx(one.alpha.value)
    # The same draws twice tell nothing new (but for the bias correction, which groups do not share).
    assert twice.alpha.se == pytest.approx(one.alpha.se, rel=0.02)
    np.testing.assert_allclose(twice.replicates, one.replicates)
    assert twice.scale.value == pytest.approx(one.scale.value)
    other = forms.per_parameter(stable.rvs(1.6, 1.0, (200, 60), rng))
    both = forms.combine([one, other], [1.0, 1.0])
    assert 1 / both.alpha.value == pytest.approx((1 / one.alpha.value + 1 / other.alpha.value) / 2)
    assert both.columns_used == 120
    assert both.sums[0].alpha is not None
    assert both.sums[1].alpha is None


def test_combine_is_the_joint_matrix_for_equal_groups() -> None:
    noise = contrasts.pair(stable.rvs(1.5, 1.0, (200, 80), np.random.default_rng(18)))
    import dataclasses

    halves = [dataclasses.replace(noise, noise=noise.noise[:, cut]) for cut in (slice(0, 40), slice(40, 80))]
    joint, combined = forms.per_parameter(noise), forms.combine([forms.per_parameter(h) for h in halves], [40, 40])
    assert combined.alpha.value == pytest.approx(joint.alpha.value, abs=1e-9)
    assert combined.alpha.se == pytest.approx(joint.alpha.se, rel=1e-3)
    assert combined.null_alpha == pytest.approx(joint.null_alpha)


def test_combine_leaves_out_groups_without_a_value() -> None:
    good, zero = forms.per_parameter(_lognormal_gaussian(60, 20, 19)), forms.per_parameter(np.zeros((60, 20)))
    both = forms.combine([good, zero], [1.0, 1.0])
    assert both.alpha.value == pytest.approx(good.alpha.value)
    assert any("1 (all_zero)" in warning for warning in both.warnings)
    assert both.zeros == 0.5
    none = forms.combine([zero, zero], [1.0, 2.0])
    assert none.status is Status.ALL_ZERO
    assert "none of 2 groups" in none.reason


def test_combine_refuses_what_cannot_be_combined() -> None:
    one = forms.per_parameter(np.zeros((60, 40)))
    other = forms.across_parameter(np.zeros((60, 40)))
    with pytest.raises(InvalidInput, match="one form"):
        forms.combine([one, other], [1, 1])
    with pytest.raises(InvalidInput, match="weight"):
        forms.combine([one], [1, 2])
    with pytest.raises(InvalidInput, match="weight"):
        forms.combine([one], [-1])
    with pytest.raises(InvalidInput, match="weight"):
        forms.combine([], [])


def test_bad_input() -> None:
    for form in ALL:
        with pytest.raises(InvalidInput, match="noise"):
            form(np.ones(5))
        with pytest.raises(InvalidInput, match="noise"):
            form(np.array([["a"]]))
        assert form(np.empty((50, 0))).status is Status.TOO_FEW_VALUES
        assert form(np.empty((0, 50))).status is Status.TOO_FEW_DRAWS


def test_a_few_gaussian_columns_do_not_claim_certainty() -> None:
    # Seed chosen for α̂ = 2 in every column and every replicate: the jackknife alone sees no spread at all.
    for seed in range(100):
        noise = np.random.default_rng(seed).uniform(-1, 1, (40, 2))
        result = forms.per_parameter(noise)
        if result.alpha.value == 2.0 and (result.replicates == 0.5).all():
            break
    assert result.status is Status.AT_BOUNDARY
    assert result.alpha.low < 1.9
    assert result.alpha.high == 2.0
    assert result.verdict is Verdict.UNDECIDED
    alone = forms.combine([result], [1.0]).alpha
    assert (alone.value, alone.low, alone.se) == (2.0, result.alpha.low, result.alpha.se)


@pytest.mark.parametrize(
    ("law", "trend"),
    [("stable", forms.Trend.FLAT), ("t3", forms.Trend.CLIMBING), ("gaussian", forms.Trend.UNCLEAR)],
)
def test_sums_are_flat_for_stable_noise_and_climb_for_finite_variance(law: str, trend: forms.Trend) -> None:
    rng = np.random.default_rng(12)
    draws = {
        "stable": stable.rvs(1.5, 1.0, (512, 128), rng),
        "t3": rng.standard_t(3, (512, 128)),
        "gaussian": rng.standard_normal((512, 128)),
    }[law]
    for form in (forms.per_parameter, forms.standardized):
        result = form(contrasts.pair(draws))
        assert result.sums[1].trend is trend
        assert forms.combine([result, result], [1.0, 3.0]).sums[1].trend is trend
    # A spread of scales survives every sum, so across parameters nothing is said.
    assert forms.across_parameter(contrasts.pair(draws)).sums[1].trend is forms.Trend.UNCLEAR


def test_heavy_noise_whose_columns_move_together_is_not_called_gaussian() -> None:
    called = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        common = stable.rvs(1.7, 1.0, (64, 1), rng)
        together = 0.9 * common + 0.1 * stable.rvs(1.7, 1.0, (64, 64), rng)
        called.append(forms.per_parameter(contrasts.pair(together)).verdict)
    assert Verdict.GAUSSIAN not in called


def test_mostly_zero_columns_are_said_and_nothing_is_called_gaussian_from_the_rest() -> None:
    rng = np.random.default_rng(3)
    dead = rng.standard_normal((256, 100)) * (rng.random((256, 100)) < 0.02)
    result = forms.per_parameter(np.hstack([rng.standard_normal((256, 20)), dead]))
    assert result.columns_used == 20
    assert result.partial
    assert result.verdict is Verdict.UNDECIDED
    assert any("100 of 120 columns could not be fitted" in warning for warning in result.warnings)
    sparse = rng.standard_normal((256, 100)) * (rng.random((256, 100)) < 0.5)
    assert forms.per_parameter(sparse).verdict is not Verdict.GAUSSIAN
    assert forms.per_parameter(rng.standard_normal((256, 100))).verdict is Verdict.GAUSSIAN


def test_combined_rows_carry_the_warnings_and_limits_of_their_groups() -> None:
    rng = np.random.default_rng(4)
    low = forms.per_parameter(stable.rvs(0.5, 1.0, (200, 30), rng) ** 3)
    combined = forms.combine([low, forms.per_parameter(rng.standard_normal((200, 30)))], [9.0, 1.0])
    assert combined.status is Status.AT_BOUNDARY
    assert any("smallest α" in warning for warning in combined.warnings)


def test_sums_of_a_small_part_of_the_weight_do_not_stand_for_the_whole() -> None:
    rng = np.random.default_rng(5)
    few = forms.per_parameter(stable.rvs(1.3, 1.0, (100, 30), rng))
    many = forms.per_parameter(rng.standard_normal((512, 30)))
    assert few.sums[1].alpha is None
    sums = forms.combine([few, many], [0.9, 0.1]).sums[1]
    assert sums.alpha is None
    assert "10%" in sums.reason


def test_units_at_the_smallest_alpha_are_said() -> None:
    rng = np.random.default_rng(9)
    spread = rng.standard_normal((40, 400)) * np.exp(6 * rng.standard_normal(400))
    result = forms.across_parameter(spread)
    assert result.status is Status.AT_BOUNDARY
    assert any("smallest α that is fitted" in warning for warning in result.warnings)
    assert forms.per_parameter(spread).status is Status.OK
