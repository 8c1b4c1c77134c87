"""``gradnoise analyze``: the batch engine over a dump."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradnoise.cli._exit import CommandError, Exit
from gradnoise.cli._output import emit_json, note
from gradnoise.cli._source import open_dump, report_problems, steps
from gradnoise.cli._tail import print_tail

if TYPE_CHECKING:
    import pyarrow as pa

    from gradnoise.analyzer.tables import WindowTables
    from gradnoise.wire import Dump

__all__ = ["add"]

_CONTRASTS = ("auto", "full", "pair", "mean", "difference", "ema")
_PLANS = ("live", "full")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "analyze",
        parents=[common],
        help="analyse a dump here, without an analyzer",
        description="Analyses every closed window of a dump and prints its tails, or writes them with --out.",
    )
    parser.add_argument("dump", type=Path, metavar="DUMP", help="a dump's directory")
    parser.add_argument("--out", type=Path, metavar="FILE.parquet", help="write the results there, as Parquet")
    parser.add_argument(
        "--alignment",
        type=Path,
        metavar="FILE.parquet",
        help="write there, as Parquet, what was measured of the curvature, and the noise scales, which 'gradnoise "
        "align DUMP' prints",
    )
    parser.add_argument(
        "--contrast",
        choices=_CONTRASTS,
        default="auto",
        help="what noise is measured against: the full gradient of a pass over the data, half-differences of pairs of "
        "draws, the mean of the draws, successive differences, or an exponential average of the draws before; auto: "
        "the full gradient where it was recorded, else pairs (default: %(default)s)",
    )
    parser.add_argument(
        "--plan",
        choices=_PLANS,
        default="live",
        help="live: three forms; full: three more, and the heaviness across parameters taken apart, in about three "
        "times the time (default: %(default)s)",
    )
    parser.add_argument("--steps", type=steps, metavar="A:B", help="only windows that overlap these steps")
    parser.add_argument("--threads", type=int, metavar="N", help="windows at one time (default: the cores)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    from gradnoise.wire.results import CURVATURE_KINDS

    if args.threads is not None and args.threads < 1:
        raise CommandError(Exit.USAGE, f"--threads is {args.threads}: expected 1 or more")
    for option, out in (("--out", args.out), ("--alignment", args.alignment)):
        if out is not None and out.suffix != ".parquet":
            raise CommandError(Exit.USAGE, f"{option} {out}: results are written as Parquet; expected FILE.parquet")
        if out is not None and not out.parent.is_dir():
            raise CommandError(Exit.FAILED, f"{option}: there is no directory {out.parent}")
    dump = open_dump(args.dump)
    tables = _analyse(args, dump)
    table = tables.tail
    code = report_problems(dump)
    _note_events(dump)
    if args.alignment is not None:
        _write(tables.alignment, args.alignment)
        note(f"{tables.alignment.num_rows} rows of alignment in {args.alignment}")
    if args.out is not None:
        _write(table, args.out)
        summary: dict[str, Any] = {
            "run": dump.info.run,
            "windows": len(set(zip(*(table.column(name).to_pylist() for name in ("producer", "window")), strict=True))),
            "rows": table.num_rows,
            "out": str(args.out),
        }
        if args.json:
            emit_json(summary)
        else:
            note(f"{summary['rows']} rows of {summary['windows']} windows of run {summary['run']} in {args.out}")
    else:
        print_tail(table.to_pylist(), as_json=args.json)
    measured = tables.alignment.filter(pc.is_in(tables.alignment.column("kind"), pa.array(CURVATURE_KINDS)))
    if measured.num_rows and args.alignment is None:
        note(f"the dump holds measurements of the curvature: gradnoise align {args.dump}")
    values = table.column("alpha").drop_null().length() + measured.column("value").drop_null().length()
    if code is Exit.DONE and not values:
        note("no window carries an estimate" if tables.num_rows else "the dump holds no closed window")
        return Exit.TOO_LITTLE
    return code


def _note_events(dump: Dump) -> None:
    """Say what the collector had to say of the recording: a result may have to be read with it."""
    from gradnoise.wire import Table

    counts: Counter[str] = Counter()
    for producer in dump.producers():
        for stamped in dump.batches(Table.EVENTS, producer):
            counts.update(stamped.batch.column("kind").to_pylist())
    if counts:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))
        note(f"events while recording: {kinds}; in words: gradnoise show {dump.path}")


def _analyse(args: argparse.Namespace, dump: Dump) -> WindowTables:
    import pyarrow as pa
    from tqdm import tqdm

    from gradnoise.analyzer.analysis import AnalysisOptions, Contrast, Plan
    from gradnoise.analyzer.batch import analyse_dump, count_windows
    from gradnoise.analyzer.tables import WindowTables
    from gradnoise.wire.results import ALIGNMENT_SCHEMA, TAIL_SCHEMA

    options = AnalysisOptions(Plan(args.plan), Contrast(args.contrast))
    tables = analyse_dump(dump, options, steps=args.steps, threads=args.threads)
    found = list(tqdm(tables, total=count_windows(dump, args.steps), unit="window", desc="analyse", leave=False))
    return WindowTables(
        pa.concat_tables([TAIL_SCHEMA.empty_table(), *(each.tail for each in found)]),
        pa.concat_tables([ALIGNMENT_SCHEMA.empty_table(), *(each.alignment for each in found)]),
    )


def _write(table: pa.Table, out: Path) -> None:
    from pyarrow import parquet

    draft = out.with_name(f".{out.name}.part")  # an interrupted run leaves an earlier result whole
    try:
        parquet.write_table(table, draft, compression="zstd")
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
