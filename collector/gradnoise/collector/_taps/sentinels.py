"""A few coordinates of a few groups, by which a change of the parameters shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.collector._taps.gather import Gatherer
from gradnoise.wire import Group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

__all__ = ["Sentinels"]


class Sentinels:
    """Reads samples of the parameters: version counters miss what fused optimisers and ``.data`` do."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._gatherers: dict[int, Gatherer] = {}

    def read(self, parameters: Mapping[int, torch.nn.Parameter]) -> list[torch.Tensor]:
        """Return samples of the first, middle and last of ``parameters`` (group number -> parameter)."""
        # Chosen among what is trained now: a frozen group shows no change.
        numbers = list(parameters)
        chosen = dict.fromkeys(numbers[index] for index in (0, len(numbers) // 2, -1)) if numbers else {}
        return [self._gatherer(number).pick(0, parameters[number].detach()) for number in chosen]

    def _gatherer(self, number: int) -> Gatherer:
        gatherer = self._gatherers.get(number)
        if gatherer is None:
            gatherer = self._gatherers[number] = Gatherer([_few(self._groups[number])])
        return gatherer


def _few(group: Group) -> Group:
    size = group.size
    indices = tuple(sorted({0, size // 3, 2 * size // 3, size - 1}))
    return Group(group.name, group.shape, group.dtype, indices)
