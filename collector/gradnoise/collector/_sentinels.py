"""A few coordinates of a few groups, by which a change of the parameters shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.collector._gather import Gatherer
from gradnoise.wire import Group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

__all__ = ["Sentinels"]


class Sentinels:
    """Reads samples of the parameters: version counters miss what fused optimisers and ``.data`` do."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._numbers = sorted({0, len(groups) // 2, len(groups) - 1})
        self._gatherer = Gatherer([_few(groups[number]) for number in self._numbers])

    def read(self, parameters: Mapping[int, torch.nn.Parameter]) -> list[torch.Tensor]:
        """Return the samples of those of the groups that are among ``parameters``."""
        return [
            self._gatherer.pick(index, parameters[number].detach())
            for index, number in enumerate(self._numbers)
            if number in parameters
        ]


def _few(group: Group) -> Group:
    size = group.size
    indices = tuple(sorted({0, size // 3, 2 * size // 3, size - 1}))
    return Group(group.name, group.shape, group.dtype, indices)
