"""The loss scale of mixed precision: what it was, and which steps it skipped."""

from __future__ import annotations

import math
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from gradnoise.collector._recording.records import Event
from gradnoise.collector._taps.copy import to_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.optim.optimizer import Optimizer

    from gradnoise.collector._recording.sink import Sink

__all__ = ["LossScale", "Outcomes"]

_SKIPPED = "the loss scaler found an infinity in the gradients and skipped the step"


class LossScale:
    """Follows a :class:`torch.amp.GradScaler` through a burst. Nothing here waits for a device.

    A step is skipped on the device's say: the training thread cannot know, the writer's thread finds out. A fused
    optimiser's ``step()`` runs all the same and is told not to update by ``found_inf``; any other one's does not run,
    which shows by the scale's backing off from one backward pass to the next.
    """

    def __init__(self, scaler: Any, sink: Sink) -> None:
        self._scaler = scaler
        self._sink = sink
        self._last: tuple[int, Callable[[], float]] | None = None

    @property
    def tensor(self) -> torch.Tensor | None:
        """The present scale, on its device; None without one."""
        scaler = self._scaler
        if scaler is None or not scaler.is_enabled():
            return None
        scale: torch.Tensor | None = scaler._get_scale_async()  # get_scale() synchronises
        return scale

    def passed(self, step: int) -> Callable[[], float] | None:
        """Note the end of a backward pass of ``step``; return what gives its scale, None without one."""
        scale = self.tensor
        if scale is None:
            return None
        fetch = to_host(scale.reshape(1).clone())  # update() writes into it

        @cache
        def value() -> float:
            return float(fetch()[0])

        last, self._last = self._last, (step, value)
        if last is not None:
            before, earlier = last
            backoff = float(self._scaler.get_backoff_factor())

            def find() -> Iterator[Event]:
                if value() < earlier() and math.isclose(value(), earlier() * backoff, rel_tol=1e-6):
                    yield Event(time.time_ns(), "skipped_step", 1, _SKIPPED, before)

            self._sink.later(find)
        return value

    def stepped(self, optimizer: Optimizer, step: int) -> Callable[[], bool] | None:
        """Return what tells whether a fused ``step()`` that has run left the parameters as they were; None if not."""
        found: torch.Tensor | None = getattr(optimizer, "found_inf", None)
        if found is None:
            return None
        self._last = None  # this step's outcome is known, whatever the scale does
        fetch = to_host(found.reshape(1).clone())

        @cache
        def skipped() -> bool:
            return bool(fetch()[0] != 0)

        def find() -> Iterator[Event]:
            if skipped():
                yield Event(time.time_ns(), "skipped_step", 1, _SKIPPED, step)

        self._sink.later(find)
        return skipped

    def forget(self) -> None:
        """A burst begins: what the scale was in the last one tells nothing."""
        self._last = None


class Outcomes:
    """What the steps since the last draws that were handed over have done to the parameters."""

    def __init__(self) -> None:
        self._skipped: list[Callable[[], bool]] = []
        self._updated = False

    def add(self, skipped: Callable[[], bool] | None) -> None:
        """Note a step; ``skipped`` tells whether it left the parameters as they were, None is an update."""
        if skipped is None:
            self._updated = True
        else:
            self._skipped.append(skipped)

    def settle(self) -> Callable[[], bool] | None:
        """Return what tells whether all of them left the parameters as they were; None if not. Begin anew."""
        skipped, updated = self._skipped, self._updated
        self._skipped, self._updated = [], False
        return None if updated or not skipped else lambda: all(each() for each in skipped)
