"""Gradients of parameters that ``fully_shard`` has cut: the reduced shards, as they stand after a backward pass.

Leaf hooks never fire on them. Post-accumulate hooks do, once the shard is reduced, and show the running sum: what one
backward pass gave is the difference to the sum that stood there when it began. With
``set_requires_gradient_sync(False)`` nothing arrives until the last of several backward passes, whose sum is then one
draw.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Variable

from gradnoise.collector._taps.copy import is_captured
from gradnoise.collector._taps.gather import UnsupportedGradientError, local

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ShardHooks"]


class ShardHooks:
    """Post-accumulate hooks on sharded parameters, and a look at what they held before each backward pass.

    Args:
        pick: gives the sampled values of a group's gradient, on its device.
        on_gradient: called with a group's number, its gradient after a backward pass, and its sampled values before
            it, to be subtracted; None where there was no gradient.
        on_refusal: called where the gradient before a backward pass is not known.
        on_failure: called with what should not have happened.

    Attributes:
        merged: backward passes that have begun since gradients arrived before, as they arrive again; 1 where nothing
            is known.
    """

    def __init__(
        self,
        pick: Callable[[int, torch.Tensor], torch.Tensor],
        on_gradient: Callable[[int, torch.Tensor, torch.Tensor | None], None],
        on_refusal: Callable[[int, UnsupportedGradientError], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._pick = pick
        self._on_gradient = on_gradient
        self._on_refusal = on_refusal
        self._on_failure = on_failure
        self._handles: list[tuple[torch.nn.Parameter, Any]] = []
        self._parameters: Mapping[int, torch.nn.Parameter] = {}
        self._before: dict[int, dict[int, torch.Tensor]] = {}
        self._arrived: dict[int, list[int]] = {}
        self.merged = 1

    def arm(self, parameters: Mapping[int, torch.nn.Parameter]) -> None:
        """Register the hooks on parameters, given by group number."""
        self._parameters = parameters
        for number, parameter in parameters.items():
            handle = parameter.register_post_accumulate_grad_hook(partial(self._arrives, number))
            self._handles.append((parameter, handle))

    def disarm(self) -> None:
        """Remove the hooks; idempotent."""
        handles, self._handles = self._handles, []
        self._parameters = {}
        self._before.clear()
        self._arrived.clear()
        self.merged = 1
        for parameter, handle in handles:
            handle.remove()
            if not parameter._post_accumulate_grad_hooks:
                parameter._post_accumulate_grad_hooks = None  # type: ignore[assignment]

    def mark(self, output: object) -> None:
        """Look at the gradients as they are when the backward pass of a forward pass's output begins."""
        try:
            from torch.utils._pytree import tree_leaves

            for leaf in tree_leaves(output):
                if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
                    leaf.register_hook(self._begins)
        except Exception as error:
            self._on_failure(error)

    def _begins(self, gradient: torch.Tensor) -> None:
        try:
            task = torch._C._current_graph_task_id()
            if task not in self._before and not is_captured(gradient):
                self._before[task] = {
                    number: self._pick(number, local(parameter.grad))
                    for number, parameter in self._parameters.items()
                    if parameter.grad is not None
                }
        except Exception as error:
            self._on_failure(error)

    def _arrives(self, number: int, parameter: torch.nn.Parameter) -> None:
        try:
            task = torch._C._current_graph_task_id()
            arrived = self._arrived.get(task)
            if arrived is None:
                # Shards are reduced on a stream of their own; they are read at the end, on that of the backward pass.
                arrived = self._arrived[task] = []
                stream = torch.cuda.current_stream(parameter.device) if parameter.device.type == "cuda" else None
                Variable._execution_engine.queue_callback(partial(self._end, task, stream))
            arrived.append(number)
        except Exception as error:
            self._on_failure(error)

    def _end(self, task: int, stream: torch.cuda.Stream | None) -> None:
        try:
            if stream is not None:
                # Nothing new, unless it was told with `set_is_last_backward(False)` that more is to come.
                torch.cuda.current_stream(stream.device).wait_stream(stream)
            self.merged = max(1, len(self._before))
            before = self._before.pop(task, None)
            # Those of backward passes that raised, or of which nothing arrived.
            self._before.clear()
            for number in self._arrived.pop(task, ()):
                parameter = self._parameters.get(number)
                if parameter is None or parameter.grad is None:
                    continue
                if before is None:
                    self._on_refusal(
                        number,
                        UnsupportedGradientError(
                            "what its gradient was before the backward pass is not known, because no forward pass of "
                            "the attached module was seen; attach the module that the training loop calls"
                        ),
                    )
                else:
                    self._on_gradient(number, local(parameter.grad), before.get(number))
        except Exception as error:
            self._on_failure(error)
