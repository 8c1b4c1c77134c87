from __future__ import annotations

from typing import Any

import pytest

from gradnoise.analyzer.aligning import METRICS
from gradnoise.analyzer.explain_alignment import MEANINGS, explain_row


def row(metric: str, low: float | None = None, high: float | None = None, **changed: Any) -> dict[str, Any]:
    return {
        "metric": metric, "low": low, "high": high, "null_low": None, "null_high": None, "status": "ok", "reason": "",
    } | changed  # fmt: skip


def test_every_metric_has_a_meaning() -> None:
    assert set(MEANINGS) == set(METRICS)


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.8, 1.2, "as noise proportional to H has"),
        (1.3, 1.9, "steeper than H"),
        (0.2, 0.8, "flatter than H"),
        (-0.5, 0.5, "unrelated to H"),
        (-0.5, 1.5, "open"),
        (-1.0, -0.5, "less where the curvature is more"),
    ],
)
def test_what_the_exponent_says_hangs_on_its_interval(low: float, high: float, says: str) -> None:
    assert says in explain_row(row("gamma", low, high))


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.5, 0.6, "above its null"), (0.0, 0.05, "below its null"), (0.1, 0.6, "not told apart from its null")],
)
def test_an_interval_is_set_against_the_null(low: float, high: float, says: str) -> None:
    assert explain_row(row("matrix_cosine", low, high, null_low=0.1, null_high=0.2)).endswith(says)


def test_slope_and_alpha() -> None:
    assert explain_row(row("slope", 0.9, 1.1)).endswith(
        "1, as C = H has, is not excluded; gamma says whether it holds along each"
    )
    assert explain_row(row("slope", 1.2, 1.4)).endswith("more noise than C = H")
    assert explain_row(row("slope", 0.2, 0.4)).endswith("less noise than C = H")
    assert "read the robust rows" in explain_row(row("alpha", 1.2, 1.4, null_low=1.9, null_high=2.0))


def test_without_a_null_or_an_interval_there_is_the_meaning_alone() -> None:
    assert explain_row(row("trace_h", 1.0, 2.0)) == MEANINGS["trace_h"]
    assert explain_row(row("gamma")) == MEANINGS["gamma"]


def test_a_row_without_a_value_says_why() -> None:
    failed = row("gamma", status="too_few_draws", reason="3 draws")
    assert explain_row(failed) == "too_few_draws: 3 draws"


def test_a_sharpness_says_its_radius() -> None:
    measured = row("sharpness", 0.1, 0.2, method="mean over 16 antithetic pairs, radius 0.01; Student's interval")
    assert explain_row(measured) == f"{MEANINGS['sharpness']}: mean over 16 antithetic pairs, radius 0.01"
