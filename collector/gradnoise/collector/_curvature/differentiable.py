"""PyTorch's settings under which a loss can be differentiated twice, for as long as that takes."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradnoise.collector._taps.torch_state import random_states, seed_all, set_random_states

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RandomStream", "differentiable"]


@contextmanager
def differentiable(model: torch.nn.Module) -> Iterator[None]:
    """Run with what has a double backward in the place of what has none, and in the parameters' own precision.

    Attention under the MATH backend, without the inference fast path of ``nn.TransformerEncoder``; recurrent networks
    without cuDNN, which has no double backward for them; compiled modules as they were written; gradients on, autocast
    off. It must enclose the backward passes, too: checkpointed modules run forward again there. Everything is put back
    on leaving.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in sorted({"cpu", *(each.device.type for each in model.parameters())}):
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_without_fast_path())
        if any(isinstance(module, torch.nn.RNNBase) for module in model.modules()):
            stack.enter_context(_without_cudnn())
        # Only where something has been compiled: loading the compiler takes seconds.
        stance: Any = getattr(torch.compiler, "set_stance", None)
        if stance is not None and "torch._dynamo" in sys.modules:
            stack.enter_context(stance("force_eager"))
        yield


@contextmanager
def _without_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _without_cudnn() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.enabled
    cudnn.enabled = False
    try:
        yield
    finally:
        cudnn.enabled = before


class RandomStream:
    """Random numbers of its own for what runs inside ``with stream:``, going on from one time to the next.

    Python's, numpy's and torch's global generators, on CUDA of the devices in use. Outside they stand as they were.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._mine: Any = None
        self._theirs: Any = None

    def __enter__(self) -> None:
        self._theirs = random_states()
        if self._mine is None:
            seed_all(self._seed)
        else:
            set_random_states(self._mine)

    def __exit__(self, *_: object) -> None:
        self._mine = random_states()
        set_random_states(self._theirs)
