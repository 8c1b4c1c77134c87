"""Analyzer processes for the tests: real ones, on loopback, killed at will."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

__all__ = ["ServerProcess", "free_port", "until"]


def until(condition: Callable[[], bool], seconds: float = 60.0, *, what: str = "the condition") -> None:
    """Wait for a condition that another process or thread brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come about in {seconds:.0f} s")
        time.sleep(0.02)


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """``gradnoise serve`` on a data directory; started again on the same port after a kill."""

    def __init__(self, data: Path, port: int = 0) -> None:
        self.data = data
        self._port = port
        self.process: subprocess.Popen[str] | None = None
        self.address = ""

    def start(self) -> Self:
        command = [sys.executable, "-m", "gradnoise.cli", "serve", "--json"]
        command += ["--data", str(self.data), "--listen", f"127.0.0.1:{self._port}"]
        with (self.data.parent / f"{self.data.name}.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server did not start; see its log"
        self.address = json.loads(line)["address"]
        self._port = int(self.address.rsplit(":", 1)[1])
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(how)
        code = process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
        return code

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
