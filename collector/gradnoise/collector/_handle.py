"""What :func:`attach` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradnoise.collector._recording import Recording
from gradnoise.collector._sink import State

if TYPE_CHECKING:
    from gradnoise.collector._opening import Opened
    from gradnoise.collector._taps import Taps

__all__ = ["Handle"]


class Handle(Recording):
    """A running collector of a torch model. Nothing here raises into the training; a context manager that closes it."""

    _taps: Taps | None = None

    @classmethod
    def of(cls, opened: Opened, taps: Taps) -> Handle:
        """Return the handle on taps that feed a dump."""
        handle = cls(State.RECORDING)
        handle._begin(opened)
        handle._taps = taps
        return handle

    def log(
        self, loss: Any = None, batch_size: int | None = None, divisor: float | None = None, **metrics: Any
    ) -> None:
        """Record what only the loop knows about a step: its loss, batch size, and further numbers.

        Numbers or tensors of one element; tensors on a device are not waited for. Called before ``optimizer.step()``
        it describes the step being taken, called after it the step just taken.

        Args:
            loss: of the step.
            batch_size: examples in each minibatch.
            divisor: what the loop divided the loss by before ``backward()``, as for gradient accumulation: it is undone
                in the recorded gradients.
            metrics: further numbers.
        """
        if self._taps is not None:
            self._taps.log(loss, batch_size, divisor, metrics)

    def wants(self) -> bool:
        """Return whether the step being taken is part of a burst: a loop that logs only then has a row a draw."""
        return self._taps is not None and self._taps.recording

    def _theta(self) -> int:
        return 0 if self._taps is None else self._taps.theta

    def _finish(self) -> None:
        if self._taps is not None:
            self._taps.close()
