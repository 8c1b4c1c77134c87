"""``gradnoise measure``: the curvature at a checkpoint, and how the noise lies to it, from a script's factory."""

from __future__ import annotations

import argparse
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradnoise.cli._align import print_alignment
from gradnoise.cli._exit import CommandError, Exit
from gradnoise.cli._output import note
from gradnoise.cli._script import from_factory, load_checkpoint, one_line
from gradnoise.cli._source import dump_alignment, open_dump, report_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["add"]

_NEEDS = ("torch", "numba", "scipy")
_ORDERS = ("algebraic", "magnitude")
_MATRICES = ("hessian", "gauss_newton")
_METHODS = ("auto", "double_backward", "finite_differences")
_MODES = ("eval", "train", "as_is")
_OPTIONS = ("top", "draws", "order", "matrix", "method", "mode", "probes", "dense", "seed")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "measure",
        parents=[common],
        help="measure the curvature of a model's loss, and the noise along it, here",
        description="Calls FACTORY() in SCRIPT, which returns (model, loss_fn, data) or a mapping of the arguments of "
        "gradnoise.collector.curvature.measure_curvature; loads a checkpoint into the model, if one is given; "
        "measures, and prints how the noise lies to the curvature. Options given here come before those of the "
        "mapping.",
    )
    parser.add_argument("factory", metavar="SCRIPT:FACTORY", help="a file train.py or a module, and a function in it")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="a state dict that torch.save wrote")
    parser.add_argument("--key", help="the entry of the checkpoint that is the state dict")
    parser.add_argument(
        "--dump", type=Path, metavar="DIR", help="keep the measurement there, beside earlier ones of the same run"
    )
    parser.add_argument("--run", dest="run_id", metavar="RUN", help="with --dump: the run's id (default: DIR's name)")
    parser.add_argument("--step", type=int, default=0, help="the step of the training (default: %(default)s)")
    parser.add_argument(
        "--part", dest="parts", action="append", metavar="PATTERN", help="parameters, by name; repeatable"
    )
    parser.add_argument("--top", type=int, metavar="K", help="eigenpairs (default: 20)")
    parser.add_argument("--draws", type=int, metavar="N", help="minibatch gradients (default: 128)")
    parser.add_argument("--order", choices=_ORDERS, help="of the eigenvalues (default: algebraic)")
    parser.add_argument("--matrix", choices=_MATRICES, help="default: hessian")
    parser.add_argument("--method", choices=_METHODS, help="of the products with it (default: auto)")
    parser.add_argument("--mode", choices=_MODES, help="of the model meanwhile (default: eval)")
    parser.add_argument("--probes", type=int, metavar="N", help="random vectors for the traces (default: 16)")
    parser.add_argument("--dense", type=int, metavar="P", help="dense blocks at so many coordinates (default: none)")
    parser.add_argument("--seed", type=int, help="of every random choice (default: 0)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    for name in _NEEDS:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    if args.key is not None and args.checkpoint is None:
        raise CommandError(Exit.USAGE, "--key names an entry of a checkpoint: give --checkpoint too")
    if args.run_id is not None and args.dump is None:
        raise CommandError(Exit.USAGE, "--run names the run of a dump: give --dump too")
    if args.step < 0:
        raise CommandError(Exit.USAGE, f"--step {args.step}: expected a whole number of at least 0")
    if args.dump is not None:
        _check_dump(args.dump, args.run_id)
    given = from_factory(args.factory)
    if args.checkpoint is not None:
        load_checkpoint(given["model"], args.checkpoint, args.key)
    given |= {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    if args.parts is not None:
        given["parts"] = tuple(args.parts)
    if args.dump is not None:
        return _measured(args, given, args.dump)
    with tempfile.TemporaryDirectory(prefix="gradnoise-measure-") as directory:
        return _measured(args, given, Path(directory) / "measurement")


def _check_dump(path: Path, run: str | None) -> None:
    """Find out before the measurement, which may take hours, that it could not be kept."""
    from gradnoise.wire import check_run_id

    if not (path / "run.json").is_file():
        check_run_id(path.absolute().name if run is None else run)
        path.mkdir(parents=True, exist_ok=True)
        return
    there = open_dump(path).info.run
    if run not in (None, there):
        raise CommandError(Exit.FAILED, f"{path} holds run {there!r}; give --run {there} or none, or another --dump")


def _measured(args: argparse.Namespace, given: Mapping[str, Any], path: Path) -> int:
    """Measure, write the measurement into a dump, and print what of it the analysis of that dump finds."""
    from gradnoise.collector.curvature import measure_curvature, record_curvature

    with one_line(args.factory):
        rows = measure_curvature(**given)
    for row in rows:
        note(f"{row.part}: {row.products} products in {row.seconds:.1f} s")
    before = set(open_dump(path).producers()) if (path / "run.json").is_file() else set()
    record_curvature(rows, path, run=args.run_id, step=args.step, model=given["model"])
    dump = open_dump(path)
    asked = argparse.Namespace(part=None, metric=None, steps=(args.step, args.step), follow=False)
    found = (row for row in dump_alignment(asked, dump) if row["producer"] not in before)
    ended = print_alignment(found, whole=False, as_json=args.json)
    return report_problems(dump) or ended
