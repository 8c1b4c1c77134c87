"""How many examples a batch holds, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["batch_size_of"]

_DEPTH = 8  # of nesting: a batch that holds itself is no reason to fail


def batch_size_of(batch: Any) -> int | None:
    """Return the first dimension of a batch's tensors (or arrays) if all agree on it; None where they do not.

    Looks into mappings, lists and tuples. Never raises.
    """
    try:
        sizes = set(_sizes(batch, _DEPTH))
    except Exception:  # a batch is the user's own object, and its size is only good to know
        return None
    return sizes.pop() if len(sizes) == 1 else None


def _sizes(batch: Any, depth: int) -> Iterator[int]:
    shape = getattr(batch, "shape", None)
    if shape is not None:
        if len(shape):
            yield int(shape[0])
    elif depth and isinstance(batch, Mapping):
        for part in batch.values():
            yield from _sizes(part, depth - 1)
    elif depth and isinstance(batch, list | tuple):
        for part in batch:
            yield from _sizes(part, depth - 1)
