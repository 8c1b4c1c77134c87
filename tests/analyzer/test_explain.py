from __future__ import annotations

from typing import Any

import pytest

from gradnoise.analyzer.explain import compare_runs, explain_run


def row(form: str, alpha: float | None, verdict: str = "not_gaussian", **other: Any) -> dict[str, Any]:
    spread = 0.0 if alpha is None else 0.05
    base = 0.0 if alpha is None else alpha
    return {
        "group": "*",
        "form": form,
        "alpha": alpha,
        "alpha_low": base - spread,
        "alpha_high": base + spread,
        "verdict": verdict,
        "null_alpha": 1.99,
        "alpha_sum16": None,
        "null_alpha_sum16": 1.96,
        "reason": "",
    } | other


@pytest.mark.parametrize(
    ("of16", "says"),
    [(1.90, "finite variance"), (1.32, "as a stable law would"), (1.55, "part of the way")],
)
def test_sums_are_read_against_what_gaussian_noise_reads_there(of16: float, says: str) -> None:
    text = explain_run("sgd", [row("per_parameter", 1.3, alpha_sum16=of16)])
    assert "α = 1.30 [1.25, 1.35]: not Gaussian." in text
    assert f"Sums of 16 draws read {of16:.2f} (Gaussian noise there: 1.96)" in text
    assert says in text


def test_gaussian_noise_needs_no_sums() -> None:
    text = explain_run("adam", [row("per_parameter", 1.98, "gaussian", alpha_sum16=1.95)])
    assert "no different from Gaussian noise" in text
    assert "Sums" not in text


@pytest.mark.parametrize(("standard", "says"), [(1.9, "91% of the distance"), (1.1, "explains little")])
def test_the_spread_of_scales(standard: float, says: str) -> None:
    rows = [row("per_parameter", 1.5), row("across_parameter", 1.0), row("standardized", standard)]
    text = explain_run("sgd", rows)
    assert f"read 1.00, with every parameter on its own scale {standard:.2f}" in text
    assert says in text


def test_a_run_without_a_value_says_why() -> None:
    assert "too few" in explain_run("x", [row("per_parameter", None, reason="too few draws")])
    assert "no per-parameter row" in explain_run("x", [])


def test_runs_are_ordered_only_where_their_intervals_part() -> None:
    low, high = [row("per_parameter", 1.2)], [row("per_parameter", 1.6)]
    apart = compare_runs({"b": high, "a": low})
    assert "a 1.20, b 1.60. a is furthest from Gaussian and b nearest" in apart
    assert "no order can be told" in compare_runs({"a": low, "c": [row("per_parameter", 1.25)]})
    assert compare_runs({"a": low}) == ""
