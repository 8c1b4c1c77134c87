"""From whatever holds numbers on the host to float32 at the sampled coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradnoise.wire import Group

__all__ = ["ArrayError", "host_array", "sampled", "whole"]


class ArrayError(Exception):
    """What was given is no array of real floating-point numbers of the expected shape; the message says why."""


def host_array(value: Any) -> NDArray[Any]:
    """Return ``value`` as a numpy array, without a copy where it has one to give.

    Takes numpy arrays and what offers ``__array__`` or DLPack on the host (jax arrays, torch tensors on the CPU).

    Raises:
        ArrayError: it is none of these, or not of a real floating-point type.
    """
    try:
        given = hasattr(value, "__dlpack__") and not hasattr(value, "__array__")
        array: NDArray[Any] = np.from_dlpack(value) if given else np.asarray(value)
    except Exception as error:
        raise ArrayError(
            f"{type(value).__name__} cannot be read as an array ({error}); give a numpy array, or what "
            "numpy.asarray takes"
        ) from error
    if np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16":
        return array
    if array.dtype.kind == "c":
        raise ArrayError(
            f"dtype {array.dtype}: stable laws of real noise do not describe it; give real and imaginary parts as "
            "groups of their own"
        )
    raise ArrayError(f"dtype {array.dtype}: expected float16, bfloat16, float32 or float64; convert it")


def sampled(group: Group, indices: NDArray[np.int64], array: NDArray[Any]) -> NDArray[np.float32]:
    """Return a float32 copy, draws x coordinates, of the draws ``[K, *shape]``, ``[K, d]`` or of one, ``[*shape]``.

    Raises:
        ArrayError: another shape.
    """
    shape, size = group.shape, group.size
    if array.shape == shape:
        array = array[None]
    if array.ndim < 1 or array.shape[1:] not in (shape, (size,)) or not len(array):
        expected = _text("K", *shape) if len(shape) == 1 else f"{_text('K', *shape)} or {_text('K', size)}"
        raise ArrayError(f"shape {_text(*array.shape)}: expected {expected}, K draws one after the other")
    rows = array.reshape(len(array), size)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and counted as such
        if len(indices) == size:
            return rows.astype(np.float32, copy=True)
        return rows[:, indices].astype(np.float32, copy=False)


def whole(group: Group, indices: NDArray[np.int64], array: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """Return one gradient at the sampled coordinates, and the squared norm of all of it.

    Raises:
        ArrayError: it has neither the group's shape nor its size.
    """
    if array.shape not in (group.shape, (group.size,)):
        raise ArrayError(f"shape {_text(*array.shape)}: expected {_text(*group.shape)}")
    flat = array.reshape(group.size).astype(np.float64)
    with np.errstate(over="ignore"):
        return flat[indices].astype(np.float32), float(np.dot(flat, flat))


def _text(*extents: int | str) -> str:
    return f"[{', '.join(map(str, extents))}]"
