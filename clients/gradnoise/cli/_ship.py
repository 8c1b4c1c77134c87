"""``gradnoise ship``: a dump's samples to an analyzer, by hand."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from gradnoise.cli._exit import Exit
from gradnoise.cli._output import aligned, emit, emit_json, note
from gradnoise.cli._source import add_endpoint, open_dump

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ship",
        parents=[common],
        help="send a dump to an analyzer",
        description="Sends what the analyzer does not have yet. A run that is still recording is followed to its end.",
    )
    parser.add_argument("dump", type=Path, metavar="DUMP", help="a dump's directory")
    parser.add_argument(
        "--grace",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="give up when the analyzer takes nothing for so long (default: %(default)s)",
    )
    add_endpoint(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from gradnoise.client import default_target
    from gradnoise.collector.shipper import ship

    open_dump(args.dump)
    report = ship(args.dump, args.endpoint or default_target(), grace=args.grace)
    if args.json:
        emit_json(dataclasses.asdict(report))
    else:
        rows = [[each.producer, str(each.batches), str(each.rows)] for each in report.producers]
        emit(f"run {report.run} at {report.endpoint}")
        emit(aligned(["producer", "batches sent", "rows there"], rows, right=["batches sent", "rows there"]))
    for each in report.producers:
        for problem in each.problems:
            note(f"producer {each.producer[:8]}: {problem}")
    return Exit.DONE if report.complete else Exit.CORRUPT
