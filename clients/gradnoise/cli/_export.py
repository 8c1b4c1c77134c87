"""``gradnoise export``: results as scalars in TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import TYPE_CHECKING

from gradnoise.cli._exit import CommandError, Exit
from gradnoise.cli._output import emit, emit_json, note
from gradnoise.cli._source import (
    add_endpoint,
    connect,
    dump_alignment,
    dump_path,
    dump_rows,
    examine,
    open_dump,
    report_problems,
    steps,
)
from gradnoise.cli._tail import FORM_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from gradnoise.client import Client
    from gradnoise.export import ExportReport, Target

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export",
        parents=[common],
        help="write a run's results as scalars to TensorBoard, Weights & Biases or MLflow",
        description="Writes alpha, its interval, what Gaussian noise reads and the scale, of every window that carries "
        "an estimate, at the window's last step; with --alignment the numbers that 'gradnoise align' prints. Exporting "
        "again adds to TensorBoard and MLflow what is not there yet; W&B gets a new run each time.",
    )
    parser.add_argument("name", metavar="RUN", help="a run id, or a dump's path")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--tensorboard", metavar="DIR", help="a directory for tensorboard --logdir")
    where.add_argument("--wandb", metavar="PROJECT", help="a project of W&B; WANDB_MODE=offline writes to disk")
    where.add_argument("--mlflow", metavar="URI", help="a tracking URI; the experiment is $MLFLOW_EXPERIMENT_NAME")
    parser.add_argument("--form", choices=FORM_NAMES, help="only this form; the last three are of the full plan")
    parser.add_argument("--group", help="only this parameter group; '*' is the whole model")
    parser.add_argument(
        "--alignment",
        action="store_true",
        help="instead of tail indices, what was measured of the curvature, and the noise scales",
    )
    parser.add_argument("--part", help="with --alignment: only this part of the model")
    parser.add_argument("--metric", help="with --alignment: only this metric")
    parser.add_argument("--steps", type=steps, metavar="A:B", help="only windows that overlap these steps")
    parser.add_argument("--follow", "-f", action="store_true", help="go on with new rows as windows are analysed")
    add_endpoint(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    _check(args)
    path = dump_path(args.name)
    if path is None:
        with connect(args) as client:
            if args.follow:
                return _export(args, _watched(args, client))
            table = (
                client.alignment(args.name, args.part, args.metric, args.steps)
                if args.alignment
                else client.tail(args.name, form=args.form, group=args.group, steps=args.steps)
            )
        return _export(args, table.to_pylist())
    dump = open_dump(path)
    ended = _export(args, dump_alignment(args, dump) if args.alignment else dump_rows(args, dump))
    if args.follow:
        examine(dump)  # following does not judge: what is unfinished may still be finished
    return report_problems(dump) or ended


def _check(args: argparse.Namespace) -> None:
    chosen = {f"--{name}": getattr(args, name) for name in ("form", "group", "part", "metric")}
    for name in ("--form", "--group") if args.alignment else ("--part", "--metric"):
        if chosen[name] is not None:
            raise CommandError(Exit.USAGE, f"{name} is {'not for' if args.alignment else 'for'} --alignment")


def _watched(args: argparse.Namespace, client: Client) -> Iterator[dict[str, Any]]:
    if args.alignment:
        return client.watch_alignment(args.name, args.part, args.metric, args.steps)
    return client.watch(args.name, form=args.form, group=args.group)


def _export(args: argparse.Namespace, rows: Iterable[Mapping[str, Any]]) -> Exit:
    from gradnoise.export import ExportReport, export

    last = ExportReport(0, 0, 0, {})

    def keep(report: ExportReport) -> None:
        nonlocal last
        last = report

    with _target(args) as target:
        try:
            export(_asked_for(args, rows), target, on_row=keep)
        except KeyboardInterrupt:
            if not args.follow:
                raise
            note("no longer following")
    if args.json:
        emit_json(dataclasses.asdict(last))
    else:
        emit(f"{last.scalars} numbers of {last.rows} rows written, {last.repeated} were there already")
        for status, count in sorted(last.left_out.items()):
            note(f"left out: {count} rows with status {status}")
    if not last.rows:
        note("no row carries an estimate" if last.left_out else "there are no results yet")
        return Exit.TOO_LITTLE
    return Exit.DONE


def _asked_for(args: argparse.Namespace, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    from gradnoise.wire.results import overlaps

    return (row for row in rows if overlaps(args.steps, row["first_step"], row["last_step"]))


def _target(args: argparse.Namespace) -> Target:
    from gradnoise.export import MLflow, TensorBoard, WandB

    if args.tensorboard is not None:
        return TensorBoard(args.tensorboard)
    if args.wandb is not None:
        return WandB(args.wandb)
    # Where nothing answers, MLflow by itself tries for minutes before it says so.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    return MLflow(args.mlflow)
