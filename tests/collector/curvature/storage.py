"""How much memory the tensors take that are alive."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveStorage"]


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of the storages that operations make inside of it, for as long as anything holds them.

    What was there before is not counted, nor what a kernel takes and gives back in one operation. It sees the backward
    passes of the CPU, too, which run in the calling thread.

    Attributes:
        peak: the most bytes that were alive at once, since the start or the last ``reset``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def current(self) -> int:
        """Bytes alive now."""
        self._alive = {key: each for key, each in self._alive.items() if not each[0].expired()}
        return sum(size for _, size in self._alive.values())

    def reset(self) -> None:
        """Take what is alive now for the peak so far."""
        self.peak = self.current

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_key(each) for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
        # Views and results in place are of storages that were given: theirs count only if they were made here.
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor) and each.layout is torch.strided:
                key = _key(each)
                if key not in given and key not in self._alive:
                    storage = each.untyped_storage()
                    self._alive[key] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, self.current)
        return result


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else 0
