"""One shipper a producer: an advisory lock in the dump, which dies with its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Lease", "is_leased"]

_ATTEMPTS, _MOMENT = 3, 0.01


class Lease:
    """The right to ship one producer's part of a dump; :meth:`take` tries to get it, :meth:`release` gives it up.

    A dump that cannot be written to (an archive) has no lock: whoever asks may ship, and the analyzer, which knows each
    batch, keeps two shippers from storing anything twice.
    """

    def __init__(self, dump: Path, producer: str) -> None:
        self._path = _path(dump, producer)
        self._fd: int | None = None

    def take(self) -> bool:
        """Return whether this process may ship now; False while another one does."""
        if self._fd is not None:
            return True
        try:
            while True:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                if not _locked(fd):
                    os.close(fd)
                    return False
                if _is_at(fd, self._path):
                    self._fd = fd
                    return True
                os.close(fd)  # its last holder removed the file before we had the lock
        except OSError:
            return True

    def release(self) -> None:
        """Give the lease up; idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):  # removed while held: nobody else takes it for theirs
                self._path.unlink()
            os.close(fd)


def is_leased(dump: Path, producer: str) -> bool:
    """Whether a process ships the producer's part of the dump at this moment."""
    try:
        fd = os.open(_path(dump, producer), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def _locked(fd: int) -> bool:
    """Lock the file; false if another process has it, and not only for the moment that a look takes."""
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt < _ATTEMPTS - 1:
                time.sleep(_MOMENT)
        except OSError:  # a file system without locks
            return True
        else:
            return True
    return False


def _path(dump: Path, producer: str) -> Path:
    # Not *.lock: by those the producers are known.
    return dump / f"ship-{producer}.lease"


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
