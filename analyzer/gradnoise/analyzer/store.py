"""The store: received runs as dumps under the data directory, and what must be remembered of them.

``DATA/runs/<run>/`` is a dump of the format that collectors write, readable by the same reader. Everything else is
derived from the dumps, so that recovery is reading them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradnoise.analyzer._ingest import ProducerLog, sync_path
from gradnoise.analyzer.config import Limits
from gradnoise.analyzer.errors import (
    DataDirectoryInUseError,
    InvalidRequestError,
    LimitError,
    StoreError,
    UnknownProducerError,
    UnknownRunError,
)
from gradnoise.analyzer.ranks import joined, meeting, merged
from gradnoise.wire import Dump, RunInfo, WireError, create_dump, recover

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gradnoise.analyzer.ranks import Meeting
    from gradnoise.analyzer.windows import ClosedWindow

__all__ = ["RunSummary", "Store"]

_log = logging.getLogger(__name__)
_PRODUCER = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What the store holds of a run; what several ranks recorded of one window counts as one window."""

    info: RunInfo
    producers: int
    windows: int
    draws: int
    bytes: int
    problems: int


class _Run:
    def __init__(self, path: Path, info: RunInfo) -> None:
        self.path = path
        self.info = info
        self.producers: dict[str, ProducerLog] = {}


def _exit(error: OSError) -> None:
    _log.critical("a sync failed (%s): the server ends, for it can no longer tell what is on disk", error)
    logging.shutdown()
    os._exit(1)


class Store:
    """Every run of a data directory. Holds the directory's lock from its creation to :meth:`close`.

    Args:
        data: the data directory; made if missing.
        limits: how many runs and producers it takes.
        segment_bytes: size behind which a new segment begins.
        fatal: what to do when a sync fails; must not return. The default ends the process.

    Raises:
        DataDirectoryInUseError: another server works on it; StoreError: it cannot be used.
    """

    def __init__(
        self,
        data: Path,
        *,
        limits: Limits | None = None,
        segment_bytes: int = 64 << 20,
        fatal: Callable[[OSError], None] = _exit,
    ) -> None:
        self.data = data
        self._limits = limits or Limits()
        self._segment_bytes = segment_bytes
        self._fatal = fatal
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}
        self._directory = data / "runs"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._data_lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"data directory {data} cannot be used: {error.strerror}; give a directory that can be written"
            ) from error
        try:
            fcntl.flock(self._data_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._data_lock, 256, 0).decode(errors="replace").strip() or "another process"
            os.close(self._data_lock)
            raise DataDirectoryInUseError(
                f"data directory {data} is in use by another server ({holder}): stop it, or give another directory"
            ) from None
        os.ftruncate(self._data_lock, 0)
        os.pwrite(self._data_lock, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def recover(self) -> None:
        """Read every dump: cut torn tails, learn the next sequence numbers, CRCs and windows.

        A directory that cannot be read is left alone and logged; its run is not served.
        """
        for path in sorted(self._directory.iterdir()):
            try:
                done = recover(path)
                dump = Dump(path)
                run = _Run(path, dump.info)
                if dump.info.run != path.name:
                    raise StoreError(f"it holds run {dump.info.run!r}; rename it to that")
                for producer in dump.producers():
                    run.producers[producer] = self._producer(run, producer)
            except (WireError, StoreError, OSError) as error:
                _log.error("%s is not served: %s", path, error)
                continue
            if done.sealed:
                _log.info(
                    "run %s: %d segments sealed, %d batches kept, %d bytes of torn tail cut off",
                    *(path.name, done.sealed, done.batches, done.torn_bytes),
                )
            self._runs[path.name] = run

    def open(self, info: RunInfo, producer: str) -> ProducerLog:
        """Register a run and a producer, or find them again.

        Raises:
            RunExistsError: the run id is taken by a run with other groups.
            InvalidRequestError, LimitError: the request cannot be granted.
        """
        if not _PRODUCER.fullmatch(producer):
            raise InvalidRequestError(f"producer {producer!r} is not 32 lower-case hexadecimal digits")
        if not 0 < len(info.groups) <= self._limits.groups:
            raise InvalidRequestError(
                f"run {info.run!r} has {len(info.groups)} parameter groups: expected 1 to {self._limits.groups}"
            )
        with self._lock:
            known = self._runs.get(info.run)
            if known is None and len(self._runs) >= self._limits.runs:
                raise LimitError(f"the store holds {len(self._runs)} runs, its limit: use another data directory")
            path = self._directory / info.run
            create_dump(path, info)
            if known is None:
                known = _Run(path, Dump(path).info)
                for entry in (path / "run.json", path, self._directory):
                    sync_path(entry)
                self._runs[info.run] = known
            log = known.producers.get(producer)
            if log is None:
                if len(known.producers) >= self._limits.producers:
                    raise LimitError(f"run {info.run!r} has {len(known.producers)} producers, its limit")
                log = known.producers[producer] = self._producer(known, producer)
            return log

    def producer(self, run: str, producer: str) -> ProducerLog:
        """Return a producer's log.

        Raises:
            UnknownRunError, UnknownProducerError: it has not been opened.
        """
        log = self._run(run).producers.get(producer)
        if log is None:
            raise UnknownProducerError(f"producer {producer!r} of run {run!r} is not known here: open it first")
        return log

    def info(self, run: str) -> RunInfo:
        """Return a run's description; :class:`UnknownRunError` names the known ones."""
        return self._run(run).info

    def producers(self, run: str | None = None) -> list[ProducerLog]:
        """Return the logs of a run's producers, or of all."""
        with self._lock:
            runs = [self._runs[run]] if run is not None else list(self._runs.values())
            return [log for entry in runs for log in entry.producers.values()]

    def met(self, at: Meeting) -> list[ClosedWindow]:
        """Return the closed windows that meet there."""
        run, _, window = at
        found = (log.closed_window(window) for log in self.producers(run))
        return [closed for closed in found if closed is not None and meeting(closed) == at]

    def summaries(self) -> list[RunSummary]:
        """Return what the store holds, by run id."""
        with self._lock:
            runs = sorted(self._runs.items())
        return [self._summary(run) for _, run in runs]

    def summary(self, run: str) -> RunSummary:
        """Return what the store holds of a run; :class:`UnknownRunError` names the known ones."""
        return self._summary(self._run(run))

    def close(self) -> None:
        """Seal every open segment and give up the directory's lock; idempotent."""
        if self._data_lock < 0:
            return
        for log in self.producers():
            log.seal()
        os.close(self._data_lock)
        self._data_lock = -1

    def _run(self, run: str) -> _Run:
        with self._lock:
            found = self._runs.get(run)
            if found is not None:
                return found
            known = sorted(self._runs)
        shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise UnknownRunError(f"no run {run!r}; " + (f"the runs here are: {shown}" if known else "no runs here yet"))

    def _producer(self, run: _Run, producer: str) -> ProducerLog:
        return ProducerLog(
            run.path,
            run.info,
            producer,
            segment_bytes=self._segment_bytes,
            payload_bytes=self._limits.payload_bytes,
            fatal=self._fatal,
        )

    def _summary(self, run: _Run) -> RunSummary:
        logs = list(run.producers.values())
        closed = [merged(ranks) for ranks in joined(window for log in logs for window in log.closed())]
        return RunSummary(
            info=run.info,
            producers=len(logs),
            windows=len(closed),
            draws=sum(window.recorded for window in closed),
            bytes=sum(log.bytes for log in logs),
            problems=sum(len(log.problems) for log in logs),
        )
