"""Starting a shipper beside the training process, hearing from it, and starting it again should it die."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from gradnoise.collector._errors import CollectorError
from gradnoise.collector._logging import inform, warn
from gradnoise.collector._shipping.lease import is_leased
from gradnoise.collector._shipping.progress import Progress, ShipState

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Shipping", "check_endpoint", "starts_shipper"]

_POLL = 0.02
_SILENCE = 10.0  # seconds without contact that are worth a word while the training runs
_RESTARTS = 5  # times that a shipper that died is started again,
_PAUSE = 2.0  # after so many seconds, doubled each time;
_HEALTHY = 600.0  # one that ran for so long counts anew
_UNSERVED = 10.0  # seconds without any shipper after which a rank starts its own,
_UNSEEN = 3.0  # or, of a rank that none has ever looked at and that ends
_LOOK_FOR_ANOTHER = 0.25
# What a shipper ends with when another one would fare no better: failed, wrong usage, unreachable.
_FINAL = frozenset({1, 2, 3})


def check_endpoint(endpoint: str) -> None:
    """Raise :class:`CollectorError` unless the endpoint is ``HOST:PORT``."""
    match = re.fullmatch(r"[^\s/]+:(\d{1,5})", endpoint) if isinstance(endpoint, str) else None
    if match is None or not 0 < int(match[1]) < 65536:
        raise CollectorError(f"endpoint {endpoint!r}: expected HOST:PORT, such as localhost:50051")


class Shipping:
    """A shipper process that follows one producer's part of a dump, or those of all ranks of this machine.

    Args:
        dump: the dump's directory.
        producer: this process's producer.
        endpoint: the analyzer.
        process: the shipper; None where it could not be started.
        stand_by: the shipper that another rank starts serves this one; without any, one is started after all.
        whole_job: the process serves the other ranks, too.
    """

    def __init__(
        self,
        dump: Path,
        producer: str,
        endpoint: str,
        process: subprocess.Popen[bytes] | None,
        *,
        stand_by: bool = False,
        whole_job: bool = False,
    ) -> None:
        self._dump = dump
        self._producer = producer
        self._endpoint = endpoint
        self._process = process
        self._stand_by = stand_by
        self._whole_job = whole_job
        self._restarts = 0
        self._started = 0.0
        self._died: float | None = None
        self._lost_since: float | None = None
        self._unserved_since: float | None = None
        self._warned = False

    @classmethod
    def start(cls, dump: Path, producer: str, endpoint: str) -> Shipping:
        """Start the process; if that fails, one warning says so and the dump stays on disk.

        It is a new program in a new session: it shares no memory, no descriptors and no signals with the training. In
        a distributed job the first rank of a machine starts the one that serves them all.
        """
        if not starts_shipper():
            return cls(dump, producer, endpoint, None, stand_by=True)
        from gradnoise.collector.credentials import Credentials, CredentialsError

        shipping = cls(dump, producer, endpoint, None, whole_job=_first_of_several())
        try:
            Credentials.of_environment(endpoint)
        except CredentialsError as error:
            # A training does not die for a certificate.
            warn(
                "gradnoise: nothing is sent to %s: %s. The dump stays in %s; send it later with: "
                "gradnoise ship %s --endpoint %s",
                endpoint,
                error,
                dump,
                dump,
                endpoint,
            )
            with contextlib.suppress(OSError):
                Progress(endpoint, ShipState.FAILED, error=str(error)).write(dump, producer)
            return shipping
        try:
            shipping._launch()
        except OSError as error:
            warn("gradnoise: the shipper to %s could not be started (%s); the dump stays in %s", endpoint, error, dump)
        return shipping

    def progress(self) -> Progress | None:
        """Return how far the shipper has come; None while it has not said."""
        return Progress.read(self._dump, self._producer)

    def look(self) -> bool:
        """See to it that there is a shipper, and warn once if nothing arrives; return whether to look again."""
        progress = self.progress()
        state = None if progress is None else progress.state
        if state is ShipState.DONE or (self._process is None and not self._stand_by):
            return False
        now = time.monotonic()
        if self._process is None:
            self._stand_in(_UNSERVED, now)
            return True
        code = self._process.poll()
        if code is not None:
            self._lost_since = None  # what the dead one said last is old
            return self._start_again(code, now, progress)
        if state is not ShipState.UNREACHABLE:
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = now
        elif now - self._lost_since >= _SILENCE:
            self._warn(progress)
        return True

    def finish(self, timeout: float) -> bool:
        """Wait until everything is acknowledged; after ``timeout`` seconds leave the shipper be, and warn once."""
        if self._process is None and not self._stand_by:
            return False
        now = time.monotonic()
        deadline, next_look = now + timeout, now
        progress = self.progress()
        while now < deadline:
            progress = self.progress()
            done = progress is not None and progress.state is ShipState.DONE
            process = self._process
            if process is None:
                if done:
                    break
                if now >= next_look:
                    next_look = now + _LOOK_FOR_ANOTHER
                    self._stand_in(_UNSEEN if progress is None else _UNSERVED, now)
            elif (done and self._whole_job) or (
                (code := process.poll()) is not None and (done or not self._start_again(code, now, progress))
            ):
                break
            time.sleep(_POLL)
            now = time.monotonic()
        progress = self.progress()
        if self._process is not None and self._process.poll() is None:
            # Nobody waits for it any more; Popen's destructor need not complain.
            self._process.returncode = 0
        if progress is not None and progress.state is ShipState.DONE:
            return True
        self._warn(progress)
        return False

    def _launch(self) -> None:
        """Start a process.

        Raises:
            OSError: it cannot be started.
        """
        if not sys.executable:
            raise OSError(errno.ENOENT, "the interpreter that runs this program is not known")
        command = [sys.executable, "-P", "-m", "gradnoise.collector.shipper", str(self._dump)]
        command += ["--endpoint", self._endpoint]
        if not self._whole_job:
            command += ["--producer", self._producer]
        self._started = time.monotonic()
        with (self._dump / "ship.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # gRPC's core says a line for each failed handshake, which the shipper's own log says once.
                env={"GRPC_VERBOSITY": "NONE", **os.environ},
            )

    def _start_again(self, code: int, now: float, progress: Progress | None) -> bool:
        """Start a shipper that has died again, in a while; False, with a warning, if that is of no use."""
        if self._died is None and now - self._started >= _HEALTHY:
            self._restarts = 0
        if code in _FINAL or self._restarts >= _RESTARTS:
            self._warn(progress)
            return False
        if self._died is None:
            self._died = now
        if now - self._died >= _PAUSE * 2**self._restarts:
            self._died = None
            self._restarts += 1
            inform("the shipper of %s died (exit code %d) and is started again", self._dump, code)
            with contextlib.suppress(OSError):
                self._launch()
        return True

    def _stand_in(self, patience: float, now: float) -> None:
        """Start a shipper of our own if for ``patience`` seconds no other has served this rank."""
        if is_leased(self._dump, self._producer):
            self._unserved_since = None
        elif self._unserved_since is None:
            self._unserved_since = now
        elif now - self._unserved_since >= patience:
            self._unserved_since = None
            with contextlib.suppress(OSError):
                self._launch()

    def _warn(self, progress: Progress | None) -> None:
        if self._warned:
            return
        self._warned = True
        reason = "" if progress is None or progress.error is None else f" ({progress.error})"
        warn(
            "gradnoise: %s has not acknowledged everything%s. The dump stays in %s; what the shipper does not "
            "deliver by itself, this sends: gradnoise ship %s --endpoint %s",
            self._endpoint,
            reason,
            self._dump,
            self._dump,
            self._endpoint,
        )


def starts_shipper() -> bool:
    """Whether this process starts a shipper: one a node is enough, the first of the ranks that a launcher numbers."""
    with contextlib.suppress(ValueError):
        return int(os.environ.get("LOCAL_RANK", "0")) <= 0
    return True


def _first_of_several() -> bool:
    """Whether this is the first process of several on this machine, as a launcher has told them."""
    return os.environ.get("LOCAL_RANK", "").strip() == "0" and os.environ.get("LOCAL_WORLD_SIZE", "").strip() != "1"
