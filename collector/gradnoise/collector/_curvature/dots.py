"""Inner products of long vectors, summed up in double precision without a double-precision copy of them."""

from __future__ import annotations

import torch

__all__ = ["dots", "norm2", "precise", "project_out"]

_LEAST = 4096  # columns at a time at least
_PIECES = 16  # the copy of a piece of r rows takes 1 / _PIECES of a vector's elements


def precise(device: torch.device) -> torch.dtype:
    """Return the dtype in which sums are kept on a device; not every kind has float64."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


def dots(rows: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Return the inner product of each row, (r, d), with a vector (d,): (r,), float64 where the device has it."""
    dtype = precise(vector.device)
    total = torch.zeros(len(rows), dtype=dtype, device=vector.device)
    if rows.dtype == vector.dtype == dtype:
        return torch.mv(rows, vector, out=total)
    width = max(_LEAST, vector.numel() // (_PIECES * max(1, len(rows))))
    for start in range(0, vector.numel(), width):
        piece = slice(start, start + width)
        total += torch.mv(rows[:, piece].to(dtype), vector[piece].to(dtype))
    return total


def norm2(vector: torch.Tensor) -> float:
    """Return the squared norm of a vector."""
    return float(dots(vector[None], vector))


def project_out(rows: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Make a vector orthogonal to orthonormal rows, in place, and return it.

    Twice: what rounding leaves of a first projection is removed by the second (Kahan's "twice is enough"; Parlett, The
    Symmetric Eigenvalue Problem, section 6.9), also of the rounding of inner products in the vectors' own precision.
    """
    if len(rows):
        for _ in range(2):
            vector.addmv_(rows.T, torch.mv(rows, vector), alpha=-1)
    return vector
