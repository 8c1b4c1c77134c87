"""A data loader of the user's: read without touching what the training reads from it."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["alike", "generators_of", "own", "preserved_generators"]


def own(data: Any) -> Any:
    """Return data whose iterators are nobody else's.

    A loader with persistent workers has one iterator, which a second ``iter()`` begins anew, under whoever is in the
    middle of it. A copy of the loader has workers of its own. Anything else is returned as it is.
    """
    if getattr(data, "persistent_workers", False) is not True or not hasattr(data, "_iterator"):
        return data
    mine = copy.copy(data)
    mine._iterator = None
    return mine


def alike(data: Any) -> Any:
    """Return data of which each pass begins with the loader's generators as they are now, and so in the same order.

    In training mode that decides which dropout mask an example gets. Nobody else's iterators, see :func:`own`.
    """
    mine = own(data)
    return _Alike(mine) if generators_of(mine) else mine


class _Alike:
    def __init__(self, data: Any) -> None:
        self._data = data
        self._states = [(generator, generator.get_state()) for generator in generators_of(data)]

    def __iter__(self) -> Iterator[Any]:
        for generator, state in self._states:
            generator.set_state(state)
        return iter(self._data)


def generators_of(data: Any) -> list[torch.Generator]:
    """Return the random number generators that belong to a loader, each once."""
    samplers = [getattr(data, "sampler", None), getattr(data, "batch_sampler", None)]
    samplers += [getattr(each, "sampler", None) for each in samplers]
    found = [getattr(each, "generator", None) for each in (data, *samplers)]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


@contextmanager
def preserved_generators(data: Any) -> Iterator[None]:
    """Put the states of a loader's generators back on leaving, so that the training's shuffles stay what they are."""
    states = [(generator, generator.get_state()) for generator in generators_of(data)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
