"""Starting a shipper beside the training process, and hearing from it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from gradnoise.collector._errors import CollectorError
from gradnoise.collector._progress import Progress, ShipState
from gradnoise.collector._sink import warn

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Shipping", "check_endpoint"]

_POLL = 0.02
_SILENCE = 10.0  # seconds without contact that are worth a word while the training runs


def check_endpoint(endpoint: str) -> str:
    """Return the endpoint if it is ``HOST:PORT``; raise :class:`CollectorError` otherwise."""
    match = re.fullmatch(r"[^\s/]+:(\d{1,5})", endpoint)
    if match is None or not 0 < int(match[1]) < 65536:
        raise CollectorError(f"endpoint {endpoint!r}: expected HOST:PORT, such as localhost:50051")
    return endpoint


class Shipping:
    """A shipper process that follows one producer's part of a dump."""

    def __init__(self, dump: Path, producer: str, endpoint: str, process: subprocess.Popen[bytes] | None) -> None:
        self._dump = dump
        self._producer = producer
        self._endpoint = endpoint
        self._process = process
        self._lost_since: float | None = None
        self._warned = False

    @classmethod
    def start(cls, dump: Path, producer: str, endpoint: str) -> Shipping:
        """Start the process; if that fails, one warning says so and the dump stays on disk.

        It is a new program in a new session: it shares no memory, no descriptors and no signals with the training.
        """
        command = [sys.executable, "-P", "-m", "gradnoise.collector.shipper", str(dump)]
        command += ["--endpoint", endpoint, "--producer", producer]
        process = None
        try:
            with (dump / "ship.log").open("ab") as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            warn("gradnoise: the shipper to %s could not be started (%s); the dump stays in %s", endpoint, error, dump)
        return cls(dump, producer, endpoint, process)

    def progress(self) -> Progress | None:
        """Return how far the shipper has come; None while it has not said."""
        return Progress.read(self._dump, self._producer)

    def look(self) -> bool:
        """Warn once if the analyzer has been out of reach for a while; return whether to look again."""
        process = self._process
        if process is None or self._warned:
            return False
        progress = self.progress()
        state = None if progress is None else progress.state
        if state is ShipState.DONE:
            return False
        ended = process.poll() is not None
        if not ended and state is not ShipState.UNREACHABLE:
            self._lost_since = None
            return True
        now = time.monotonic()
        if self._lost_since is None:
            self._lost_since = now
        if now - self._lost_since < _SILENCE:
            return True
        self._warn(progress)
        return False

    def finish(self, timeout: float) -> bool:
        """Wait until everything is acknowledged; after ``timeout`` seconds leave the shipper be, and warn once."""
        process = self._process
        if process is None:
            return False
        deadline = time.monotonic() + timeout
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL)
        progress = self.progress()
        if process.poll() is None:
            # Nobody waits for it any more; Popen's destructor need not complain.
            process.returncode = 0
        if progress is not None and progress.state is ShipState.DONE:
            return True
        self._warn(progress)
        return False

    def _warn(self, progress: Progress | None) -> None:
        if self._warned:
            return
        self._warned = True
        reason = "" if progress is None or progress.error is None else f" ({progress.error})"
        warn(
            "gradnoise: %s has not acknowledged everything%s. The dump stays in %s; send the rest with: "
            "gradnoise ship %s --endpoint %s",
            self._endpoint,
            reason,
            self._dump,
            self._dump,
            self._endpoint,
        )
