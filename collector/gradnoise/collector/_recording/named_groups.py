"""The groups of a recorder: given up front, or those of the first step."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from gradnoise.collector._errors import CollectorError
from gradnoise.collector._recording.arrays import ArrayError, host_array, sampled, whole
from gradnoise.collector._recording.coordinates import MAX_GROUPS, sample_coordinates
from gradnoise.collector._recording.refusals import RefusedInputError
from gradnoise.wire import Group

__all__ = ["NamedGroups"]


class NamedGroups:
    """Names, shapes and sampled coordinates of groups, in the order in which they were added.

    Attributes:
        settled: whether the run is begun, so that no group can be added.
    """

    def __init__(self, coordinates: int, seed: int) -> None:
        self._coordinates = coordinates
        self._seed = seed
        self._groups: list[Group] = []
        self._indices: list[np.ndarray[Any, np.dtype[np.int64]]] = []
        self._numbers: dict[str, int] = {}
        self.settled = False

    def __len__(self) -> int:
        return len(self._groups)

    def all(self) -> tuple[Group, ...]:
        """Return the groups."""
        return tuple(self._groups)

    def name(self, number: int) -> str:
        """Return a group's name."""
        return self._groups[number].name

    def declare(self, name: str, given: Any) -> None:
        """Add a group of a shape, or of an array's shape.

        Raises:
            CollectorError: it cannot be recorded.
        """
        shape = getattr(given, "shape", given)
        try:
            extents = (operator.index(shape),) if hasattr(shape, "__index__") else tuple(map(operator.index, shape))
        except TypeError:
            extents = (-1,)
        if any(extent < 0 for extent in extents):
            raise CollectorError(f"Recorder(groups={{{name!r}: {given!r}}}): expected a shape, such as (784, 128)")
        self._add(name, extents, str(getattr(given, "dtype", "float32")))

    def draws(self, name: str, gradients: Any) -> tuple[int, np.ndarray[Any, np.dtype[np.float32]]]:
        """Return a group's number, and its gradients at the sampled coordinates: draws x coordinates.

        Raises:
            RefusedInputError: no such group, or no such gradients.
        """
        try:
            array = host_array(gradients)
            number = self._number(name, array.shape[1:], array.dtype)
            return number, sampled(self._groups[number], self._indices[number], array)
        except ArrayError as error:
            raise RefusedInputError("array", f"does not record {name!r}: {error}", group=_text(name)) from error

    def reference(self, name: str, gradient: Any) -> tuple[int, np.ndarray[Any, np.dtype[np.float32]], float]:
        """Return a group's number, one gradient at the sampled coordinates, and the squared norm of all of it.

        Raises:
            RefusedInputError: no such group, or no such gradient.
        """
        try:
            array = host_array(gradient)
            number = self._number(name, array.shape, array.dtype)
            return number, *whole(self._groups[number], self._indices[number], array)
        except ArrayError as error:
            text = f"ignores the reference of {name!r}: {error}"
            raise RefusedInputError("reference", text, draws=0, group=_text(name)) from error

    def _number(self, name: str, shape: tuple[int, ...], dtype: object) -> int:
        number = self._numbers.get(name) if isinstance(name, str) else None
        if number is not None:
            return number
        reason = "it was neither given up front nor part of the first step; name every group in Recorder(groups=...)"
        if not self.settled:
            try:
                return self._add(name, shape, str(dtype))
            except CollectorError as error:
                reason = str(error)
        raise RefusedInputError("group", f"does not record group {name!r}: {reason}", group=_text(name))

    def _add(self, name: str, shape: tuple[int, ...], dtype: str) -> int:
        if not isinstance(name, str) or not name:
            raise CollectorError(f"group {name!r}: expected a name")
        if not name.isascii() and name.encode("utf-8", "ignore").decode() != name:
            raise CollectorError(f"group {name!r}: expected a name that UTF-8 can hold")
        size = math.prod(shape)
        if not size:
            raise CollectorError(f"group {name!r} of shape {list(shape)}: it has no parameters")
        if len(self._groups) >= MAX_GROUPS:
            raise CollectorError(f"more than {MAX_GROUPS} groups: at most that many can be recorded")
        indices = sample_coordinates(name, size, self._coordinates, self._seed)
        self._groups.append(Group(name, shape, dtype, indices))
        self._indices.append(np.array(indices, np.int64))
        self._numbers[name] = number = len(self._groups) - 1
        return number


def _text(name: object) -> str:
    return name if isinstance(name, str) else repr(name)
