"""The parser, and the one place where errors become exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from gradnoise.cli import _align, _analyze, _demo, _export, _fit, _measure, _runs, _serve, _ship, _tail
from gradnoise.cli._exit import Exit, code_of
from gradnoise.cli._output import note

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_EPILOG = """\
RUN is a run id on an analyzer, or the path of a dump, which then needs no analyzer. The address of the analyzer that
runs, show, tail, align, export and ship ask is --endpoint, else $GRADNOISE_ENDPOINT, else localhost:50051; fit asks
one only where --endpoint is given.

Tables go to standard output, progress and logs to standard error. With --json tables are JSON lines, one object a
row, and everything else is one JSON document; what is not a finite number is null.

exit codes:
  0    done
  1    failed
  2    wrong usage
  3    the analyzer cannot be reached
  4    corrupt or partial input: what is whole was used, the rest was not
  5    too little data
  130  interrupted (Ctrl-C)
"""


# What a command needs beside the base install; of the others none needs more than the analyzer's extra.
_EXTRAS = {"demo": "demo", "measure": "torch,analyzer"}


# Commands that run a training's own code, whose threads are its own business.
_TRAINING = ("demo", "measure")


def _version() -> str:
    from importlib.metadata import version

    return version("gradnoise")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(f"gradnoise {_version()}\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="gradnoise",
        description="Measure the tails of minibatch gradient noise while you train.",
        epilog=_EPILOG,
        formatter_class=shape,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON instead of tables")
    for module in (_demo, _serve, _ship, _runs, _tail, _align, _measure, _analyze, _export, _fit):
        module.add(commands, common)
    for command in commands.choices.values():
        command.epilog, command.formatter_class = _EPILOG, shape
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; ``--help``, ``--version`` and wrong usage raise SystemExit.

    Args:
        argv: the arguments; by default the process's.
    """
    args = _parser().parse_args(argv)
    if args.command not in _TRAINING:
        # Before NumPy is loaded. Windows are analysed side by side, and their matrices are small: on a busy machine
        # the threads of one wait for each other (20 ms of eigenvalues took 2 s).
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return int(args.run(args))
    except BrokenPipeError:
        # Whoever read has enough. Python's own flush at exit must not find the pipe broken again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception as error:
        code = code_of(error)
        if code is None:
            raise
        note(f"gradnoise {args.command}: {_message(error, args.command)}")
        return code


def _message(error: Exception, command: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get(command, "analyzer")
        return f"this command needs {error.name}, which is not installed: pip install 'gradnoise[{extra}]'"
    return str(error)
