"""Squared norms of whole gradients, measured where they arise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from gradnoise.collector._taps.copy import to_host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["norm_of", "squared"]


def norm_of(gradient: torch.Tensor) -> torch.Tensor | None:
    """Return the norm of a gradient, 0-d float32 on its device; None where it would have to be waited for."""
    gradient = gradient.detach()
    if gradient.layout is not torch.strided:
        if gradient.layout is not torch.sparse_coo or gradient.device.type != "cpu":
            return None
        gradient = gradient.coalesce().values()  # indices may repeat; on a device, counting them synchronises
    dtype = torch.float64 if gradient.dtype is torch.float64 else torch.float32  # it may be widened, not narrowed
    norm: torch.Tensor = torch.linalg.vector_norm(gradient, dtype=dtype)
    return norm.to(torch.float32)


def squared(
    norms: Mapping[int, torch.Tensor], numbers: Sequence[int], scale: torch.Tensor | None
) -> Callable[[], NDArray[np.float64]]:
    """Return what gives the squared norms of the groups ``numbers``, float64; NaN where not measured.

    Args:
        norms: group number -> norm, on its device.
        scale: loss scale by which they are divided.
    """
    by_device: dict[torch.device, list[int]] = {}
    for number, norm in norms.items():
        by_device.setdefault(norm.device, []).append(number)
    fetches = []
    for device, members in by_device.items():
        stacked = torch.stack([norms[number] for number in members])
        if scale is not None:
            stacked = stacked / scale.to(device, non_blocking=True)
        fetches.append((members, to_host(stacked)))

    def values() -> NDArray[np.float64]:
        found = {n: v for members, fetch in fetches for n, v in zip(members, fetch().tolist(), strict=True)}
        return np.square(np.array([found.get(number, np.nan) for number in numbers], np.float64))

    return values
