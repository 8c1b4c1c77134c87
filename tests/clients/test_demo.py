"""What the demo prints at its end, from literal results; the whole of it runs in the end-to-end tests."""

from __future__ import annotations

from typing import Any

import pytest

from gradnoise.cli import _demo
from gradnoise.cli._tail import LEGEND
from gradnoise.wire.results import FORMS, TAIL_SCHEMA


def rows(alpha: float, verdict: str, *, reason: str = "") -> list[dict[str, Any]]:
    """One window: a group and the whole model in every form, all with the same reading."""
    reading = {
        "producer": "a" * 32, "window": 601, "kind": "probe", "first_step": 300, "last_step": 300, "thetas": 1,
        "size": 64, "reference": "pair", "draws": 512, "dropped": 0, "alpha": alpha, "alpha_low": alpha - 0.05,
        "alpha_high": alpha + 0.05, "null_alpha": 1.99, "scale": 0.015625, "sums": "unclear", "verdict": verdict,
        "gaussian_rejected": verdict != "gaussian",
        "status": "ok", "reason": reason,
    }  # fmt: skip
    return [
        dict.fromkeys(TAIL_SCHEMA.names) | reading | {"group": group, "form": form}
        for group in ("0.weight", "*")
        for form in FORMS
    ]


def test_the_demo_prints_a_table_a_run_and_what_they_show_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "the first run's reason"
    _demo._print({"sgd-32": rows(1.3, "stable", reason=reason), "adam-128": rows(1.9, "gaussian")}, 300)
    out, err = capsys.readouterr()
    assert err == ""
    first, rest = out.split("\nadam-128: ADAM, batch size 128, probe at step 300\n")
    second, words = rest.split("\nWhat the tables show\n")
    assert first.startswith("\nsgd-32: SGD, batch size 32, probe at step 300\n")
    assert reason in first
    assert reason not in second
    for text, interval in ((first, "1.30 [1.25, 1.35]"), (second, "1.90 [1.85, 1.95]")):
        header, *lines = [line for line in text.splitlines() if interval in line or line.startswith("window")]
        for name in ("group", "form", "draws", "alpha [95 %]", "x4", "x16", "scale", "status", "verdict"):
            assert name in header
        assert [line.split()[2] for line in lines] == ["0.weight"] * 3 + ["*"] * 3
        assert all("512" in line and "1.56e-02" in line for line in lines)
    assert LEGEND in second
    one, other, together = (line for line in words.splitlines() if line)
    assert one.startswith(
        "- sgd-32: per parameter the noise reads α = 1.30 [1.25, 1.35]: not Gaussian, and as a stable law"
    )
    assert other.startswith("- adam-128: per parameter the noise reads α = 1.90 [1.85, 1.95]: ")
    assert together.startswith("- Side by side, per parameter: sgd-32 1.30, adam-128 1.90. sgd-32 is furthest")
