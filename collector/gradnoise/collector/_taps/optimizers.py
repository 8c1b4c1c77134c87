"""When an optimiser of the model steps."""

from __future__ import annotations

import weakref
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.utils.hooks import RemovableHandle

    StepHook = Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], None]

__all__ = ["Caller", "OptimizerHooks", "grad_scale_of", "has_closure", "is_capturing"]


class Caller(Enum):
    """What calls: torch before or after an optimiser's step, or something else."""

    BEFORE_STEP = "before step"
    AFTER_STEP = "after step"
    ELSEWHERE = "elsewhere"


class OptimizerHooks:
    """Hooks before and after the steps of some optimisers; the one before is there only while armed.

    Args:
        model: whose parameters are updated.
        optimizers: the optimisers to listen to; none of them listens to every one that holds a parameter of the model.
        before, after: called with the optimiser and the arguments of its ``step``.
    """

    def __init__(
        self,
        model: weakref.ref[torch.nn.Module],
        optimizers: Sequence[Optimizer],
        before: StepHook,
        after: StepHook,
    ) -> None:
        self._model = model
        self._optimizers = tuple(optimizers)
        self._before = before
        # optimiser -> (number of its parameter groups, whether one holds a parameter of the model): groups come later.
        self._seen: weakref.WeakKeyDictionary[Optimizer, tuple[int, bool]] = weakref.WeakKeyDictionary()
        self._pre: list[RemovableHandle] = []
        if self._optimizers:
            self._post = [optimizer.register_step_post_hook(after) for optimizer in self._optimizers]
        else:
            self._post = [register_optimizer_step_post_hook(after)]

    def concerns(self, optimizer: Optimizer) -> bool:
        """Whether a step of this optimiser updates the model."""
        if self._optimizers:
            return True
        groups, mine = self._seen.get(optimizer, (0, False))
        if not mine and groups != len(optimizer.param_groups):
            model = self._model()
            own = set() if model is None else {id(parameter) for parameter in model.parameters()}
            mine = any(id(p) in own for group in optimizer.param_groups for p in group["params"])
            self._seen[optimizer] = len(optimizer.param_groups), mine
        return mine

    def arm(self) -> None:
        """Listen to what comes before steps, too; idempotent."""
        if self._pre:
            return
        if self._optimizers:
            self._pre = [optimizer.register_step_pre_hook(self._before) for optimizer in self._optimizers]
        else:
            self._pre = [register_optimizer_step_pre_hook(self._before)]

    def disarm(self) -> None:
        """Listen to what comes after steps only; idempotent."""
        handles, self._pre = self._pre, []
        for handle in handles:
            handle.remove()

    def remove(self, caller: Caller) -> None:
        """Take every hook off.

        torch is going through its hooks where one is called, and would trip over one that is gone, unless that is the
        last: such a hook stays until the next call of this.

        Args:
            caller: what this is called by.
        """
        self._pre = _removed(self._pre, caller is Caller.BEFORE_STEP)
        self._post = _removed(self._post, caller is Caller.AFTER_STEP)


def _removed(handles: Sequence[RemovableHandle], iterated: bool) -> list[RemovableHandle]:
    """Remove hooks; return those that had to stay because torch is just going through them."""
    kept = []
    for handle in handles:
        hooks = handle.hooks_dict_ref()
        if iterated and hooks and next(reversed(hooks)) != handle.id:
            kept.append(handle)
        else:
            handle.remove()
    return kept


def has_closure(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a step with these arguments evaluates the loss itself. ``args`` may begin with the optimiser."""
    positional = args[1:] if args and isinstance(args[0], Optimizer) else args
    return bool(positional and positional[0] is not None) or kwargs.get("closure") is not None


def is_capturing() -> bool:
    """Whether a CUDA graph is being captured: steps are noted down then, and nothing is updated."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def grad_scale_of(optimizer: Optimizer) -> torch.Tensor | None:
    """Return the loss scale that a fused optimiser divides gradients by, itself, in the step being taken."""
    scale: torch.Tensor | None = getattr(optimizer, "grad_scale", None)
    return scale
