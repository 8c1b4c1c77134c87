"""Rows of results to a target."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradnoise.export._scalars import scalars_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gradnoise.export._scalars import Target

__all__ = ["ExportReport", "export"]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What :func:`export` did.

    Attributes:
        rows: rows of results that were exported, or were there already.
        scalars: numbers written.
        repeated: numbers that were there already, from an earlier export.
        left_out: status -> rows that carry no estimate to be taken as it is.
    """

    rows: int
    scalars: int
    repeated: int
    left_out: Mapping[str, int]


def export(
    rows: Iterable[Mapping[str, Any]], target: Target, *, on_row: Callable[[ExportReport], object] | None = None
) -> ExportReport:
    """Write results to a target, row by row as they come: also those of a watch that never ends.

    Args:
        rows: rows of :data:`gradnoise.wire.results.TAIL_SCHEMA` or :data:`~gradnoise.wire.results.ALIGNMENT_SCHEMA`,
            by column name: ``Client.tail(...).to_pylist()``, ``Client.watch_alignment(...)``, or the tables of
            ``analyse_dump``.
        target: where to.
        on_row: told how far the export is, after each row.

    Raises:
        ExportError: the target refuses.
    """
    taken = written = offered = 0
    left_out: Counter[str] = Counter()
    report = ExportReport(0, 0, 0, {})
    for row in rows:
        scalars = scalars_of(row)
        if scalars is None:
            left_out[row["status"]] += 1
        else:
            taken += 1
            offered += len(scalars.numbers)
            written += target.write(scalars)
        report = ExportReport(taken, written, offered - written, dict(left_out))
        if on_row is not None:
            on_row(report)
    return report
