"""Rows of the steps table: what the loop logs and what the optimiser says, a row a step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from gradnoise.collector._gather import to_host
from gradnoise.collector._records import StepRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim.optimizer import Optimizer

    from gradnoise.collector._records import Number
    from gradnoise.collector._sink import Sink

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
        batch_size: int | None,
        metrics: Mapping[str, Any],
    ) -> None:
        """Merge what the loop knows into the row of the step that was, or is being, taken.

        Args:
            theta: the present one.
            armed: whether ``begun`` can be known.
            begun: whether anything of this step has happened yet.
            loss, batch_size, metrics: as given to :meth:`Handle.log`.
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
            row.batch_size = int(batch_size)
        for name, value in metrics.items():
            number = self._number(name, value)
            if number is not None:
                row.metrics[name] = number

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

    def _number(self, name: str, value: Any) -> Number | None:
        """Return a number, or for a tensor on a device a function that waits for it."""
        if value is None:
            return None
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            fetch = to_host(value.detach().reshape(1).to(torch.float64, copy=True))
            return lambda: float(fetch()[0])
        try:
            return float(value)
        except (TypeError, ValueError):
            self._sink.warn_once(
                f"log {name}", "gradnoise ignores log(%s=%r): expected a number or a tensor of one element", name, value
            )
            return None
