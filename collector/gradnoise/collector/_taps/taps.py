"""The taps on a torch model: which backward passes are draws of which theta.

Leaf hooks see exactly one backward pass's gradient: before accumulation, clipping and all-reduce. They are
registered at the start of each burst and removed after it, so that a step outside a burst costs one short call.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

import torch

from gradnoise.collector._taps.complaints import Complaints
from gradnoise.collector._taps.copy import is_captured
from gradnoise.collector._taps.dynamo import uncompiled
from gradnoise.collector._taps.gather import Gatherer, UnsupportedGradientError
from gradnoise.collector._taps.gathering import Gathering
from gradnoise.collector._taps.handover import Handover
from gradnoise.collector._taps.hooks import LeafHooks
from gradnoise.collector._taps.interludes import Interludes
from gradnoise.collector._taps.listener import Listener
from gradnoise.collector._taps.optimizers import Caller, OptimizerHooks, has_closure, is_capturing
from gradnoise.collector._taps.origin import averages_gradients, processes_averaged
from gradnoise.collector._taps.passes import BackwardPass, Passes
from gradnoise.collector._taps.probing import Probing
from gradnoise.collector._taps.scale import LossScale
from gradnoise.collector._taps.schedule import Schedule
from gradnoise.collector._taps.shards import ShardHooks
from gradnoise.collector._taps.standing import Standing
from gradnoise.collector._taps.steps import Steps
from gradnoise.collector._taps.theta import DRAWS_PER_THETA, AtTheta

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.optim.optimizer import Optimizer

    from gradnoise.collector._config import Probe, Sampling
    from gradnoise.collector._recording.records import Origin
    from gradnoise.collector._recording.sink import Sink
    from gradnoise.collector._taps.burst import Burst
    from gradnoise.collector._taps.interludes import Interlude

__all__ = ["Taps"]


class Taps:
    """Hooks on a model and its optimisers that feed a :class:`Sink`.

    Every entry point is guarded: an unexpected exception turns the collector off and never reaches the training.

    Args:
        model: the network.
        optimizers: whose steps are updates; none of them listens to every one that holds a parameter of the model.
        sink: where everything goes; the groups of its run are what is recorded.
        origin: whose draws these are.
        sampling, probe, scaler, batch_size: as for :func:`attach`.
        interludes: what else is measured now and then, after the probes.

    Attributes:
        forwards: forward passes of the model since the last update, while armed.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        sink: Sink,
        origin: Origin,
        sampling: Sampling,
        probe: Probe | None,
        scaler: Any,
        batch_size: int | None,
        interludes: Sequence[Interlude] = (),
    ) -> None:
        self._model = weakref.ref(model)
        self._sink = sink
        groups = sink.info.groups
        self._complaints = Complaints([group.name for group in groups], sink)
        self._origin = origin
        gatherer = Gatherer(groups)
        self._scale = LossScale(scaler, sink)
        self._shards = ShardHooks(gatherer.pick, self._on_gradient, self._unsupported, self._fail)
        numbers = {group.name: (number, group.shape) for number, group in enumerate(groups)}
        hooks = LeafHooks(numbers, self._on_gradient, self, self._shards)
        self._listener = Listener(groups, hooks, sink)
        self._gathering = Gathering(groups, sampling, self._listener, self._scale, gatherer)
        averaged = averages_gradients(model)
        self._standing = Standing(groups, self._listener, self._scale, sink, averaged=averaged)
        self._interludes = Interludes(
            Probing(
                probe,
                self._model,
                listener=self._listener,
                gatherer=gatherer,
                sink=sink,
                sampling=sampling,
                batch_size=batch_size,
                scale=self._scale,
                origin=origin,
            ),
            *interludes,
        )
        self._schedule = Schedule(sampling, self._interludes)
        self._pid = os.getpid()
        self._theta = 0
        self.forwards = 0
        self._paused = False
        self._stopped = False
        self._captures = False  # CUDA graphs, perhaps
        self._passes = Passes(self._begin_pass, uncompiled(self._on_backward_end))
        self._window: Burst | None = None
        self._idle_until: float = 0  # an update of a theta below is only counted
        self._at = AtTheta()
        self._steps = Steps(sink, batch_size)
        self._handover = Handover(sink, self._steps, processes_averaged(model))
        after = uncompiled(self._on_update if optimizers else self._on_any_update)
        self._updates = OptimizerHooks(self._model, optimizers, uncompiled(self._before_update), after)
        self.log = uncompiled(self._log)  # a loop may be compiled around it
        self._begin()

    @property
    def theta(self) -> int:
        """Parameter updates since attach, and steps of fused optimisers that a loss scaler has had skipped."""
        return self._theta

    @property
    def recording(self) -> bool:
        """Whether the step being taken is part of a burst."""
        return self._window is not None

    # --- entry points: called by torch or by the user's loop -------------------------------------------------

    def _on_any_update(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        try:
            concerns = self._updates.concerns(optimizer)
        except Exception as error:
            self._fail(error, Caller.AFTER_STEP)
            return
        if concerns:
            self._on_update(optimizer, args, kwargs)

    def _on_update(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        # The training has filled the caches with other things: outside bursts each further line costs a microsecond.
        if self._theta < self._idle_until and not (self._captures and is_capturing()):
            self._theta += 1
            return
        if self._paused or os.getpid() != self._pid:
            return
        try:
            if self._stopped:
                self._stop(Caller.AFTER_STEP)
            elif torch._C._current_graph_task_id() != -1:
                self._sink.fail("optimizer.step() inside a backward pass cannot be told from two updates")
                self._stop(Caller.AFTER_STEP)
            elif not is_capturing():
                self._update(optimizer)
        except Exception as error:
            self._fail(error, Caller.AFTER_STEP)

    def _before_update(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._paused or self._stopped or self._window is None or os.getpid() != self._pid:
            return
        try:
            if not self._updates.concerns(optimizer) or torch._C._current_graph_task_id() != -1 or is_capturing():
                return
            self._passes.end_unended()
            if has_closure(args, kwargs):
                self._at.begin_step(self._listener.version, self.forwards)
            elif self._at.draws and not self._standing.averaged:
                self._steps.at(self._theta).clip_factor = self._standing.before_step(self._theta, optimizer)
        except Exception as error:
            self._fail(error, Caller.BEFORE_STEP)

    def _on_gradient(self, number: int, gradient: torch.Tensor, before: torch.Tensor | None = None) -> None:
        """Take the gradient of a group; of a running sum what was there before, at the sampled coordinates."""
        if self._paused or self._at.full:
            return
        try:
            # One graph task is one backward pass; reentrant ones and ones that raised have others.
            task = torch._C._current_graph_task_id()
            under_way = self._passes.under_way.get(task)
            if under_way is None:
                if is_captured(gradient):
                    self._complaints.captured(self._theta)
                    return
                self._passes.end_unended()
                if os.getpid() != self._pid:
                    return
                under_way = self._passes.open(task)
            self._gathering.take(number, gradient, under_way, before)
        except UnsupportedGradientError as error:
            self._unsupported(number, error)
        except Exception as error:
            self._fail(error)

    def _on_backward_end(self, task: int) -> None:
        try:
            under_way = self._passes.pop(task)
            if under_way is not None:
                with torch.no_grad():
                    self._take(under_way)
        except Exception as error:
            self._fail(error)

    def _log(self, loss: Any, batch_size: Any, divisor: Any, metrics: Mapping[str, Any]) -> None:
        """Merge what the user knows into the row of the step that was, or is being, taken."""
        if self._stopped or os.getpid() != self._pid:
            return
        try:
            self._idle_until = 0  # the row is finished at the next update
            self._steps.log(
                self._theta,
                armed=self._listener.armed,
                begun=bool(self.forwards or self._at.backwards),
                loss=loss,
                batch_size=batch_size,
                divisor=divisor,
                metrics=metrics,
            )
        except Exception as error:
            self._fail(error)

    def before_backward(self, loss: torch.Tensor) -> None:
        """Look at what sharded parameters hold when the backward pass of this loss begins."""
        if not self._stopped and os.getpid() == self._pid:
            self._listener.before_backward(loss)

    def close(self) -> None:
        """Hand over what is pending, close the window, take every hook off. Idempotent."""
        if os.getpid() != self._pid:
            return
        if self._stopped:
            self._stop()
            return
        try:
            self._passes.end_unended()
            self._settle()
            self._end_window()
            self._steps.close()
            self._interludes.finish(self._theta)
        except Exception as error:
            self._fail(error)
        self._stop()

    # --- the way of one step ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start on the present theta: arm the hooks where a burst begins, remove them where it ended."""
        self.forwards = 0
        if not self._schedule.records(self._theta):
            self._rest()
            return
        if self._window is not None:
            if self._listener.outdated:
                self._listen()
        else:
            burst = self._schedule.burst(self._theta)
            if self._sink.room():
                self._arm(burst)
            else:
                self._schedule.skip(burst)
                self._sink.end_window(burst.skipped(self._origin))
                self._disarm()

    def _arm(self, burst: Burst) -> None:
        self._window = burst
        self._scale.forget()
        self._handover.begin()
        self._updates.arm()
        self._listen()

    def _listen(self) -> None:
        model = self._model()
        if model is not None:
            self._listener.begin(model, self._theta)
            self._standing.arm()

    def _rest(self) -> None:
        """Be idle until the next burst or interlude; a row of the last step keeps it awake for one more."""
        self._disarm()
        if not self._steps:
            self._idle_until = self._schedule.after(self._theta) - 1
            self._captures = torch.cuda.is_initialized()

    def _disarm(self) -> None:
        if self._listener.armed:
            self._listener.rest()
            self._updates.disarm()
            self._standing.disarm()

    def _begin_pass(self) -> BackwardPass:
        if self._passes.under_way:  # one raised, or this one is inside another
            self._gathering.forget()
        under_way = BackwardPass(forwards=self.forwards, merged=self._shards.merged)
        self._standing.before_pass(under_way)
        return under_way

    def _take(self, under_way: BackwardPass) -> None:
        """Take one finished backward pass."""
        at, window = self._at, self._window
        if window is None or at.full:
            return
        window.backwards += 1
        value = self._scale.passed(self._theta)
        if not at.passed(
            self._listener.version,
            self.forwards,
            begun=under_way.forwards,
            merged=under_way.merged,
            again=under_way.cleared,
        ):
            self._gathering.forget()
            if not at.backwards:
                self._complaints.ambiguous(
                    self._theta, "an optimizer that changes the parameters before it evaluates the loss", 1
                )
            return
        if not under_way.parts:
            return
        self._standing.after_pass(self._theta, under_way)
        if value is not None:
            self._steps.at(self._theta).loss_scale = value
        if self._gathering.end(under_way, at, self._sink.pending):
            self._fill(len(at.draws))

    def _fill(self, count: int) -> None:
        """Hand over as many draws as one theta may have, and wait for the next theta."""
        self._settle()
        self._at.full = True
        if self._theta == 0 and count >= DRAWS_PER_THETA:
            self._end_window()
            self._disarm()
            self._complaints.no_update(count)

    def _settle(self) -> None:
        """Decide what the backward passes since the last update were, and hand over those that are draws."""
        at, window = self._at, self._window
        self._at = AtTheta()
        raised = self._passes.forget()
        if raised:
            self._gathering.forget()
        if window is None or not at.backwards:
            return
        window.last_step = self._theta
        divisor = self._steps.settle(self._theta)
        doubt = at.doubt(self.forwards, raised, divisor)
        if doubt is not None:
            self._gathering.forget()
            self._complaints.ambiguous(self._theta, doubt, at.backwards)
            return
        if at.draws and not self._handover.give(at, window, self._theta, divisor):
            self._gathering.forget()

    def _update(self, optimizer: Optimizer) -> None:
        if not self._sink.recording:
            self._stop(Caller.AFTER_STEP)
            return
        theta = self._theta
        if self._window is not None:
            self._settle()
            self._steps.at(theta)
            self._handover.stepped(self._scale.stepped(optimizer, theta))
        self._at.full = False
        if self._steps:
            self._steps.finish(theta, optimizer)
        self._theta = theta = theta + 1
        if self._window is not None and self._schedule.ends(theta):
            self._end_window()
        if self._interludes.due(theta):
            self._paused = True
            try:
                self._interludes.run(theta)
            finally:
                self._paused = False
        self._begin()

    def _end_window(self) -> None:
        window, self._window = self._window, None
        self._gathering.forget()
        if window is not None and window.backwards:
            self._sink.end_window(window.end(self._origin))

    # --- the rest --------------------------------------------------------------------------------------------

    def _unsupported(self, number: int, error: UnsupportedGradientError) -> None:
        self._complaints.unsupported(self._theta, number, error)

    def _fail(self, error: Exception, caller: Caller = Caller.ELSEWHERE) -> None:
        self._sink.fail(f"unexpected {type(error).__name__} in a training hook: {error}")
        self._stop(caller)

    def _stop(self, caller: Caller = Caller.ELSEWHERE) -> None:
        """Take every hook off; inside a backward pass, where a hook may be running, at the next update."""
        self._stopped = True
        self._idle_until = 0
        self._window = None
        self._steps.clear()
        self._passes.forget()
        self._at = AtTheta(full=True)
        if torch._C._current_graph_task_id() == -1:
            self._listener.end()
            self._updates.remove(caller)
