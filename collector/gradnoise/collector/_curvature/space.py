"""The chosen parameters of a model as one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._taps.groups import is_dtensor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Space"]


class Space:
    """The chosen parameters as one vector of dimension d, in their order, each in its logical (row-major) order.

    A parameter that is given twice (tied weights) stands in it once.

    Attributes:
        parameters: the chosen ones, each once.
        dimension: d.
        dtype: of vectors: float64 where a parameter is float64, else float32, also of half-precision parameters.
        device: of vectors: that of the first parameter.

    Raises:
        CurvatureError: no parameter; one that is frozen, complex, no leaf, sharded or without values (a lazy module).
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters: tuple[torch.nn.Parameter, ...] = tuple({id(each): each for each in parameters}.values())
        if not self.parameters:
            raise CurvatureError("no parameter is chosen; expected at least one that requires a gradient")
        for each in self.parameters:
            _check(each)
        self.dimension = sum(each.numel() for each in self.parameters)
        if not self.dimension:
            raise CurvatureError("the chosen parameters have no elements")
        double = any(each.dtype is torch.float64 for each in self.parameters)
        self.dtype = torch.float64 if double else torch.float32
        self.device = self.parameters[0].device

    def zeros(self) -> torch.Tensor:
        """Return a new vector of zeros."""
        return torch.zeros(self.dimension, dtype=self.dtype, device=self.device)

    def views(self, vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the parts of a vector in the shapes of the parameters; they share its memory.

        Raises:
            CurvatureError: it has another shape than (d,).
        """
        if vector.shape != (self.dimension,):
            raise CurvatureError(f"a vector of shape {tuple(vector.shape)}; expected ({self.dimension},)")
        parts = vector.split([each.numel() for each in self.parameters])
        return tuple(part.view(each.shape) for part, each in zip(parts, self.parameters, strict=True))

    def tangents(self, vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the parts of a vector as autograd wants them: in the dtype and on the device of each parameter."""
        return tuple(
            part.to(device=each.device, dtype=each.dtype)
            for part, each in zip(self.views(vector), self.parameters, strict=True)
        )

    def flatten(self, tensors: Sequence[torch.Tensor | None], out: torch.Tensor | None = None) -> torch.Tensor:
        """Return tensors in the shapes of the parameters as one vector, dense or sparse; zeros for None.

        Args:
            tensors: one a parameter.
            out: (d,): where it is written, instead of to a new vector.
        """
        if out is None:
            out = torch.empty(self.dimension, dtype=self.dtype, device=self.device)
        with torch.no_grad():
            for part, tensor in zip(self.views(out), tensors, strict=True):
                if tensor is None:
                    part.zero_()
                else:
                    part.copy_(_dense(tensor))
        return out

    def add(self, out: torch.Tensor, tensors: Sequence[torch.Tensor | None], weight: float) -> None:
        """Add ``weight`` times tensors in the shapes of the parameters to a vector; None adds nothing."""
        with torch.no_grad():
            for part, tensor in zip(self.views(out), tensors, strict=True):
                if tensor is not None:
                    part.add_(_dense(tensor).to(device=part.device), alpha=weight)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    detached = tensor.detach()
    return detached if detached.layout is torch.strided else detached.to_dense()


def _check(parameter: torch.nn.Parameter) -> None:
    if is_dtensor(parameter):
        raise CurvatureError("a chosen parameter is sharded (FSDP): its products would need every rank at once")
    if isinstance(parameter, torch.nn.parameter.UninitializedParameter) or parameter.is_meta:
        raise CurvatureError("a chosen parameter has no values yet (lazy module or meta device): run the model once")
    shape = f"a chosen parameter of shape {tuple(parameter.shape)} and dtype {parameter.dtype}"
    if not parameter.dtype.is_floating_point or parameter.dtype.itemsize < 2:
        raise CurvatureError(f"{shape}; expected real floating point numbers of at least 16 bits")
    if not parameter.requires_grad or not parameter.is_leaf:
        raise CurvatureError(f"{shape} is frozen or no leaf; choose parameters with requires_grad=True")
