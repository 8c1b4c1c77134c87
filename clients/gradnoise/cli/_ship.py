"""``gradnoise ship``: samples to an analyzer, from one dump by hand or from all that appear in a directory."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from gradnoise.cli._exit import Exit
from gradnoise.cli._output import aligned, emit, emit_json, note
from gradnoise.cli._source import add_endpoint, open_dump

if TYPE_CHECKING:
    from gradnoise.collector.shipper import ProducerReport, WatchReport

__all__ = ["add"]

_COLUMNS = ("batches sent", "rows there")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return value


def _streams(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 64):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of streams, 1 to 64")
    return int(text)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ship",
        parents=[common],
        help="send dumps to an analyzer",
        description=(
            "Sends what the analyzer does not have yet. A run that is still recording is followed to its end. With "
            "--watch one process does so for every dump that is, or appears, in a directory, until SIGTERM or SIGINT."
        ),
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("dump", type=Path, nargs="?", metavar="DUMP", help="a dump's directory")
    what.add_argument("--watch", type=Path, metavar="DIR", help="ship all dumps in DIR, or at most 3 levels below it")
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="give up when the analyzer takes nothing for so long (default: %(default)s); --watch gives up only with "
        "--until-done",
    )
    only = parser.add_argument_group("with --watch")
    only.add_argument("--streams", type=_streams, metavar="N", help="streams at a time (default: 16)")
    only.add_argument(
        "--until-done", action="store_true", help="end once everything found is sent and nothing is recording"
    )
    only.add_argument(
        "--metrics", metavar="HOST:PORT", help="serve Prometheus metrics there (needs gradnoise[metrics])"
    )
    add_endpoint(parser)
    parser.set_defaults(run=lambda args: _run(args, parser))


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.watch is not None:
        return _watch(args, parser)
    for name in ("streams", "until_done", "metrics"):
        if getattr(args, name):
            parser.error(f"--{name.replace('_', '-')} goes with --watch")
    from gradnoise.client import default_target
    from gradnoise.collector.shipper import ship

    open_dump(args.dump)
    report = ship(args.dump, args.endpoint or default_target(), grace=args.grace)
    if args.json:
        emit_json(dataclasses.asdict(report))
    else:
        emit(f"run {report.run} at {report.endpoint}")
        rows = [[each.producer, *_numbers(each)] for each in report.producers]
        emit(aligned(["producer", *_COLUMNS], rows, right=_COLUMNS))
    for each in report.producers:
        for problem in each.problems:
            note(f"producer {each.producer[:8]}: {problem}")
    return Exit.DONE if report.complete else Exit.CORRUPT


def _watch(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from gradnoise.client import default_target
    from gradnoise.collector.shipper import DEFAULT_STREAMS, metrics_at, watch

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    expose = None
    if args.metrics is not None:
        expose = metrics_at(args.metrics, ready=lambda url: note(f"gradnoise ship: metrics at {url}"))
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = watch(
            args.watch,
            args.endpoint or default_target(),
            streams=DEFAULT_STREAMS if args.streams is None else args.streams,
            until_done=args.until_done,
            grace=args.grace,
            on_summary=lambda line: note(f"gradnoise ship: {line}"),
            expose=expose,
        )
    finally:
        signal.signal(signal.SIGTERM, previous)
    _show(report, json=args.json)
    return Exit.DONE if report.complete else Exit.UNREACHABLE if report.unreachable else Exit.CORRUPT


def _show(report: WatchReport, *, json: bool) -> None:
    if json:
        emit_json(dataclasses.asdict(report))
        return
    emit(f"{report.done} producers whole at {report.endpoint}, {report.failed} not")
    rows = [[dump.run or dump.dump, each.producer, *_numbers(each)] for dump in report.dumps for each in dump.producers]
    if rows:
        emit(aligned(["run", "producer", *_COLUMNS], rows, right=_COLUMNS))


def _numbers(report: ProducerReport) -> tuple[str, str]:
    return str(report.batches), str(report.rows)
