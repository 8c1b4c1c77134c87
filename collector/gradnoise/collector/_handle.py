"""What :func:`attach` returns."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from gradnoise.collector._recording.recording import Recording
from gradnoise.collector._recording.sink import State

if TYPE_CHECKING:
    import torch

    from gradnoise.collector._recording.opening import Opened
    from gradnoise.collector._taps.taps import Taps

__all__ = ["Handle"]


class Handle(Recording):
    """A running collector of a torch model. Nothing here raises into the training; a context manager that closes it."""

    _taps: Taps | None = None
    _gone: weakref.finalize[..., torch.nn.Module] | None = None  # called when the model is
    _updates = 0  # that were seen of a model that is gone

    @classmethod
    def of(cls, opened: Opened, taps: Taps, model: torch.nn.Module) -> Handle:
        """Return the handle on taps that feed a dump, for as long as the model lives."""
        handle = cls(State.RECORDING)
        handle._begin(opened)
        handle._taps = taps
        # Whatever thread finds the model gone, the writer's does the rest: that is no place to wait or to log.
        handle._gone = weakref.finalize(model, opened.sink.keep_looking, handle._leave)
        handle._gone.atexit = False
        return handle

    def _leave(self) -> bool:
        """Seal the dump of a model that is gone, and let go of its parameters. On the writer's thread."""
        self._finish()
        self._updates, self._taps = self._theta(), None
        if self._sink is not None:
            self._sink.end()
        if self._shipping is None:  # nobody to wait for at exit
            self._closed = True
            self._forget_exit()
        return False

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

    def before_backward(self, loss: Any) -> None:
        """Say that ``loss.backward()`` comes next: needed for a sharded model only (FSDP2), and only where the attached
        module is not the one that is called.
        """
        if self._taps is not None:
            self._taps.before_backward(loss)

    def wants(self) -> bool:
        """Return whether the step being taken is part of a burst: a loop that logs only then has a row a draw."""
        return self._taps is not None and self._taps.recording

    def _theta(self) -> int:
        return self._updates if self._taps is None else self._taps.theta

    def _finish(self) -> None:
        if self._gone is not None:
            self._gone.detach()  # it would keep all of this for as long as the model
        if self._taps is not None:
            self._taps.close()
