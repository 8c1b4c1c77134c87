"""Measurements of noise against curvature at fixed examples: what both studies of alignment are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from gradnoise.analyzer.analysis import analyse
from gradnoise.analyzer.windows import ClosedWindow, Window
from gradnoise.collector.curvature import CurvatureError, measure_curvature
from gradnoise.studies._alpha import StudyError
from gradnoise.wire import WindowKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradnoise.analyzer.report import AlignmentRow
    from gradnoise.wire import CurvatureRow

__all__ = ["Arguments", "Examples", "Measurement", "aligned_row", "whole_number"]

_PASS = 1024  # examples in a minibatch of the pass that makes F, its gradient and the products
_ROOM = 256 << 20  # bytes of vectors of the model's dimension that are taken without being asked for


@dataclass(frozen=True, slots=True)
class Measurement:
    """Curvature and noise at one theta and one batch size.

    Attributes:
        row: what was measured; its ``notes`` say what could not be as asked.
        readings: every number made of it, as ``gradnoise align`` prints them, with intervals and nulls.
    """

    row: CurvatureRow
    readings: tuple[AlignmentRow, ...]

    def __getitem__(self, metric: str) -> AlignmentRow:
        """Return the reading of that name, the first one where there is one for each eigenpair.

        Raises:
            KeyError: there is none; the message names those there are.
        """
        for reading in self.readings:
            if reading.metric == metric:
                return reading
        there = sorted({reading.metric for reading in self.readings})
        raise KeyError(f"no metric {metric!r}; there are {', '.join(there)}")

    def each(self, metric: str) -> tuple[AlignmentRow, ...]:
        """Return the readings of that name, one an eigenpair."""
        return tuple(reading for reading in self.readings if reading.metric == metric)


@dataclass(frozen=True, slots=True)
class Arguments:
    """How a study measures: the arguments that it hands on to ``measure_curvature``."""

    top: int
    draws: int
    matrix: str = "hessian"
    mode: str = "eval"
    vectors: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Examples:
    """A model, its loss (a mean over the examples of a minibatch) and the examples.

    Raises:
        StudyError: the numbers of inputs and targets differ, or there are fewer than 2.
    """

    model: torch.nn.Module
    loss_fn: Callable[[Any, Any], torch.Tensor]
    inputs: torch.Tensor
    targets: torch.Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets) or len(self.inputs) < 2:
            raise StudyError(
                f"inputs, targets: expected one target an example and at least 2 examples, got {len(self.inputs)} "
                f"inputs and {len(self.targets)} targets"
            )

    def loss(self, size: int, rng: torch.Generator | None = None) -> torch.Tensor:
        """Return the loss of a minibatch drawn with replacement, by torch's own random numbers or by ``rng``."""
        rows = torch.randint(len(self.inputs), (size,), generator=rng).to(self.inputs.device)
        return self.loss_fn(self.model(self.inputs[rows]), self.targets[rows])

    def measured(self, batch_size: int, given: Arguments, *, step: int = 0) -> Measurement:
        """Measure the whole model at its present parameters, minibatches drawn with replacement.

        Raises:
            StudyError: the curvature cannot be measured.
        """
        whole_number("batch size", batch_size)
        try:
            (row,) = measure_curvature(
                self.model,
                self.loss_fn,
                list(zip(self.inputs.split(_PASS), self.targets.split(_PASS), strict=True)),
                draw=lambda: (self.loss(batch_size), batch_size),
                top=given.top,
                draws=given.draws,
                matrix=given.matrix,
                mode=given.mode,
                vectors=given.vectors or self._vectors(given),
                seed=given.seed,
            )
        except CurvatureError as error:
            raise StudyError(f"the curvature cannot be measured: {error}") from error
        return aligned_row(replace(row, step=step, replacement=True))

    def _vectors(self, given: Arguments) -> int | None:
        """Return how many vectors take no gradient twice, if they are small; else None, the fewest."""
        enough = given.top + given.draws + 6
        chosen = [each for each in self.model.parameters() if each.requires_grad]
        size = sum(each.numel() * each.element_size() for each in chosen)
        return enough if enough * size <= _ROOM else None


def aligned_row(row: CurvatureRow) -> Measurement:
    """Return a measurement with what the analysis reads in it, as if it came out of a dump."""
    closed = ClosedWindow(
        run="study",
        producer="study",
        window=row.window,
        kind=WindowKind.CURVATURE,
        first_step=row.step,
        last_step=row.step,
        first_theta=row.theta,
        last_theta=row.theta,
        declared=row.draws or 0,
        recorded=row.draws or 0,
        rows=0,
        non_finite=0,
        dropped=0,
    )
    return Measurement(row, analyse(Window(closed, 0, (), curvature=(row,))).alignment)


def whole_number(name: str, value: object) -> None:
    """Raise ``StudyError`` unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise StudyError(f"{name}: expected a whole number of at least 1, got {value!r}")
