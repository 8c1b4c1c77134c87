"""From gradient tensors to the sampled values of one draw, on the device, with one copy to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from gradnoise.collector._records import Draw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from gradnoise.wire import Group

__all__ = ["Gatherer", "UnsupportedGradientError", "to_host"]


class UnsupportedGradientError(TypeError):
    """A gradient that is no plain dense tensor."""


class Gatherer:
    """Picks the sampled coordinates out of gradients.

    A gradient is read in the memory order it has (channels_last, expanded, transposed), through offsets computed once
    per memory layout: flattening it in row-major order would copy it whole.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._shapes = [group.shape for group in groups]
        self._indices = [np.array(group.indices, np.int64) for group in groups]
        self._layouts: list[tuple[tuple[int, ...], torch.device, torch.Tensor, int] | None] = [None] * len(groups)

    def pick(self, number: int, gradient: torch.Tensor) -> torch.Tensor:
        """Return a new 1-d tensor of the gradient's values at the coordinates of group ``number``.

        Raises:
            UnsupportedGradientError: the gradient is sparse, or a tensor subclass.
        """
        if gradient.layout is not torch.strided or type(gradient) is not torch.Tensor:
            raise UnsupportedGradientError(
                f"a gradient of layout {gradient.layout} and type {type(gradient).__name__}: "
                "only dense gradients are recorded"
            )
        strides = gradient.stride()
        layout = self._layouts[number]
        if layout is None or layout[0] != strides or layout[1] != gradient.device:
            layout = self._layouts[number] = self._layout(number, strides, gradient.device)
        _, _, offsets, span = layout
        # Nothing of this belongs to a graph, also where the backward pass creates one.
        gradient = gradient.detach()
        if span == gradient.numel() and gradient.is_contiguous():
            return torch.take(gradient, offsets)
        return gradient.as_strided((span,), (1,)).index_select(0, offsets)

    def _layout(
        self, number: int, strides: tuple[int, ...], device: torch.device
    ) -> tuple[tuple[int, ...], torch.device, torch.Tensor, int]:
        shape = self._shapes[number]
        offsets = np.zeros(len(self._indices[number]), np.int64)
        if shape:
            for position, stride in zip(np.unravel_index(self._indices[number], shape), strides, strict=True):
                offsets += position * stride
        span = 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
        return strides, device, torch.from_numpy(offsets).to(device, non_blocking=True), span

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
        pieces = [parts[number] for number in numbers]
        devices = {piece.device for piece in (*pieces, *fingerprint)}
        if len(devices) == 1:
            values = _joined(pieces, scale)
            if fingerprint:
                values = torch.cat([values, _joined(fingerprint, None)])
            fetch, size = to_host(values), values.numel()
        else:
            fetch, size = _from_many(pieces, scale, fingerprint)
        marks = sum(mark.numel() for mark in fingerprint)
        return Draw(np.array(numbers, np.int16), fetch, 4 * size, marks)


def _joined(pieces: Sequence[torch.Tensor], scale: torch.Tensor | None) -> torch.Tensor:
    joined = torch.cat(list(pieces)).to(torch.float32)
    return joined if scale is None else joined / scale.to(joined.device, non_blocking=True)


def _from_many(
    pieces: Sequence[torch.Tensor], scale: torch.Tensor | None, fingerprint: Sequence[torch.Tensor]
) -> tuple[Callable[[], NDArray[np.float32]], int]:
    """One copy a device, put together in order on the host."""
    ordered = [(piece, scale) for piece in pieces] + [(piece, None) for piece in fingerprint]
    devices = list(dict.fromkeys(piece.device for piece, _ in ordered))
    fetches = []
    for device in devices:
        joined = torch.cat([_joined([piece], by) for piece, by in ordered if piece.device == device])
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


def to_host(values: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    """Start the copy of a tensor to the host; return a function that waits for it and gives it as an array.

    On CUDA the copy goes to pinned memory behind an event, and nothing synchronises until the function is called.
    """
    values = values.detach()
    if values.device.type == "cuda":
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        pinned.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(values.device))

        def fetch() -> NDArray[np.float32]:
            arrived.synchronize()
            return pinned.numpy()

        return fetch
    array: NDArray[np.float32] = values.cpu().numpy()
    return lambda: array
