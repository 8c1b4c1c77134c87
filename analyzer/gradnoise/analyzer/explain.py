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
    "gaussian": "no different from Gaussian noise",
    "not_gaussian": "not Gaussian",
    "undecided": "neither clearly Gaussian nor clearly not",
}
_MOST, _LITTLE = 0.5, 0.2


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
    parts = [f"- {run}: per parameter the noise reads α = {_interval(per)}: {_SAYS[per['verdict']]}."]
    if per["verdict"] != "gaussian" and _has(per["alpha_sum16"]):
        parts.append(_sums(per))
    if across and standard and _has(across["alpha"]) and _has(standard["alpha"]):
        parts.append(_spread(across, standard))
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


def _sums(row: Row) -> str:
    """Say what sums of 16 draws read for a law that is not Gaussian: flat for a stable one, else climbing."""
    alpha, of16, gaussian = row["alpha"], row["alpha_sum16"], row["null_alpha_sum16"]
    climbed = (of16 - alpha) / (gaussian - alpha) if gaussian > alpha else math.nan
    reading = f"Sums of 16 draws read {of16:.2f} (Gaussian noise there: {gaussian:.2f})"
    if climbed >= _MOST:
        return f"{reading}, most of the way there, as noise of finite variance does and a stable law does not."
    if climbed <= _LITTLE:
        return f"{reading}, about where single draws are, as a stable law would."
    return f"{reading}, part of the way there: neither flat, as a stable law would be, nor settled."


def _spread(across: Row, standard: Row) -> str:
    """Say how much of the across-parameter reading goes when every parameter is on its own scale."""
    low, gaussian = across["alpha"], across["null_alpha"]
    text = f"Across parameters the same draws read {low:.2f}, with every parameter on its own scale "
    text += f"{standard['alpha']:.2f}"
    share = (standard["alpha"] - low) / (gaussian - low) if gaussian > low else 0.0
    if share < _LITTLE:
        return f"{text}: here the spread of scales explains little of it."
    return f"{text}: {min(share, 1.0):.0%} of the distance to Gaussian is only a spread of scales."


def _has(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _interval(row: Row) -> str:
    return f"{row['alpha']:.2f} [{row['alpha_low']:.2f}, {row['alpha_high']:.2f}]"
