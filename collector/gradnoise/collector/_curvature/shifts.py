"""Implicit restarts: a tridiagonal matrix, steps of the QR method on it, and the shifts of these steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["leja", "shifted", "tridiagonal"]

_GRID = 400  # points of an interval that are looked at


def tridiagonal(
    values: NDArray[np.float64], last: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a tridiagonal T and an orthogonal Z, diag(values) = Z T Z^T, the last column of Z being ``last``."""
    mirror = last.copy()
    mirror[0] += math.copysign(1.0, mirror[0])
    mirror /= np.linalg.norm(mirror)
    # A reflection that takes the first axis to -+last; what makes the rest tridiagonal leaves that axis alone.
    size = len(values)
    turn = np.eye(size) - 2 * np.outer(mirror, mirror)
    full = turn @ (values[:, None] * turn)
    for column in range(size - 2):
        below = full[column + 1 :, column].copy()
        below[0] += math.copysign(float(np.linalg.norm(below)), below[0])
        length = float(np.linalg.norm(below))
        if length == 0.0:
            continue
        below /= length
        for matrix in (full, full.T):
            matrix[column + 1 :] -= 2 * np.outer(below, below @ matrix[column + 1 :])
        turn[:, column + 1 :] -= 2 * np.outer(turn[:, column + 1 :] @ below, below)
    turn[:, 0] = last  # and not -last
    small = np.diag(np.diag(full)) + np.diag(np.diag(full, -1), -1) + np.diag(np.diag(full, -1), 1)
    if size > 1:
        sign = 1.0 if float(values * turn[:, 0] @ turn[:, 1]) * small[1, 0] >= 0 else -1.0
        small[1, 0] *= sign
        small[0, 1] *= sign
    return small[::-1, ::-1].copy(), turn[:, ::-1].copy()


def shifted(
    small: NDArray[np.float64], turn: NDArray[np.float64], shift: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Q^T T Q and Z Q, where T - shift = Q R: one step of the QR method."""
    step, _ = np.linalg.qr(small - shift * np.eye(len(small)))
    small = step.T @ small @ step
    return (small + small.T) / 2, turn @ step


def leja(past: Sequence[float], band: tuple[float, float]) -> float:
    """Return the point of an interval that is the farthest from all past ones, by the product of the distances."""
    low, high = band
    if not past:
        return high
    grid = (low + high) / 2 + (high - low) / 2 * np.cos(np.linspace(0.0, math.pi, _GRID))
    distances = np.abs(grid[:, None] - np.asarray(past)) + np.finfo(np.float64).tiny
    return float(grid[np.log(distances).sum(axis=1).argmax()])
