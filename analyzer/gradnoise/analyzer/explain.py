"""What a window's rows say, in sentences whose every word hangs on a number in the table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gradnoise.wire.results import MODEL_GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["compare_runs", "explain_run"]

Row = dict[str, Any]

_SAYS = {
    "gaussian": "close to Gaussian noise",
    "stable": "not Gaussian, and as a stable law in all that was looked at",
    "heavy_finite_variance": "not Gaussian, and not stable: heavy-tailed noise of finite variance",
    "undecided": "neither clearly Gaussian nor clearly not",
}
_GOES = {
    "climbing": "they climb, as those of noise of finite variance do and of a stable law do not",
    "flat": "they stay, as those of a stable law would",
    "unclear": "a stable law and finite variance are both possible",
}


def explain_run(run: str, rows: Sequence[Row]) -> str:
    """Return a paragraph on one window's whole-model rows.

    Args:
        run: what to call the run.
        rows: the window's rows of ``TAIL_SCHEMA``, by column name.
    """
    forms = {row["form"]: row for row in rows if row["group"] == MODEL_GROUP}
    per, across, standard = (forms.get(form) for form in ("per_parameter", "across_parameter", "standardized"))
    if per is None or not _has(per["alpha"]):
        reason = "there is no per-parameter row" if per is None else per["reason"]
        return f"- {run}: no per-parameter value for the whole model: {reason}."
    unnamed = per["verdict"] == "undecided" and per["gaussian_rejected"]
    says = "not Gaussian, but which law it is stays open" if unnamed else _SAYS[per["verdict"]]
    if per["verdict"] == "gaussian" and per["alpha_high"] < per["null_alpha"]:
        says += ", though measurably below it"
    parts = [f"- {run}: per parameter the noise reads α = {_interval(per)}: {says}."]
    if per["gaussian_rejected"] and per["status"] == "ok" and _has(per["alpha_sum16"]):
        parts.append(
            f"Sums of 16 draws read {per['alpha_sum16']:.2f} (Gaussian noise there: {per['null_alpha_sum16']:.2f}): "
            f"{_GOES[per['sums']]}."
        )
    if across and standard and _covered(rows, "across_parameter") == _covered(rows, "standardized"):
        parts += _spread(across, standard)
    return " ".join(parts)


def compare_runs(tables: Mapping[str, Sequence[Row]]) -> str:
    """Return a line that sets the runs' whole-model per-parameter readings side by side; empty for fewer than two.

    Args:
        tables: run -> rows of one window of it.
    """
    values = {
        run: row
        for run, rows in tables.items()
        for row in rows
        if row["group"] == MODEL_GROUP and row["form"] == "per_parameter" and _has(row["alpha"])
    }
    if len(values) < 2:
        return ""
    ordered = sorted(values.items(), key=lambda item: item[1]["alpha"])
    (low, first), (high, last) = ordered[0], ordered[-1]
    line = "- Side by side, per parameter: " + ", ".join(f"{run} {row['alpha']:.2f}" for run, row in ordered)
    if first["alpha_high"] < last["alpha_low"]:
        return f"{line}. {low} is furthest from Gaussian and {high} nearest; their intervals do not meet."
    return f"{line}. The intervals of the lowest and the highest overlap: no order can be told."


def _spread(across: Row, standard: Row) -> list[str]:
    """Say how far the across-parameter reading moves when every parameter is on its own scale."""
    if across["verdict"] == "gaussian" or not (_has(across["alpha"]) and _has(standard["alpha"])):
        return []
    low, own, gaussian = across["alpha"], standard["alpha"], standard["null_alpha"]
    if gaussian <= low:
        return []
    share = min(max((own - low) / (gaussian - low), 0.0), 1.0)
    return [
        f"Across parameters the same draws read {low:.2f}, and {own:.2f} with every parameter on its own scale: "
        f"{share:.0%} of the way to Gaussian."
    ]


def _covered(rows: Sequence[Row], form: str) -> set[str]:
    """Return the groups that have a value in a form: whole-model rows of other groups cannot be compared."""
    return {row["group"] for row in rows if row["form"] == form and row["group"] != MODEL_GROUP and _has(row["alpha"])}


def _has(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _interval(row: Row) -> str:
    return f"{row['alpha']:.2f} [{row['alpha_low']:.2f}, {row['alpha_high']:.2f}]"
