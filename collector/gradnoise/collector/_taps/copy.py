"""Copies between device and host that neither of them waits for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["is_captured", "joined_to_host", "to_device", "to_host"]

_PATIENCE = 10.0  # seconds until a device that delivers nothing is asked why
_LOOK = 0.001  # seconds between two looks at what it delivers


@dataclass(frozen=True, slots=True)
class _Side:
    """The side stream of a device, and a one of each dtype there: copied after values it shows that they have come."""

    stream: torch.cuda.Stream
    ones: dict[torch.dtype, torch.Tensor]


_sides: dict[torch.device, _Side] = {}


def to_host(values: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    """Start the copy of a tensor to the host; return a function that waits for it and gives it as an array.

    The tensor must not be written into afterwards. On CUDA the copy goes to pinned memory, on a side stream that waits
    for what the present one has queued: neither the host nor the present stream waits. Pinned memory comes from
    torch's pool, into which it returns with the array: what waits in the sink's bounded queue bounds it.
    """
    values = values.detach()
    if values.device.type == "cuda":
        return _from_cuda(values)
    array: NDArray[np.float32] = values.cpu().numpy()
    return lambda: array


def joined_to_host(pieces: Sequence[torch.Tensor]) -> Callable[[], NDArray[np.float32]]:
    """As :func:`to_host` of 1-d tensors of one device, one after another, as float32.

    None of them may be written into afterwards. On the CPU they are joined where the array is asked for: not by the
    training, whose caches are full of other things.
    """
    if pieces[0].device.type == "cpu":
        return lambda: torch.cat(list(pieces)).to(torch.float32).numpy()
    return to_host(torch.cat(list(pieces)).to(torch.float32))


def _from_cuda(values: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    device, shape, count = values.device, values.shape, values.numel()
    side = _sides.get(device)
    if side is None:
        side = _sides.setdefault(device, _Side(torch.cuda.Stream(device), {}))
    one = side.ones.get(values.dtype)
    if one is None:
        one = side.ones.setdefault(values.dtype, torch.ones(1, dtype=values.dtype, device=device))
    # The device is named because the user may have set another default.
    pinned = torch.empty(count + 1, dtype=values.dtype, device="cpu", pin_memory=True)
    array: NDArray[np.float32] = pinned.numpy()
    array[count] = 0
    side.stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side.stream):
        pinned[:count].copy_(values.reshape(-1), non_blocking=True)
        pinned[count:].copy_(one, non_blocking=True)
    # Its memory is not given to another tensor of the stream it belongs to before the side stream has read it.
    values.record_stream(side.stream)

    def fetch() -> NDArray[np.float32]:
        # No event is waited for: while some thread captures a CUDA graph, another one's asking may spoil the capture.
        deadline = time.monotonic() + _PATIENCE
        while not array[count]:
            if time.monotonic() > deadline:
                side.stream.synchronize()  # raises what went wrong on the device
                break
            time.sleep(_LOOK)
        return array[:count].reshape(shape)

    return fetch


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return a new tensor of an array's values on a device; on CUDA by way of pinned memory, so that nothing waits."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device, copy=True)


def is_captured(tensor: torch.Tensor) -> bool:
    """Whether work on a tensor would go into a CUDA graph that is being captured, instead of being done."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
