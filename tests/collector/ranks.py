"""Ranks for the tests: processes that share a gloo process group, over a file and the loopback."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from types import TracebackType

__all__ = ["RankFailedError", "Ranks"]

_ROOT = str(Path(__file__).parents[2])


class RankFailedError(Exception):
    """A rank raised, ended or did not answer; the message holds its traceback."""


class Ranks:
    """``count`` processes for one program after the other, in the block; anew after one that has spoilt them.

    Each program runs in a process group of its own, with the environment of a fresh process.
    """

    def __init__(self, count: int = 2) -> None:
        self._count = count
        self._ranks: list[tuple[Any, Connection]] = []
        self._scratch = Path()

    def __enter__(self) -> Self:
        self._scratch = Path(tempfile.mkdtemp(prefix="gradnoise-ranks-"))
        if _ROOT not in sys.path:  # what the spawned processes import this module from
            sys.path.append(_ROOT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for rank in range(self._count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, self._count), daemon=True)
            process.start()
            theirs.close()
            self._ranks.append((process, ours))

    def _stop(self) -> None:
        ranks, self._ranks = self._ranks, []
        for _, pipe in ranks:
            pipe.close()  # they end when nobody asks any more
        for process, _ in ranks:
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join(30)

    def run(
        self,
        program: Callable[..., Any],
        *arguments: Any,
        environment: dict[str, str] | None = None,
        dying: int | None = None,
        timeout: float = 60.0,
    ) -> list[Any]:
        """Run ``program(rank, *arguments)`` on every rank; return what it returns, by rank.

        Args:
            program: a function of a module.
            environment: variables, in which ``{rank}`` stands for the rank.
            dying: a rank that may be killed in it; its result is None then.
            timeout: seconds for all of them.

        Raises:
            RankFailedError: one of them raised or took longer.
        """
        if not self._ranks:
            self._start()
        store = self._scratch / f"{program.__name__}-{time.monotonic_ns()}"
        for rank, (_, pipe) in enumerate(self._ranks):
            chosen = {name: text.format(rank=rank) for name, text in (environment or {}).items()}
            pipe.send((program, arguments, str(store), chosen))
        deadline = time.monotonic() + timeout
        answers = [self._answer(rank, deadline) for rank in range(self._count)]
        if dying is not None and answers[dying][1] == f"rank {dying} ended with code {-signal.SIGKILL}":
            answers[dying] = None, None
        failures = [failure for _, failure in answers if failure is not None]
        if not all(process.is_alive() for process, _ in self._ranks) or time.monotonic() > deadline:
            self._stop()  # others begin anew
        if failures:
            raise RankFailedError("\n".join(failures))
        return [result for result, _ in answers]

    def _answer(self, rank: int, deadline: float) -> tuple[Any, str | None]:
        """Return what a rank's program returned, or what became of it instead."""
        process, pipe = self._ranks[rank]
        try:
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                return None, f"rank {rank} did not answer in time"
            result, failure = pipe.recv()
        except (EOFError, ConnectionResetError):
            process.join(30)
            return None, f"rank {rank} ended with code {process.exitcode}"
        return result, None if failure is None else f"rank {rank}:\n{failure}"


def _serve(pipe: Connection, rank: int, count: int) -> None:
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            program, arguments, store, environment = pipe.recv()
            pipe.send(_run(program, arguments, store, environment, rank, count))


def _run(
    program: Callable[..., Any], arguments: Any, store: str, environment: dict[str, str], rank: int, count: int
) -> tuple[Any, str | None]:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        torch.manual_seed(0)
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timedelta(seconds=60)
        )
        try:
            return program(rank, *arguments), None
        finally:
            dist.destroy_process_group()
    except Exception:
        return None, traceback.format_exc()
    finally:
        os.environ.clear()
        os.environ.update(before)
