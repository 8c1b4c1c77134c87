"""Inner products of long vectors, summed up in double precision without a double-precision copy of them."""

from __future__ import annotations

import torch

__all__ = ["dots", "norm", "norm2", "project_out", "quick_dots"]

_PIECE = 1 << 16  # columns whose products are summed up in the vectors' own precision
_LEAST = 4096  # columns at a time at least
_PIECES = 16  # the copy of a piece of r rows takes 1 / _PIECES of a vector's elements


def _precise(device: torch.device) -> torch.dtype:
    """Return the dtype in which sums are kept on a device; not every kind has float64."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


def dots(rows: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Return the inner product of each row, (r, d), with a vector (d,): (r,), float64 where the device has it."""
    dtype = _precise(vector.device)
    total = torch.zeros(len(rows), dtype=dtype, device=vector.device)
    if rows.dtype == vector.dtype == dtype:
        return torch.mv(rows, vector, out=total)
    width = max(_LEAST, vector.numel() // (_PIECES * max(1, len(rows))))
    for start in range(0, vector.numel(), width):
        piece = slice(start, start + width)
        total += torch.mv(rows[:, piece].to(dtype), vector[piece].to(dtype))
    return total


def quick_dots(rows: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Return the same, of pieces that are summed up in the vectors' own precision: nothing is copied.

    On the CPU a sum of 5e6 equal terms in single precision is off by 1e-4, which would be the eigenvalues' error.
    """
    width = _PIECE if vector.device.type == "cpu" else vector.numel()
    total = torch.zeros(len(rows), dtype=_precise(vector.device), device=vector.device)
    for part, piece in zip(rows.split(width, dim=1), vector.split(width), strict=True):
        total += torch.mv(part, piece)
    return total


def norm(vector: torch.Tensor) -> torch.Tensor:
    """Return the norm of a vector; in single precision it is off by 1e-4 at d = 5e6."""
    found: torch.Tensor = torch.linalg.vector_norm(vector, dtype=_precise(vector.device))
    return found


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
            vector.addmv_(rows.T, quick_dots(rows, vector).to(vector.dtype), alpha=-1)
    return vector
