"""The loss around and between parameters: expected sharpness, and the barrier on a segment."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradnoise.collector._curvature.at_rest import at_rest
from gradnoise.collector._curvature.config import CurvatureError, parts_of
from gradnoise.collector._curvature.data import Passes
from gradnoise.collector._curvature.differences import displaced
from gradnoise.collector._curvature.loaders import alike
from gradnoise.collector._curvature.parts import chosen
from gradnoise.collector._curvature.space import Space
from gradnoise.collector._taps.groups import unwrapped
from gradnoise.wire import CurvatureKind, CurvatureRow, Mode, ProductMethod

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradnoise.collector._curvature.config import Part

__all__ = ["barrier", "sharpness"]

_BUFFERS = ("interpolate", "recompute")
_SHOWN = 5  # names in a message


def sharpness(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, Any], Any] | None,
    data: Any,
    *,
    radius: float,
    samples: int,
    part: Part,
    mode: str,
    seed: int,
) -> CurvatureRow:
    """Evaluate F at theta + epsilon, epsilon ~ N(0, radius^2 I); see ``expected_sharpness``."""
    _check(mode, seed)
    if isinstance(radius, bool) or not isinstance(radius, int | float) or not 0 < radius < math.inf:
        raise CurvatureError(f"radius={radius!r}: expected a positive number, the standard deviation of each change")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2 or samples % 2:
        raise CurvatureError(
            f"samples={samples!r}: expected an even number of at least 2: changes come in opposite pairs"
        )
    begun = time.perf_counter()
    losses = np.empty(samples)
    with at_rest(model, data, mode, seed):
        ((name, parameters),) = chosen(model, parts_of((part,)))
        space = Space(parameters)
        passes = Passes(model, loss_fn, alike(data), seed=seed)
        passes.check()
        loss = passes.mean_loss()
        generator = torch.Generator(space.device).manual_seed(seed)
        change = space.zeros()
        for pair in range(samples // 2):
            change.normal_(generator=generator)
            for index, sign in enumerate((1, -1)):
                with displaced(space, change, sign * radius):
                    losses[2 * pair + index] = passes.mean_loss()
        notes = ["losses 2i and 2i + 1 are at opposite changes", *_said_of_norms(model, mode)]
        if not np.isfinite(losses).all():
            notes.append(f"{int((~np.isfinite(losses)).sum())} of {samples} losses are not finite")
    return CurvatureRow(
        part=name,
        kind=CurvatureKind.SHARPNESS,
        dimension=space.dimension,
        method=ProductMethod.LOSS,
        mode=Mode(mode),
        loss=loss,
        minibatches=passes.minibatches or 0,
        products=0,
        seconds=time.perf_counter() - begun,
        examples=passes.examples,
        notes=tuple(notes),
        radius=float(radius),
        losses=losses,
    )


def barrier(
    model: torch.nn.Module,
    begin: Mapping[str, Any],
    end: Mapping[str, Any],
    loss_fn: Callable[[Any, Any], Any] | None,
    data: Any,
    *,
    points: int,
    buffers: str,
    mode: str,
    seed: int,
) -> CurvatureRow:
    """Evaluate F on the segment between two state dicts; see ``loss_barrier``."""
    _check(mode, seed)
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise CurvatureError(f"points={points!r}: expected a whole number of at least 2, the two ends among them")
    if buffers not in _BUFFERS:
        raise CurvatureError(f"buffers={buffers!r}: expected one of {', '.join(_BUFFERS)}")
    begun = time.perf_counter()
    positions = np.linspace(0.0, 1.0, points)
    losses = np.empty(points)
    inner = unwrapped(model)
    with at_rest(model, data, mode, seed):
        segment = _Segment(inner, begin, end)
        passes = Passes(model, loss_fn, alike(data), seed=seed)
        for index, position in enumerate(positions.tolist()):
            segment.go(position)
            if buffers == "recompute":
                _recompute(inner, passes)
            if not index:
                passes.check()
            losses[index] = passes.mean_loss()
        notes = _said_of_norms(model, mode, recomputed=buffers == "recompute", moved=True)
        if not np.isfinite(losses).all():
            notes.append(f"{int((~np.isfinite(losses)).sum())} of {points} losses are not finite")
    return CurvatureRow(
        part="*",
        kind=CurvatureKind.BARRIER,
        dimension=sum(parameter.numel() for parameter in inner.parameters()),
        method=ProductMethod.LOSS,
        mode=Mode(mode),
        loss=float(losses[0]),
        minibatches=passes.minibatches or 0,
        products=0,
        seconds=time.perf_counter() - begun,
        examples=passes.examples,
        notes=tuple(notes),
        positions=positions,
        losses=losses,
    )


def _check(mode: object, seed: object) -> None:
    if mode not in tuple(map(str, Mode)):
        raise CurvatureError(f"mode={mode!r}: expected one of {', '.join(Mode)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise CurvatureError(f"seed={seed!r}: expected a whole number of at least 0")


class _Segment:
    """The states between two state dicts of a model, which it is moved along.

    Floating-point tensors, parameters and buffers alike, are interpolated; others (counters) are those of the begin
    until the end.

    Raises:
        CurvatureError: a state dict lacks something that the model has, has more, or in another shape.
    """

    def __init__(self, model: torch.nn.Module, begin: Mapping[str, Any], end: Mapping[str, Any]) -> None:
        self._here = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
        self._begin, self._end = self._taken("begin", begin), self._taken("end", end)

    def go(self, position: float) -> None:
        """Move the model to a position: at 0 and 1 it is the begin and the end, bit for bit."""
        with torch.no_grad():
            for name, tensor in self._here.items():
                one, other = self._begin[name].to(tensor.device), self._end[name].to(tensor.device)
                if position == 1.0:
                    tensor.copy_(other)
                elif position == 0.0 or not (tensor.is_floating_point() or tensor.is_complex()):
                    tensor.copy_(one)
                else:
                    wide = torch.promote_types(tensor.dtype, torch.float32)
                    tensor.copy_(one.to(wide) * (1 - position) + other.to(wide) * position)

    def _taken(self, which: str, given: Any) -> dict[str, torch.Tensor]:
        """Return the tensors of a state dict that fits; copies where it is the model's own, which moves."""
        if not isinstance(given, Mapping):
            raise CurvatureError(f"{which} is a {type(given).__name__}; expected a state dict: model.state_dict()")
        tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        missing, extra = self._here.keys() - tensors.keys(), tensors.keys() - self._here.keys()
        if missing or extra:
            raise CurvatureError(
                f"the state dict {which} is not one of the model: it lacks {_some(missing)} and has {_some(extra)} "
                "that the model has not; give two checkpoints of this model"
            )
        for name, tensor in self._here.items():
            if tensors[name].shape != tensor.shape:
                raise CurvatureError(
                    f"the state dict {which} has {name!r} in shape {tuple(tensors[name].shape)}; the model has it in "
                    f"shape {tuple(tensor.shape)}"
                )
        moving = {tensor.untyped_storage().data_ptr() for tensor in self._here.values()}
        return {
            name: tensor.clone() if tensor.untyped_storage().data_ptr() in moving else tensor
            for name, tensor in tensors.items()
        }


def _some(names: set[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(sorted(names)[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _norms(model: torch.nn.Module) -> list[torch.nn.modules.batchnorm._BatchNorm]:
    """Return the modules that normalise by running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]


def _said_of_norms(model: torch.nn.Module, mode: str, *, recomputed: bool = False, moved: bool = False) -> list[str]:
    """Return what is to be said of BatchNorm."""
    if not _norms(model):
        return []
    if recomputed:
        return ["BatchNorm: running statistics recomputed over the data at every position, the ends included"]
    if all(module.training for module in _norms(model)):
        return ["BatchNorm: by the statistics of each minibatch"]
    if moved:
        return ["BatchNorm: running statistics interpolated like parameters; buffers='recompute' takes them anew"]
    return ["BatchNorm: running statistics left as they are, while the parameters move"]


def _recompute(model: torch.nn.Module, passes: Passes) -> None:
    """Make the running statistics those of a pass: their plain mean over its minibatches."""
    norms = _norms(model)
    if not norms:
        return
    before = [(module, module.momentum, module.training) for module in norms]
    try:
        for module in norms:
            module.reset_running_stats()
            module.momentum = None
            module.train()
        passes.mean_loss()
    finally:
        for module, momentum, training in before:
            module.momentum = momentum
            module.train(training)
