"""``gradnoise tail``: the results of a run, stored, live, or computed from a dump."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gradnoise.cli._exit import Exit
from gradnoise.cli._live import follow
from gradnoise.cli._output import aligned, emit, emit_json, note, number
from gradnoise.cli._source import (
    add_endpoint,
    connect,
    dump_path,
    dump_rows,
    examine,
    open_dump,
    report_problems,
    steps,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["FORM_NAMES", "LEGEND", "add", "print_tail", "tail_table"]

# Names are written out here and in the parser: importing their definition would load pyarrow for a --help.
FORM_NAMES = {
    "per_parameter": "per-param",
    "across_parameter": "across",
    "standardized": "standard.",
    "pooled": "pooled",
    "vector": "vector",
    "projection": "project.",
}
_HEADER = (
    *("window", "steps", "group", "form", "draws", "alpha [95 %]", "gauss", "x4", "x16", "sums", "scale"),
    *("ref", "status", "verdict"),
)
_RIGHT = ("window", "steps", "draws", "x4", "x16", "gauss", "scale")
_LIVE_WIDTHS = (6, 11, 16, 9, 7, 17, 5, 4, 4, 8, 8, 4, 14, 12)
LEGEND = (
    "alpha: stable index (2 is Gaussian). gauss: what exactly Gaussian noise reads here. x4, x16: alpha of sums of 4 "
    "and of 16 draws;\nsums: whether they stay (flat, as a stable law) or climb (finite variance). scale: of one "
    "draw's noise. ref: what noise is measured against.\n'*': the whole model. draws 365/512: 147 of 512 are missing."
)
_NAMED = 3


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tail", parents=[common], help="print a run's tail indices, by window, parameter group and form"
    )
    parser.add_argument("name", metavar="RUN", help="a run id, or a dump's path")
    parser.add_argument("--form", choices=FORM_NAMES, help="only this form; the last three are of the full plan")
    parser.add_argument("--group", help="only this parameter group; '*' is the whole model")
    parser.add_argument("--steps", type=steps, metavar="A:B", help="only windows that overlap these steps")
    parser.add_argument("--follow", "-f", action="store_true", help="go on with new rows as windows are analysed")
    add_endpoint(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    path = dump_path(args.name)
    if path is not None:
        return _from_dump(args, path)
    with connect(args) as client:
        if args.follow:
            return _follow(args, client.watch(args.name, form=args.form, group=args.group))
        table = client.tail(args.name, form=args.form, group=args.group, steps=args.steps)
    print_tail(table.to_pylist(), as_json=args.json)
    return Exit.DONE


def _from_dump(args: argparse.Namespace, path: Path) -> int:
    dump = open_dump(path)
    rows = dump_rows(args, dump)
    if args.follow:
        _follow(args, rows)
        examine(dump)  # following does not judge: what is unfinished may still be finished
    else:
        print_tail(rows, as_json=args.json)
    return report_problems(dump)


def _follow(args: argparse.Namespace, rows: Iterable[dict[str, Any]]) -> Exit:
    return follow(
        args,
        rows,
        cells=_cells,
        remarks=_remarks,
        legend=LEGEND,
        header=_HEADER,
        right=_RIGHT,
        least=_LIVE_WIDTHS,
    )


def _remarks(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if row["reason"]:
        yield row["reason"], f"{_place(row)}: {row['status']}: {row['reason']}"


def print_tail(rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print rows of a tail table."""
    if as_json:
        for row in rows:
            emit_json(dict(row))
        return
    emit(tail_table(rows))
    note(LEGEND)


def tail_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows of a tail table as text, oldest window first, with the reasons of those not to be read as they stand.

    Several producers (processes of a job, or runs that were gone on with) have a column of their own.
    """
    rows = sorted(rows, key=lambda row: (row["producer"], row["first_step"], row["window"]))
    header: tuple[str, ...] = _HEADER
    cells = [_cells(row) for row in rows]
    if len({row["producer"] for row in rows}) > 1:
        header = ("producer", *header)
        cells = [(row["producer"][:8], *line) for row, line in zip(rows, cells, strict=True)]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            reasons.setdefault(f"{row['status']}: {row['reason']}", []).append(_place(row))
    notes = [f"{reason} [{_listed(places)}]" for reason, places in reasons.items()]
    return "\n".join([aligned(header, cells, right=_RIGHT), *([""] if notes else []), *notes])


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['window']} {row['group']} {FORM_NAMES.get(row['form'], row['form'])}"


def _listed(places: Sequence[str]) -> str:
    more = len(places) - _NAMED
    return ", ".join(places[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    alpha = number(row["alpha"])
    if row["alpha_low"] is not None and row["alpha_high"] is not None:
        alpha += f" [{number(row['alpha_low'])}, {number(row['alpha_high'])}]"
    scale = row["scale"]
    return (
        str(row["window"]),
        f"{row['first_step']}-{row['last_step']}",
        row["group"],
        FORM_NAMES.get(row["form"], row["form"]),
        f"{row['draws']}/{row['draws'] + row['dropped']}" if row["dropped"] else str(row["draws"]),
        alpha,
        number(row["null_alpha"]),
        number(row["alpha_sum4"]),
        number(row["alpha_sum16"]),
        row["sums"],
        "-" if scale is None else f"{scale:.2e}",
        row["reference"],
        row["status"],
        _verdict(row),
    )


def _verdict(row: Mapping[str, Any]) -> str:
    rejected = row["verdict"] == "undecided" and row["gaussian_rejected"]
    return "not gaussian, else undecided" if rejected else str(row["verdict"])
