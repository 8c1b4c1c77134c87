"""The first backward passes, checked against what they left in ``.grad``."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gradnoise.collector._recording.records import Event
from gradnoise.collector._taps.copy import to_host
from gradnoise.collector._taps.gather import UnsupportedGradientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from gradnoise.collector._recording.sink import Sink
    from gradnoise.collector._taps.gather import Gatherer

__all__ = ["PASSES", "Before", "SelfCheck"]

PASSES = 4  # checked, of a run
_STEPS = 4  # of a run whose optimiser's gradients are looked at
_LEAST_SCALE = 16.0  # clipping halves now and then; a loss scale is a large power of two
_ROUNDING = 1e-5  # of a ratio of norms
_ULPS = 4  # of the coarser of the types; accumulation rounds once
_HOOKED = (
    "another gradient hook changes it after gradnoise has read it: register such hooks before attach(), then what they "
    "return is recorded"
)
_AFTERWARDS = (
    "a post-accumulate-grad hook changes it afterwards: gradients are recorded as the backward pass gives them, not as "
    "the hook leaves them"
)
_UNEXPLAINED = (
    "something else writes to it during the backward pass. What is recorded is the gradient that autograd hands to the "
    "parameter"
)


@dataclass(frozen=True, slots=True)
class Before:
    """A parameter's ``.grad`` as a backward pass begins: which tensor, at which version, its sampled values."""

    gradient: torch.Tensor | None
    version: int
    values: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class _Checked:
    """One group's place in what is copied to the host, and what explains a mismatch there."""

    number: int
    size: int
    rounding: float
    floor: float
    cause: str


class SelfCheck:
    """Whether ``.grad`` grew by the recorded gradient, in the first backward passes of a run.

    The values travel to the host with everything else and are compared by the writer's thread. A pass that does not
    accumulate (``autograd.grad``), or whose ``.grad`` is gone by its end, is not judged.
    """

    def __init__(self, gatherer: Gatherer, names: Sequence[str], sink: Sink) -> None:
        self._gatherer = gatherer
        self._names = names
        self._sink = sink
        self._left = PASSES
        self._steps_left = _STEPS
        self._complained = False

    @property
    def active(self) -> bool:
        """Whether passes are still checked."""
        return self._left > 0

    def stop(self) -> None:
        """Check nothing: ``.grad`` is an average over processes."""
        self._left = self._steps_left = 0

    def before_pass(self, parameters: Mapping[int, torch.nn.Parameter]) -> dict[int, Before]:
        """Return what the parameters' ``.grad`` hold as a backward pass begins."""
        found = {}
        for number, parameter in parameters.items():
            gradient = parameter.grad
            if gradient is None:
                found[number] = Before(None, 0, None)
            else:
                try:
                    found[number] = Before(gradient, gradient._version, self._gatherer.pick(number, gradient))
                except UnsupportedGradientError:
                    continue
        return found

    def after_pass(
        self,
        step: int,
        parameters: Mapping[int, torch.nn.Parameter],
        before: Mapping[int, Before],
        parts: Mapping[int, torch.Tensor],
    ) -> None:
        """Let the writer's thread compare; called as the backward pass has ended.

        Args:
            step: being taken.
            parameters: the recorded ones.
            before: what :meth:`before_pass` returned.
            parts: the recorded values of the pass.
        """
        checked, pieces = [], []
        device = next(iter(parts.values())).device if parts else None
        for number, part in parts.items():
            parameter, was = parameters.get(number), before.get(number)
            gradient = None if parameter is None else parameter.grad
            if parameter is None or was is None or gradient is None or part.device != device:
                continue
            if gradient is was.gradient and gradient._version == was.version:
                continue
            if gradient.is_sparse and was.gradient is not None:
                continue  # rows that occur more than once are summed up in another order, and rounded each time
            try:
                after = self._gatherer.pick(number, gradient)
            except UnsupportedGradientError:
                continue
            earlier = torch.zeros_like(part) if was.values is None else was.values
            # float32 is how they travel.
            types = [torch.finfo(kind) for kind in (torch.float32, earlier.dtype, part.dtype, after.dtype)]
            rounding = _ULPS * max(each.eps for each in types)
            floor = _ULPS * max(each.eps * each.tiny for each in types)
            checked.append(_Checked(number, part.numel(), rounding, floor, _cause(parameter)))
            pieces += [earlier, part, after]
        if not checked:
            return
        self._left -= 1
        fetch = to_host(torch.cat(pieces).to(torch.float32))
        self._sink.later(lambda: self._find(step, checked, fetch), 4 * sum(piece.numel() for piece in pieces))

    def at_step(self, step: int, factor: Callable[[], float | None]) -> None:
        """Let the writer's thread look for a loss scaler that nobody told us of.

        Args:
            step: being taken.
            factor: gives the norm of the optimiser's gradients over that of the backward passes'.
        """
        if self._steps_left:
            self._steps_left -= 1
            self._sink.later(lambda: self._find_scale(step, factor))

    def _find_scale(self, step: int, factor: Callable[[], float | None]) -> Iterator[Event]:
        found = factor()
        if not found or found > 1.01 / _LEAST_SCALE:
            return
        scale = 2.0 ** round(-math.log2(found))
        if abs(found * scale - 1) < _ROUNDING and self._sink.warn_once(
            "unscaled",
            "gradnoise: gradients are divided by %g between the backward pass and the optimizer, as by a loss scaler. "
            "What is recorded carries that scale: pass attach(scaler=...)",
            scale,
        ):
            detail = f"gradients reach the optimizer divided by {scale:g}, and no scaler was passed to attach"
            yield Event(time.time_ns(), "self_check", 1, detail, step)

    def _find(
        self, step: int, checked: Sequence[_Checked], fetch: Callable[[], NDArray[np.float32]]
    ) -> Iterator[Event]:
        values, start, wrong = fetch(), 0, []
        for one in checked:
            earlier, part, after = values[start : start + 3 * one.size].astype(np.float64).reshape(3, one.size)
            start += 3 * one.size
            with np.errstate(invalid="ignore"):  # infinities of a pass whose step is skipped
                off = np.abs(after - (earlier + part)) > one.rounding * (np.abs(earlier) + np.abs(part)) + one.floor
            if (off & np.isfinite(after)).any():
                wrong.append(one)
        if not wrong or self._complained:
            return
        self._complained = True
        names = [self._names[one.number] for one in wrong]
        # The first cause that is one: of several, it explains most.
        cause = next((one.cause for one in wrong if one.cause is not _UNEXPLAINED), _UNEXPLAINED)
        detail = f".grad of {len(names)} groups ({', '.join(names[:3])}, ...) did not grow by the recorded gradient"
        yield Event(time.time_ns(), "self_check", len(names), f"{detail}: {cause}", step, names[0])
        self._sink.warn_once("self-check", "gradnoise: at step %d, %s: %s", step, detail, cause)


def _cause(parameter: torch.nn.Parameter) -> str:
    hooks = parameter._backward_hooks
    if getattr(parameter, "_post_accumulate_grad_hooks", None):
        return _AFTERWARDS
    if hooks and len(hooks) > 1:
        return _HOOKED
    return _UNEXPLAINED
