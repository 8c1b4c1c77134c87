"""Passes over the data: one gradient at a time, everything put back afterwards."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from gradnoise.collector._taps.losses import ProbeError, differentiated, losses_of, no_updates
from gradnoise.collector._taps.torch_state import preserved, preserved_modes, preserved_random
from gradnoise.studies._alpha import StudyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Flat", "gradients", "trainable", "untouched"]


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters that are differentiated, in their order.

    Raises:
        StudyError: there are none, or they do not lie on one device as real numbers.
    """
    if not isinstance(model, torch.nn.Module):
        raise StudyError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    found = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.numel()]
    if not found:
        raise StudyError(f"model: {type(model).__name__} has no parameter that requires a gradient")
    if len({parameter.device for parameter in found}) > 1:
        raise StudyError("model: its parameters lie on several devices; expected one")
    if any(parameter.is_complex() for parameter in found):
        raise StudyError("model: it has complex parameters; expected real ones")
    return found


@contextmanager
def untouched(model: torch.nn.Module, seed: int) -> Iterator[None]:
    """Put back what a pass may change, and begin it with the random numbers of ``seed``: so both passes of a study
    see the same shuffling and the same dropout."""
    with preserved_modes(), preserved(model), preserved_random(seed), no_updates(), torch.inference_mode(False):
        try:
            yield
        except ProbeError as error:
            raise StudyError(str(error)) from error


def gradients(
    losses: Callable[[], Any], parameters: Sequence[torch.nn.Parameter]
) -> Iterator[tuple[torch.Tensor | None, ...]]:
    """Yield the gradients of each minibatch's loss, None where a loss does not depend on a parameter."""
    if not callable(losses):
        raise StudyError(
            f"losses: expected a function that returns an iterator over the losses of a pass, got {losses!r}"
        )
    given = losses_of(losses, "losses")
    try:
        for loss in given:
            yield differentiated(loss, parameters, None, "losses").tensors
    finally:
        given.close()


class Flat:
    """One vector over all parameters, with a view of it for each: float32, float64 if a parameter is."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        double = any(parameter.dtype is torch.float64 for parameter in parameters)
        sizes = [parameter.numel() for parameter in parameters]
        self.values = torch.zeros(
            sum(sizes), dtype=torch.float64 if double else torch.float32, device=parameters[0].device
        )
        ends = list(itertools.accumulate(sizes))
        self.starts = [0, *ends[:-1]]
        self.views = [
            self.values[start:end].view(parameter.shape)
            for start, end, parameter in zip(self.starts, ends, parameters, strict=True)
        ]

    def add(self, tensors: Sequence[torch.Tensor | None]) -> None:
        """Add a gradient."""
        pairs = [(view, tensor) for view, tensor in zip(self.views, tensors, strict=True) if tensor is not None]
        if pairs and all(not tensor.is_sparse and tensor.dtype == self.values.dtype for _, tensor in pairs):
            torch._foreach_add_([view for view, _ in pairs], [tensor for _, tensor in pairs])
        else:
            for view, tensor in pairs:
                view.add_(tensor)

    def set_noise(self, mean: Flat, tensors: Sequence[torch.Tensor | None]) -> None:
        """Hold the mean less a gradient."""
        for view, centre, tensor in zip(self.views, mean.views, tensors, strict=True):
            if tensor is None:
                view.copy_(centre)
            elif tensor.is_sparse or tensor.dtype != centre.dtype:
                view.copy_(centre).sub_(tensor)
            else:
                torch.sub(centre, tensor, out=view)
