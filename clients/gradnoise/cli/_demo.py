"""``gradnoise demo``: the whole way on real data, and what it shows in plain words."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradnoise.cli._exit import CommandError, Exit
from gradnoise.cli._output import emit, emit_json, note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tqdm import tqdm

    from gradnoise.client import Client

__all__ = ["add"]

RUNS = (("sgd", 32), ("sgd", 128), ("adam", 32), ("adam", 128))
_MARK = ".gradnoise-demo"
_NEEDS = ("grpc_health", "numba", "scipy", "sklearn", "torch", "tqdm")
_ANALYSIS_SECONDS = 600.0

_NEXT = """\
Try next:
  {program} analyze {dumps}/sgd-32 --contrast mean --steps {step}:{step}
      the same minibatches measured against their mean: skew makes it differ from pairs
  {program} tail {dumps}/adam-32 --group 4.weight --form per_parameter
      one group over training; every command that takes a run takes a dump's path and then needs no server
  {program} serve --data {store}
      the demo's analyzer again; then, elsewhere: {program} runs
  attach(model, optimizer)
      one line in your own loop: from gradnoise.collector import attach"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        parents=[common],
        help="train small networks on real data, measure their noise, say what it shows",
        description=(
            "Starts an analyzer on a free loopback port, trains a fully connected network on scikit-learn's digits "
            "with SGD + momentum and with Adam at batch sizes 32 and 128, ships gradient samples while training, and "
            "prints one table a run, from the last probe."
        ),
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-runs"), metavar="DIR", help="dumps and store (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps a run (default: %(default)s)")
    parser.add_argument("--every", type=int, default=100, help="steps between probes (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=512, help="minibatches a probe takes (default: %(default)s)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if not 1 <= args.every <= args.steps:
        raise CommandError(
            Exit.USAGE, f"--every {args.every}: expected 1 to --steps {args.steps}, for at least one probe"
        )
    _check_installed()
    from tqdm import tqdm

    from gradnoise.client import Client

    out = _fresh(args.out)
    probes = args.steps // args.every
    start = time.monotonic()
    with (
        _server(out) as address,
        Client(address) as client,
        tqdm(total=len(RUNS) * args.steps, unit="step", desc="training", leave=False) as bar,
    ):
        for optimizer, batch_size in RUNS:
            bar.set_postfix_str(f"{optimizer} B={batch_size}")
            _train(optimizer, batch_size, address, out / "dumps" / f"{optimizer}-{batch_size}", args, bar)
        windows = _analysed(client, len(RUNS) * (probes + 1), bar)
        step = probes * args.every
        tables = {
            f"{optimizer}-{batch_size}": client.tail(f"{optimizer}-{batch_size}", steps=(step, step)).to_pylist()
            for optimizer, batch_size in RUNS
        }
    if args.json:
        emit_json({"out": str(out), "runs": tables})
        return Exit.DONE
    _print(tables, step)
    program = "gradnoise" if shutil.which("gradnoise") else os.path.relpath(Path(sys.executable).parent / "gradnoise")
    emit(_NEXT.format(program=program, dumps=args.out / "dumps", store=args.out / "store", step=step))
    note(f"{windows} windows of {len(RUNS)} runs in {time.monotonic() - start:.0f} s")
    return Exit.DONE


def _print(tables: dict[str, list[dict[str, Any]]], step: int) -> None:
    from gradnoise.analyzer.explain import compare_runs, explain_run
    from gradnoise.cli._tail import LEGEND, tail_table

    for run, rows in tables.items():
        optimizer, batch_size = run.split("-")
        emit(f"\n{run}: {optimizer.upper()}, batch size {batch_size}, probe at step {step}\n")
        emit(tail_table(rows))
    emit(f"\n{LEGEND}\n\nWhat the tables show\n")
    for run, rows in tables.items():
        emit(explain_run(run, rows))
    emit(compare_runs(tables) + "\n")


def _check_installed() -> None:
    """Find out before anything is begun; the error is the one that the import itself would raise."""
    for name in _NEEDS:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _fresh(path: Path) -> Path:
    """Return an empty directory; one that an earlier demo made is emptied."""
    if path.exists() and not (path / _MARK).exists() and (not path.is_dir() or any(path.iterdir())):
        raise CommandError(
            Exit.USAGE, f"--out {path}: it exists and is not an earlier demo's; give a directory that is new or empty"
        )
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    (path / _MARK).touch()
    return path.absolute()


@contextlib.contextmanager
def _server(out: Path) -> Iterator[str]:
    """Run an analyzer of its own process; yield its address."""
    command = [sys.executable, "-m", "gradnoise.cli", "serve", "--json"]
    command += ["--data", str(out / "store"), "--listen", "127.0.0.1:0"]
    log = out / "analyzer.log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            process.wait()
            raise CommandError(Exit.FAILED, f"the demo's analyzer did not start: see {log}")
        yield json.loads(line)["address"]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _train(optimizer: Any, batch_size: int, address: str, dump: Path, args: argparse.Namespace, bar: tqdm[Any]) -> None:
    import torch

    from gradnoise.cli._digits import job
    from gradnoise.collector import Probe, attach

    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the analyzer works beside it
    work = job(optimizer, batch_size)
    with attach(
        work.model,
        work.optimizer,
        endpoint=address,
        run=dump.name,
        dump=dump,
        probe=Probe(work.probe, draws=args.draws, every=args.every),
        batch_size=batch_size,
    ) as handle:
        for _ in range(args.steps):
            handle.log(loss=work.step())
            bar.update()
        handle.close(timeout=60.0)
    stats = handle.stats()
    if stats.dropped or stats.shipped < stats.recorded:
        note(f"{dump.name}: {stats}")


def _analysed(client: Client, expected: int, bar: tqdm[Any]) -> int:
    """Wait until every window is analysed; return their number."""
    bar.reset(total=expected)
    bar.unit = "window"
    bar.set_description("analysing")
    bar.set_postfix_str("")
    deadline = time.monotonic() + _ANALYSIS_SECONDS
    while True:
        runs = client.runs().to_pylist()
        done, known = sum(run["analysed"] for run in runs), sum(run["windows"] for run in runs)
        bar.total = max(expected, known)
        bar.update(done - bar.n)
        if len(runs) == len(RUNS) and done >= known >= expected:
            return int(done)
        if time.monotonic() > deadline:
            raise CommandError(Exit.FAILED, f"{done} of {expected} windows were analysed in {_ANALYSIS_SECONDS:.0f} s")
        time.sleep(0.1)
