"""Copies between device and host that neither of them waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["is_captured", "to_device", "to_host"]

_streams: dict[torch.device, torch.cuda.Stream] = {}


def to_host(values: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    """Start the copy of a tensor to the host; return a function that waits for it and gives it as an array.

    The tensor must not be written into afterwards. On CUDA the copy goes to pinned memory, on a side stream that waits
    for what the present one has queued: the host goes on, the present stream goes on, and the thread that calls the
    function sleeps until the copy has arrived. Pinned memory comes from torch's pool, into which it returns with the
    array: what waits in the sink's bounded queue bounds it.
    """
    values = values.detach()
    if values.device.type == "cuda":
        return _from_cuda(values)
    array: NDArray[np.float32] = values.cpu().numpy()
    return lambda: array


def _from_cuda(values: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    device = values.device
    side = _streams.get(device)
    if side is None:
        side = _streams.setdefault(device, torch.cuda.Stream(device))
    # The device is named because the user may have set another default.
    pinned = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
    arrived = torch.cuda.Event(blocking=True)  # its waiter sleeps instead of spinning
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        pinned.copy_(values, non_blocking=True)
        arrived.record(side)
    # Its memory is not given to another tensor of the stream it belongs to before the side stream has read it.
    values.record_stream(side)

    def fetch() -> NDArray[np.float32]:
        arrived.synchronize()
        array: NDArray[np.float32] = pinned.numpy()
        return array

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
