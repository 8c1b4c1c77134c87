"""``gradnoise serve``: the analyzer."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from gradnoise.cli._exit import Exit
from gradnoise.cli._output import emit, emit_json

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        parents=[common],
        help="run an analyzer: take samples in, analyse windows, answer queries",
        description="Runs until SIGTERM or SIGINT. Once it serves it prints one line with its address.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where everything is kept")
    parser.add_argument(
        "--listen",
        default="127.0.0.1:50051",
        metavar="HOST:PORT",
        help="address (default: %(default)s); port 0 takes a free one",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads that analyse (default: half the cores)")
    parser.add_argument(
        "--drain",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long a shutdown waits for what is under way (default: %(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from gradnoise.analyzer.config import ServerConfig
    from gradnoise.analyzer.server import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    workers = {} if args.workers is None else {"workers": args.workers}
    config = ServerConfig(args.data, args.listen, drain_seconds=args.drain, **workers)

    def ready(address: str) -> None:
        if args.json:
            emit_json({"address": address, "data": str(args.data.resolve()), "pid": os.getpid()})
        else:
            emit(f"gradnoise analyzer listening on {address}")

    return Exit.DONE if serve(config, ready=ready) else Exit.FAILED
