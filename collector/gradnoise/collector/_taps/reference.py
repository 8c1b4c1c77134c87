"""The full gradient as a running mean over a pass: one gradient at a time, whatever the number of minibatches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradnoise.collector._recording.records import ReferenceAt
from gradnoise.collector._taps.copy import to_host

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["UnevenSizesError", "WholeGradient"]


class UnevenSizesError(ValueError):
    """Some minibatches of a pass say how many examples they hold and others do not."""


class WholeGradient:
    """Mean of the minibatch gradients of one pass over the data, weighted by the minibatches' sizes.

    So the gradient of the mean loss over all examples, also where the last minibatch is smaller. Of minibatches of
    unknown size each weighs the same. At the sampled coordinates it is summed up in double precision; a group that
    has no gradient in a minibatch has a gradient of zero there.

    Args:
        norms: keep the whole mean too, one gradient more in memory, for its squared norm.
    """

    def __init__(self, *, norms: bool = False) -> None:
        self._norms = norms
        self._picked: dict[int, torch.Tensor] = {}
        self._whole: dict[int, torch.Tensor] = {}
        self._weight = 0
        self._sized: bool | None = None
        self.minibatches = 0

    def add(
        self,
        picked: Mapping[int, torch.Tensor],
        gradients: Mapping[int, torch.Tensor],
        batch_size: int | None,
        scale: torch.Tensor | None = None,
    ) -> None:
        """Add a minibatch.

        Args:
            picked: group -> its gradient at the sampled coordinates.
            gradients: group -> its whole gradient, dense or sparse.
            batch_size: examples in the minibatch; None where unknown.
            scale: by which all of them are divided.

        Raises:
            UnevenSizesError: its size is known and those before were not, or the other way round.
        """
        if self._sized is None:
            self._sized = batch_size is not None
        if self._sized != (batch_size is not None):
            raise UnevenSizesError
        weight = 1 if batch_size is None else batch_size
        for number, values in picked.items():
            _add(self._picked, number, values, _precise(values.device), weight, scale)
        if self._norms:
            for number, gradient in gradients.items():
                dtype = torch.float64 if gradient.dtype is torch.float64 else torch.float32
                _add(self._whole, number, gradient, dtype, weight, scale)
        self._weight += weight
        self.minibatches += 1

    def reference(self, window: int, theta: int, *, replacement: bool | None) -> ReferenceAt:
        """Return the mean as the reference of a window; waits for the device."""
        numbers = sorted(self._picked)
        norms = None
        if self._norms:
            norms = tuple(
                (float(torch.linalg.vector_norm(self._whole[number], dtype=torch.float64)) / self._weight) ** 2
                for number in numbers
            )
        return ReferenceAt(
            window,
            theta,
            "full",
            tuple(numbers),
            tuple(to_host((self._picked[number] / self._weight).to(torch.float32))() for number in numbers),
            norms,
            self.minibatches,
            self._weight if self._sized else None,
            replacement,
        )


def _precise(device: torch.device) -> torch.dtype:
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32  # others may not have it


def _add(
    sums: dict[int, torch.Tensor],
    number: int,
    values: torch.Tensor,
    dtype: torch.dtype,
    weight: int,
    scale: torch.Tensor | None,
) -> None:
    total = sums.get(number)
    if total is None:
        total = sums[number] = torch.zeros(values.shape, dtype=dtype, device=values.device)
    if scale is not None:
        values = values.to(dtype) / scale.to(values.device)
    total.add_(values, alpha=weight)
