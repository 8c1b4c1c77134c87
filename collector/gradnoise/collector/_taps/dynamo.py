"""Keeping ``torch.compile`` away from our hooks: dynamo would compile every frame that runs below a compiled one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_compiled_autograd", "leave_alone", "uncompiled"]


def in_compiled_autograd() -> bool:
    """Whether compiled autograd runs the backward pass that is under way: callbacks for its end are never called."""
    module = sys.modules.get("torch._dynamo.compiled_autograd")
    return bool(getattr(module, "in_compiled_autograd_region", False))


def leave_alone(function: Any) -> None:
    """Have a function run as it is where dynamo meets it as a frame of its own; where it is inlined it is traced.

    What it calls is still compiled. ``torch.compiler.disable`` is no choice for it: that breaks the graph where the
    function is inlined.
    """
    skip = getattr(_eval_frame(), "skip_code", None)
    if skip is not None:
        skip(function.__code__)


def uncompiled(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function that runs with all it calls as it is: ``torch.compiler.disable`` at a fifth of its cost."""
    swap = getattr(_eval_frame(), "set_eval_frame", None)
    if swap is None:
        disabled: Callable[..., None] = torch.compiler.disable(function)
        return disabled

    def call(*args: object) -> None:
        before = swap(None)
        try:
            function(*args)
        finally:
            swap(before)

    leave_alone(call)
    # As a function that `torch.compiler.disable` returns is marked: where it would be inlined, the graph ends.
    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call


def _eval_frame() -> Any:
    # Any optimizer has imported it already: this costs nothing. Without it there is nothing to keep away.
    from torch._dynamo import eval_frame

    return eval_frame
