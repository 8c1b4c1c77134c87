"""The fixed random coordinates of a parameter group, and how many groups there may be."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["MAX_GROUPS", "sample_coordinates"]

MAX_GROUPS = 2**15 - 1  # the dump codes groups in 16 bits


def sample_coordinates(name: str, size: int, count: int, seed: int) -> tuple[int, ...]:
    """Return ``min(count, size)`` ascending flat indices below ``size``.

    They depend on ``seed``, ``name``, ``size`` and ``count`` alone: not on the other groups, their order or the
    process, so that the ranks and restarts of a job sample the same coordinates.
    """
    if size <= count:
        return tuple(range(size))
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    chosen = np.sort(rng.choice(size, count, replace=False, shuffle=False))
    return tuple(chosen.tolist())
