"""``gradnoise runs`` and ``gradnoise show``: what there is."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gradnoise.cli._exit import Exit
from gradnoise.cli._output import aligned, emit, emit_json
from gradnoise.cli._source import add_endpoint, connect, dump_path, examine, open_dump, report_problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from gradnoise.wire import Dump, RunInfo

__all__ = ["add"]

_RUN_NUMBERS = ("groups", "parameters", "producers", "windows", "analysed", "draws", "bytes", "problems")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    runs = commands.add_parser("runs", parents=[common], help="list the runs on an analyzer")
    add_endpoint(runs)
    runs.set_defaults(run=_runs)
    show = commands.add_parser(
        "show", parents=[common], help="what is known of a run: its groups, windows and what is wrong with it"
    )
    show.add_argument("name", metavar="RUN", help="a run id, or a dump's path")
    add_endpoint(show)
    show.set_defaults(run=_show)


def _runs(args: argparse.Namespace) -> int:
    with connect(args) as client:
        rows = client.runs().to_pylist()
    if args.json:
        for row in rows:
            emit_json(row)
    else:
        header = ["run", "model", "created", *_RUN_NUMBERS]
        emit(aligned(header, [[str(row[name]) for name in header] for row in rows], right=_RUN_NUMBERS))
    return Exit.DONE


def _show(args: argparse.Namespace) -> int:
    from gradnoise.wire.results import FORMS, MODEL_GROUP

    path = dump_path(args.name)
    if path is not None:
        return _show_dump(path, as_json=args.json)
    with connect(args) as client:
        run, info = client.run(args.name), client.info(args.name)
        windows = client.tail(args.name, form=FORMS[0], group=MODEL_GROUP).to_pylist()  # one row each
        windows += _measured(client.alignment(args.name, metric="loss").to_pylist())
    windows.sort(key=lambda row: (row["producer"], row["first_step"], row["window"]))
    _print(run | _details(info), _groups(info), windows, as_json=args.json)
    return Exit.DONE


def _measured(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the windows that hold measurements of the curvature: of each part there is one loss."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        window = row | {"kind": "curvature", "dropped": 0, "non_finite": 0}
        known = found.setdefault((row["producer"], row["window"]), window)
        known["draws"] = max(known["draws"], row["draws"])
    return list(found.values())


def _show_dump(path: Path, *, as_json: bool) -> int:
    from gradnoise.analyzer.assembly import closed_windows
    from gradnoise.analyzer.ranks import joined, merged
    from gradnoise.wire import producer_is_alive

    dump = open_dump(path)
    info = dump.info
    producers = dump.producers()
    found = joined(window for producer in producers for window in closed_windows(dump, producer))
    windows = [asdict(merged(ranks)) for ranks in found]
    examine(dump)
    run: dict[str, Any] = {
        "run": info.run,
        "model": info.model,
        "created": info.created,
        "groups": len(info.groups),
        "parameters": sum(group.size for group in info.groups),
        "producers": len(producers),
        "recording": sum(producer_is_alive(path, producer) for producer in producers),
        "windows": len(windows),
        "draws": sum(row["recorded"] for row in windows),
        "bytes": sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file()),
        "problems": len(dump.problems),
        **_details(info),
    }
    measured = _curvature_draws(dump)
    shown = [row | {"draws": measured.get((row["producer"], row["window"]), row["recorded"])} for row in windows]
    _print(run, _groups(info), shown, _events(dump), as_json=as_json)
    return report_problems(dump)


def _curvature_draws(dump: Dump) -> dict[tuple[str, int], int]:
    """Producer and window of every measurement of the curvature -> the draws taken for it."""
    from gradnoise.wire import Table, completed

    found: dict[tuple[str, int], int] = {}
    for producer in dump.producers():
        for each in dump.batches(Table.CURVATURE, producer):
            for row in completed(Table.CURVATURE, each.batch).select(["window", "draws"]).to_pylist():
                key = producer, row["window"]
                found[key] = max(found.get(key, 0), row["draws"] or 0)
    return found


def _events(dump: Dump) -> list[dict[str, Any]]:
    """One row for each kind of event, in the words of the first."""
    from gradnoise.wire import Table, completed

    found: dict[str, dict[str, Any]] = {}
    for producer in dump.producers():
        for each in dump.batches(Table.EVENTS, producer):
            for row in completed(Table.EVENTS, each.batch).to_pylist():
                first = {
                    "event": row["kind"],
                    "times": 0,
                    "count": 0,
                    "first_step": row["step"],
                    "detail": row["detail"],
                }
                kind = found.setdefault(row["kind"], first)
                kind["times"] += 1
                kind["count"] += row["count"]
    return list(found.values())


def _details(info: RunInfo) -> dict[str, Any]:
    return {f"plan.{name}": value for name, value in info.plan.items()} | {
        f"version.{name}": value for name, value in info.versions.items()
    }


def _groups(info: RunInfo) -> list[dict[str, Any]]:
    return [
        {"group": g.name, "size": g.size, "coordinates": len(g.indices), "shape": list(g.shape), "dtype": g.dtype}
        for g in info.groups
    ]


def _print(
    run: Mapping[str, Any],
    groups: list[dict[str, Any]],
    windows: Iterable[Mapping[str, Any]],
    events: list[dict[str, Any]] | None = None,  # None: not known here
    *,
    as_json: bool,
) -> None:
    columns = ("producer", "window", "kind", "first_step", "last_step", "draws", "dropped", "non_finite")
    shown = [{name: row[name] for name in columns} for row in windows]
    if as_json:
        emit_json(
            {"run": dict(run), "groups": groups, "windows": shown} | ({} if events is None else {"events": events})
        )
        return
    emit(aligned(["", ""], [[name, str(value)] for name, value in run.items()]).lstrip("\n"))
    if groups:
        header = list(groups[0])
        emit("\n" + aligned(header, [[str(g[name]) for name in header] for g in groups], right=["size", "coordinates"]))
    if shown:
        rows = [[row["producer"][:8], *(str(row[name]) for name in columns[1:])] for row in shown]
        emit("\n" + aligned(columns, rows, right=set(columns) - {"producer", "kind"}))
    if events:
        header = list(events[0])
        emit("\n" + aligned(header, [["" if v is None else str(v) for v in e.values()] for e in events]))
