"""A backward pass under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from gradnoise.collector._taps.selfcheck import Before

__all__ = ["BackwardPass"]


@dataclass(slots=True)
class BackwardPass:
    """What the gradient hooks of one backward pass have gathered.

    Attributes:
        parts: group number -> picked values.
        held: group number -> values of ``.grad`` as the pass began, of the few groups that show the clip factor.
        norms: group number -> norm of the gradient, where norms are measured.
        checks: group number -> ``.grad`` as the pass began, while passes are checked.
        cleared: no gradient was there as the pass began.
        forwards: forward passes since the last update, as the pass began.
        merged: backward passes whose sum this is: more than one where shards arrive only after the last of several.
    """

    parts: dict[int, torch.Tensor] = field(default_factory=dict)
    held: dict[int, torch.Tensor] = field(default_factory=dict)
    norms: dict[int, torch.Tensor] = field(default_factory=dict)
    checks: dict[int, Before] = field(default_factory=dict)
    cleared: bool = False
    forwards: int = 0
    merged: int = 1
