"""What the user gave as data, as passes over its minibatches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.differentiable import RandomStream, differentiable
from gradnoise.collector._curvature.functions import reentrant
from gradnoise.collector._taps.groups import unwrapped
from gradnoise.collector._taps.torch_state import random_states, seed_all, set_random_states

__all__ = ["Minibatch", "Passes", "blaming"]

_END = object()
_ONCE = (
    "its iterator can be used only once; give a list, a DataLoader, or a function that returns a new iterator each time"
)


@dataclass(frozen=True, slots=True)
class Minibatch:
    """One minibatch of a pass, with its graph.

    Attributes:
        loss: scalar, the mean over the examples.
        size: examples; None where unknown.
        outputs: what the loss was made of, in its graph; None where the data is a function that does not give them.
        index: its number in the pass, from 0.
    """

    loss: torch.Tensor
    size: int | None
    outputs: torch.Tensor | None
    index: int

    @property
    def weight(self) -> int:
        """Its weight in the mean over the pass: its size, or 1 where the sizes are unknown."""
        return 1 if self.size is None else self.size


class Passes:
    """Whatever the user gave as data, as passes over minibatches: iterating makes one pass.

    F, the mean loss over a pass, is weighted by the minibatches' sizes where they are known. Every pass starts from the
    same random numbers, so that dropout masks, augmentations and shuffles from the global generators repeat; outside
    of a pass the generators stand as they were. Autocast is off, attention is under the MATH backend (see
    :func:`differentiable`). Parameters must not change during a pass.

    Args:
        model: what ``data`` is given to; compile, DDP and checkpoint wrappers are passed by.
        loss_fn: ``loss_fn(outputs, targets)`` for minibatches ``(inputs, targets)``; None for mappings and functions.
        data: an iterable of minibatches, each ``(inputs, targets)`` or a mapping (``model(**batch)`` gives ``.loss`` or
            ``["loss"]``); or a function without arguments that returns one scalar loss, or an iterator over the losses
            of one whole pass. A loss may be ``(loss, size)`` or ``(loss, size, outputs)``. Tensors of minibatches are
            moved to the model's device. The size of a minibatch is the first dimension of its first tensor.
        seed: of the random numbers of a pass.

    Raises:
        CurvatureError: ``data`` is neither, or there is a ``loss_fn`` too few.
    """

    def __init__(
        self, model: torch.nn.Module, loss_fn: Callable[[Any, Any], Any] | None, data: Any, *, seed: int = 0
    ) -> None:
        # A loader may be callable, too; a function is never iterable.
        if not isinstance(data, Iterable) and not callable(data):
            raise CurvatureError(
                f"data is a {type(data).__name__}; expected an iterable of minibatches (a list, a DataLoader) or a "
                "function that returns the losses of a pass"
            )
        self.model = model
        self.minibatches: int | None = None
        self.examples: int | None = None
        self._inner = unwrapped(model)
        self._loss_fn = loss_fn
        self._data = data
        self._seed = seed
        self._first: float | None = None
        self._steady = False

    def __iter__(self) -> Iterator[Minibatch]:
        """Make one pass; at its end its mean loss is compared with the first pass's.

        Raises:
            CurvatureError: naming the minibatch: its loss is no finite scalar with a graph, parameters have changed,
                the model failed; or the pass is empty, or differs from the first.
        """
        return self._pass(self._seed, compare=True)

    def moved(self) -> Iterator[Minibatch]:
        """Make one pass with other parameters than the first: its loss is compared with nothing and may be infinite."""
        return self._pass(self._seed, compare=False)

    def seeded(self, seed: int) -> Iterator[Minibatch]:
        """Make one pass that starts from other random numbers: of a shuffled loader, with other minibatches.

        Its mean loss is compared with nothing.
        """
        return self._pass(seed, compare=False)

    def mean_loss(self) -> float:
        """Return F at the present parameters, from a pass without backward; not compared with other passes."""
        return _mean([(each.loss.detach(), each.weight) for each in self.moved()])[0]

    def check(self) -> None:
        """Make two passes and compare them: the second with other random numbers where no module is in training mode.

        Raises:
            CurvatureError: as in iterating; or the two differ beyond rounding.
        """
        for _ in self:
            pass
        random = not any(module.training for module in self.model.modules())
        for _ in self._pass(self._seed + 1 if random else self._seed, compare=True):
            pass

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Let settings and random numbers change once for the passes made inside, and not at every minibatch.

        For passes one after the other: between two minibatches the generators stand as the pass has them.
        """
        before = random_states()
        self._steady = True
        try:
            with differentiable(self.model):
                yield
        finally:
            self._steady = False
            set_random_states(before)

    @contextmanager
    def _evaluating(self, stream: RandomStream) -> Iterator[None]:
        if self._steady:
            yield
            return
        with stream, differentiable(self.model):
            yield

    def _pass(self, seed: int, *, compare: bool) -> Iterator[Minibatch]:
        stream = RandomStream(seed)
        if self._steady:
            seed_all(seed)
        watched = [each for each in self.model.parameters() if not each.is_inference()]
        versions = [each._version for each in watched]
        losses: list[tuple[torch.Tensor, int]] = []
        sized: bool | None = None
        source: Any = None
        try:
            with blaming("data"), self._evaluating(stream):
                source = self._source()
            while True:
                index = len(losses)
                with blaming(f"minibatch {index}"), self._evaluating(stream):
                    given = next(source, _END)
                    if given is _END:
                        break
                    minibatch = self._minibatch(given, index)
                    del given
                if sized not in (None, minibatch.size is not None):
                    raise CurvatureError(
                        f"minibatch {index}: the sizes of some minibatches are known and of others not; give all sizes"
                    )
                sized = minibatch.size is not None
                losses.append((minibatch.loss.detach(), minibatch.weight))
                yield minibatch
                del minibatch
                if [each._version for each in watched] != versions:
                    raise CurvatureError(
                        f"minibatch {index}: parameters were changed in place during the pass; the curvature is that "
                        "at frozen parameters: take optimizer steps and weight norms out of the data and the loss"
                    )
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
        self._finish(losses, sized=bool(sized), compare=compare)

    def _source(self) -> Iterator[Any]:
        """Return an iterator over what becomes minibatches."""
        if isinstance(self._data, Iterable):
            return (_Batch(each) for each in self._data)
        given = self._data()
        single = isinstance(given, torch.Tensor) or (
            isinstance(given, tuple) and 2 <= len(given) <= 3 and not isinstance(given[1], torch.Tensor | tuple)
        )
        if single:
            return iter((given,))
        if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
            return iter(given)
        raise CurvatureError(
            f"the function returned {_described(given)}; expected a scalar loss, or an iterator over the losses of a "
            "pass"
        )

    def _minibatch(self, given: Any, index: int) -> Minibatch:
        if isinstance(given, _Batch):
            loss, size, outputs = self._evaluated(given.content, index)
        else:
            parts = given if isinstance(given, tuple | list) else (given,)
            if not 1 <= len(parts) <= 3:
                raise CurvatureError(
                    f"minibatch {index}: a {type(given).__name__} of {len(parts)}; expected a loss, (loss, size) or "
                    "(loss, size, outputs)"
                )
            loss, size, outputs = (*parts, None, None)[:3]
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
                raise CurvatureError(f"minibatch {index}: the size {size!r}; expected a positive whole number")
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise CurvatureError(
                f"minibatch {index}: the loss is {_described(loss)}; expected a scalar, the mean over the minibatch"
            )
        if loss.is_complex():
            raise CurvatureError(f"minibatch {index}: the loss is complex; expected a real one")
        if not loss.requires_grad:
            raise CurvatureError(
                f"minibatch {index}: the loss depends on no parameter that requires a gradient, or was made under "
                "torch.no_grad, or was detached"
            )
        if self.minibatches is None and index == 0 and reentrant(loss):
            raise CurvatureError(
                "minibatch 0: the loss was made with reentrant checkpoints, whose parameters torch.autograd.grad goes "
                "past; use checkpoint(..., use_reentrant=False), or switch checkpointing off meanwhile"
            )
        return Minibatch(loss.reshape(()), size, outputs if isinstance(outputs, torch.Tensor) else None, index)

    def _evaluated(self, batch: Any, index: int) -> tuple[Any, int | None, Any]:
        device = next(self._inner.parameters()).device
        if isinstance(batch, Mapping):
            if self._loss_fn is not None:
                raise CurvatureError(
                    f"minibatch {index} is a mapping, of which the model makes its loss itself; give loss_fn=None, or "
                    "minibatches (inputs, targets)"
                )
            result = self._inner(**{name: _on(device, value) for name, value in batch.items()})
            return _entry(result, "loss"), _size(batch), _entry(result, "logits")
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise CurvatureError(
                f"minibatch {index} is {_described(batch)}; expected (inputs, targets) or a mapping. For anything else "
                "give a function that returns an iterator over the losses of a pass"
            )
        if self._loss_fn is None:
            raise CurvatureError(f"minibatch {index} is (inputs, targets) and loss_fn is None; give loss_fn")
        inputs, targets = (_on(device, each) for each in batch)
        outputs = self._inner(inputs)
        return self._loss_fn(outputs, targets), _size(batch[0]), outputs

    def _finish(self, losses: list[tuple[torch.Tensor, int]], *, sized: bool, compare: bool) -> None:
        """Close a pass: count it, and compare it with the first."""
        if not losses:
            raise CurvatureError(
                "data gave no minibatch" + (f" in the second pass: {_ONCE}" if self.minibatches else "")
            )
        if self.minibatches is None:
            self.minibatches = len(losses)
            self.examples = sum(weight for _, weight in losses) if sized else None
        if len(losses) != self.minibatches:
            raise CurvatureError(
                f"a pass over the data has {len(losses)} minibatches where the first had {self.minibatches}; expected "
                f"the same data in every pass (or {_ONCE})"
            )
        if not compare:
            return
        mean, size, worst = _mean(losses)
        if worst is not None:
            raise CurvatureError(f"minibatch {worst}: the loss is {float(losses[worst][0])}; expected a finite number")
        if self._first is None:
            self._first = mean
        if abs(mean - self._first) > _rounding(size, losses[0][0], *self.model.parameters()):
            raise CurvatureError(
                f"the mean loss of a pass is {mean!r} where that of the first was {self._first!r}, at the same "
                "parameters; the loss must be a fixed function of them. Likely causes: dropout at work in eval mode "
                "(measure in mode 'train', where its masks repeat), random augmentation, a shuffled loader with "
                "drop_last, examples of a minibatch that act on each other (attention over the batch, for want of "
                "batch_first=True), or a function that samples its minibatch"
            )


@dataclass(frozen=True, slots=True)
class _Batch:
    """A minibatch as an iterable of minibatches gave it."""

    content: Any


def _mean(losses: list[tuple[torch.Tensor, int]]) -> tuple[float, float, int | None]:
    """Return the mean, the mean absolute value, and the number of the first that is not finite; waits once."""
    numbers = torch.stack([loss.to(losses[0][0].device) for loss, _ in losses]).tolist()
    total = sum(weight for _, weight in losses)
    pairs = [(value, weight) for value, (_, weight) in zip(numbers, losses, strict=True)]
    worst = next((index for index, value in enumerate(numbers) if not math.isfinite(value)), None)
    mean = sum(value * weight for value, weight in pairs) / total
    return mean, sum(abs(value) * weight for value, weight in pairs) / total, worst


def _rounding(size: float, *tensors: torch.Tensor) -> float:
    """Return how far two mean losses of mean absolute value ``size`` may differ by rounding and another order."""
    eps = max(torch.finfo(each.dtype).eps for each in tensors if each.is_floating_point())
    # Of losses near zero it is the outputs that are rounded, which are of order 1. Half precision is said per loss.
    return eps * ((256 if eps < 1e-5 else 4) * size + 1)


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn what is raised inside into a :class:`CurvatureError` that names its source; lack of memory stays itself."""
    try:
        yield
    except (CurvatureError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise CurvatureError(f"{what} raised {type(error).__name__}: {error}") from error


def _entry(result: Any, name: str) -> Any:
    return result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)


def _on(device: torch.device, thing: Any) -> Any:
    """Return ``thing`` with the tensors in it on a device."""
    if isinstance(thing, torch.Tensor):
        return thing.to(device, non_blocking=True)
    if isinstance(thing, Mapping):
        return {name: _on(device, each) for name, each in thing.items()}
    if type(thing) in (tuple, list):
        return type(thing)(_on(device, each) for each in thing)
    return thing


def _size(thing: Any) -> int | None:
    """Return the first dimension of the first tensor that has one."""
    if isinstance(thing, torch.Tensor):
        return len(thing) if thing.dim() else None
    parts = thing.values() if isinstance(thing, Mapping) else thing if isinstance(thing, tuple | list) else ()
    return next((size for part in parts if (size := _size(part)) is not None), None)


def _described(thing: object) -> str:
    if isinstance(thing, torch.Tensor):
        return f"a tensor of shape {tuple(thing.shape)}, requires_grad={thing.requires_grad}"
    if isinstance(thing, tuple | list):
        return f"a {type(thing).__name__} of {len(thing)}"
    return f"{type(thing).__name__}"
