"""What in an autograd graph derivatives can silently go past: functions that were written in Python.

``torch.autograd.grad`` runs only what leads to the tensors asked for. A function that hides its way to them is not run,
does not complain, and its part of the derivative is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import CheckpointFunction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch

__all__ = ["custom", "once_only", "reentrant"]


def custom(tensors: Iterable[torch.Tensor | None]) -> tuple[str, ...]:
    """Return the names of the ``torch.autograd.Function`` classes in the graph of tensors that are not PyTorch's own.

    What such a class does in its backward pass may be unknown to autograd (a kernel, numpy), which then takes it for a
    constant.
    """
    classes = (getattr(type(node), "_forward_cls", None) for node in _nodes(tensors))
    return tuple(
        sorted({each.__qualname__ for each in classes if each is not None and not each.__module__.startswith("torch.")})
    )


def once_only(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Whether gradients, with their graph, came through a function that is marked ``@once_differentiable``."""
    return any(type(node).__name__ == "Error" for node in _nodes(tensors))


def reentrant(loss: torch.Tensor) -> bool:
    """Whether a loss was made with checkpoints of the reentrant kind, through which only ``backward()`` goes."""
    return any(getattr(type(node), "_forward_cls", None) is CheckpointFunction for node in _nodes([loss]))


def _nodes(tensors: Iterable[torch.Tensor | None]) -> Iterator[Any]:
    """Yield each node of the graph of tensors once."""
    waiting = [each.grad_fn for each in tensors if each is not None]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
            yield node
