"""How much of the gradient reached the optimiser: the clip factor."""

from __future__ import annotations

import contextlib
import math
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from gradnoise.collector._taps.copy import joined_to_host
from gradnoise.collector._taps.gather import Gatherer, UnsupportedGradientError
from gradnoise.collector._taps.optimizers import grad_scale_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.optim.optimizer import Optimizer

    from gradnoise.wire import Group

__all__ = ["ClipMeter", "chosen"]

_GROUPS = 4
_COORDINATES = 64  # of each of them, of those that are recorded
_ROUNDING = 1e-6  # of unscaling and of the norms


def chosen(parameters: Mapping[int, torch.nn.Parameter]) -> dict[int, torch.nn.Parameter]:
    """Return up to four of the parameters, spread over the model, all on one device."""
    numbers = list(parameters)
    last = len(numbers) - 1
    picked = dict.fromkeys(numbers[last * index // (_GROUPS - 1)] for index in range(_GROUPS)) if numbers else {}
    devices = {parameters[number].device for number in picked}
    device = parameters[numbers[0]].device if len(devices) > 1 else None
    return {number: parameters[number] for number in picked if device in (None, parameters[number].device)}


class ClipMeter:
    """Compares the gradient an optimiser steps with to what the backward passes left, at a few groups.

    Clipping by norm multiplies every coordinate alike, so that a sample of them shows its factor. Clipping by value
    does not; there the factor tells how much of the norm was left.

    Args:
        groups: of the model.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._strides = [math.ceil(len(group.indices) / _COORDINATES) for group in groups]
        self._gatherer = Gatherer(
            [
                replace(group, indices=group.indices[::stride])
                for group, stride in zip(groups, self._strides, strict=True)
            ]
        )
        self._watched: dict[int, torch.nn.Parameter] = {}
        self._owned: weakref.WeakKeyDictionary[Optimizer, frozenset[int]] = weakref.WeakKeyDictionary()
        self._left: dict[int, torch.Tensor] = {}

    def arm(self, parameters: Mapping[int, torch.nn.Parameter]) -> None:
        """Choose groups among those that are trained now."""
        self._watched = chosen(parameters)
        self._owned.clear()
        self._left = {}

    @property
    def cleared(self) -> bool:
        """Whether ``.grad`` is None wherever it is looked at."""
        return all(parameter.grad is None for parameter in self._watched.values())

    def before_pass(self) -> dict[int, torch.Tensor]:
        """Return what ``.grad`` holds as a backward pass begins; groups that hold nothing are left out."""
        return self._held()

    def after_pass(self, before: Mapping[int, torch.Tensor], parts: Mapping[int, torch.Tensor]) -> None:
        """Note what ``.grad`` holds after it: that and this pass's gradient, added as torch adds them."""
        left = self._left = {}
        for number in self._watched:
            part = parts.get(number)
            if part is not None:
                sample, held = part[:: self._strides[number]], before.get(number)
                left[number] = sample if held is None else held + sample

    def at_step(self, optimizer: Optimizer, scale: torch.Tensor | None) -> Callable[[], float | None] | None:
        """Return what gives the factor, or finds that it cannot be known; called as the optimiser is about to step.

        Args:
            optimizer: that steps; groups that it does not hold tell nothing.
            scale: loss scale by which the backward passes' gradients are still multiplied.
        """
        owned = self._owned_by(optimizer)
        held = {number: value for number, value in self._held().items() if number in self._left and number in owned}
        if not held:
            return None
        left = [self._left[number] for number in held]
        factors = [scale, grad_scale_of(optimizer)]
        device = left[0].device
        scales = [f.reshape(1).to(device, non_blocking=True, copy=True) for f in factors if f is not None]
        fetch = joined_to_host([*left, *held.values(), *scales])
        size = sum(piece.numel() for piece in left)

        def factor() -> float | None:
            values = fetch().astype(np.float64)
            known = iter(values[2 * size :])
            drawn, stepped = (1.0 if f is None else float(next(known)) for f in factors)
            whole = float(np.linalg.norm(values[:size])) / drawn
            given = float(np.linalg.norm(values[size : 2 * size])) / stepped
            if not (whole > 0 and np.isfinite(whole) and np.isfinite(given)):
                return None
            ratio = given / whole
            return 1.0 if abs(ratio - 1) < _ROUNDING else ratio

        return factor

    def _owned_by(self, optimizer: Optimizer) -> frozenset[int]:
        owned = self._owned.get(optimizer)
        if owned is None:
            its = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            owned = frozenset(number for number, parameter in self._watched.items() if id(parameter) in its)
            self._owned[optimizer] = owned
        return owned

    def _held(self) -> dict[int, torch.Tensor]:
        held = {}
        for number, parameter in self._watched.items():
            gradient = parameter.grad
            if gradient is not None:
                with contextlib.suppress(UnsupportedGradientError):
                    held[number] = self._gatherer.pick(number, gradient)
        return held
