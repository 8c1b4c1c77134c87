"""When the curvature of a training is measured, and what becomes of a measurement that fails."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradnoise.collector._curvature.measure import measure
from gradnoise.collector._recording.records import CurvatureAt, WindowEnd, curvature_window_id
from gradnoise.wire import WindowKind

if TYPE_CHECKING:
    import weakref

    import torch

    from gradnoise.collector._curvature.config import Curvature
    from gradnoise.collector._recording.records import Origin
    from gradnoise.collector._recording.sink import Sink

__all__ = ["CurvatureProbing"]

_LONGEST = 500  # characters of what a function of the user raised


class CurvatureProbing:
    """The measurements of a run: the first at update number ``every``, none after one has failed.

    Args:
        plan: what to measure.
        model: of which.
        sink: where the rows go.
        origin: of their windows.
    """

    def __init__(self, plan: Curvature, model: weakref.ref[torch.nn.Module], *, sink: Sink, origin: Origin) -> None:
        self._plan = plan
        self._model = model
        self._sink = sink
        self._origin = origin
        self._waiting = True  # for the first one
        self._failed = False

    def due(self, theta: int) -> bool:
        """Whether a measurement comes after this many updates."""
        return not self._failed and theta % self._plan.every == 0

    def after(self, theta: int) -> float:
        """Return the number of updates at which the next measurement comes; infinity if none does."""
        every = self._plan.every
        return math.inf if self._failed else theta - theta % every + every

    def run(self, theta: int) -> None:
        """Measure; where the dump has no room, say that it is skipped."""
        model = self._model()
        if model is None:
            return
        self._waiting = False
        if not self._sink.room():
            self._end(theta, skipped=True)
            return
        try:
            rows = measure(model, self._plan, step=theta)
        except Exception as error:  # the user's functions, and a device without the memory
            self._failed = True
            reason = (str(error) or type(error).__name__)[:_LONGEST]
            self._sink.event("curvature_failed", reason, step=theta)
            self._sink.warn_once(
                "curvature", "gradnoise measures no more curvature: at step %d it failed: %s", theta, reason
            )
            return
        if self._sink.curvature(CurvatureAt(rows)):
            self._end(theta)
        else:
            self._sink.event("dropped", "a measurement of curvature was lost: too much waited for the disk", step=theta)

    def finish(self, theta: int) -> None:
        """Say if the training was too short for any."""
        if self._waiting:
            self._sink.warn_once(
                "no curvature",
                "gradnoise: no curvature was measured: the first comes at update %d; %d updates were seen",
                self._plan.every,
                theta,
            )

    def _end(self, theta: int, *, skipped: bool = False) -> None:
        window = curvature_window_id(theta)
        self._sink.end_window(
            WindowEnd(window, WindowKind.CURVATURE, theta, theta, 0, 0, self._origin, skipped=skipped)
        )
