"""How much is scale and how much is tail, on matrices of known law."""

import math
from typing import Any

import numpy as np
import pytest

from gradnoise.analyzer.stats import InvalidInput, Status, Verdict, contrasts, decomposition, estimators, stable


def _decompose(noise: Any) -> decomposition.Decomposition:
    return decomposition.decompose(noise, rng=np.random.default_rng(0))


def _adds_up(result: decomposition.Decomposition) -> bool:
    parts = result.scale.value + result.tail.value + result.remainder.value
    return bool(parts == pytest.approx(result.total.value, abs=1e-12))


@pytest.mark.parametrize("s", [0.5, 1.0, 2.0])
def test_gaussian_noise_of_spread_scales_is_all_scale(s: float) -> None:
    rng = np.random.default_rng(1)
    scales = s * rng.standard_normal(256)
    result = _decompose(contrasts.pair(rng.standard_normal((512, 256)) * np.exp(scales)))
    assert result.scale_share.value == pytest.approx(1.0, abs=0.05)
    assert result.scale_share.low - 0.02 < 1 < result.scale_share.high + 0.02
    assert abs(result.tail_share.value) < 0.03
    assert result.log_scale_sd.value == pytest.approx(scales.std(ddof=1), rel=0.03)
    assert result.log_scale_sd.low < scales.std(ddof=1) < result.log_scale_sd.high
    assert result.verdict is Verdict.SCALE_MIXTURE
    assert _adds_up(result)


def test_gaussian_noise_of_one_scale_has_nothing_to_divide() -> None:
    result = _decompose(contrasts.pair(np.random.default_rng(2).standard_normal((256, 200))))
    assert result.verdict is Verdict.GAUSSIAN
    assert abs(result.total.value) < 0.003
    assert math.isnan(result.scale_share.value)
    assert "no heaviness" in result.reason
    assert result.status is Status.OK
    assert result.log_scale_sd.low == 0
    assert _adds_up(result)


@pytest.mark.parametrize(("law", "verdict"), [("stable", Verdict.STABLE), ("t3", Verdict.HEAVY_FINITE_VARIANCE)])
def test_heavy_columns_of_one_scale_are_all_tail(law: str, verdict: Verdict) -> None:
    rng = np.random.default_rng(3)
    draws = stable.rvs(1.7, 1.0, (512, 200), rng) if law == "stable" else rng.standard_t(3, (512, 200))
    result = _decompose(contrasts.pair(draws))
    assert result.tail_share.value == pytest.approx(1.0, abs=0.05)
    assert abs(result.scale_share.value) < 0.05
    assert result.verdict is verdict
    if law == "stable":
        assert result.tail.low < 1 / 1.7 - 0.5 < result.tail.high
        assert result.total.low < 1 / 1.7 - 0.5 < result.total.high


def test_both_are_found_where_both_are() -> None:
    rng = np.random.default_rng(4)
    scales = np.exp(rng.normal(size=256))
    tailed = stable.rvs(1.7, 1.0, (512, 256), rng)
    result = _decompose(contrasts.pair(tailed * scales))
    alone = _decompose(contrasts.pair(rng.standard_normal((512, 256)) * scales))
    assert result.tail.value == pytest.approx(1 / 1.7 - 0.5, abs=0.01)
    assert result.scale.value == pytest.approx(alone.total.value, rel=0.05)
    assert result.verdict is Verdict.STABLE
    assert 0.05 < result.tail_share.value < result.scale_share.value < 1


def test_few_draws_are_not_biased_by_their_scales() -> None:
    rng, tails, shares = np.random.default_rng(5), [], []
    for _ in range(8):
        tails.append(_decompose(stable.rvs(1.7, 1.0, (32, 300), rng)).tail.value)
        spread = rng.standard_normal((32, 300)) * np.exp(0.7 * rng.normal(size=300))
        shares.append(_decompose(spread).scale_share.value)
    assert np.mean(tails) == pytest.approx(1 / 1.7 - 0.5, abs=0.009)
    assert np.mean(shares) == pytest.approx(1.0, abs=0.03)


def test_heaviness_of_scales_has_the_closed_form_of_block_sums() -> None:
    # ½ + E ln(mean_m s²)/(2 ln m) is the block sums' reading of the same mixture; maximum likelihood reads another
    # number, but the order and the limit 0 are the same.
    rng = np.random.default_rng(6)
    read, closed = [], []
    for s in (0.3, 0.6, 1.0):
        noise = rng.standard_normal((64, 400)) * np.exp(s * rng.normal(size=400))
        read.append(_decompose(noise).scale.value)
        closed.append(1 / estimators.block_sum(noise.ravel(), m=100, rng=rng).value - 0.5)
    assert read == sorted(read)
    assert closed == sorted(closed)
    assert np.corrcoef(read, closed)[0, 1] > 0.95


def test_scale_is_of_no_unit_and_columns_may_be_permuted() -> None:
    rng = np.random.default_rng(7)
    noise = rng.standard_t(4, (64, 120)) * np.exp(rng.normal(size=120))
    one, tiny = _decompose(noise), _decompose(1e-20 * noise)
    order = rng.permutation(120)
    other = _decompose(noise[:, order])
    for part in ("total", "tail", "log_scale_sd"):
        assert getattr(tiny, part).value == pytest.approx(getattr(one, part).value, abs=1e-5)
        assert getattr(other, part).value == pytest.approx(getattr(one, part).value, abs=1e-5)
    assert other.scale.value == pytest.approx(one.scale.value, abs=4 * one.scale.se)


def test_what_it_cannot_read_has_a_status_and_a_reason() -> None:
    rng = np.random.default_rng(8)
    for noise, status in (
        (np.zeros((40, 40)), Status.ALL_ZERO),
        (rng.normal(size=(12, 60)), Status.TOO_FEW_DRAWS),
        (rng.normal(size=(9, 60)), Status.TOO_FEW_DRAWS),
        (rng.normal(size=(40, 20)), Status.TOO_FEW_VALUES),
        (rng.normal(size=(40, 1)) * np.ones(40), Status.DEGENERATE),
    ):
        result = _decompose(noise)
        assert result.status is status
        assert result.reason
        assert math.isnan(result.total.value)
        assert result.verdict is Verdict.UNDECIDED
    with pytest.raises(InvalidInput, match="noise"):
        _decompose(np.ones(4))
    sparse = rng.normal(size=(64, 80))
    sparse[:50, :10] = 0
    sparse[3, 4] = np.nan
    result = _decompose(sparse)
    assert result.status is Status.OK
    assert any("mostly zero" in warning for warning in result.warnings)


def test_total_and_tail_of_heavy_rows_are_on_one_basis() -> None:
    rng = np.random.default_rng(9)
    parts = [_decompose(stable.rvs(1.5, 1.0, (64, 64), rng)) for _ in range(20)]
    for part in ("total", "tail"):
        assert np.mean([getattr(p, part).value for p in parts]) == pytest.approx(1 / 1.5 - 0.5, abs=0.008)
    assert np.mean([p.tail_share.value for p in parts]) == pytest.approx(1.0, abs=0.02)
    assert any("64 coordinates" in warning for warning in parts[0].warnings)


def test_coordinates_that_depend_on_each_other_are_said() -> None:
    rng = np.random.default_rng(10)
    mixed = rng.standard_normal((64, 8)) @ rng.standard_normal((8, 200))
    assert any("independent ones" in warning for warning in _decompose(mixed).warnings)
    assert not _decompose(rng.standard_normal((64, 200))).warnings
