"""From a model to every number, the whole way: measured, analysed, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradnoise.collector.curvature import measure_curvature
from gradnoise.studies._measured import Measurement, aligned_row

if TYPE_CHECKING:
    import torch

__all__ = ["Measurement", "each_once", "everything"]


def everything(model: torch.nn.Module, loss_fn: Any, data: Any, **options: Any) -> Measurement:
    """Measure the whole model, and read it."""
    (row,) = measure_curvature(model, loss_fn, data, **options)
    return aligned_row(row)


def each_once(
    model: torch.nn.Module, loss_fn: Any, inputs: torch.Tensor, targets: torch.Tensor, *, top: int, **options: Any
) -> Measurement:
    """Measure with every example as one draw: then the mean of u uᵀ over the draws is C itself, not an estimate."""
    n = len(inputs)
    examples = iter(zip(inputs.split(1), targets.split(1), strict=True))

    def draw() -> tuple[torch.Tensor, int]:
        x, y = next(examples)
        return loss_fn(model(x), y), 1

    data = [(inputs, targets)]
    # With so many vectors no draw is taken twice, which an iterator of examples could not give.
    return everything(model, loss_fn, data, draw=draw, draws=n, top=top, vectors=top + n + 6, **options)
