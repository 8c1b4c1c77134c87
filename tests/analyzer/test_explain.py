from __future__ import annotations

from typing import Any

import pytest

from gradnoise.analyzer.explain import compare_runs, explain_run


def row(form: str, alpha: float | None, verdict: str = "undecided", **other: Any) -> dict[str, Any]:
    spread = 0.0 if alpha is None else 0.05
    base = 0.0 if alpha is None else alpha
    return {
        "group": "*",
        "form": form,
        "alpha": alpha,
        "alpha_low": base - spread,
        "alpha_high": base + spread,
        "verdict": verdict,
        "gaussian_rejected": verdict != "gaussian",
        "null_alpha": 1.99,
        "alpha_sum16": None,
        "null_alpha_sum16": 1.96,
        "sums": "unclear",
        "status": "ok",
        "reason": "",
    } | other


@pytest.mark.parametrize(
    ("sums", "says"),
    [
        ("climbing", "noise of finite variance"),
        ("flat", "as those of a stable law would"),
        ("unclear", "both possible"),
    ],
)
def test_sums_say_what_their_interval_says(sums: str, says: str) -> None:
    text = explain_run("sgd", [row("per_parameter", 1.3, alpha_sum16=1.6, sums=sums)])
    assert "α = 1.30 [1.25, 1.35]: not Gaussian, but which law it is stays open." in text
    assert f"Sums of 16 draws read 1.60 (Gaussian noise there: 1.96): {'they' if sums != 'unclear' else 'a'}" in text
    assert says in text
    censored = row("per_parameter", 0.5, alpha_sum16=0.5, sums=sums, status="at_boundary")
    assert "Sums" not in explain_run("sgd", [censored])


def test_gaussian_noise_needs_no_sums() -> None:
    text = explain_run("adam", [row("per_parameter", 1.98, "gaussian", alpha_sum16=1.95)])
    assert "close to Gaussian noise." in text
    assert "Sums" not in text
    below = row("per_parameter", 1.93, "gaussian", alpha_sum16=1.95)
    assert "close to Gaussian noise, though measurably below it." in explain_run("adam", [below])


def test_the_spread_of_scales_is_told_of_the_same_groups_only() -> None:
    rows = [row("per_parameter", 1.5), row("across_parameter", 1.0), row("standardized", 1.9)]
    text = explain_run("sgd", rows)
    assert "read 1.00, and 1.90 with every parameter on its own scale: 91% of the way to Gaussian." in text
    assert "Across" not in explain_run("sgd", [*rows, row("across_parameter", 1.0, group="w")])
    gaussian = [row("per_parameter", 1.98, "gaussian"), row("across_parameter", 1.98, "gaussian"), rows[2]]
    assert "Across" not in explain_run("sgd", gaussian)


def test_a_run_without_a_value_says_why() -> None:
    assert "too few" in explain_run("x", [row("per_parameter", None, reason="too few draws")])
    assert "no per-parameter row" in explain_run("x", [])


def test_runs_are_ordered_only_where_their_intervals_part() -> None:
    low, high = [row("per_parameter", 1.2)], [row("per_parameter", 1.6)]
    apart = compare_runs({"b": high, "a": low})
    assert "a 1.20, b 1.60. a is furthest from Gaussian and b nearest" in apart
    assert "no order can be told" in compare_runs({"a": low, "c": [row("per_parameter", 1.25)]})
    assert compare_runs({"a": low}) == ""
