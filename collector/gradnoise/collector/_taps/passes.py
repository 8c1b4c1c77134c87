"""The backward passes under way."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.autograd import Variable

from gradnoise.collector._taps.dynamo import in_compiled_autograd

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradnoise.collector._taps.selfcheck import Before

__all__ = ["BackwardPass", "Passes"]


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


class Passes:
    """The backward passes under way by graph task: reentrant ones, and ones that raised, have others.

    Args:
        begin: makes a pass, before the first of its gradients is added to ``.grad``.
        end: called with the graph task once that pass has ended; :meth:`pop` gives the pass.

    Attributes:
        under_way: graph task -> pass.
    """

    def __init__(self, begin: Callable[[], BackwardPass], end: Callable[[int], None]) -> None:
        self._begin = begin
        self._end = end
        self.under_way: dict[int, BackwardPass] = {}
        self._unended: int | None = None
        self._opening = threading.Lock()

    def open(self, task: int) -> BackwardPass:
        """Begin a backward pass at the first of its gradients; return it."""
        with self._opening, torch.no_grad():  # gradients of several devices come from several threads
            one = self.under_way.get(task)
            if one is None:
                one = self.under_way[task] = self._begin()
                if in_compiled_autograd():
                    self._unended = task  # nothing says when it ends
                    one.checks = {}
                else:
                    Variable._execution_engine.queue_callback(partial(self._end, task))
        return one

    def pop(self, task: int) -> BackwardPass | None:
        """Take out a pass that has ended; None if it was forgotten."""
        return self.under_way.pop(task, None)

    def end_unended(self) -> None:
        """End the backward pass that compiled autograd ran, of whose end it did not tell."""
        task, self._unended = self._unended, None
        if task is not None:
            self._end(task)

    def forget(self) -> int:
        """Forget the passes under way: they raised. Return how many there were."""
        count = len(self.under_way)
        self.under_way.clear()
        return count
