"""What stands in ``.grad``, beside what arrives there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradnoise.collector._taps.clip import ClipMeter
from gradnoise.collector._taps.gather import Gatherer
from gradnoise.collector._taps.selfcheck import SelfCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.optim.optimizer import Optimizer

    from gradnoise.collector._recording.sink import Sink
    from gradnoise.collector._taps.listener import Listener
    from gradnoise.collector._taps.passes import BackwardPass
    from gradnoise.collector._taps.scale import LossScale
    from gradnoise.wire import Group

__all__ = ["Standing"]


class Standing:
    """Reads from ``.grad`` how a step clips it, and checks in the first passes that it grows by what was gathered.

    Args:
        groups: the model's.
        listener: knows the parameters listened to.
        scale: of the loss.
        sink: told of what does not add up.
        averaged: the processes of a job average ``.grad``: nothing can be read from it.

    Attributes:
        averaged: as given.
    """

    def __init__(
        self, groups: Sequence[Group], listener: Listener, scale: LossScale, sink: Sink, *, averaged: bool
    ) -> None:
        self._listener = listener
        self._scale = scale
        self._clip = ClipMeter(groups)
        # What lies in .grad is laid out in another way than what arrives there, and each gatherer knows one layout.
        self._check = SelfCheck(Gatherer(groups), [group.name for group in groups], sink)
        self.averaged = averaged
        if averaged:
            self._check.stop()

    def arm(self) -> None:
        """Look at the parameters that are listened to now."""
        self._clip.arm(self._listener.parameters)

    def disarm(self) -> None:
        """Look at none."""
        self._clip.arm({})

    def before_pass(self, under_way: BackwardPass) -> None:
        """Note in a backward pass what stands there as it begins."""
        under_way.cleared = self._clip.cleared
        if not self.averaged:
            under_way.held = self._clip.before_pass()
        if self._check.active:
            under_way.checks = self._check.before_pass(self._listener.parameters)

    def after_pass(self, theta: int, under_way: BackwardPass) -> None:
        """Compare what stands there now with what the backward pass gathered."""
        if not self.averaged:
            self._clip.after_pass(under_way.held, under_way.parts)
        if under_way.checks:
            self._check.after_pass(theta, self._listener.parameters, under_way.checks, under_way.parts)

    def before_step(self, theta: int, optimizer: Optimizer) -> Callable[[], float | None] | None:
        """Return what gives the factor by which gradients were clipped; None where it is not known."""
        scale = self._scale.tensor
        with torch.no_grad():
            factor = self._clip.at_step(optimizer, scale)
        if factor is not None and scale is None:
            self._check.at_step(theta, factor)
        return factor
