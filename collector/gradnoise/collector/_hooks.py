"""Hooks on a model that come and go without a trace."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from gradnoise.collector._groups import held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LeafHooks"]


class _CountsForwards(Protocol):
    forwards: int


class _RootHook:
    """Counts forward passes that gradients may follow. Copies and pickles of the model carry an inert one."""

    def __init__(self, counter: _CountsForwards | None = None) -> None:
        self._counter = None if counter is None else weakref.ref(counter)

    def __call__(self, module: torch.nn.Module, args: object, output: object) -> None:
        counter = None if self._counter is None else self._counter()
        if counter is not None and torch.is_grad_enabled():
            counter.forwards += 1

    def __reduce__(self) -> tuple[type[_RootHook], tuple[()]]:
        return _RootHook, ()


class LeafHooks:
    """A gradient hook on each recorded parameter and a forward hook on the model, while armed.

    Args:
        groups: group name -> (number, shape); parameters are looked up by name at each arming, because
            ``load_state_dict(assign=True)`` and the like replace them.
        on_gradient: called with a group's number and its gradient, once a backward pass.
        counter: whose ``forwards`` the forward hook increases.
    """

    def __init__(
        self,
        groups: Mapping[str, tuple[int, tuple[int, ...]]],
        on_gradient: Callable[[int, torch.Tensor], None],
        counter: _CountsForwards,
    ) -> None:
        self._groups = groups
        self._on_gradient = on_gradient
        self._counter = counter
        self._handles: list[tuple[torch.nn.Parameter, Any]] = []
        self._root: Any = None

    @property
    def armed(self) -> bool:
        """Whether the hooks are in place."""
        return self._root is not None

    def parameters(self, model: torch.nn.Module) -> dict[int, torch.nn.Parameter]:
        """Return the recorded parameters as they are now, by group number; those that need no gradient left out."""
        found = {}
        for name, shape, parameter in held(model):
            number, declared = self._groups.get(name, (-1, ()))
            if number >= 0 and parameter.requires_grad and shape == declared:
                found[number] = parameter
        return found

    def arm(self, model: torch.nn.Module) -> dict[int, torch.nn.Parameter]:
        """Register the hooks; return the parameters they are on."""
        found = self.parameters(model)
        self._root = model.register_forward_hook(_RootHook(self._counter))
        for number, parameter in found.items():
            self._handles.append((parameter, parameter.register_hook(partial(self._on_gradient, number))))
        return found

    def disarm(self) -> None:
        """Remove the hooks; idempotent."""
        root, self._root = self._root, None
        handles, self._handles = self._handles, []
        if root is not None:
            root.remove()
        for parameter, handle in handles:
            handle.remove()
            if not parameter._backward_hooks:
                # An empty dictionary left behind still costs a call into Python at every backward pass.
                parameter._backward_hooks = None
