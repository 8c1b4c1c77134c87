"""The forms that fit columns: summary over columns, projections, rows over their scale."""

import math
from typing import Any

import numpy as np
import pytest

from gradnoise.analyzer.stats import InvalidInput, Status, Verdict, _columns, contrasts, drift, forms, stable


def _columns_of(alphas: Any, draws: int, rng: np.random.Generator) -> Any:
    return np.column_stack([stable.rvs(float(a), 1.0, draws, rng) for a in alphas])


def test_spread_is_zero_for_columns_of_one_alpha_and_finds_different_ones() -> None:
    rng = np.random.default_rng(1)
    held, found = [], []
    for _ in range(4):
        same = forms.per_parameter(stable.rvs(1.7, 1.0, (256, 96), rng)).over_columns
        assert same is not None
        held.append(same.spread.low == 0)
        assert same.spread.value < 0.06
        different = forms.per_parameter(_columns_of(np.linspace(1.5, 1.9, 96), 256, rng)).over_columns
        assert different is not None
        found.append(different.spread.value)
        assert different.spread.low > 0
    assert all(held)
    assert np.mean(found) == pytest.approx(np.linspace(1.5, 1.9, 96).std(), rel=0.15)


def test_spread_does_not_count_what_columns_share() -> None:
    # One factor a draw moves the α̂ of all columns together: common errors are no spread.
    rng = np.random.default_rng(2)
    common = np.exp(0.7 * rng.standard_normal((256, 1)))
    summary = forms.per_parameter(common * rng.standard_normal((256, 96))).over_columns
    assert summary is not None
    assert summary.spread.low == 0


def test_quantiles_are_of_alpha_over_columns() -> None:
    noise = _columns_of([1.3] * 30 + [1.8] * 70, 400, np.random.default_rng(3))
    summary = forms.per_parameter(noise).over_columns
    assert summary is not None
    low, quarter, middle, upper, high = summary.quantiles
    assert low < quarter < middle < upper < high
    assert low == pytest.approx(1.2, abs=0.1)
    assert middle == pytest.approx(1.75, abs=0.1)
    assert math.isnan(summary.stable_rejected_share)


def test_one_column_has_no_spread() -> None:
    summary = forms.per_parameter(np.random.default_rng(4).standard_normal((64, 1))).over_columns
    assert summary is not None
    assert math.isnan(summary.spread.value)


@pytest.mark.parametrize("alpha", [1.2, 2.0])
def test_the_test_of_stability_holds_its_level_on_stable_columns(alpha: float) -> None:
    rng = np.random.default_rng(5)
    noise = stable.rvs(alpha, 3.0, (150, 300), rng)
    fits = stable.fit_columns(noise, intervals=False)
    p = _columns.stable_p_values(noise, fits.alpha.value, fits.scale.value, rng)
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.045)
    assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.12)


def test_columns_that_are_not_stable_are_counted_and_bar_the_verdict() -> None:
    rng = np.random.default_rng(6)
    stable_noise = stable.rvs(1.6, 1.0, (512, 64), rng)
    fits = forms.per_parameter(contrasts.pair(stable_noise), rng=rng)
    assert fits.over_columns is not None
    assert fits.over_columns.stable_rejected_share < 0.05
    laplace = forms.per_parameter(rng.laplace(size=(512, 64)), rng=rng)
    assert laplace.over_columns is not None
    assert laplace.over_columns.stable_rejected_share > 0.5


def test_anderson_darling_is_scipys() -> None:
    from scipy import stats

    x = np.abs(np.random.default_rng(7).standard_normal(80))
    # α = 2, σ = 1/√2 is the standard normal law, of which |x| is half-normal.
    u = np.sort(stats.halfnorm.cdf(x))
    i = np.arange(1, 81)
    expected = -80 - np.mean((2 * i - 1) * (np.log(u) + np.log1p(-u[::-1])))
    assert _columns.anderson_darling(x, 2.0, math.sqrt(0.5)) == pytest.approx(expected, rel=1e-9)


def test_projections_of_stable_coordinates_are_stable_and_of_others_nearly_gaussian() -> None:
    rng = np.random.default_rng(8)
    heavy = forms.projection(contrasts.pair(stable.rvs(1.5, 1.0, (600, 64), rng)), rng=rng)
    assert heavy.alpha.low < 1.5 < heavy.alpha.high
    assert heavy.columns_used == 64
    light = forms.projection(contrasts.pair(rng.standard_t(3, (600, 400))), directions=20, rng=rng)
    assert light.columns_used == 20
    assert light.alpha.value > 1.93
    assert any("nearly Gaussian" in warning for warning in light.warnings)
    one = forms.projection(contrasts.pair(rng.standard_t(3, (600, 1))), rng=rng)
    assert one.status is Status.TOO_FEW_VALUES
    with pytest.raises(InvalidInput, match="directions"):
        forms.projection(np.ones((40, 4)), directions=0, rng=rng)


def test_projections_are_those_of_the_generator() -> None:
    noise = np.random.default_rng(9).standard_t(3, (100, 30))
    noise[4, 3] = np.nan
    one, two, other = (forms.projection(noise, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.alpha == two.alpha != other.alpha
    assert one.rows_used == 99
    assert one.sums[0].sums == 24
    tiny = forms.projection(noise * 1e-300, rng=np.random.default_rng(1))
    assert tiny.alpha.value == pytest.approx(one.alpha.value, abs=1e-6)


def test_rows_over_their_scale_read_the_law_within_a_draw() -> None:
    rng = np.random.default_rng(10)
    drifting = np.linspace(0, 1.5, 256)[:, None]
    noise = rng.standard_normal((256, 100)) * np.exp(drifting)
    assert forms.per_parameter(noise).alpha.value < 1.8
    scaled = forms.row_scaled(noise)
    assert scaled.form == "row_scaled"
    assert scaled.alpha.value == pytest.approx(scaled.null_alpha, abs=0.02)
    assert scaled.verdict is Verdict.GAUSSIAN
    noise[3] = 0
    noise[4, :60] = 0
    holed = forms.row_scaled(noise)
    assert any("2 of 256 rows have no scale" in warning for warning in holed.warnings)
    assert forms.row_scaled(noise[:20]).status is Status.TOO_FEW_DRAWS
    assert forms.row_scaled(np.zeros((40, 40))).status is Status.ALL_ZERO


def test_a_row_is_not_scaled_by_few_columns() -> None:
    rng = np.random.default_rng(12)
    narrow = forms.row_scaled(rng.standard_normal((256, 29)))
    assert narrow.status is Status.TOO_FEW_VALUES
    assert "29 columns, at least 30" in narrow.reason
    for shape in ((256, 30), (256, 99), (501, 100)):
        result = forms.row_scaled(rng.standard_normal(shape))
        assert result.alpha.value > 1.9
        assert result.verdict is forms.combine([result, result], [1.0, 2.0]).verdict is Verdict.UNDECIDED
        assert not result.gaussian_rejected
        assert any("nothing is tested" in warning for warning in result.warnings)


def test_common_scale_of_rows() -> None:
    rng = np.random.default_rng(11)
    noise = rng.standard_normal((400, 80)) * np.exp(rng.normal(size=80))
    assert drift.row_spread(noise) < 0.05
    common = np.exp(0.5 * rng.standard_normal((400, 1)))
    assert drift.row_spread(common * noise) == pytest.approx(0.5, rel=0.15)
    assert math.isnan(drift.row_spread(np.zeros((20, 20))))
    assert any("too short" in warning for warning in forms.per_parameter((common * noise)[:40]).warnings)
    assert not forms.per_parameter(common * noise).warnings
    assert not forms.per_parameter(noise[:40]).warnings
    for form in (forms.across_parameter, forms.standardized):
        assert any("from row to row" in warning for warning in form(common * noise).warnings)
        assert not any("from row to row" in warning for warning in form(noise).warnings)


def test_the_spread_of_few_rows_is_warned_of() -> None:
    rng = np.random.default_rng(13)
    for rows, said in ((64, True), (128, False)):
        over = forms.per_parameter(stable.rvs(1.6, 1.0, (rows, 20), rng)).over_columns
        assert over is not None
        assert any("too small" in warning for warning in over.spread.warnings) is said
