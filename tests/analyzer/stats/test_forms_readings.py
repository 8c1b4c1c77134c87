"""Verdicts: what the forms of one matrix say together, and when they say nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradnoise.analyzer.stats import Status, Verdict, contrasts, forms, stable


def _noise(law: str, rng: np.random.Generator, draws: int = 512, columns: int = 96) -> Any:
    shape = (draws, columns)
    scales = np.exp(rng.normal(size=columns))
    made: dict[str, Callable[[], Any]] = {
        "gaussian": lambda: rng.standard_normal(shape),
        "scales": lambda: rng.standard_normal(shape) * scales,
        "stable": lambda: stable.rvs(1.6, 1.0, shape, rng),
        "stable scales": lambda: stable.rvs(1.7, 1.0, shape, rng) * scales,
        "t3": lambda: rng.standard_t(3, shape),
        "t2.5 scales": lambda: rng.standard_t(2.5, shape) * scales,
        "common": lambda: rng.standard_normal(shape) * np.exp(0.7 * rng.standard_normal((draws, 1))),
    }
    return contrasts.pair(made[law]())


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        ("gaussian", Verdict.GAUSSIAN),
        ("scales", Verdict.SCALE_MIXTURE),
        ("stable", Verdict.STABLE),
        ("stable scales", Verdict.STABLE),
        ("t3", Verdict.HEAVY_FINITE_VARIANCE),
        ("t2.5 scales", Verdict.HEAVY_FINITE_VARIANCE),
        ("common", Verdict.UNDECIDED),
    ],
)
def test_known_laws(law: str, expected: Verdict) -> None:
    for seed in range(2):
        readings = forms.read(_noise(law, np.random.default_rng(seed)))
        assert readings.verdict is expected, readings.why
        assert readings.why
        across = readings.across_parameter
        assert (across.verdict is Verdict.SCALE_MIXTURE) == (expected is Verdict.SCALE_MIXTURE)
        if law not in ("gaussian", "common"):
            assert across.gaussian_rejected
            # Alone it cannot tell a spread of scales from a tail.
            assert forms.across_parameter(_noise(law, np.random.default_rng(seed))).verdict is Verdict.UNDECIDED


def test_a_tail_that_all_coordinates_share_is_not_a_scale_mixture() -> None:
    readings = forms.read(_noise("common", np.random.default_rng(3)))
    assert readings.standardized.verdict is Verdict.GAUSSIAN
    assert readings.per_parameter.gaussian_rejected
    assert "disagree" in readings.why


def test_few_draws_decide_nothing_they_cannot() -> None:
    rng = np.random.default_rng(4)
    # 32 pairs: no sums, so no trend.
    heavy = forms.read(_noise("stable", rng, draws=64, columns=300))
    assert heavy.standardized.gaussian_rejected
    assert heavy.verdict is Verdict.UNDECIDED
    few = forms.read(rng.standard_normal((20, 100)))
    assert few.per_parameter.status is Status.TOO_FEW_DRAWS
    assert few.verdict in (Verdict.GAUSSIAN, Verdict.UNDECIDED)
    # Scale mixture needs both column readings.
    spread = forms.read(rng.standard_normal((20, 100)) * np.exp(rng.normal(size=100)))
    assert spread.verdict is Verdict.UNDECIDED
    nothing = forms.read(np.zeros((40, 40)))
    assert nothing.verdict is Verdict.UNDECIDED
    assert "has a value" in nothing.why


def test_rules() -> None:
    flat, climbing = forms.Trend.FLAT, forms.Trend.CLIMBING
    assert forms.verdict(1.4, 1.6, 1.99, 0.5) is Verdict.UNDECIDED
    assert forms.verdict(1.4, 1.6, 1.99, 0.5, flat) is Verdict.STABLE
    assert forms.verdict(1.4, 1.6, 1.99, 0.5, flat, stable_rejected=0.2) is Verdict.UNDECIDED
    assert forms.verdict(1.4, 1.6, 1.99, 0.5, flat, stable_rejected=0.01) is Verdict.STABLE
    assert forms.verdict(1.4, 1.6, 1.99, 0.5, climbing) is Verdict.HEAVY_FINITE_VARIANCE
    assert forms.verdict(1.4, 1.6, 1.99, 0.01, flat) is Verdict.UNDECIDED
    assert forms.verdict(1.9, 2.0, 1.99, 0.01) is Verdict.GAUSSIAN
    assert forms.verdict(1.9, 2.0, 1.99, 0.01, partial=True) is Verdict.UNDECIDED
    assert forms.verdict(1.9, 2.0, 1.99, 0.3) is Verdict.UNDECIDED
    assert forms.verdict(1.7, 2.0, 1.99, 0.0) is Verdict.UNDECIDED


def test_rows_at_the_smallest_alpha_may_climb_but_are_not_flat() -> None:
    rng = np.random.default_rng(7)
    climbing = forms.per_parameter(rng.standard_t(8, (512, 64)) ** 5)
    assert climbing.lowest == 1
    assert climbing.sums[0].lowest > 0.05
    assert [s.trend for s in climbing.sums] == [forms.Trend.UNCLEAR, forms.Trend.CLIMBING]
    assert forms.combine([climbing, climbing], [1.0, 2.0]).sums[1].trend is forms.Trend.CLIMBING
    stuck = forms.per_parameter(stable.rvs(0.5, 1.0, (512, 64), rng))
    assert stuck.lowest > 0.05
    assert stuck.sums[1].trend is forms.Trend.UNCLEAR


def test_sums_that_have_gone_a_little_way_are_not_flat() -> None:
    rng = np.random.default_rng(8)
    z = rng.standard_normal((512, 96))
    result = forms.per_parameter(np.sign(z) * np.exp(4 * np.abs(z)))  # every moment is finite
    assert result.sums[1].alpha is not None
    assert result.sums[1].alpha.value < 0.8
    assert result.verdict is not Verdict.STABLE


def test_readings_that_contradict_each_other_are_undecided() -> None:
    readings = forms.read(_noise("stable", np.random.default_rng(5)))
    standard = readings.standardized
    climbing = dataclasses.replace(standard.sums[1], trend=forms.Trend.CLIMBING)
    contrary = dataclasses.replace(standard, sums=(standard.sums[0], climbing), verdict=Verdict.HEAVY_FINITE_VARIANCE)
    together = forms.read_together(readings.per_parameter, readings.across_parameter, contrary)
    assert together.verdict is Verdict.UNDECIDED
    assert "do not tell" in together.why


def test_groups_of_a_window_are_read_together() -> None:
    rng = np.random.default_rng(6)
    groups = [forms.read(_noise("scales", rng)) for _ in range(2)]
    parts = [(r.per_parameter, r.across_parameter, r.standardized) for r in groups]
    model = forms.read_together(*(forms.combine([a, b], [3.0, 1.0]) for a, b in zip(*parts, strict=True)))
    assert model.verdict is Verdict.SCALE_MIXTURE
    assert model.across_parameter.gaussian_rejected


def test_stable_noise_does_not_climb_for_few_columns_or_one_large_row() -> None:
    rng = np.random.default_rng(20)
    for _ in range(15):
        readings = (
            forms.per_parameter(stable.rvs(1.5, 1.0, (256, 1), rng)),
            forms.per_parameter(stable.rvs(1.5, 1.0, (256, 4), rng)),
            forms.projection(stable.rvs(1.5, 1.0, (256, 100), rng), directions=32, rng=rng),
        )
        for reading in readings:
            assert reading.sums[1].trend is not forms.Trend.CLIMBING
            assert forms.combine([reading, reading], [1.0, 2.0]).sums[1].trend is not forms.Trend.CLIMBING


def test_what_rejects_the_stable_law_column_by_column_is_not_called_stable_in_company() -> None:
    rng = np.random.default_rng(1)
    pareto = (rng.pareto(1.5, (1024, 48)) + 1) * rng.choice([-1, 1], (1024, 48))
    alone = forms.per_parameter(pareto, rng=rng)
    assert alone.over_columns is not None
    assert alone.over_columns.stable_rejected_share > 0.9
    assert alone.verdict is Verdict.UNDECIDED
    assert forms.combine([alone, alone], [1, 1]).verdict is Verdict.UNDECIDED
    assert forms.read(pareto, rng=rng).per_parameter.verdict is Verdict.UNDECIDED
