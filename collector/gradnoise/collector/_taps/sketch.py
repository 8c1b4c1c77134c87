"""Every parameter's noise in half a megabyte: counts of bfloat16 patterns of half-differences of two draws.

What is counted is ``a / 2 - b / 2`` of two successive draws a and b, which leaves the noise of both and nothing of the
gradient (the pair contrast), as float32, by the upper 16 bits of its pattern. The analyzer's ``stats.sketch`` counts
the same values the same way.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import numpy as np
import torch

from gradnoise.collector._taps.copy import to_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["CELLS", "Sketcher", "rescaled"]

CELLS = 1 << 16
_SMALL = 1 << 15  # tensors below it are counted together: each count costs a pass over all cells
_CHUNK = 1 << 21  # values counted at once: their indices take eight bytes each
_LOWER = 0 if sys.byteorder == "little" else 1  # of the two halves of a float32, where the lower bits lie
_HELD_AS_THEY_ARE = (torch.float32, torch.float64)


class Sketcher:
    """Takes the gradients of draws as they come; of every two draws it counts the half-difference.

    It holds one gradient more in memory: the first draw of the pair under way. Pairs do not overlap. On CUDA nothing
    synchronises; on other devices the counting is done when a draw is finished.

    Gradients arrive in any order, each group once a draw; a group that is missing in one of the two is left out.
    """

    def __init__(self) -> None:
        self._halves: dict[int, torch.Tensor] = {}
        self._first: set[int] = set()  # groups of the first draw that still wait for the second
        self._second = False
        self._small: list[torch.Tensor] = []
        self._counts: dict[torch.device, torch.Tensor] = {}

    def take(self, number: int, gradient: torch.Tensor, scale: torch.Tensor | None = None) -> None:
        """Take one parameter's gradient of the draw under way.

        Args:
            number: the group.
            gradient: dense or sparse (COO), of any strides; not kept.
            scale: loss scale by which the gradient is divided, on a device.
        """
        gradient = gradient.detach()
        if gradient.layout is torch.sparse_coo:
            gradient = _dense(gradient)
        if not self._second:
            self._hold(number, gradient, scale)
        elif number in self._first:
            self._first.discard(number)
            self._add(_minus_half(self._halves[number], gradient, scale))

    def finish(self) -> Callable[[], NDArray[np.int64]] | None:
        """End a draw. After the second of a pair return what gives its counts: (CELLS + 1,) int64, the last entry the
        number of values that are no bfloat16 numbers."""
        if not self._second:
            self._second = bool(self._first)
            return None
        for device in {flat.device for flat in self._small}:
            self._count(torch.cat([flat for flat in self._small if flat.device == device]))
        fetches = [to_host(counts) for counts in self._counts.values()]
        self.reset()
        if not fetches:  # of the second draw nothing was seen whole
            return None

        def fetch() -> NDArray[np.int64]:
            total = np.zeros(CELLS + 1, np.int64)
            for one in fetches:
                total += one().astype(np.int64, copy=False)
            return total

        return fetch

    def reset(self) -> None:
        """Forget the pair under way: one of its draws is discarded, or the window has ended."""
        self._first.clear()
        self._second = False
        self._small.clear()
        self._counts = {}  # not zeroed: a copy to the host may be under way

    def _hold(self, number: int, gradient: torch.Tensor, scale: torch.Tensor | None) -> None:
        kept = gradient.dtype in _HELD_AS_THEY_ARE or (gradient.dtype is torch.bfloat16 and scale is None)
        dtype = gradient.dtype if kept else torch.float32  # half of a float16 or scaled value may be none
        half = self._halves.get(number)
        if half is None or half.shape != gradient.shape or half.dtype != dtype or half.device != gradient.device:
            half = self._halves[number] = torch.empty_like(gradient, dtype=dtype)
        if scale is None and dtype == gradient.dtype:
            torch.mul(gradient, 0.5, out=half)  # one pass over it, not two
        else:
            half.copy_(gradient)
            if scale is not None:
                half.div_(scale.to(half.device, non_blocking=True))
            half.mul_(0.5)
        self._first.add(number)

    def _add(self, values: torch.Tensor) -> None:
        # Dense whatever its strides, and the order of values does not matter.
        flat = values.as_strided((values.numel(),), (1,), values.storage_offset())
        if flat.numel() < _SMALL:
            self._small.append(flat)
        else:
            self._count(flat)

    def _count(self, flat: torch.Tensor) -> None:
        if flat.device.type not in ("cpu", "cuda"):
            flat = flat.cpu()
        counts = self._counts.get(flat.device)
        if counts is None:
            counts = self._counts[flat.device] = torch.zeros(CELLS + 1, dtype=torch.int64, device=flat.device)
        for start in range(0, flat.numel(), _CHUNK):
            values = flat[start : start + _CHUNK]
            cells = (values.view(torch.int32) >> 16).bitwise_and_(CELLS - 1)
            if flat.device.type == "cpu":
                counts[:CELLS] += torch.bincount(cells, minlength=CELLS)
            else:  # bincount looks for the largest value first, and waits for it
                cells = cells.to(torch.int64)
                counts.scatter_add_(0, cells, torch.ones_like(cells[:1]).expand_as(cells))
            counts[CELLS:] += torch.count_nonzero(values.view(torch.int16)[_LOWER::2])


def _minus_half(half: torch.Tensor, gradient: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """``half`` less half of the gradient, as float32; in the memory of ``half`` where it is float32."""
    values = half.to(torch.float32) if half.dtype is torch.bfloat16 else half
    if scale is not None:
        gradient = gradient.to(values.dtype) / scale.to(values.device, non_blocking=True)
    elif values.dtype != gradient.dtype:
        gradient = gradient.to(values.dtype)
    return values.sub_(gradient, alpha=0.5).to(torch.float32)


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    """``to_dense()`` that does not wait for the device: rows are added up where they lie."""
    values, indices = gradient._values(), gradient._indices()
    sparse = gradient.shape[: gradient.sparse_dim()]
    rows = indices[0]
    for extent, index in zip(sparse[1:], indices[1:], strict=True):
        rows = rows * extent + index
    out = values.new_zeros((math.prod(sparse), *values.shape[1:]))
    return out.index_add_(0, rows, values).reshape(gradient.shape)


def rescaled(counts: NDArray[np.int64], factor: float) -> NDArray[np.int64]:
    """Return the counts of the values times ``factor``: exact for a power of two (but for values that leave float32's
    range), else to half a cell, 0.4 %."""
    cells = np.flatnonzero(counts[:CELLS]).astype(np.uint32)
    zeros = (cells & np.uint32(CELLS // 2 - 1)) == 0
    middles = (cells << np.uint32(16)) | np.where(zeros, np.uint32(0), np.uint32(0x8000))
    with np.errstate(over="ignore", invalid="ignore"):
        values = middles.view(np.float32) * np.float32(factor)
    out = np.zeros_like(counts)
    np.add.at(out, values.view(np.uint32) >> np.uint32(16), counts[cells])
    out[CELLS] = counts[CELLS]
    return out
