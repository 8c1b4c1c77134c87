"""From a row of results to named numbers at a step."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from gradnoise.analyzer.explain_alignment import READABLE, explain_row
from gradnoise.wire.results import MODEL_GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["ALIGNMENT_NUMBERS", "NUMBERS", "WHOLE_MODEL", "Scalars", "Target", "scalars_of"]

NUMBERS = ("alpha", "alpha_low", "alpha_high", "null_alpha", "scale")
"""The columns of a tail row that are exported, where they are not null."""

ALIGNMENT_NUMBERS = ("value", "low", "high", "null_value")
"""Those of an alignment row."""

WHOLE_MODEL = "whole_model"
"""How the group ``*`` is called where a star is not allowed."""

# What all three tools take in a name; MLflow takes no more than this.
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_\-. /]")


@dataclass(frozen=True, slots=True)
class Scalars:
    """What is exported of one row: one window, group and form, or part and metric.

    Attributes:
        run, producer: which training process; every pair of them is a run of its own in the tools.
        name: ``gradnoise/<form>/<group>/<kind>``: kinds (burst, probe, microbatch) are kept apart, for they measure at
            moving and at frozen parameters. Of alignment ``gradnoise/<metric>/<part>/<kind>``, with the number of the
            eigenvector behind the metric where it has one.
        step: the window's last step.
        time: when the window was analysed, seconds since 1970.
        numbers: those of :data:`NUMBERS`, or :data:`ALIGNMENT_NUMBERS`, that are there.
        verdict: in words, with the status where it is not ok; of alignment what the number says.
    """

    run: str
    producer: str
    name: str
    step: int
    time: float
    numbers: Mapping[str, float]
    verdict: str


class Target(Protocol):
    """Where scalars are written; a context manager that finishes what it began."""

    def write(self, scalars: Scalars) -> int:
        """Write what is not there yet; return how many numbers were written."""

    def close(self) -> None:
        """Finish; idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def scalars_of(row: Mapping[str, Any]) -> Scalars | None:
    """Return what is exported of a row of ``TAIL_SCHEMA`` or ``ALIGNMENT_SCHEMA``, by column name.

    None for one not to be taken as it is.
    """
    if row["status"] not in READABLE:
        return None
    if "metric" in row:
        metric = row["metric"] if row["index"] is None else f"{row['metric']}-{row['index']}"
        return _scalars(row, metric, row["part"], ALIGNMENT_NUMBERS, explain_row(row))
    verdict = row["verdict"] if row["status"] == "ok" else f"{row['verdict']} ({row['status']})"
    return _scalars(row, row["form"], row["group"], NUMBERS, verdict)


def _scalars(row: Mapping[str, Any], what: str, of: str, numbers: tuple[str, ...], verdict: str) -> Scalars:
    of = WHOLE_MODEL if of == MODEL_GROUP else _FORBIDDEN.sub("-", of)
    return Scalars(
        run=row["run"],
        producer=row["producer"],
        name=f"gradnoise/{what}/{of}/{row['kind']}",
        step=row["last_step"],
        time=row["analysed_at"].timestamp(),
        numbers={name: row[name] for name in numbers if row[name] is not None and math.isfinite(row[name])},
        verdict=verdict,
    )
