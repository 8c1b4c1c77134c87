"""``--follow``: rows printed as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradnoise.cli._exit import Exit
from gradnoise.cli._output import aligned, emit, emit_json, note

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Row = Mapping[str, Any]

__all__ = ["follow"]


def follow(
    args: argparse.Namespace,
    rows: Iterable[dict[str, Any]],
    *,
    cells: Callable[[Row], Sequence[str]],
    remarks: Callable[[Row], Iterable[tuple[str, str]]],
    legend: str,
    header: Sequence[str],
    right: Iterable[str],
    least: Sequence[int],
) -> Exit:
    """Print rows of the steps asked for, until they end or an interrupt.

    Args:
        args: ``json`` and ``steps``.
        rows: as they come.
        cells: of a row's line.
        remarks: what is to be said above it: a text, and by what it is known, so that it is said once.
        legend: said first.
        header, right, least: of the columns, as for :func:`aligned`.
    """
    from gradnoise.wire.results import overlaps

    try:
        if not args.json:
            note(legend)
            emit(aligned(header, [], right=right, least=least))
        told: set[str] = set()
        for row in rows:
            if not overlaps(args.steps, row["first_step"], row["last_step"]):
                continue
            if args.json:
                emit_json(row)
                continue
            for known_by, text in remarks(row):
                if known_by not in told:
                    told.add(known_by)
                    note(text)
            emit(aligned(header, [cells(row)], right=right, least=least, show_header=False))
    except KeyboardInterrupt:
        note("no longer following")
    return Exit.DONE
