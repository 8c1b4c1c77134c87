from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from gradnoise.analyzer.analysis import AnalysisOptions, Contrast, Plan, TailRow, WindowReport, analyse, fit_vector
from gradnoise.analyzer.stats import sketch, stable
from gradnoise.analyzer.windows import ClosedWindow, GroupDraws, Reference, SketchRow, Window
from gradnoise.wire.results import FIT_SCHEMA, FORMS, FULL_FORMS, MODEL_GROUP, TAIL_SCHEMA


def window(
    *groups: tuple[str, int, np.ndarray], thetas: np.ndarray | None = None, kind: str = "probe", missing: int = 0
) -> Window:
    """A window whose draws are ``gradients`` (draws x coordinates) for each (name, size, gradients)."""
    count = len(groups[0][2])
    theta = np.zeros(count, np.int64) if thetas is None else thetas.astype(np.int64)
    closed = ClosedWindow(
        run="r",
        producer="p",
        window=1,
        kind=kind,
        first_step=100,
        last_step=100,
        first_theta=int(theta.min(initial=0)),
        last_theta=int(theta.max(initial=0)),
        declared=count,
        recorded=count,
        rows=count * len(groups),
        non_finite=0,
        dropped=0,
    )
    return Window(
        closed,
        missing=missing,
        groups=tuple(
            GroupDraws(
                name, size, values.astype(np.float32), theta[: len(values)], np.arange(len(values), dtype=np.int32)
            )
            for name, size, values in groups
        ),
    )


def exact(gradient: np.ndarray, **known: Any) -> Reference:
    return Reference("full", gradient.astype(np.float32), **known)


def row(report: WindowReport, group: str, form: str) -> TailRow:
    (found,) = [row for row in report.rows if (row.group, row.form) == (group, form)]
    return found


def lognormal_gaussian(draws: int, coordinates: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((draws, coordinates)) * rng.lognormal(0, 1, coordinates) + rng.standard_normal(
        coordinates
    )


def test_gaussian_noise_of_spread_scales_is_heavy_only_across_parameters() -> None:
    report = analyse(window(("w", 5000, lognormal_gaussian(512, 400))))
    per, across, standard = (row(report, "w", form) for form in ("per_parameter", "across_parameter", "standardized"))
    assert (per.verdict, standard.verdict) == ("gaussian", "gaussian")
    assert abs(per.alpha - per.null_alpha) < 0.03
    assert abs(standard.alpha - standard.null_alpha) < 0.03
    assert across.verdict == "scale_mixture"
    assert across.gaussian_rejected
    assert row(report, MODEL_GROUP, "across_parameter").verdict == "scale_mixture"
    assert across.alpha_high < 1.6
    assert [reading.status for reading in (per, across, standard)] == ["ok"] * 3
    assert per.reference == "pair"
    assert (per.draws, per.coordinates, per.thetas) == (512, 400, 1)


@pytest.mark.parametrize("contrast", [kind for kind in Contrast if kind is not Contrast.AUTO])
def test_stable_noise_reads_its_alpha_and_scale_in_every_form_and_sum(contrast: Contrast) -> None:
    rng = np.random.default_rng(1)
    draws = stable.rvs(1.7, 0.3, (512, 300), rng) + 5.0
    given = replace(window(("w", 300, draws)), reference={"w": exact(np.full(300, 5.0))})
    report = analyse(given, AnalysisOptions(contrast=contrast))
    for form in ("per_parameter", "across_parameter", "standardized"):
        reading = row(report, "w", form)
        assert reading.alpha_low <= 1.7 <= reading.alpha_high or abs(reading.alpha - 1.7) < 0.02, form
        assert reading.gaussian_rejected
        assert reading.verdict in (("undecided",) if form == "across_parameter" else ("stable", "undecided"))
        if contrast is Contrast.EMA:  # its rows overlap: a window this long has five disjoint sums
            assert math.isnan(reading.alpha_sum4)
        else:
            assert abs(reading.alpha_sum4 - 1.7) < 0.1, form
        if form != "standardized":
            assert reading.scale == pytest.approx(0.3, rel=0.05), form
        assert reading.reference == contrast.value


def test_the_whole_model_weights_groups_by_size_and_has_a_joint_interval() -> None:
    rng = np.random.default_rng(2)
    heavy = stable.rvs(1.5, 1.0, (256, 60), rng)
    light = rng.standard_normal((256, 60))
    report = analyse(window(("heavy", 3000, heavy), ("light", 1000, light)))
    parts = [row(report, name, "per_parameter").alpha for name in ("heavy", "light")]
    whole = row(report, MODEL_GROUP, "per_parameter")
    assert whole.alpha == pytest.approx(1 / (0.75 / parts[0] + 0.25 / parts[1]), rel=1e-9)
    assert whole.alpha_low < whole.alpha < whole.alpha_high
    assert whole.size == 4000
    assert whole.scale == pytest.approx(
        row(report, "heavy", "per_parameter").scale ** 0.75 * row(report, "light", "per_parameter").scale ** 0.25
    )


def test_every_group_and_form_has_a_row_whatever_is_wrong_with_it() -> None:
    rng = np.random.default_rng(3)
    good = rng.standard_normal((128, 64))
    softmax = rng.standard_normal((128, 40))
    softmax -= softmax.mean(axis=1, keepdims=True)
    report = analyse(
        window(
            ("good", 64, good),
            ("zero", 64, np.zeros((128, 64))),
            ("few", 3, good[:, :3]),
            ("softmax", 40, softmax),
            ("absent", 9, good[:0, :9]),
            ("constant", 5, np.ones((128, 5))),
        )
    )
    groups = ("good", "zero", "few", "softmax", "absent", "constant", MODEL_GROUP)
    assert [(row.group, row.form) for row in report.rows] == [(group, form) for group in groups for form in FORMS]
    assert row(report, "good", "per_parameter").status == "ok"
    assert {row(report, "zero", form).status for form in ("per_parameter", "across_parameter")} == {"all_zero"}
    assert row(report, "constant", "per_parameter").status == "all_zero"
    assert row(report, "few", "per_parameter").status in ("ok", "at_boundary")
    assert row(report, "few", "across_parameter").status == "too_few_values"
    assert row(report, "softmax", "across_parameter").status == "degenerate"
    assert row(report, "absent", "standardized").status == "too_few_draws"
    whole = row(report, MODEL_GROUP, "per_parameter")
    assert math.isfinite(whole.alpha)
    assert any("left out" in warning for warning in whole.warnings)
    for reading in report.rows:
        assert math.isfinite(reading.alpha) or (reading.reason and reading.verdict == "undecided")


def test_the_full_plan_reads_more_forms_and_takes_the_heaviness_apart() -> None:
    rng = np.random.default_rng(9)
    spread = window(("w", 5000, lognormal_gaussian(256, 200)), ("few", 3, rng.standard_normal((256, 3))))
    report = analyse(spread, AnalysisOptions(Plan.FULL))
    groups = ("w", "few", MODEL_GROUP)
    assert [(row.group, row.form) for row in report.rows] == [(g, form) for g in groups for form in FULL_FORMS]
    assert report.plan is Plan.FULL
    across = row(report, "w", "across_parameter")
    assert across.verdict == "scale_mixture"
    assert across.scale_share_low <= 1 <= across.scale_share_high
    assert abs(across.tail_share) < 0.05
    assert across.heaviness == pytest.approx(1 / across.alpha - 1 / across.null_alpha, abs=0.01)
    assert across.log_scale_sd == pytest.approx(1.0, abs=0.1)
    assert row(report, "w", "pooled").alpha == pytest.approx(across.alpha, abs=0.05)
    for form in ("vector", "projection"):
        assert row(report, "w", form).alpha == pytest.approx(2.0, abs=0.1), form
    per = row(report, "w", "per_parameter")
    assert per.stable_rejected_share <= 0.05
    assert per.alpha_spread_low == 0
    assert list(per.alpha_quantiles) == sorted(per.alpha_quantiles)
    assert len(per.alpha_quantiles) == 5
    assert repr(analyse(spread, AnalysisOptions(Plan.FULL))) == repr(report)  # NaN is not equal to itself
    live = analyse(spread)
    assert math.isnan(row(live, "w", "across_parameter").scale_share)
    assert row(live, "w", "per_parameter").alpha == per.alpha


def test_the_full_plan_says_that_draws_are_serially_dependent() -> None:
    rng = np.random.default_rng(10)
    steps = rng.standard_normal((256, 60))
    for k in range(1, 256):
        steps[k] += 0.7 * steps[k - 1]
    report = analyse(window(("w", 60, steps)), AnalysisOptions(Plan.FULL, Contrast.MEAN))
    assert any("correlate with later ones" in text for text in row(report, "w", "per_parameter").warnings)


def test_non_finite_draws_are_left_out_of_every_group_and_counted() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.standard_normal((2, 128, 50))
    clean = analyse(window(("a", 50, np.delete(first, [3, 70], 0)), ("b", 50, np.delete(second, [3, 70], 0))))
    first[3, 7], second[70, 0] = np.nan, np.inf
    report = analyse(window(("a", 50, first), ("b", 50, second)))
    for reading, expected in zip(report.rows, clean.rows, strict=True):
        assert reading.non_finite == 2
        assert reading.alpha == expected.alpha


def test_a_drifting_burst_is_not_stationary_and_gives_the_row_scaled_alpha() -> None:
    rng = np.random.default_rng(5)
    steps = np.arange(256)
    drifting = rng.standard_normal((256, 100)) * np.exp(-steps / 100)[:, None]
    report = analyse(window(("w", 100, drifting), thetas=steps, kind="burst"))
    reading = row(report, "w", "per_parameter")
    assert reading.status == row(report, MODEL_GROUP, "per_parameter").status == "not_stationary"
    assert reading.verdict == "undecided"
    assert reading.alpha < 1.8 < 1.95 < reading.row_scaled_alpha
    assert reading.drift == pytest.approx(np.std(steps / 100), rel=0.2)
    assert row(report, "w", "standardized").status == "ok"
    steady = analyse(window(("w", 100, rng.standard_normal((256, 100))), thetas=steps, kind="burst"))
    assert row(steady, "w", "per_parameter").status == "ok"
    assert row(steady, "w", "per_parameter").drift == 0


def test_a_small_drift_is_said_and_carries_no_verdict_alone() -> None:
    rng = np.random.default_rng(15)
    steps = np.arange(512)
    drifting = rng.standard_normal((512, 100)) * np.exp(0.2 * np.sin(2 * np.pi * steps / 512))[:, None]
    reading = row(analyse(window(("w", 100, drifting), thetas=steps, kind="burst")), "w", "per_parameter")
    assert 0 < reading.drift < 0.25
    assert reading.status == "ok"
    assert reading.row_scaled_alpha > reading.alpha
    assert reading.verdict in ("gaussian", "undecided")
    assert any("drifts by a factor" in warning for warning in reading.warnings)


def test_missing_rows_are_said_and_their_draws_counted_in_every_row() -> None:
    rng = np.random.default_rng(6)
    whole = window(("w", 40, rng.standard_normal((100, 40))), missing=28)
    report = analyse(replace(whole, closed=replace(whole.closed, recorded=128, dropped=3)))
    for reading in report.rows:
        assert any("28 rows" in warning for warning in reading.warnings)
        assert reading.dropped == 31


def test_a_model_without_any_value_has_its_groups_status() -> None:
    report = analyse(window(("w", 40, np.zeros((100, 40)))))
    assert {reading.status for reading in report.rows} == {"all_zero"}


def test_too_few_draws_is_a_status_with_the_numbers() -> None:
    report = analyse(window(("w", 40, np.random.default_rng(7).standard_normal((20, 40)))))
    reading = row(report, "w", "per_parameter")
    assert reading.status == "too_few_draws"
    assert "10" in reading.reason
    assert "30" in reading.reason
    assert math.isnan(reading.alpha)


def test_rows_have_the_columns_of_the_result_table() -> None:
    outside = {"row", "run", "producer", "plan", "analysed_at"}
    assert [field.name for field in fields(TailRow)] == [name for name in TAIL_SCHEMA.names if name not in outside]


def test_fit_vector_reports_all_laws() -> None:
    rng = np.random.default_rng(8)
    report = fit_vector(stable.rvs(1.5, 2.0, 5000, rng) + 10, location=True)
    values = {(row.law, row.parameter): row for row in report.rows}
    assert values["stable", "alpha"].low < 1.5 < values["stable", "alpha"].high
    assert values["stable", "scale"].value == pytest.approx(2.0, rel=0.1)
    assert values["stable", "location"].value == pytest.approx(10.0, abs=0.3)
    assert values["stable", "alpha"].p_value < 1e-4
    assert {row.verdict for row in report.rows} == {"stable"}
    assert all(row.gaussian_rejected for row in report.rows)
    assert min(report.rows, key=lambda row: row.aic).law == "stable"
    shapes = {"student_t": "nu", "laplace": "scale", "generalised_gaussian": "beta", "gaussian_mixture": "share"}
    for law, parameter in shapes.items():
        row = values[law, parameter]
        assert row.value > 0
        assert row.loglik < values["stable", "alpha"].loglik
        assert values[law, "location"].value == pytest.approx(10.0, abs=0.3)
    assert [field.name for field in fields(type(report.rows[0]))] == FIT_SCHEMA.names
    gaussian = fit_vector(rng.standard_normal(5000) * 3 + 1, location=True)
    values = {(row.law, row.parameter): row for row in gaussian.rows}
    assert values["gaussian", "mean"].value == pytest.approx(1.0, abs=0.2)
    assert values["gaussian", "sd"].value == pytest.approx(3.0, rel=0.05)
    assert {row.verdict for row in gaussian.rows} == {"gaussian"}


def test_the_full_gradient_is_the_reference_where_it_was_recorded() -> None:
    rng = np.random.default_rng(20)
    plain = window(("a", 60, stable.rvs(1.6, 1.0, (200, 60), rng) + 3.0), ("b", 40, rng.standard_normal((200, 40))))
    given = replace(plain, reference={"a": exact(np.full(60, 3.0)), "b": exact(np.zeros(40))})
    report = analyse(given)
    assert {reading.reference for reading in report.rows} == {"full"}
    assert repr(analyse(given, AnalysisOptions(contrast=Contrast.FULL))) == repr(report)
    assert row(report, "a", "per_parameter").alpha == pytest.approx(1.6, abs=0.06)
    assert row(report, "a", "per_parameter").scale == pytest.approx(1.0, rel=0.05)
    assert {reading.reference for reading in analyse(plain).rows} == {"pair"}
    pairs = analyse(given, AnalysisOptions(contrast=Contrast.PAIR))
    assert repr(pairs) == repr(analyse(plain))


@pytest.mark.parametrize(
    ("reference", "thetas", "text"),
    [
        ({"a": exact(np.zeros(50))}, 1, "in group b no full gradient"),
        ({"a": exact(np.zeros(50)), "b": exact(np.full(50, np.nan))}, 1, "in group b the full gradient holds NaN"),
        ({"a": exact(np.zeros(50)), "b": exact(np.zeros(49))}, 1, "49 coordinates and the draws 50"),
        ({"a": exact(np.zeros(50)), "b": exact(np.zeros(50))}, 100, "several thetas"),
    ],
)
def test_a_full_gradient_that_does_not_fit_is_said(reference: dict[str, Reference], thetas: int, text: str) -> None:
    draws = np.random.default_rng(21).standard_normal((2, 100, 50))
    theta = np.arange(100) * thetas // 100
    given = replace(window(("a", 50, draws[0]), ("b", 50, draws[1]), thetas=theta), reference=reference)
    report = analyse(given)
    for reading in report.rows:
        assert reading.reference == "pair"
        assert any(text in warning for warning in reading.warnings)
    asked = analyse(given, AnalysisOptions(contrast=Contrast.FULL))
    refused = row(asked, "b", "per_parameter")
    assert (refused.status, refused.reference) == ("no_reference", "full")
    assert text.removeprefix("in group b ") in refused.reason
    assert math.isnan(refused.alpha)


def test_the_full_gradient_asked_for_and_not_there() -> None:
    given = window(("a", 50, np.random.default_rng(22).standard_normal((100, 50))))
    for reference in (None, {"a": Reference("mean", np.zeros(50, np.float32))}):
        report = analyse(replace(given, reference=reference), AnalysisOptions(Plan.FULL, Contrast.FULL))
        assert [(row.group, row.form) for row in report.rows] == [
            (g, f) for g in ("a", MODEL_GROUP) for f in FULL_FORMS
        ]
        assert {reading.status for reading in report.rows} == {"no_reference"}
        assert "Probe(full=...)" in row(report, "a", "pooled").reason
        assert {reading.reference for reading in analyse(replace(given, reference=reference)).rows} == {"pair"}


def test_draws_without_replacement_have_less_noise_and_the_row_says_by_how_much() -> None:
    rng = np.random.default_rng(23)
    examples = rng.standard_normal((6400, 50))
    draws = rng.permutation(examples).reshape(50, 128, 50).mean(axis=1)
    sizes = np.full(50, 128, np.int32)
    known = {"dataset_size": 6400, "minibatches": 50, "replacement": False}
    plain = window(("a", 50, draws))
    plain = replace(plain, groups=(replace(plain.groups[0], batch_size=sizes),))
    small = analyse(replace(plain, reference={"a": exact(examples.mean(0), **known)}))
    assert not any("without replacement" in warning for warning in row(small, "a", "per_parameter").warnings)
    few = replace(plain, groups=(replace(plain.groups[0], batch_size=sizes * 10),))
    large = analyse(replace(few, reference={"a": exact(examples.mean(0), **known)}))
    assert any("by a factor of 1.25" in warning for warning in row(large, "a", "per_parameter").warnings)


def sketched(half_differences: np.ndarray, *, same_theta: bool = True) -> tuple[SketchRow, ...]:
    rows = []
    for index, values in enumerate(half_differences):
        counted = sketch.update(sketch.zero(), values.astype(np.float32))
        cells = np.flatnonzero(counted.counts)
        counts = counted.counts[cells].astype(np.uint32)
        rows.append(SketchRow(2 * index + 1, cells.astype(np.uint16), counts, int(counted.inexact[0]), same_theta))
    return tuple(rows)


@pytest.mark.parametrize("plan", list(Plan))
def test_sketches_make_the_whole_models_pooled_row_of_all_parameters(plan: Plan) -> None:
    rng = np.random.default_rng(24)
    everything = stable.rvs(1.7, 0.3, (128, 5000), rng)
    given = window(("w", 5000, everything[:, :100]))
    noise = everything[::2] / 2 - everything[1::2] / 2
    report = analyse(replace(given, sketches=sketched(noise)), AnalysisOptions(plan))
    reading = row(report, MODEL_GROUP, "pooled")
    assert reading.alpha == pytest.approx(stable.fit(noise.ravel()).alpha.value, abs=1e-4)
    assert reading.alpha_low < 1.7 < reading.alpha_high
    assert reading.scale == pytest.approx(0.3, rel=0.02)
    assert (reading.reference, reading.draws, reading.coordinates, reading.size) == ("pair", 128, 5000, 5000)
    assert any("all parameters" in warning for warning in reading.warnings)
    expected = [*FORMS, "pooled"] if plan is Plan.LIVE else list(FULL_FORMS)
    assert [reading.form for reading in report.rows if reading.group == MODEL_GROUP] == expected
    without = analyse(given, AnalysisOptions(plan))
    others = [reading for reading in report.rows if (reading.group, reading.form) != (MODEL_GROUP, "pooled")]
    assert repr(others) == repr(
        [reading for reading in without.rows if (reading.group, reading.form) != (MODEL_GROUP, "pooled")]
    )


def test_pairs_across_parameters_are_taken_only_where_there_are_hardly_others() -> None:
    rng = np.random.default_rng(25)
    noise, drifting = rng.standard_normal((30, 500)), 5 + rng.standard_normal((10, 500))
    given = window(("w", 500, rng.standard_normal((80, 50))))
    found = analyse(replace(given, sketches=sketched(noise) + sketched(drifting, same_theta=False)))
    reading = row(found, MODEL_GROUP, "pooled")
    assert (reading.draws, reading.verdict) == (60, "gaussian")
    assert not any("neighbours" in warning for warning in reading.warnings)
    found = analyse(replace(given, sketches=sketched(noise[:9]) + sketched(drifting, same_theta=False)))
    reading = row(found, MODEL_GROUP, "pooled")
    assert reading.draws == 38
    assert any("neighbours" in warning for warning in reading.warnings)
    found = analyse(replace(given, sketches=sketched(noise[:9])))
    assert row(found, MODEL_GROUP, "pooled").status == "too_few_draws"
