"""Who may add to a dump that is there already: the processes of its job, not a second training of the same name."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from gradnoise.collector._config import RESUME, resuming
from gradnoise.wire import Dump, RunExistsError, producer_is_alive

if TYPE_CHECKING:
    from pathlib import Path

    from gradnoise.wire import RunInfo

__all__ = ["check_join", "is_of_job", "note_job"]


def check_join(path: Path, there: RunInfo, info: RunInfo, job: str | None = None) -> None:
    """Refuse to merge a second training into the finished run ``there``, which lies at ``path``.

    Other runs and other groups are left to :func:`gradnoise.wire.create_dump` to refuse.

    Args:
        path: the dump's directory.
        there: the run that it holds.
        info: the run to be recorded.
        job: id of the distributed job of which this process is a rank; None outside one, or where it is not known.

    Raises:
        RunExistsError: the run is finished, and nothing says that this process is a part of it.
    """
    if (there.run, there.fingerprint) != (info.run, info.fingerprint):
        return
    if resuming() or _restarted() or _any_alive(path):
        return
    if _of_a_job() if job is None else is_of_job(path, job):
        return
    producers = len(Dump(path).producers())
    if not producers:  # nothing to merge with; and a process that is just starting has no lock for a moment
        return
    raise RunExistsError(
        f"run {there.run!r} in {path} is finished ({producers} producer{'s' * (producers != 1)}); recording into it "
        "again would merge two trainings: choose another run= or dump=, delete the directory, or set "
        f"{RESUME}=1 to go on as another producer of the same run"
    )


def is_of_job(path: Path, job: str | None) -> bool:
    """Whether a process of this job has left word in the dump."""
    return job is not None and _note(path, job).exists()


def note_job(path: Path, job: str | None) -> None:
    """Leave word in a dump of the job that records into it, for ranks that come when others have finished."""
    if job is not None:
        with contextlib.suppress(OSError):
            _note(path, job).touch()


def _note(path: Path, job: str) -> Path:
    return path / f"{job}.job"


def _restarted() -> bool:
    """Whether this process belongs to a job that its launcher has started anew."""
    return _number("TORCHELASTIC_RESTART_COUNT") > 0


def _of_a_job() -> bool:
    """Whether this process is one of several, of a job that has no id."""
    if os.environ.get("RANK", "").strip() or _number("WORLD_SIZE") > 1:
        return True
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and bool(distributed.is_initialized())


def _number(variable: str) -> int:
    with contextlib.suppress(ValueError):
        return int(os.environ.get(variable, ""))
    return 0


def _any_alive(path: Path) -> bool:
    # By their locks: a producer that has just begun has written nothing else.
    return any(producer_is_alive(path, lock.stem) for lock in path.glob("*.lock"))
