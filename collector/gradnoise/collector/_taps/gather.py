"""From gradient tensors to the sampled values of one draw, on the device, with one copy to the host."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradnoise.collector._recording.records import Draw
from gradnoise.collector._taps.copy import joined_to_host, to_device, to_host
from gradnoise.collector._taps.groups import is_dtensor
from gradnoise.collector._taps.sparse import SparseLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from gradnoise.wire import Group

__all__ = ["Gatherer", "UnsupportedGradientError", "local"]


class UnsupportedGradientError(TypeError):
    """A gradient that is neither dense nor sparse in coordinates, or of a kind of its own."""


def local(tensor: Any) -> torch.Tensor:
    """Return this process's part of a DTensor, as a plain tensor outside of any graph."""
    with torch.no_grad():
        part: torch.Tensor = tensor.to_local().detach()
        return part


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the sampled coordinates lie in memory.

    Attributes:
        strides: of the tensors it is for; None for contiguous ones.
        device: of those tensors.
        offsets: int64, on the device.
        span: elements of memory from the first to the last of such a tensor.
        take: whether the device reads by :func:`torch.take`, the fastest where there is one.
    """

    strides: tuple[int, ...] | None
    device: torch.device
    offsets: torch.Tensor
    span: int
    take: bool


class Gatherer:
    """Picks the sampled coordinates out of gradients.

    A gradient is read in the memory order it has (channels_last, expanded, transposed), through offsets computed once
    per memory layout: flattening it in row-major order would copy it whole.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._shapes = [group.shape for group in groups]
        self._indices = [np.array(group.indices, np.int64) for group in groups]
        self._layouts: list[_Layout | None] = [None] * len(groups)
        self._sparse: dict[int, SparseLayout] = {}
        self._devices: set[torch.device] = set()
        self._drawn: list[int] = []  # groups of the last draw, and as they are recorded:
        self._codes = np.array([], np.int16)

    def pick(self, number: int, gradient: torch.Tensor) -> torch.Tensor:
        """Return a new 1-d tensor of the gradient's values at the coordinates of group ``number``.

        Of a DTensor these are coordinates of this process's part. Nothing of it belongs to a graph, also where the
        backward pass creates one.

        Raises:
            UnsupportedGradientError: the gradient is a tensor subclass, or neither dense nor of COO layout.
        """
        if type(gradient) is not torch.Tensor or gradient.layout is not torch.strided:
            return self._pick_unusual(number, gradient)
        if gradient.requires_grad:
            gradient = gradient.detach()
        layout = self._layouts[number]
        if gradient.is_contiguous():
            if layout is None or layout.strides is not None or layout.device != gradient.device:
                layout = self._layout(number, None, gradient.device)
            if layout.take:
                return torch.take(gradient, layout.offsets)
        else:
            strides = gradient.stride()
            if layout is None or layout.strides != strides or layout.device != gradient.device:
                layout = self._layout(number, strides, gradient.device)
        return gradient.as_strided((layout.span,), (1,)).index_select(0, layout.offsets)

    def _pick_unusual(self, number: int, gradient: torch.Tensor) -> torch.Tensor:
        if is_dtensor(gradient):
            return self.pick(number, local(gradient))
        if type(gradient) is not torch.Tensor or gradient.layout is not torch.sparse_coo:
            raise UnsupportedGradientError(
                f"a gradient of layout {gradient.layout} and type {type(gradient).__name__}: "
                "only dense gradients, and sparse ones of COO layout, are recorded"
            )
        gradient = gradient.detach()
        layout = self._sparse.get(number)
        if layout is None or layout.device != gradient.device or layout.sparse != gradient.sparse_dim():
            layout = SparseLayout.of(
                self._shapes[number], self._indices[number], gradient.sparse_dim(), gradient.device
            )
            self._sparse[number] = layout
            self._devices.add(gradient.device)
        return layout.pick(gradient)

    def _layout(self, number: int, strides: tuple[int, ...] | None, device: torch.device) -> _Layout:
        shape, indices = self._shapes[number], self._indices[number]
        if strides is None:
            offsets, span = indices, math.prod(shape)
        else:
            offsets = np.zeros_like(indices)
            for position, stride in zip(np.unravel_index(indices, shape), strides, strict=True):
                offsets += position * stride
            span = 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
        take = device.type in ("cpu", "cuda")
        layout = self._layouts[number] = _Layout(strides, device, to_device(offsets, device), span, take)
        self._devices.add(device)
        return layout

    def draw(
        self,
        parts: Mapping[int, torch.Tensor],
        *,
        scale: torch.Tensor | None = None,
        fingerprint: Sequence[torch.Tensor] = (),
    ) -> Draw:
        """Return the draw made of the picked values of some groups; the copy to the host may still be under way.

        Args:
            parts: group number -> picked values.
            scale: loss scale by which the gradients are divided, on the device.
            fingerprint: samples of the parameters, appended unscaled.
        """
        numbers = sorted(parts)
        if numbers != self._drawn:
            self._drawn, self._codes = numbers, np.array(numbers, np.int16)
        pieces = [parts[number] for number in numbers]
        if len(self._devices) == 1 and all(mark.device in self._devices for mark in fingerprint):
            size = sum([piece.numel() for piece in (*pieces, *fingerprint)])
            if scale is None:
                fetch = joined_to_host([*pieces, *fingerprint])
            else:
                values = torch.cat([*pieces, *fingerprint]).to(torch.float32)
                picked = size - sum(mark.numel() for mark in fingerprint)
                values[:picked].div_(scale.to(values.device, non_blocking=True))
                fetch = to_host(values)
        else:
            fetch, size = _from_many(pieces, scale, fingerprint)
        marks = sum(mark.numel() for mark in fingerprint)
        return Draw(self._codes, fetch, 4 * size, marks)


def _divided(piece: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    values = piece.to(torch.float32)
    return values if scale is None else values / scale.to(values.device, non_blocking=True)


def _from_many(
    pieces: Sequence[torch.Tensor], scale: torch.Tensor | None, fingerprint: Sequence[torch.Tensor]
) -> tuple[Callable[[], NDArray[np.float32]], int]:
    """One copy a device, put together in order on the host."""
    ordered = [(piece, scale) for piece in pieces] + [(piece, None) for piece in fingerprint]
    devices = list(dict.fromkeys(piece.device for piece, _ in ordered))
    fetches = []
    for device in devices:
        joined = torch.cat([_divided(piece, by) for piece, by in ordered if piece.device == device])
        fetches.append(to_host(joined))
    slots = [(devices.index(piece.device), piece.numel()) for piece, _ in ordered]

    def fetch() -> NDArray[np.float32]:
        arrays = [part() for part in fetches]
        used = [0] * len(arrays)
        out = []
        for which, count in slots:
            out.append(arrays[which][used[which] : used[which] + count])
            used[which] += count
        return np.concatenate(out)

    return fetch, sum(count for _, count in slots)
