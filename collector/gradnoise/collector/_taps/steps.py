"""Rows of the steps table: what the loop logs and what the optimiser says, a row a step."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from gradnoise.collector._recording.records import StepRow
from gradnoise.collector._taps.copy import to_host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim.optimizer import Optimizer

    from gradnoise.collector._recording.records import Number
    from gradnoise.collector._recording.sink import Sink

__all__ = ["Steps"]


class Steps:
    """The rows that something may still be added to; of bursts, and of steps that the loop logs something of.

    Args:
        sink: where rows go.
        batch_size: of steps that the loop says nothing of.
    """

    def __init__(self, sink: Sink, batch_size: int | None) -> None:
        self._sink = sink
        self._batch_size = batch_size
        self._rows: dict[int, StepRow] = {}
        self._log_follows_update: bool | None = None
        self._settled = -1  # the last step whose draws are handed over

    def at(self, step: int) -> StepRow:
        """Return the row of a step, a new one if there is none."""
        row = self._rows.get(step)
        if row is None:
            row = self._rows[step] = StepRow(step, step, time.time_ns(), batch_size=self._batch_size)
        return row

    def batch_size(self, step: int) -> int | None:
        """Return the batch size of a step as far as it is known."""
        row = self._rows.get(step)
        return self._batch_size if row is None or row.batch_size is None else row.batch_size

    def log(
        self,
        theta: int,
        *,
        armed: bool,
        begun: bool,
        loss: Any,
        batch_size: Any,
        divisor: Any,
        metrics: Mapping[str, Any],
    ) -> None:
        """Merge what the loop knows into the row of the step that was, or is being, taken.

        Args:
            theta: the present one.
            armed: whether ``begun`` can be known.
            begun: whether anything of this step has happened yet.
            loss, batch_size, divisor, metrics: as given to :meth:`Handle.log`.
        """
        # Called after optimizer.step(), the values belong to the step before. Which of the two the loop does shows
        # before the first update, or while hooks are armed, and holds from then on.
        if self._log_follows_update is None or armed:
            if theta == 0 or begun:
                self._log_follows_update = False
            elif self._log_follows_update is None:
                self._log_follows_update = True
        row = self.at(theta - 1 if self._log_follows_update else theta)
        if loss is not None:
            row.loss = self._number("loss", loss)
        if batch_size is not None:
            row.batch_size = self._count("batch_size", batch_size) or row.batch_size
            if row.step <= self._settled and self._batch_size not in (None, row.batch_size):
                self._sink.warn_once(
                    "late batch size",
                    "gradnoise: log(batch_size=%r) after optimizer.step() is too late for the draws of that step, "
                    "which say %d as attach was told. Call handle.log(batch_size=...) before optimizer.step()",
                    batch_size,
                    self._batch_size,
                )
        if divisor is not None:
            self._divide(row, divisor)
        for name, value in metrics.items():
            number = self._number(name, value)
            if number is not None:
                row.metrics[name] = number

    def settle(self, step: int) -> float | None:
        """Return the divisor of a step whose draws are handed over now; None where it is unknown or 1."""
        self._settled = step
        row = self._rows.get(step)
        return None if row is None or row.divisor in (None, 1.0) else row.divisor

    def finish(self, theta: int, optimizer: Optimizer) -> None:
        """Add the optimiser's numbers to this step's row; put out the rows that nothing will be added to."""
        row = self._rows.get(theta)
        if row is not None:
            options = optimizer.param_groups[0]
            betas = options.get("betas")
            row.lr = self._number("lr", options.get("lr"))
            row.beta1 = self._number("beta1", betas[0] if betas else options.get("momentum"))
            row.beta2 = self._number("beta2", betas[1] if betas else None)
        for step in [step for step in self._rows if step < theta]:
            self._sink.step(self._rows.pop(step))

    def close(self) -> None:
        """Put out every row."""
        for row in self._rows.values():
            self._sink.step(row)
        self._rows.clear()

    def clear(self) -> None:
        """Forget every row."""
        self._rows.clear()

    def __bool__(self) -> bool:
        return bool(self._rows)

    def _divide(self, row: StepRow, divisor: Any) -> None:
        given = _host_number(divisor)
        if given is None or not 0 < given < math.inf:
            self._ignore("divisor", divisor, "the positive number by which the loss is divided")
        elif row.step <= self._settled:
            self._sink.warn_once(
                "late divisor",
                "gradnoise ignores log(divisor=%r) after optimizer.step(): the draws are written without it by then. "
                "Call handle.log(divisor=...) before optimizer.step()",
                divisor,
            )
        else:
            row.divisor = given

    def _count(self, name: str, value: Any) -> int | None:
        """Return a positive whole number; None, with one warning, for anything else."""
        given = _host_number(value)
        if given is not None and given == int(given) and 0 < given < 2**31:
            return int(given)
        self._ignore(name, value, "a positive whole number")
        return None

    def _ignore(self, name: str, value: object, expected: str) -> None:
        self._sink.warn_once(f"log {name}", "gradnoise ignores log(%s=%r): expected %s", name, value, expected)

    def _number(self, name: str, value: Any) -> Number | None:
        """Return a number, or for a tensor on a device a function that waits for it."""
        if value is None:
            return None
        try:
            if not isinstance(value, torch.Tensor):
                return float(value)
            if value.device.type == "cpu" or value.numel() != 1:
                return float(value.item())  # float() of one that requires a gradient warns
            dtype = torch.float32 if value.device.type == "mps" else torch.float64  # which Apple's GPUs have not
            fetch = to_host(value.detach().reshape(1).to(dtype, copy=True))
            return lambda: float(fetch()[0])
        except (TypeError, ValueError, OverflowError, RuntimeError):
            self._ignore(name, value, "a number or a tensor of one element")
            return None


def _host_number(value: Any) -> float | None:
    """Return a number that is known here and now; None of text, of what is none, and of a tensor on a device."""
    if isinstance(value, bool | str | bytes) or (isinstance(value, torch.Tensor) and value.device.type != "cpu"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return number if math.isfinite(number) else None
