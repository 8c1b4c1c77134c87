"""Saving what a probe may touch, and putting it back bit for bit."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["preserved", "preserved_random"]


@contextmanager
def preserved(model: torch.nn.Module) -> Iterator[None]:
    """Restore parameters, buffers, gradients and train/eval flags of ``model`` on leaving, also after an exception.

    Gradients are put aside rather than copied: inside, every ``.grad`` is None.
    """
    modules = [(module, module.training, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    tensors = {
        id(tensor): tensor
        for _, _, parameters, buffers in modules
        for tensor in (*parameters.values(), *buffers.values())
        if tensor is not None
    }
    gradients = [(tensor, tensor.grad) for tensor in tensors.values() if tensor.is_leaf]
    with torch.no_grad():
        copies = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
    for tensor, _ in gradients:
        tensor.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for module, training, parameters, buffers in modules:
                module.training = training
                _put_back(module._parameters, parameters)
                _put_back(module._buffers, buffers)
            for tensor, copy in copies:
                # Untouched tensors keep their version counters.
                if not torch.equal(tensor, copy):
                    tensor.copy_(copy)
        for tensor, gradient in gradients:
            tensor.grad = gradient


def _put_back(there: dict[str, Any], before: dict[str, Any]) -> None:
    if there.keys() != before.keys() or any(there[name] is not before[name] for name in before):
        there.clear()
        there.update(before)


@contextmanager
def preserved_random(seed: int) -> Iterator[None]:
    """Run with every random number generator seeded, and restore their states on leaving.

    torch's CPU generator, the generators of CUDA devices in use, numpy's and Python's global ones.
    """
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    cuda = torch.cuda.get_rng_state_all() if on_cuda else []
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        # Not torch.manual_seed: where CUDA is not in use yet, it would seed its generators for later.
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed_all(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.default_generator.set_state(cpu)
        if on_cuda:
            torch.cuda.set_rng_state_all(cuda)
