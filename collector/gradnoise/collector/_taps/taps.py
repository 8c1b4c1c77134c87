"""The taps on a torch model: which backward passes are draws of which theta.

Leaf hooks see exactly one backward pass's gradient: before accumulation, clipping and all-reduce. They are
registered at the start of each burst and removed after it, so that a step outside a burst costs one short call.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Variable

from gradnoise.collector._recording.records import DrawsAt, SketchAt
from gradnoise.collector._recording.sink import AMBIGUOUS
from gradnoise.collector._taps.backward_pass import BackwardPass
from gradnoise.collector._taps.burst import Burst
from gradnoise.collector._taps.clip import ClipMeter
from gradnoise.collector._taps.copy import is_captured
from gradnoise.collector._taps.dynamo import in_compiled_autograd, uncompiled
from gradnoise.collector._taps.gather import Gatherer, UnsupportedGradientError
from gradnoise.collector._taps.hooks import LeafHooks
from gradnoise.collector._taps.listener import Listener
from gradnoise.collector._taps.norms import norm_of, squared
from gradnoise.collector._taps.optimizers import Caller, OptimizerHooks, has_closure, is_capturing
from gradnoise.collector._taps.origin import averages_gradients, processes_averaged
from gradnoise.collector._taps.probing import Probing
from gradnoise.collector._taps.scale import LossScale, Outcomes
from gradnoise.collector._taps.selfcheck import SelfCheck
from gradnoise.collector._taps.sentinels import Sentinels
from gradnoise.collector._taps.shards import ShardHooks
from gradnoise.collector._taps.sketch import Sketcher, rescaled
from gradnoise.collector._taps.steps import Steps
from gradnoise.collector._taps.theta import DRAWS_PER_THETA, AtTheta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.optim.optimizer import Optimizer

    from gradnoise.collector._config import Probe, Sampling
    from gradnoise.collector._recording.records import Origin
    from gradnoise.collector._recording.sink import Sink

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
    ) -> None:
        self._model = weakref.ref(model)
        self._sink = sink
        self._sampling = sampling
        groups = sink.info.groups
        self._names = [group.name for group in groups]
        self._origin = origin
        self._gatherer = Gatherer(groups)
        self._sentinels = Sentinels(groups)
        self._scale = LossScale(scaler, sink)
        self._averaged = averages_gradients(model)
        self._processes = processes_averaged(model)
        # What lies in .grad is laid out in another way than what arrives there, and each gatherer knows one layout.
        self._check = SelfCheck(Gatherer(groups), self._names, sink)
        self._clip = ClipMeter(groups)
        if self._averaged:
            self._check.stop()
        self._sketcher = Sketcher() if sampling.sketch else None
        self._measures = sampling.norms or sampling.sketch
        self._shards = ShardHooks(self._gatherer.pick, self._on_gradient, self._unsupported, self._fail)
        hooks = LeafHooks(
            {group.name: (number, group.shape) for number, group in enumerate(groups)},
            self._on_gradient,
            self,
            self._shards,
        )
        self._listener = Listener(groups, hooks, sink)
        self._probing = Probing(
            probe,
            self._model,
            listener=self._listener,
            gatherer=self._gatherer,
            sink=sink,
            sampling=sampling,
            batch_size=batch_size,
            scale=self._scale,
            origin=origin,
        )
        self._pid = os.getpid()
        self._theta = 0
        self.forwards = 0
        self._paused = False
        self._stopped = False
        self._captures = False  # CUDA graphs, perhaps
        self._passes: dict[int, BackwardPass] = {}  # by graph task
        self._unended: int | None = None
        self._opening = threading.Lock()
        self._window: Burst | None = None
        self._skipped_until = 0
        self._idle_until: float = 0  # an update of a theta below is only counted
        self._outcomes = Outcomes()
        self._divisor: float | None = None  # of the draws that were handed over last
        self._at = AtTheta()
        self._steps = Steps(sink, batch_size)
        after = uncompiled(self._on_update if optimizers else self._on_any_update)
        self._updates = OptimizerHooks(self._model, optimizers, uncompiled(self._before_update), after)
        self._end_of_pass = uncompiled(self._on_backward_end)
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
            self._end_unended()
            if has_closure(args, kwargs):
                self._at.begin_step(self._listener.version, self.forwards)
            elif self._at.draws and not self._averaged:
                with torch.no_grad():
                    factor = self._clip.at_step(optimizer, self._scale.tensor)
                self._steps.at(self._theta).clip_factor = factor
                if factor is not None and self._scale.tensor is None:
                    self._check.at_step(self._theta, factor)
        except Exception as error:
            self._fail(error, Caller.BEFORE_STEP)

    def _on_gradient(self, number: int, gradient: torch.Tensor, before: torch.Tensor | None = None) -> None:
        """Take the gradient of a group; of a running sum what was there before, at the sampled coordinates."""
        if self._paused or self._at.full:
            return
        try:
            # One graph task is one backward pass; reentrant ones and ones that raised have others.
            task = torch._C._current_graph_task_id()
            under_way = self._passes.get(task)
            if under_way is None:
                if is_captured(gradient):
                    self._refuse_capture()
                    return
                self._end_unended()
                under_way = self._open(task)
                if under_way is None:
                    return
            values = self._gatherer.pick(number, gradient)
            if before is not None:
                under_way.parts[number] = values - before
                return  # nothing is known of the rest of it
            under_way.parts[number] = values
            if self._measures:
                self._measure(number, gradient, under_way)
        except UnsupportedGradientError as error:
            self._unsupported(number, error)
        except Exception as error:
            self._fail(error)

    def _measure(self, number: int, gradient: torch.Tensor, under_way: BackwardPass) -> None:
        """Take what the sampling wants to know of the whole gradient."""
        if self._sampling.norms:
            norm = norm_of(gradient)
            if norm is not None:
                under_way.norms[number] = norm
        if self._sketcher is not None:
            self._sketcher.take(number, gradient, self._scale.tensor)

    def _on_backward_end(self, task: int) -> None:
        try:
            under_way = self._passes.pop(task, None)
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
            self._end_unended()
            self._settle()
            self._end_window()
            self._steps.close()
            self._probing.finish(self._theta)
        except Exception as error:
            self._fail(error)
        self._stop()

    # --- the way of one step ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start on the present theta: arm the hooks where a burst begins, remove them where it ended."""
        phase = self._theta % self._sampling.every
        if phase >= self._sampling.burst or self._theta < self._skipped_until:
            self._rest(phase)
            return
        self.forwards = 0
        if self._window is not None:
            if self._listener.outdated:
                self._listen()
        else:
            burst = Burst(self._theta, self._theta, self._sampling.burst - phase)
            if self._sink.room():
                self._arm(burst)
            else:
                self._skipped_until = self._theta + burst.declared
                self._sink.end_window(burst.skipped(self._origin))
                self._disarm()

    def _arm(self, burst: Burst) -> None:
        self._window = burst
        self._scale.forget()
        self._outcomes = Outcomes()
        self._updates.arm()
        self._listen()

    def _listen(self) -> None:
        model = self._model()
        if model is not None:
            self._listener.begin(model, self._theta)
            self._clip.arm(self._listener.parameters)

    def _rest(self, phase: int) -> None:
        """Be idle until the next burst or probe; a row of the last step keeps it awake for one more."""
        self._disarm()
        if not self._steps:
            due = self._theta - phase + self._sampling.every
            if phase < self._sampling.burst:
                due = min(due, self._skipped_until)
            self._idle_until = min(due, self._probing.after(self._theta)) - 1
            self._captures = torch.cuda.is_initialized()

    def _disarm(self) -> None:
        if self._listener.armed:
            self._listener.rest()
            self._updates.disarm()
            self._clip.arm({})

    def _open(self, task: int) -> BackwardPass | None:
        """Begin a backward pass, at the first of its gradients; None in a forked child."""
        if os.getpid() != self._pid:
            return None
        with self._opening, torch.no_grad():  # gradients of several devices come from several threads
            under_way = self._passes.get(task)
            if under_way is None:
                if self._passes:  # one raised, or this one is inside another
                    self._forget_sketch()
                under_way = BackwardPass(cleared=self._clip.cleared, forwards=self.forwards, merged=self._shards.merged)
                if not self._averaged:
                    under_way.held = self._clip.before_pass()
                if self._check.active:
                    under_way.checks = self._check.before_pass(self._listener.parameters)
                self._passes[task] = under_way
                if in_compiled_autograd():
                    self._unended = task  # nothing says when it ends
                    under_way.checks = {}
                else:
                    Variable._execution_engine.queue_callback(partial(self._end_of_pass, task))
        return under_way

    def _end_unended(self) -> None:
        """End the backward pass that compiled autograd ran, of whose end it did not tell."""
        task, self._unended = self._unended, None
        if task is not None:
            self._on_backward_end(task)

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
            self._forget_sketch()
            if not at.backwards:
                self._ambiguous("an optimizer that changes the parameters before it evaluates the loss", 1)
            return
        parts = under_way.parts
        if not parts:
            return
        if not self._averaged:
            self._clip.after_pass(under_way.held, parts)
        if under_way.checks:
            self._check.after_pass(self._theta, self._listener.parameters, under_way.checks, parts)
        if value is not None:
            self._steps.at(self._theta).loss_scale = value
        scale = self._scale.tensor
        draw = self._gatherer.draw(parts, scale=scale, fingerprint=self._sentinels.read(self._listener.parameters))
        if under_way.norms:
            draw = replace(draw, norms=squared(under_way.norms, draw.groups.tolist(), scale))
        last = at.add(draw, self._sink.pending)
        if self._sketcher is not None:
            counts = self._sketcher.finish()
            if counts is not None:
                at.sketches.append((len(at.draws) - 1, counts))
        if last:
            self._fill(len(at.draws))

    def _fill(self, count: int) -> None:
        """Hand over as many draws as one theta may have, and wait for the next theta."""
        self._settle()
        self._at.full = True
        if self._theta == 0 and count >= DRAWS_PER_THETA:
            self._end_window()
            self._disarm()
            self._sink.warn_once(
                "no update",
                "gradnoise saw %d backward passes and no optimizer.step(): recording waits for the first one. "
                "Pass attach() the optimizer whose step() updates the model",
                count,
            )

    def _settle(self) -> None:
        """Decide what the backward passes since the last update were, and hand over those that are draws."""
        at, window = self._at, self._window
        self._at = AtTheta()
        raised = len(self._passes)
        if raised:
            self._passes.clear()
            self._forget_sketch()
        if window is None or not at.backwards:
            return
        window.last_step = self._theta
        divisor = self._steps.settle(self._theta)
        doubt = at.doubt(self.forwards, raised, divisor)
        if doubt is not None:
            self._forget_sketch()
            self._ambiguous(doubt, at.backwards)
            return
        if not at.draws:
            return
        (merged,) = at.merged
        if divisor is not None and merged > 1:  # a draw is the mean of the minibatches whose gradients came as one
            divisor = None if divisor == merged else divisor / merged
        first = window.draws - window.dropped  # index of the first of these draws, as the writer counts
        item = DrawsAt(
            window.window,
            self._theta,
            self._theta,
            tuple(at.draws),
            self._examples(merged),
            divisor,
            self._outcomes.settle(),
        )
        window.draws += len(at.draws)
        window.thetas += 1
        if not self._sink.draws(item):
            window.dropped += len(at.draws)
            self._outcomes.add(None)  # whatever comes next, it is not of the theta that was written last
            self._forget_sketch()
            return
        before, self._divisor = self._divisor, divisor
        for index, counts in at.sketches:
            if index == 0 and before != divisor:
                continue  # the other draw was divided by something else when the two were compared
            made = counts if divisor is None else partial(_divided, counts, divisor)
            self._sink.sketch(SketchAt(window.window, self._theta, first + index, made, same_theta=index > 0))

    def _examples(self, merged: int) -> int | None:
        """Return the examples behind each gradient at the present theta; None where unknown."""
        here = self._steps.batch_size(self._theta)
        return None if here is None or self._processes is None else here * self._processes * merged

    def _update(self, optimizer: Optimizer) -> None:
        if not self._sink.recording:
            self._stop(Caller.AFTER_STEP)
            return
        theta = self._theta
        if self._window is not None:
            self._settle()
            self._steps.at(theta)
            self._outcomes.add(self._scale.stepped(optimizer, theta))
        self._at.full = False
        if self._steps:
            self._steps.finish(theta, optimizer)
        self._theta = theta = theta + 1
        phase = theta % self._sampling.every
        if self._window is not None and (phase == 0 or phase >= self._sampling.burst):
            self._end_window()
        if self._probing.due(theta):
            self._paused = True
            try:
                self._probing.run(theta)
            finally:
                self._paused = False
        self._begin()

    def _end_window(self) -> None:
        window, self._window = self._window, None
        self._forget_sketch()
        if window is not None and window.backwards:
            self._sink.end_window(window.end(self._origin))

    # --- the rest --------------------------------------------------------------------------------------------

    def _ambiguous(self, detail: str, count: int) -> None:
        self._sink.event("ambiguous_backwards", detail, count=count, step=self._theta)
        self._sink.warn_once("ambiguous", AMBIGUOUS)

    def _forget_sketch(self) -> None:
        if self._sketcher is not None:
            self._sketcher.reset()

    def _refuse_capture(self) -> None:
        if self._sink.warn_once(
            "captured",
            "gradnoise does not record backward passes that are captured into a CUDA graph: its replays call no hooks. "
            "Attach around the part of the training that is not captured, or measure with Probe(closure)",
        ):
            self._sink.event("captured_backward", "a CUDA graph is being captured", step=self._theta)

    def _unsupported(self, number: int, error: UnsupportedGradientError) -> None:
        name = self._names[number]
        key = f"unsupported {name}"
        if self._sink.warn_once(key, "gradnoise does not record %s: %s", name, error):
            self._sink.event("unsupported_gradient", str(error), step=self._theta, group=name)

    def _fail(self, error: Exception, caller: Caller = Caller.ELSEWHERE) -> None:
        self._sink.fail(f"unexpected {type(error).__name__} in a training hook: {error}")
        self._stop(caller)

    def _stop(self, caller: Caller = Caller.ELSEWHERE) -> None:
        """Take every hook off; inside a backward pass, where a hook may be running, at the next update."""
        self._stopped = True
        self._idle_until = 0
        self._window = None
        self._steps.clear()
        self._passes.clear()
        self._at = AtTheta(full=True)
        if torch._C._current_graph_task_id() == -1:
            self._listener.end()
            self._updates.remove(caller)


def _divided(counts: Callable[[], Any], divisor: float) -> Any:
    return rescaled(counts(), divisor)
