"""Where a command's data comes from: an analyzer, or a dump on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradnoise.cli._exit import CommandError, Exit
from gradnoise.cli._output import note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradnoise.analyzer.report import AnalysisOptions
    from gradnoise.analyzer.tables import WindowTables
    from gradnoise.client import Client
    from gradnoise.wire import Dump

__all__ = [
    "add_endpoint",
    "connect",
    "dump_alignment",
    "dump_path",
    "dump_rows",
    "examine",
    "open_dump",
    "report_problems",
    "steps",
]


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """Add ``--endpoint`` to a command that asks an analyzer; unset it is None: the client knows the default."""
    parser.add_argument(
        "--endpoint", metavar="HOST:PORT", help="the analyzer (default: $GRADNOISE_ENDPOINT, else localhost:50051)"
    )


def connect(args: argparse.Namespace) -> Client:
    """Return a client of the analyzer."""
    from gradnoise.client import Client

    return Client(args.endpoint)


def dump_path(run: str) -> Path | None:
    """Return the path if RUN means a dump: a directory with a ``run.json``, or anything written as a path."""
    path = Path(run)
    return path if (path / "run.json").is_file() or "/" in run else None


def open_dump(path: Path) -> Dump:
    """Open a dump; one that is not there is an error of its own."""
    from gradnoise.wire import Dump

    if not path.exists():
        raise CommandError(Exit.FAILED, f"there is no dump at {path}: give the directory that the collector wrote")
    return Dump(path)


def dump_rows(args: argparse.Namespace, dump: Dump) -> Iterator[dict[str, Any]]:
    """Yield the results of a dump's windows that the arguments ask for: ``form``, ``group``, ``steps``, ``follow``."""
    if args.group not in (None, "*"):
        try:
            dump.info.group(args.group)
        except KeyError as error:
            raise CommandError(Exit.FAILED, error.args[0]) from None
    from gradnoise.analyzer.analysis import AnalysisOptions, Plan
    from gradnoise.wire.results import FORMS

    options = AnalysisOptions(Plan.LIVE if args.form in (None, *FORMS) else Plan.FULL)
    for tables in _tables(args, dump, options):
        for row in tables.tail.to_pylist():
            if args.form in (None, row["form"]) and args.group in (None, row["group"]):
                yield row


def dump_alignment(args: argparse.Namespace, dump: Dump) -> Iterator[dict[str, Any]]:
    """Yield the alignment rows that the arguments ask for: ``part``, ``metric``, ``steps``, ``follow``.

    Raises:
        CommandError: there is no such metric, or, at the end, the dump has no such part.
    """
    from gradnoise.analyzer.aligning import METRICS
    from gradnoise.analyzer.analysis import AnalysisOptions

    if args.metric is not None and args.metric not in METRICS:
        raise CommandError(Exit.FAILED, f"no metric {args.metric!r}; the metrics are: {', '.join(METRICS)}")
    parts = dict.fromkeys(["*", *(group.name for group in dump.info.groups)])
    for tables in _tables(args, dump, AnalysisOptions(tail=False)):
        for row in tables.alignment.to_pylist():
            parts[row["part"]] = None
            if args.metric in (None, row["metric"]) and args.part in (None, row["part"]):
                yield row
    if args.part is not None and args.part not in parts:
        raise CommandError(Exit.FAILED, f"no part {args.part!r} in {dump.path}; its parts are: {', '.join(parts)}")


def _tables(args: argparse.Namespace, dump: Dump, options: AnalysisOptions) -> Iterator[WindowTables]:
    from gradnoise.analyzer.batch import analyse_dump, follow_dump

    return follow_dump(dump, options) if args.follow else analyse_dump(dump, options, steps=args.steps)


def examine(dump: Dump) -> None:
    """Read everything in a dump, so that ``dump.problems`` says all that is wrong with it."""
    from gradnoise.wire import Table

    for producer in dump.producers():
        for table in Table:
            for _ in dump.batches(table, producer):
                pass


def report_problems(dump: Dump) -> Exit:
    """Say what of a dump could not be read; return the exit code that follows."""
    for problem in dump.problems:
        note(f"{problem.kind}: {problem.table} of producer {problem.producer[:8]}: {problem.detail}")
    return Exit.CORRUPT if dump.problems else Exit.DONE


def steps(text: str) -> tuple[int | None, int | None]:
    """Parse ``A:B``, ``A:``, ``:B`` or ``A``: the first and the last step, both included."""
    first, colon, last = text.partition(":")
    try:
        begin = int(first) if first else None
        end = (int(last) if last else None) if colon else begin
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B with steps A and B") from None
    if (begin is None and end is None) or (begin is not None and end is not None and begin > end):
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B with steps A and B, A not behind B")
    return begin, end
