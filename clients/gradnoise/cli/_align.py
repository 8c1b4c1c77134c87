"""``gradnoise align``: how a run's noise lies to its curvature, stored, live, or computed from a dump."""

from __future__ import annotations

import argparse
from itertools import groupby
from typing import TYPE_CHECKING, Any

from gradnoise.cli._exit import Exit
from gradnoise.cli._live import follow
from gradnoise.cli._output import aligned, emit, emit_json, note, one_line_of
from gradnoise.cli._source import (
    add_endpoint,
    connect,
    dump_alignment,
    dump_path,
    examine,
    open_dump,
    report_problems,
    steps,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["LEGEND", "add", "alignment_table", "print_alignment"]

_HEADER = ("metric", "value [95 %]", "null [95 %]", "n", "what it says")
_LIVE_HEADER = ("steps", "kind", "part", *_HEADER)
_LIVE_WIDTHS = (11, 12, 16, 26, 30, 24, 5, 12)
_RIGHT = ("n",)
_SHOWN = 5
LEGEND = (
    "null: what the metric reads where noise and curvature have nothing to do with each other. v_i, lambda_i: the "
    "leading eigenvectors\nand eigenvalues of H; c_ii: the noise's variance along them; B: examples in a minibatch; C: "
    "covariance of one example's gradient.\nn: how many values it rests on (draws or groups of them, eigenvectors, "
    "probe vectors). '*': the whole model.\ndocs/alignment.md has every formula."
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "align",
        parents=[common],
        help="print how a run's noise lies to the curvature of its loss, and its noise scales",
        description="Prints what measurements of the curvature found, part by part, each number with its interval, "
        "beside what it would read if noise and curvature had nothing to do with each other; and the noise scales of "
        "every other window.",
    )
    parser.add_argument("name", metavar="RUN", help="a run id, or a dump's path")
    parser.add_argument("--part", help="only this part of the model, as it was measured; '*' is the whole model")
    parser.add_argument("--metric", help="only this metric, such as gamma; a name that is none is told all")
    parser.add_argument("--steps", type=steps, metavar="A:B", help="only windows that overlap these steps")
    parser.add_argument(
        "--follow", "--watch", "-f", action="store_true", help="go on with new rows as windows are analysed"
    )
    add_endpoint(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    path = dump_path(args.name)
    if path is not None:
        return _from_dump(args, path)
    with connect(args) as client:
        if args.follow:
            return _follow(args, client.watch_alignment(args.name, args.part, args.metric, args.steps))
        table = client.alignment(args.name, args.part, args.metric, args.steps)
    return print_alignment(table.to_pylist(), whole=args.metric is not None, as_json=args.json)


def _from_dump(args: argparse.Namespace, path: Path) -> int:
    dump = open_dump(path)
    rows = dump_alignment(args, dump)
    if args.follow:
        ended = _follow(args, rows)
        examine(dump)  # following does not judge: what is unfinished may still be finished
    else:
        ended = print_alignment(rows, whole=args.metric is not None, as_json=args.json)
    return report_problems(dump) or ended


def _follow(args: argparse.Namespace, rows: Iterable[dict[str, Any]]) -> Exit:
    return follow(
        args,
        rows,
        cells=lambda row: (_steps(row), row["kind"], row["part"], *_cells(row)),
        remarks=lambda row: ((warning, f"warning: {one_line_of(warning)}") for warning in row["warnings"]),
        legend=LEGEND,
        header=_LIVE_HEADER,
        right=_RIGHT,
        least=_LIVE_WIDTHS,
    )


def print_alignment(rows: Iterable[Mapping[str, Any]], *, whole: bool, as_json: bool) -> Exit:
    """Print rows of alignment.

    Unless ``whole``, of metrics that every eigenvector has only the first few, and of an ordinary window only the whole
    model's noise scales, where there are any: a network has hundreds of groups.
    """
    if as_json:
        for row in rows:
            emit_json(dict(row))
        return Exit.DONE
    text = alignment_table(rows, whole=whole)
    if text:
        emit(text)
        note(LEGEND)
    else:
        note("there is nothing of that: no window was analysed, or none has such a part or metric")
    return Exit.DONE


def alignment_table(rows: Iterable[Mapping[str, Any]], *, whole: bool) -> str:
    """Return rows of alignment as text: one table a measurement and part, oldest first, with its warnings below it."""
    from gradnoise.wire import CurvatureKind
    from gradnoise.wire.results import MODEL_GROUP

    ordered = sorted(rows, key=lambda row: (row["first_step"], row["producer"], row["window"], row["row"]))
    parts: dict[tuple[str, int], set[str]] = {}  # of ordinary windows that are shown by their whole model
    for row in () if whole else ordered:
        if row["kind"] not in set(CurvatureKind):
            parts.setdefault((row["producer"], row["window"]), set()).add(row["part"])
    several = len({row["producer"] for row in ordered}) > 1
    blocks = []
    for _, part in groupby(ordered, key=lambda row: (row["producer"], row["window"], row["part"], row["kind"])):
        found = list(part)
        others = parts.get((found[0]["producer"], found[0]["window"]), set()) - {found[0]["part"]}
        if MODEL_GROUP in others:
            continue
        block = _block(found, whole=whole, several=several)
        if others and found[0]["part"] == MODEL_GROUP:
            block += f"\n{len(others)} groups more: --part shows one, --metric b_simple all"
        blocks.append(block)
    return "\n\n".join(blocks)


def _block(rows: Sequence[Mapping[str, Any]], *, whole: bool, several: bool) -> str:
    first = rows[0]
    title = f"{first['kind']} of {first['part']} ({first['dimension']} parameters) at step {_steps(first)}"
    if first["draws"]:
        title += f", {first['draws']} draws"
    if several:
        title += f", producer {first['producer'][:8]}"
    chosen = [row for row in rows if whole or row["index"] is None or row["index"] < _SHOWN]
    shown = [row for row in chosen if row["value"] is not None or row["low"] is not None]
    lines = [one_line_of(title)]
    if shown:
        lines.append(aligned(_HEADER, [_cells(row) for row in shown], right=_RIGHT))
    if len(chosen) < len(rows):
        names = ", ".join(dict.fromkeys(row["metric"] for row in rows if row not in chosen))
        lines.append(f"{len(rows) - len(chosen)} rows more of {names}: --metric shows all of one")
    reasons = ((f"{row['status']}: {row['reason']}", row) for row in chosen if row not in shown)
    lines += _told(reasons)
    lines += _told((f"warning: {warning}", row) for row in shown for warning in row["warnings"])
    return "\n".join(lines)


def _told(texts: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return each text once, with the metrics that it is said of, unless they are many."""
    found: dict[str, list[str]] = {}
    for text, row in texts:
        found.setdefault(text, []).append(row["metric"])
    return [
        one_line_of(text) + ("" if len(names) > _SHOWN else f" [{', '.join(names)}]")
        for text, names in ((text, list(dict.fromkeys(metrics))) for text, metrics in found.items())
    ]


def _steps(row: Mapping[str, Any]) -> str:
    first, last = row["first_step"], row["last_step"]
    return str(first) if first == last else f"{first}-{last}"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    from gradnoise.analyzer.explain_alignment import explain_row

    return (
        row["metric"] if row["index"] is None else f"{row['metric']} {row['index']}",
        _with_interval(row["value"], row["low"], row["high"]),
        _with_interval(row["null_value"], row["null_low"], row["null_high"]),
        str(row["n"]),
        explain_row(row),
    )


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    shown = "-" if value is None else f"{value:.4g}"
    return shown + ("" if low is None or high is None else f" [{low:.4g}, {high:.4g}]")
