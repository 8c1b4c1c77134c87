"""Saving what a probe may touch, and putting it back bit for bit."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

__all__ = ["preserved", "preserved_modes", "preserved_random", "random_states", "seed_all", "set_random_states"]

_OF_MODULES = (
    "_parameters",
    "_buffers",
    "_modules",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_OF_TENSORS = ("_backward_hooks", "_post_accumulate_grad_hooks")


@contextmanager
def preserved(model: torch.nn.Module, *, on_host: bool = False) -> Iterator[None]:
    """Restore the parameters, buffers, gradients, train/eval flags and hooks of ``model`` on leaving, also after an
    exception.

    Parameters and buffers are copied, for nothing else tells every way of changing one. Gradients are put aside rather
    than copied: inside, every ``.grad`` is None.

    Args:
        model: whose they are.
        on_host: keep the copies in the host's memory, where the device has none to spare.
    """
    modules = list(model.modules())
    training = [module.training for module in modules]
    dicts: list[tuple[MutableMapping[str, Any], dict[str, Any]]] = [
        (there, dict(there))
        for module in modules
        for name in _OF_MODULES
        if (there := getattr(module, name, None)) is not None
    ]
    tensors = {
        id(tensor): tensor
        for module in modules
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    }
    hooks = [
        (tensor, name, there, dict(there or {}))
        for tensor in tensors.values()
        for name in _OF_TENSORS
        for there in (getattr(tensor, name, None),)
    ]
    flags = [(tensor, tensor.requires_grad) for tensor in tensors.values() if tensor.is_leaf]
    gradients = [(tensor, tensor.grad) for tensor in tensors.values() if tensor.is_leaf]
    with torch.no_grad():
        copies = [
            (tensor, tensor.detach().to("cpu", copy=True) if on_host else tensor.detach().clone())
            for tensor in tensors.values()
        ]
    places = [_Place(tensor) for tensor in tensors.values() if _is_plain(tensor)]
    for tensor, _ in gradients:
        tensor.grad = None
    try:
        yield
    finally:
        for module, flag in zip(modules, training, strict=True):
            module.training = flag
        for there, before in dicts:
            _put_back(there, before)
        for tensor, name, there, before in hooks:
            if there is not None:
                _put_back(there, before)
            if getattr(tensor, name, None) is not there:
                setattr(tensor, name, there)
        with torch.no_grad():
            for place in places:
                place.put_back()
            for tensor, copy in copies:
                # Untouched tensors keep their version counters.
                if not torch.equal(tensor, copy.to(tensor.device)):
                    tensor.copy_(copy)
        for tensor, flag in flags:
            if tensor.requires_grad is not flag:
                tensor.requires_grad_(flag)
        for tensor, gradient in gradients:
            tensor.grad = gradient


class _Place:
    """Where a tensor's values lie: what ``.data = ...``, ``module.half()`` or freeing its storage takes from it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._values = tensor.detach()
        self._nbytes = tensor.untyped_storage().nbytes()

    def put_back(self) -> None:
        """Let the tensor lie there again; the values there may be others."""
        storage = self._values.untyped_storage()
        if storage.nbytes() != self._nbytes:
            storage.resize_(self._nbytes)
        there = self._tensor
        if (
            there.dtype != self._values.dtype
            or there.device != self._values.device
            or not there.is_set_to(self._values)
        ):
            there.data = self._values


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor).__torch_dispatch__ is torch.Tensor.__torch_dispatch__ and tensor.layout is torch.strided


def _put_back(there: MutableMapping[str, Any], before: dict[str, Any]) -> None:
    if list(there) != list(before) or any(there[name] is not before[name] for name in before):
        there.clear()
        there.update(before)


@contextmanager
def preserved_modes() -> Iterator[None]:
    """Restore torch's settings on leaving: autocast, gradients on or off, determinism, cuDNN."""
    types = ("cpu", "cuda")
    autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in types]
    cached = torch.is_autocast_cache_enabled()
    grad = torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    flags = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic)
    try:
        yield
    finally:
        for kind, enabled, dtype in autocast:
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(cached)
        torch.set_grad_enabled(grad)
        if deterministic != torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(deterministic, warn_only=only_warn)
        if (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) != flags:
            cudnn.enabled, cudnn.benchmark, cudnn.deterministic = flags


@contextmanager
def preserved_random(seed: int) -> Iterator[None]:
    """Run with every random number generator seeded, and restore their states on leaving; see :func:`random_states`."""
    before = random_states()
    try:
        seed_all(seed)
        yield
    finally:
        set_random_states(before)


def random_states() -> tuple[Any, ...]:
    """Return the states of Python's, numpy's and torch's global generators, and those of CUDA devices if in use."""
    cuda = torch.cuda.get_rng_state_all() if _on_cuda() else None
    return random.getstate(), np.random.get_state(), torch.default_generator.get_state(), cuda  # noqa: NPY002


def set_random_states(states: tuple[Any, ...]) -> None:
    """Put the generators into these states."""
    python, legacy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(legacy)  # noqa: NPY002
    torch.default_generator.set_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)


def seed_all(seed: int) -> None:
    """Seed them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    # Not torch.manual_seed: where CUDA is not in use yet, it would seed its generators for later.
    torch.default_generator.manual_seed(seed)
    if _on_cuda():
        torch.cuda.manual_seed_all(seed)


def _on_cuda() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()
