"""The way of the draws of one theta to the sink."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gradnoise.collector._recording.records import DrawsAt, SketchAt
from gradnoise.collector._taps.scale import Outcomes
from gradnoise.collector._taps.sketch import rescaled

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from gradnoise.collector._recording.sink import Sink
    from gradnoise.collector._taps.burst import Burst
    from gradnoise.collector._taps.steps import Steps
    from gradnoise.collector._taps.theta import AtTheta

__all__ = ["Handover"]


class Handover:
    """Hands over the draws of each theta with what is known of them: examples, divisor, whether theta is a new one.

    Args:
        sink: takes them.
        steps: knows the batch size.
        processes: whose minibatches each gradient averages; None if unknown.
    """

    def __init__(self, sink: Sink, steps: Steps, processes: int | None) -> None:
        self._sink = sink
        self._steps = steps
        self._processes = processes
        self._outcomes = Outcomes()
        self._divisor: float | None = None  # of the draws that were handed over last

    def begin(self) -> None:
        """A burst begins: what earlier steps did to the parameters does not matter to it."""
        self._outcomes = Outcomes()

    def stepped(self, skipped: Callable[[], bool] | None) -> None:
        """Note a step; ``skipped`` tells whether it left the parameters as they were, None is an update."""
        self._outcomes.add(skipped)

    def give(self, at: AtTheta, window: Burst, theta: int, divisor: float | None) -> bool:
        """Hand over draws, entering them in the window; False if the sink did not take them.

        Args:
            at: the draws, of which there are some, and their sketches.
            window: theirs.
            theta: theirs.
            divisor: of the loss, as the loop says; None if it does not.
        """
        (merged,) = at.merged
        if divisor is not None and merged > 1:  # a draw is the mean of the minibatches whose gradients came as one
            divisor = None if divisor == merged else divisor / merged
        first = window.draws - window.dropped  # index of the first of these draws, as the writer counts
        item = DrawsAt(
            window.window,
            theta,
            theta,
            tuple(at.draws),
            self._examples(theta, merged),
            divisor,
            self._outcomes.settle(),
        )
        window.draws += len(at.draws)
        window.thetas += 1
        if not self._sink.draws(item):
            window.dropped += len(at.draws)
            self._outcomes.add(None)  # whatever comes next, it is not of the theta that was written last
            return False
        before, self._divisor = self._divisor, divisor
        for index, counts in at.sketches:
            if index == 0 and before != divisor:
                continue  # the other draw was divided by something else when the two were compared
            made = counts if divisor is None else partial(_divided, counts, divisor)
            self._sink.sketch(SketchAt(window.window, theta, first + index, made, same_theta=index > 0))
        return True

    def _examples(self, theta: int, merged: int) -> int | None:
        """Return the examples behind each gradient; None where unknown."""
        here = self._steps.batch_size(theta)
        return None if here is None or self._processes is None else here * self._processes * merged


def _divided(counts: Callable[[], NDArray[np.int64]], divisor: float) -> NDArray[np.int64]:
    return rescaled(counts(), divisor)
