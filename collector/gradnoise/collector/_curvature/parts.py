"""Which parameters a part of a model has."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._taps.groups import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from gradnoise.collector._curvature.config import Part

__all__ = ["chosen"]

_SHOWN = 8  # names in a message


def chosen(model: torch.nn.Module, parts: Sequence[Part]) -> list[tuple[str, list[torch.nn.Parameter]]]:
    """Return each part's name and its trainable parameters, in the model's order; tied ones once.

    Raises:
        CurvatureError: a part has none.
    """
    names = {name: each for name, each in named(model) if each.requires_grad and each.numel()}
    found = []
    for part in parts:
        if isinstance(part, str):
            label, mine = part, [each for name, each in names.items() if fnmatchcase(name, part)]
        else:
            label, belongs = part
            mine = [each for name, each in names.items() if belongs(name, each)]
        if not mine:
            some = ", ".join(list(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            raise CurvatureError(
                f"the part {label!r} has no trainable parameter of {type(model).__name__}; there are: {some or 'none'}"
            )
        found.append((label, mine))
    return found
