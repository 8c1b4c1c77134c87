"""Hooks on a model that come and go without a trace."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.hooks import unserializable_hook

from gradnoise.collector._taps.dynamo import leave_alone, uncompiled
from gradnoise.collector._taps.groups import held, is_dtensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gradnoise.collector._taps.shards import ShardHooks

__all__ = ["LeafHooks"]


class _CountsForwards(Protocol):
    forwards: int


class _RootHook:
    """Counts forward passes that gradients may follow. Copies and pickles of the model carry an inert one."""

    def __init__(self, hooks: LeafHooks | None = None) -> None:
        self._hooks = None if hooks is None else weakref.ref(hooks)

    def __call__(self, module: torch.nn.Module, args: object, output: object) -> None:
        # Inlined into compiled code this is traced, and must leave nothing in the graph. Called outside of it, it would
        # be compiled on its own: `arm` tells dynamo to leave the frame alone, hence no calls of Python functions here.
        if torch.compiler.is_compiling():
            return
        hooks = None if self._hooks is None else self._hooks()
        if hooks is not None and hooks.armed and torch.is_grad_enabled():
            hooks.forwards_known = True
            hooks.counter.forwards += 1
            if hooks.mark is not None:
                hooks.mark(output)

    def __reduce__(self) -> tuple[type[_RootHook], tuple[()]]:
        return _RootHook, ()


class LeafHooks:
    """A gradient hook on each recorded parameter and a forward hook on the model, while armed.

    Args:
        groups: group name -> (number, shape); parameters are looked up by name at each arming, because
            ``load_state_dict(assign=True)`` and the like replace them.
        on_gradient: called with a group's number and its gradient, once a backward pass.
        counter: whose ``forwards`` the forward hook increases.
        shards: takes care of the parameters that are sharded.

    Attributes:
        armed: whether the hooks are in place.
        forwards_known: whether forward passes were seen since the hooks were armed. They are not where the attached
            module is compiled into an outer one, or where its forward is not called through the module.
    """

    def __init__(
        self,
        groups: Mapping[str, tuple[int, tuple[int, ...]]],
        on_gradient: Callable[[int, torch.Tensor], None],
        counter: _CountsForwards,
        shards: ShardHooks,
    ) -> None:
        self.armed = False
        self.forwards_known = False
        self.counter = counter
        self.mark: Callable[[object], None] | None = None
        self._groups = groups
        self._on_gradient = on_gradient
        self._shards = shards
        self._handles: list[tuple[torch.nn.Parameter, Any]] = []
        self._root: Any = None

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
        self.rest()
        leave_alone(_RootHook.__call__)
        found = self.parameters(model)
        self.armed, self.forwards_known = True, False
        on_gradient, mark = uncompiled(self._on_gradient), None
        sharded = {number: parameter for number, parameter in found.items() if is_dtensor(parameter)}
        if sharded:
            self._shards.arm(sharded)
            mark = uncompiled(self._shards.mark)
        self.mark = mark
        for number, parameter in found.items():
            if number not in sharded:
                # A model may be sent to a process that is spawned in the middle of a burst: without its hooks.
                hook = unserializable_hook(partial(on_gradient, number))
                self._handles.append((parameter, parameter.register_hook(hook)))
        if self._root is None:
            self._root = model.register_forward_hook(_RootHook(self))
        return found

    def rest(self) -> None:
        """Remove the hooks until they are armed again; idempotent.

        The forward hook stays, at no cost, where it was not called: if it is compiled into an outer module, taking it
        off would have that compiled again.
        """
        if self.forwards_known:
            self._remove_root()
        self.armed, self.mark = False, None
        self._shards.disarm()
        handles, self._handles = self._handles, []
        for parameter, handle in handles:
            handle.remove()
            if not parameter._backward_hooks:
                # An empty dictionary left behind still costs a call into Python at every backward pass.
                parameter._backward_hooks = None

    def disarm(self) -> None:
        """Remove the hooks for good; idempotent."""
        self.rest()
        self._remove_root()

    def _remove_root(self) -> None:
        root, self._root = self._root, None
        if root is not None:
            root.remove()
