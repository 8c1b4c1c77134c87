"""The sampled coordinates of sparse gradients, without coalescing them: that would wait for the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gradnoise.collector._taps.copy import to_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SparseLayout"]


@dataclass(frozen=True, slots=True)
class SparseLayout:
    """Which rows of a sparse gradient hold sampled coordinates, and where.

    A COO tensor of shape ``(*sparse, *dense)`` is a matrix with a row for each sparse index and a column for each
    dense one, of which some rows are given, in any order and perhaps more than once: the sum counts.

    Attributes:
        sparse: number of sparse dimensions.
        device: of the tensors that follow, all int64.
        steps: (sparse,): what an index of each sparse dimension adds to the number of its row.
        rows: (r,): the rows with sampled coordinates, ascending.
        columns: (r, m): the sampled columns of each of these rows, padded with 0.
        slots: (k,): for each sampled coordinate its place in ``columns``, flat.
    """

    sparse: int
    device: torch.device
    steps: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    slots: torch.Tensor

    @classmethod
    def of(cls, shape: tuple[int, ...], indices: NDArray[np.int64], sparse: int, device: torch.device) -> SparseLayout:
        """Return the layout of the ascending flat ``indices`` of a tensor of ``shape``."""
        width = math.prod(shape[sparse:])
        row, column = np.divmod(indices, width)
        rows, first, of_row, counts = np.unique(row, return_index=True, return_inverse=True, return_counts=True)
        place = np.arange(len(indices)) - first[of_row]  # of a coordinate within its row
        columns = np.zeros((len(rows), counts.max()), np.int64)
        columns[of_row, place] = column
        slots = of_row * columns.shape[1] + place
        steps = np.array([math.prod(shape[axis + 1 : sparse]) for axis in range(sparse)], np.int64)
        return cls(sparse, device, *(to_device(array, device) for array in (steps, rows, columns, slots)))

    def pick(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return a new 1-d tensor of the values of a COO tensor at the coordinates; half precision as float32.

        Values of repeated rows are added up in the order in which the device comes to them.
        """
        given = (self.steps.unsqueeze(1) * gradient._indices()).sum(0)
        values = gradient._values()
        matrix = values.reshape(given.numel(), math.prod(values.shape[1:]))
        position = torch.searchsorted(self.rows, given).clamp_(max=self.rows.numel() - 1)
        chosen = matrix.gather(1, self.columns.index_select(0, position))
        if chosen.dtype.itemsize < 4:
            chosen = chosen.to(torch.float32)
        # Not by multiplication: a value that is not finite would spread to rows it does not belong to.
        asked = self.rows.index_select(0, position) == given
        chosen = torch.where(asked.unsqueeze(1), chosen, torch.zeros((), dtype=chosen.dtype, device=chosen.device))
        sums = torch.zeros(self.columns.shape, dtype=chosen.dtype, device=chosen.device)
        return sums.index_add_(0, position, chosen).reshape(-1).index_select(0, self.slots)
