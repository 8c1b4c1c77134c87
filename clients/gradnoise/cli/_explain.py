"""What a run's rows say, in sentences whose every word hangs on a number in the table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gradnoise.cli._output import number
from gradnoise.wire.results import MODEL_GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["compare_runs", "explain_run"]

Row = dict[str, Any]

_SAYS = {
    "gaussian": "no different from Gaussian noise",
    "not_gaussian": "not Gaussian",
    "undecided": "neither clearly Gaussian nor clearly not",
}
_MOST, _LITTLE = 0.5, 0.2


def explain_run(run: str, rows: Sequence[Row]) -> str:
    """Return a paragraph on one window's whole-model rows."""
    forms = {row["form"]: row for row in rows if row["group"] == MODEL_GROUP}
    per, across, standard = (forms.get(form) for form in ("per_parameter", "across_parameter", "standardized"))
    if per is None or not _has(per["alpha"]):
        reason = "there is no per-parameter row" if per is None else per["reason"]
        return f"- {run}: no per-parameter value for the whole model: {reason}."
    parts = [f"- {run}: per parameter the noise reads α = {_interval(per)}: {_SAYS[per['verdict']]}."]
    if per["verdict"] != "gaussian" and _has(per["alpha_sum16"]):
        parts.append(_sums(per))
    if across and standard and _has(across["alpha"]) and _has(standard["alpha"]):
        parts.append(_spread(across, standard))
    return " ".join(parts)


def compare_runs(tables: Mapping[str, Sequence[Row]]) -> str:
    """Return a line that sets the runs' whole-model per-parameter readings side by side."""
    values = {}
    for run, rows in tables.items():
        for row in rows:
            if row["group"] == MODEL_GROUP and row["form"] == "per_parameter" and _has(row["alpha"]):
                values[run] = row
    if len(values) < 2:
        return ""
    ordered = sorted(values.items(), key=lambda item: item[1]["alpha"])
    (low, first), (high, last) = ordered[0], ordered[-1]
    line = "- Side by side, per parameter: " + ", ".join(f"{run} {number(row['alpha'])}" for run, row in ordered)
    if first["alpha_high"] < last["alpha_low"]:
        return f"{line}. {low} is furthest from Gaussian and {high} nearest; their intervals do not meet."
    return f"{line}. The intervals of the lowest and the highest overlap: no order can be told."


def _sums(row: Row) -> str:
    """What sums of 16 draws say about a law that is not Gaussian."""
    alpha, of16, gaussian = row["alpha"], row["alpha_sum16"], row["null_alpha_sum16"]
    climbed = (of16 - alpha) / (gaussian - alpha) if gaussian > alpha else math.nan
    reading = f"Sums of 16 draws read {number(of16)} (Gaussian noise there: {number(gaussian)})"
    if climbed >= _MOST:
        return f"{reading}, most of the way there, as noise of finite variance does and a stable law does not."
    if climbed <= _LITTLE:
        return f"{reading}, about where single draws are, as a stable law would."
    return f"{reading}, part of the way there: neither flat, as a stable law would be, nor settled."


def _spread(across: Row, standard: Row) -> str:
    """How much of the across-parameter reading is a spread of scales."""
    low, gaussian = across["alpha"], across["null_alpha"]
    text = f"Across parameters the same draws read {number(low)}, with every parameter on its own scale "
    text += number(standard["alpha"])
    share = (standard["alpha"] - low) / (gaussian - low) if gaussian > low else 0.0
    if share < _LITTLE:
        return f"{text}: here the spread of scales explains little of it."
    return f"{text}: {min(share, 1.0):.0%} of the distance to Gaussian is only a spread of scales."


def _has(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _interval(row: Row) -> str:
    return f"{number(row['alpha'])} [{number(row['alpha_low'])}, {number(row['alpha_high'])}]"
