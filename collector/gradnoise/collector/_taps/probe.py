"""One probe: gradients of fresh minibatches, and of a whole pass over the data, at frozen parameters."""

from __future__ import annotations

import dataclasses
import hashlib
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from gradnoise.collector._recording.records import DrawsAt, SketchAt, WindowEnd, window_id
from gradnoise.collector._taps.gather import UnsupportedGradientError
from gradnoise.collector._taps.losses import ProbeError, differentiated, loss_of, losses_of, no_updates
from gradnoise.collector._taps.norms import norm_of, squared
from gradnoise.collector._taps.origin import is_ddp, is_sharded
from gradnoise.collector._taps.reference import UnevenSizesError, WholeGradient
from gradnoise.collector._taps.sketch import Sketcher
from gradnoise.collector._taps.torch_state import preserved, preserved_modes, preserved_random
from gradnoise.wire import WindowKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gradnoise.collector._config import Probe, Sampling
    from gradnoise.collector._recording.records import Origin
    from gradnoise.collector._recording.sink import Sink
    from gradnoise.collector._taps.gather import Gatherer
    from gradnoise.collector._taps.losses import Gradients

__all__ = ["ProbeError", "frozen", "run_probe"]


def probe_seed(seed: int, theta: int, rank: int | None = None) -> int:
    """Return the seed of the probe at ``theta`` in a rank of a job.

    It differs from probe to probe even where the training itself draws no random number, and from rank to rank;
    otherwise each would see the minibatches of the one before it, or beside it.
    """
    digest = hashlib.sha256(f"probe\n{seed}\n{theta}\n{rank or 0}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def run_probe(
    probe: Probe,
    *,
    model: torch.nn.Module,
    parameters: Mapping[int, torch.nn.Parameter],
    gatherer: Gatherer,
    sink: Sink,
    theta: int,
    sampling: Sampling,
    batch_size: int | None,
    scale: torch.Tensor | None = None,
    origin: Origin | None = None,
) -> None:
    """Record a probe's gradients at the present parameters as one window; draws stream out as they come.

    Args:
        probe: what to take.
        model: what is put back afterwards.
        parameters: the recorded ones, by group number.
        gatherer: of the model's groups.
        sink: where everything goes.
        theta: parameter updates so far.
        sampling: its seed, and whether norms and sketches are wanted.
        batch_size: of the closure's minibatches, where it does not say; None if unknown.
        scale: of the loss scaler. The functions of a probe return unscaled losses; they are scaled here, and their
            gradients unscaled, as the training's are.
        origin: of the window.

    Raises:
        ProbeError: a function of the probe failed, or the model cannot be probed; the window is closed with what was
            recorded, and everything is restored.
    """
    if is_sharded(model):
        raise ProbeError(
            "the model's parameters are sharded (FSDP), and a probe would have to gather them on every rank at once; "
            "record bursts instead"
        )
    one = _Running(probe, parameters, gatherer, sink, theta, sampling, batch_size, scale)
    try:
        with frozen(model, probe_seed(sampling.seed, theta, None if origin is None else origin.rank)):
            one.take_draws()
            if sink.recording:
                one.take_pass()
    finally:
        sink.end_window(
            WindowEnd(one.window, WindowKind.PROBE, theta, theta, max(one.declared, one.offered), one.dropped, origin)
        )


@contextmanager
def frozen(model: torch.nn.Module, seed: int, *, on_host: bool = False) -> Iterator[None]:
    """Run with everything of a model and of torch's settings put back afterwards, seeded, and without updates.

    Args:
        model: see :func:`preserved`, as for ``on_host``.
        seed: of the random number generators meanwhile.
        on_host: where the copies of what is put back are kept.
    """
    with ExitStack() as stack:
        stack.enter_context(preserved_modes())
        stack.enter_context(preserved(model, on_host=on_host))
        stack.enter_context(preserved_random(seed))
        stack.enter_context(no_updates())
        stack.enter_context(torch.inference_mode(False))
        if is_ddp(model):
            stack.enter_context(_silent(model))
        yield


@contextmanager
def _silent(ddp: Any) -> Iterator[None]:
    """Let a DistributedDataParallel model send nothing: other ranks may not probe, or fail.

    ``no_sync()`` is about gradients: a forward pass within it still sends the buffers around if the pass before it was
    without, and then the next one of the training does not.
    """
    buffers = ddp.require_forward_param_sync
    with ddp.no_sync():
        ddp.require_forward_param_sync = False
        try:
            yield
        finally:
            ddp.require_forward_param_sync = buffers


class _Running:
    """The probe under way."""

    def __init__(
        self,
        probe: Probe,
        parameters: Mapping[int, torch.nn.Parameter],
        gatherer: Gatherer,
        sink: Sink,
        theta: int,
        sampling: Sampling,
        batch_size: int | None,
        scale: torch.Tensor | None,
    ) -> None:
        self.window = window_id(theta, probe=True)
        self.declared = probe.draws
        self.offered = 0
        self.dropped = 0
        self._probe = probe
        self._numbers = list(parameters)
        self._parameters = list(parameters.values())
        self._gatherer = gatherer
        self._sink = sink
        self._theta = theta
        self._batch_size = batch_size
        self._scale = scale
        self._norms = sampling.norms
        self._sketcher = Sketcher() if sampling.sketch else None

    def take_draws(self) -> None:
        """Take the closure's minibatches as draws."""
        closure = self._probe.closure
        if closure is None:
            return
        for _ in range(self._probe.draws):
            self._minibatch(loss_of(closure), "the closure", draw=True)
            if not self._sink.recording:
                return

    def take_pass(self) -> None:
        """Take the mean over a whole pass as the reference; without a closure its first minibatches are the draws."""
        full = self._probe.full
        if full is None:
            return
        mean = WholeGradient(norms=self._norms)
        draws = self._probe.closure is None
        losses = losses_of(full)
        try:
            for given in losses:
                self._minibatch(given, "full", draw=draws and self.offered < self._probe.draws, mean=mean)
                if not self._sink.recording:
                    return
        except UnevenSizesError:
            raise ProbeError("full gives the batch size of some minibatches and not of others") from None
        finally:
            losses.close()
        if draws:
            self.declared = min(self.declared, mean.minibatches)
        if mean.minibatches < 2:
            raise ProbeError(f"full gave {mean.minibatches} minibatches; expected a pass of at least 2")
        reference = mean.reference(self.window, self._theta, replacement=False if draws else None)
        if not self._sink.reference(reference):
            self._sink.event("dropped", "the full gradient was lost: the disk was slower", step=self._theta)

    def _minibatch(self, given: Any, what: str, *, draw: bool, mean: WholeGradient | None = None) -> None:
        """Differentiate one minibatch's loss; on return nothing holds its gradients."""
        taken = differentiated(given, self._parameters, self._scale, what)
        gradients = self._present(taken)
        with torch.no_grad():
            picked = self._picked(gradients)
            if mean is not None:
                mean.add(picked, gradients, taken.batch_size, self._scale)
            if draw:
                self._offer(gradients, picked, taken.batch_size or self._batch_size)

    def _present(self, gradients: Gradients) -> dict[int, torch.Tensor]:
        return {
            number: gradient.detach()
            for number, gradient in zip(self._numbers, gradients.tensors, strict=True)
            if gradient is not None
        }

    def _picked(self, gradients: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        picked = {}
        for number, gradient in gradients.items():
            try:
                picked[number] = self._gatherer.pick(number, gradient)
            except UnsupportedGradientError as error:
                self._sink.warn_once(
                    "unsupported in a probe", "gradnoise leaves a parameter out of its probes: %s", error
                )
        if not picked:
            raise ProbeError("its loss depends on no recorded parameter")
        return picked

    def _offer(
        self, gradients: dict[int, torch.Tensor], picked: dict[int, torch.Tensor], batch_size: int | None
    ) -> None:
        draw = self._gatherer.draw(picked, scale=self._scale)
        if self._norms:
            norms = {number: norm for number in picked if (norm := norm_of(gradients[number])) is not None}
            draw = dataclasses.replace(draw, norms=squared(norms, draw.groups.tolist(), self._scale))
        self.offered += 1
        self.dropped += not self._sink.draws(DrawsAt(self.window, self._theta, self._theta, (draw,), batch_size))
        if self._sketcher is None:
            return
        for number in picked:
            self._sketcher.take(number, gradients[number], self._scale)
        counts = self._sketcher.finish()
        if counts is not None:
            last = max(self.offered - self.dropped - 1, 0)
            self._sink.sketch(SketchAt(self.window, self._theta, last, counts, True))
