"""The graph of one minibatch's first derivatives, from which products come by one more backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.functions import custom, once_only

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradnoise.collector._curvature.data import Minibatch

__all__ = ["Graph", "NotTwiceError", "OfLoss", "OfOutputs", "Tensors", "outputs_of"]

Tensors = tuple[torch.Tensor | None, ...]


class NotTwiceError(Exception):
    """A loss cannot be differentiated twice; the message says why."""


class Graph(ABC):
    """The first derivatives of one minibatch's loss, with their graph.

    Args:
        minibatch: with its graph.
        parameters: differentiated with respect to.
        keep: keep the graph for more than one product.
        look: look into the graph for functions without a derivative of their own.

    Attributes:
        index, weight, loss: the minibatch's; ``loss`` without graph.
        depends: whether the loss depends on any of the parameters.
        custom: the names of autograd functions in the graph that are not PyTorch's own; empty if it was not looked for.

    Raises:
        NotTwiceError: there is no double backward.
        CurvatureError: there are no outputs, or the loss does not depend on them.
    """

    def __init__(
        self, minibatch: Minibatch, parameters: Sequence[torch.Tensor], *, keep: bool, look: bool = False
    ) -> None:
        self.index = minibatch.index
        self.weight = minibatch.weight
        self.loss = minibatch.loss.detach()
        self.depends = False
        self.custom = custom([minibatch.loss]) if look else ()
        self._parameters = parameters
        self._keep = keep
        self._look = look

    @abstractmethod
    def product(self, tangents: Sequence[torch.Tensor]) -> Tensors:
        """Return the product, in the shapes of the parameters; None for zeros."""

    @abstractmethod
    def gradient(self) -> Tensors:
        """Return the gradient of the loss; of a graph that is kept."""

    def _derived(self, derivatives: Tensors) -> None:
        """Note what the first derivatives tell."""
        self.depends = any(each is not None for each in derivatives)
        if self._look and once_only(derivatives):
            raise NotTwiceError(f"a function of {', '.join(self.custom) or 'the graph'} is marked @once_differentiable")

    def _pulled(
        self, outputs: Sequence[torch.Tensor | None], weights: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]
    ) -> Tensors:
        """Return the derivative of ``sum(weights * outputs)`` by ``inputs``; the graph stays."""
        pairs = [
            (each, to) for each, to in zip(outputs, weights, strict=True) if each is not None and each.requires_grad
        ]
        if not pairs:
            return (None,) * len(inputs)
        with _twice():
            return torch.autograd.grad(
                [each for each, _ in pairs], inputs, [to for _, to in pairs], retain_graph=True, allow_unused=True
            )


class OfLoss(Graph):
    """For the Hessian: the gradient g with its graph; H v is the derivative of g . v (Pearlmutter 1994)."""

    def __init__(
        self, minibatch: Minibatch, parameters: Sequence[torch.Tensor], *, keep: bool, look: bool = False
    ) -> None:
        super().__init__(minibatch, parameters, keep=keep, look=look)
        with _twice():
            self._gradients = torch.autograd.grad(minibatch.loss, parameters, create_graph=True, allow_unused=True)
        self._derived(self._gradients)

    def product(self, tangents: Sequence[torch.Tensor]) -> Tensors:
        """Return H v."""
        found = self._pulled(self._gradients, tangents, self._parameters)
        if not self._keep:
            self._gradients = ()
        return found

    def gradient(self) -> Tensors:
        """Return the gradient of the loss."""
        return self._gradients


class OfOutputs(Graph):
    """For Gauss-Newton, G v = J^T L'' J v (Schraudolph 2002, eq. 5).

    J^T w is linear in w, and J v its derivative by w in the direction v: a double backward through the model. L'' is a
    double backward through the loss alone.
    """

    def __init__(
        self, minibatch: Minibatch, parameters: Sequence[torch.Tensor], *, keep: bool, look: bool = False
    ) -> None:
        super().__init__(minibatch, parameters, keep=keep, look=look)
        self._loss = minibatch.loss
        self._outputs, self._slope = outputs_of(minibatch)
        self._dummy = torch.zeros_like(self._outputs, requires_grad=True)
        with _twice():
            self._back = torch.autograd.grad(
                self._outputs, parameters, self._dummy, create_graph=True, allow_unused=True
            )
        self._derived(self._back)

    def product(self, tangents: Sequence[torch.Tensor]) -> Tensors:
        """Return G v."""
        (forward,) = self._pulled(self._back, tangents, (self._dummy,))
        if forward is None:
            return (None,) * len(self._parameters)
        (inner,) = self._pulled((self._slope,), (forward,), (self._outputs,))
        if inner is None:
            return (None,) * len(self._parameters)
        found = self._pulled((self._outputs,), (inner,), self._parameters)
        if not self._keep:
            self._back = ()
        return found

    def gradient(self) -> Tensors:
        """Return the gradient of the loss."""
        return self._pulled((self._loss,), (torch.ones_like(self._loss),), self._parameters)


def outputs_of(minibatch: Minibatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a minibatch's outputs and the derivative of its loss by them, with its graph.

    Raises:
        CurvatureError: there are none, or the loss does not depend on them.
        NotTwiceError: the loss cannot be differentiated by them.
    """
    outputs = minibatch.outputs
    if outputs is None or not outputs.requires_grad:
        raise CurvatureError(
            f"minibatch {minibatch.index}: no outputs with a graph; the Gauss-Newton matrix needs those that the loss "
            "was made of: give minibatches (inputs, targets), or let the function yield (loss, size, outputs)"
        )
    with _twice():
        (slope,) = torch.autograd.grad(minibatch.loss, outputs, create_graph=True, allow_unused=True)
    if slope is None:
        raise CurvatureError(
            f"minibatch {minibatch.index}: the loss was not made of the given outputs; give the very tensor that the "
            "loss function was called with"
        )
    return outputs, slope


@contextmanager
def _twice() -> Iterator[None]:
    """Turn what autograd raises into a :class:`NotTwiceError`; lack of memory stays itself."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # and NotImplementedError, which is one
        raise NotTwiceError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
