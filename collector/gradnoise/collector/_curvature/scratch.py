"""Vectors put aside in a file: draws for which memory has no room, and whose gradients would cost more."""

from __future__ import annotations

import shutil
import tempfile
from typing import IO, TYPE_CHECKING, Any, Self

import torch

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Scratch"]

_MOST = 4 * 2**30  # bytes
_FREE = 2  # times what is needed that must be free: others write to that disk, too


class Scratch:
    """A file without a name, in the directory for temporary files (``TMPDIR``); it is gone with the process at last.

    Where it would be larger than 4 GiB, where the disk has not twice as much free, and after an error of the disk, it
    is not ``whole``, and what was put aside is lost. That directory may lie in memory (tmpfs): so do the vectors, then.

    Args:
        dimension: elements of a vector.
        dtype: theirs, float32 or float64.
        count: vectors at most; 0 makes no file.

    Attributes:
        whole: whether every vector that was added can be read.
    """

    def __init__(self, dimension: int, dtype: torch.dtype, count: int) -> None:
        self._size = dimension * dtype.itemsize
        self._count = 0
        self._host: torch.Tensor | None = None
        self._file: IO[bytes] | None = None
        needed = count * self._size
        try:
            if 0 < needed <= _MOST and shutil.disk_usage(tempfile.gettempdir()).free >= _FREE * needed:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
        except OSError:
            self._file = None

    @property
    def whole(self) -> bool:
        """See there."""
        return self._file is not None

    def add(self, vector: torch.Tensor) -> None:
        """Put a vector aside; nothing happens where it is not whole."""
        if self._file is None:
            return
        try:
            left = _bytes(vector.cpu())
            while left:
                left = left[self._file.write(left) :]
            self._count += 1
        except OSError:
            self.close()

    def read(self, number: int, out: torch.Tensor) -> bool:
        """Write vector ``number`` to ``out``; return False where the disk fails."""
        if self._file is None or number >= self._count:
            return False
        host = self._on_host(out)
        try:
            self._file.seek(number * self._size)
            left = _bytes(host)
            while left:
                read = self._file.readinto(left)  # type: ignore[attr-defined]
                if not read:
                    raise OSError("the file is shorter than what was written")
                left = left[read:]
        except OSError:
            self.close()
            return False
        if host is not out:
            out.copy_(host)
        return True

    def close(self) -> None:
        """Let the file go; idempotent."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _on_host(self, out: torch.Tensor) -> torch.Tensor:
        if out.device.type == "cpu":
            return out
        if self._host is None:
            self._host = torch.empty_like(out, device="cpu")
        return self._host

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _bytes(vector: torch.Tensor) -> memoryview:
    buffer: Any = vector.numpy()
    return memoryview(buffer).cast("B")
