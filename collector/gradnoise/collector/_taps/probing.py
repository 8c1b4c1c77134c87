"""When probes run, and what becomes of one that cannot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradnoise.collector._recording.records import WindowEnd
from gradnoise.collector._taps.probe import ProbeError, run_probe

if TYPE_CHECKING:
    import weakref

    import torch

    from gradnoise.collector._config import Probe, Sampling
    from gradnoise.collector._recording.records import Origin
    from gradnoise.collector._recording.sink import Sink
    from gradnoise.collector._taps.gather import Gatherer
    from gradnoise.collector._taps.listener import Listener
    from gradnoise.collector._taps.scale import LossScale

__all__ = ["Probing"]


class Probing:
    """The probes of a run: the first at update number ``every``, none after one has failed.

    Args:
        probe: what to take; None takes none.
        model: what is probed.
        listener: knows the recorded parameters.
        gatherer: of the model's groups.
        sink: where everything goes.
        sampling, batch_size, origin: as for :func:`run_probe`.
        scale: of the loss scaler.
    """

    def __init__(
        self,
        probe: Probe | None,
        model: weakref.ref[torch.nn.Module],
        *,
        listener: Listener,
        gatherer: Gatherer,
        sink: Sink,
        sampling: Sampling,
        batch_size: int | None,
        scale: LossScale,
        origin: Origin,
    ) -> None:
        self._probe = probe
        self._waiting = probe  # until the first one runs
        self._model = model
        self._listener = listener
        self._gatherer = gatherer
        self._sink = sink
        self._sampling = sampling
        self._batch_size = batch_size
        self._scale = scale
        self._origin = origin

    def due(self, theta: int) -> bool:
        """Whether a probe comes after this many updates."""
        return self._probe is not None and theta % self._probe.every == 0

    def after(self, theta: int) -> float:
        """Return the number of updates at which the next probe comes; infinity if none does."""
        return math.inf if self._probe is None else theta - theta % self._probe.every + self._probe.every

    def run(self, theta: int) -> None:
        """Run a probe; where the dump has no room for one, say that it is skipped."""
        probe, model = self._probe, self._model()
        if probe is None or model is None:
            return
        self._waiting = None
        if not self._sink.room():
            end = WindowEnd.of_skipped(theta, theta, probe.draws, probe=True, origin=self._origin)
            self._sink.end_window(end)
            return
        try:
            run_probe(
                probe,
                model=model,
                parameters=self._listener.trained(model),
                gatherer=self._gatherer,
                sink=self._sink,
                theta=theta,
                sampling=self._sampling,
                batch_size=self._batch_size,
                scale=self._scale.tensor,
                origin=self._origin,
            )
        except ProbeError as error:
            self._probe = None
            self._sink.event("probe_failed", str(error), step=theta)
            self._sink.warn_once("probe", "gradnoise stops probing: at step %d the probe failed: %s", theta, error)

    def finish(self, theta: int) -> None:
        """Say if the training was too short for any."""
        if self._waiting is not None:
            self._sink.warn_once(
                "no probe",
                "gradnoise: no probe ran: the first comes at update %d; %d updates were seen",
                self._waiting.every,
                theta,
            )
