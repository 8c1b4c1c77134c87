"""From what the functions of a probe return to gradients, and what those functions must not do."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

__all__ = ["Gradients", "ProbeError", "differentiated", "loss_of", "losses_of", "no_updates"]

_END = object()


class ProbeError(Exception):
    """What a probe was given failed, or cannot be probed; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """The gradients of one minibatch's loss.

    Attributes:
        tensors: one a parameter, in the order asked for, times the loss scale; None where the loss does not depend
            on it.
        batch_size: examples in the minibatch; None where unknown.
    """

    tensors: tuple[torch.Tensor | None, ...]
    batch_size: int | None


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turn whatever is raised inside into a :class:`ProbeError` that names its source."""
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:
        raise ProbeError(f"{what} raised {type(error).__name__}: {error}") from error


def loss_of(closure: Callable[[], Any]) -> Any:
    """Return what the closure returns, called with gradients on.

    Raises:
        ProbeError: it raised.
    """
    with _blaming("the closure"), torch.enable_grad():
        try:
            return closure()
        except StopIteration as error:
            raise ProbeError("the closure's iterator is exhausted: it must own one that starts again") from error


def losses_of(full: Callable[[], Any], what: str = "full") -> Generator[Any]:
    """Yield what the pass over the data yields, each made with gradients on and when it is asked for.

    The user's iterator is closed with this one, so that what it holds open (an autocast context, the workers of a
    loader) ends there.

    Raises:
        ProbeError: it raised.
    """
    with _blaming(what), torch.enable_grad():
        iterator = iter(full())
    try:
        while True:
            with _blaming(what), torch.enable_grad():
                given = next(iterator, _END)
            if given is _END:
                return
            yield given
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def differentiated(given: Any, parameters: Sequence[torch.Tensor], scale: torch.Tensor | None, what: str) -> Gradients:
    """Return the gradients of a loss, or of (loss, batch size).

    Nothing is added to ``.grad``, and hooks on its accumulation (those of ``DistributedDataParallel``) do not fire.

    Args:
        given: what the user's function returned.
        parameters: differentiated with respect to.
        scale: by which the loss is multiplied before, so that float16 gradients do not vanish.
        what: what returned it, for messages.

    Raises:
        ProbeError: it is something else, or cannot be differentiated.
    """
    loss, batch_size = _loss_and_size(given, what)
    with _blaming("the gradient of its loss"), torch.enable_grad():
        loss = loss.reshape(())
        if scale is not None:
            loss = loss * scale.to(loss.device)
        return Gradients(torch.autograd.grad(loss, parameters, allow_unused=True), batch_size)


def _loss_and_size(given: Any, what: str) -> tuple[torch.Tensor, int | None]:
    loss, size = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ProbeError(f"{what} returned the batch size {size!r}; expected a positive whole number")
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise ProbeError(f"{what} returned {_described(loss)}; expected the scalar loss of a minibatch, with its graph")
    return loss, size


def _described(loss: object) -> str:
    if isinstance(loss, torch.Tensor):
        return f"a tensor of shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}"
    return f"{type(loss).__name__}"


@contextmanager
def no_updates() -> Iterator[None]:
    """Refuse optimiser steps of this thread: a probe is at frozen parameters, and momenta would not be put back."""
    thread = threading.get_ident()

    def refuse(*_: object) -> None:
        if threading.get_ident() == thread:
            raise ProbeError("it takes an optimizer step: a probe is at frozen parameters")

    handle = register_optimizer_step_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()
