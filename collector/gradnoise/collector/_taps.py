"""The taps on a torch model: which backward passes are draws of which theta.

Leaf hooks see exactly one backward pass's gradient: before accumulation, clipping and all-reduce. They are
registered at the start of each burst and removed after it, so that a step outside a burst costs one short call.
"""

from __future__ import annotations

import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Variable
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from gradnoise.collector._burst import Burst
from gradnoise.collector._gather import Gatherer, UnsupportedGradientError
from gradnoise.collector._hooks import LeafHooks
from gradnoise.collector._probe import ProbeError, run_probe
from gradnoise.collector._records import DrawsAt
from gradnoise.collector._sentinels import Sentinels
from gradnoise.collector._sink import AMBIGUOUS
from gradnoise.collector._steps import Steps
from gradnoise.collector._theta import DRAWS_PER_THETA, AtTheta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradnoise.collector._config import Probe, Sampling
    from gradnoise.collector._sink import Sink
    from gradnoise.wire import RunInfo

__all__ = ["Taps"]


class Taps:
    """Hooks on a model and its optimisers that feed a :class:`Sink`.

    Every entry point is guarded: an unexpected exception turns the collector off and never reaches the training.

    Attributes:
        forwards: forward passes of the model since the last update, while armed.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Optimizer | None,
        *,
        sink: Sink,
        info: RunInfo,
        sampling: Sampling,
        probe: Probe | None,
        scaler: Any,
        batch_size: int | None,
    ) -> None:
        self._model = weakref.ref(model)
        self._sink = sink
        self._sampling = sampling
        self._probe = probe
        self._unprobed = probe  # until the first probe runs
        self._scaler = scaler
        self._batch_size = batch_size
        self._names = [group.name for group in info.groups]
        self._gatherer = Gatherer(info.groups)
        self._sentinels = Sentinels(info.groups)
        self._hooks = LeafHooks(
            {group.name: (number, group.shape) for number, group in enumerate(info.groups)}, self._on_gradient, self
        )
        self._pid = os.getpid()
        self._theta = 0
        self.forwards = 0
        self._paused = False
        self._stopped = False
        self._parameters: dict[int, torch.nn.Parameter] = {}
        self._drafts: dict[int, dict[int, torch.Tensor]] = {}
        self._window: Burst | None = None
        self._at = AtTheta()
        self._steps = Steps(sink, batch_size)
        self._owners: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()
        if optimizer is not None:
            self._update_hook = optimizer.register_step_post_hook(self._on_update)
        else:
            self._update_hook = register_optimizer_step_post_hook(self._on_any_update)
        self._begin()

    @property
    def theta(self) -> int:
        """Parameter updates since attach."""
        return self._theta

    # --- entry points: called by torch or by the user's loop -------------------------------------------------

    def _on_any_update(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        try:
            owner = self._owners.get(optimizer)
            if owner is None:
                model = self._model()
                mine = set() if model is None else {id(parameter) for parameter in model.parameters()}
                owner = any(id(p) in mine for group in optimizer.param_groups for p in group["params"])
                self._owners[optimizer] = owner
        except Exception as error:
            self._fail(error)
            return
        if owner:
            self._on_update(optimizer, args, kwargs)

    def _on_update(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        if self._paused or os.getpid() != self._pid:
            return
        try:
            if self._stopped:
                self._stop()
            elif torch._C._current_graph_task_id() != -1:
                self._sink.fail("optimizer.step() inside a backward pass cannot be told from two updates")
                self._stop()
            else:
                self._update(optimizer)
        except Exception as error:
            self._fail(error)

    def _on_gradient(self, number: int, gradient: torch.Tensor) -> None:
        if self._paused or self._at.full or os.getpid() != self._pid:
            return
        try:
            # One graph task is one backward pass; reentrant ones and ones that raised have others.
            task = torch._C._current_graph_task_id()
            draft = self._drafts.get(task)
            if draft is None:
                draft = self._drafts[task] = {}
                Variable._execution_engine.queue_callback(partial(self._on_backward_end, task))
            draft[number] = self._gatherer.pick(number, gradient)
        except UnsupportedGradientError as error:
            self._unsupported(number, error)
        except Exception as error:
            self._fail(error)

    def _on_backward_end(self, task: int) -> None:
        try:
            self._take(self._drafts.pop(task, {}))
        except Exception as error:
            self._fail(error)

    def log(self, loss: Any, batch_size: int | None, metrics: Mapping[str, Any]) -> None:
        """Merge what the user knows into the row of the step that was, or is being, taken."""
        if self._stopped or os.getpid() != self._pid:
            return
        try:
            self._steps.log(
                self._theta,
                armed=self._hooks.armed,
                begun=bool(self.forwards or self._at.backwards),
                loss=loss,
                batch_size=batch_size,
                metrics=metrics,
            )
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Hand over what is pending, close the window, take every hook off. Idempotent."""
        if os.getpid() != self._pid:
            return
        if self._stopped:
            self._stop()
            return
        try:
            self._settle()
            self._end_window()
            self._steps.close()
            if self._unprobed is not None:
                self._sink.warn_once(
                    "no probe",
                    "gradnoise: no probe ran: the first comes at update %d; %d updates were seen",
                    self._unprobed.every,
                    self._theta,
                )
        except Exception as error:
            self._fail(error)
        self._stop()

    # --- the way of one step ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start on the present theta: arm the hooks where a burst begins, remove them where it ended."""
        phase = self._theta % self._sampling.every
        if phase >= self._sampling.burst:
            if self._hooks.armed:
                self._hooks.disarm()
                self._parameters = {}
            return
        self.forwards = 0
        if self._window is None:
            self._window = Burst(self._theta, self._theta, self._sampling.burst - phase)
            # By name again at each burst, because parameters may have been replaced.
            self._hooks.disarm()
            model = self._model()
            self._parameters = {} if model is None else self._hooks.arm(model)

    def _take(self, draft: dict[int, torch.Tensor]) -> None:
        """Take one finished backward pass."""
        at, window = self._at, self._window
        if window is None or at.full:
            return
        window.backwards += 1
        at.passed(sum(parameter._version for parameter in self._parameters.values()))
        if not draft:
            return
        with torch.no_grad():
            draw = self._gatherer.draw(draft, scale=self._scale(), fingerprint=self._sentinels.read(self._parameters))
        if at.add(draw):
            self._settle()
            self._at.full = True
            if self._theta == 0 and len(at.draws) >= DRAWS_PER_THETA:
                self._end_window()
                self._hooks.disarm()
                self._sink.warn_once(
                    "no update",
                    "gradnoise saw %d backward passes and no optimizer.step(): recording waits for the first one. "
                    "Pass attach() the optimizer whose step() updates the model",
                    len(at.draws),
                )

    def _settle(self) -> None:
        """Decide what the backward passes since the last update were, and hand over those that are draws."""
        at, window = self._at, self._window
        self._at = AtTheta()
        self._drafts.clear()  # of backward passes that raised
        if window is None or not at.backwards:
            return
        window.last_step = self._theta
        doubt = at.doubt(self.forwards)
        if doubt is not None:
            self._sink.event("ambiguous_backwards", doubt, count=at.backwards, step=self._theta)
            self._sink.warn_once("ambiguous", AMBIGUOUS)
            return
        if not at.draws:
            return
        item = DrawsAt(window.window, self._theta, self._theta, tuple(at.draws), self._steps.batch_size(self._theta))
        window.draws += len(at.draws)
        window.thetas += 1
        if not self._sink.draws(item):
            window.dropped += len(at.draws)

    def _update(self, optimizer: Optimizer) -> None:
        if not self._sink.recording:
            self._stop()
            return
        theta = self._theta
        if self._window is not None:
            self._settle()
            self._steps.at(theta)
        self._at.full = False
        if self._steps:
            self._steps.finish(theta, optimizer)
        self._theta = theta = theta + 1
        phase = theta % self._sampling.every
        if self._window is not None and (phase == 0 or phase >= self._sampling.burst):
            self._end_window()
        if self._probe is not None and theta % self._probe.every == 0:
            self._run_probe(self._probe)
        self._begin()

    def _end_window(self) -> None:
        window, self._window = self._window, None
        if window is not None and window.backwards:
            self._sink.end_window(window.end())

    def _run_probe(self, probe: Probe) -> None:
        model = self._model()
        if model is None:
            return
        self._unprobed = None
        self._paused = True
        try:
            run_probe(
                probe,
                model=model,
                parameters=self._hooks.parameters(model),
                gatherer=self._gatherer,
                sink=self._sink,
                theta=self._theta,
                seed=self._sampling.seed,
                batch_size=self._batch_size,
            )
        except ProbeError as error:
            self._probe = None
            self._sink.event("probe_failed", str(error), step=self._theta)
            self._sink.warn_once(
                "probe", "gradnoise stops probing: at step %d the probe's closure failed: %s", self._theta, error
            )
        finally:
            self._paused = False

    # --- the rest --------------------------------------------------------------------------------------------

    def _scale(self) -> torch.Tensor | None:
        scaler = self._scaler
        if scaler is None or not scaler.is_enabled():
            return None
        scale: torch.Tensor | None = scaler._get_scale_async()  # get_scale() synchronises
        return scale

    def _unsupported(self, number: int, error: UnsupportedGradientError) -> None:
        name = self._names[number]
        key = f"unsupported {name}"
        if self._sink.warn_once(key, "gradnoise does not record %s: %s", name, error):
            self._sink.event("unsupported_gradient", str(error), step=self._theta, group=name)

    def _fail(self, error: Exception) -> None:
        self._sink.fail(f"unexpected {type(error).__name__} in a training hook: {error}")
        self._stop()

    def _stop(self) -> None:
        """Take every hook off; inside a backward pass, where a hook may be running, at the next update."""
        self._stopped = True
        self._window = None
        self._steps.clear()
        self._drafts.clear()
        self._at = AtTheta(full=True)
        if torch._C._current_graph_task_id() == -1:
            self._hooks.disarm()
            self._update_hook.remove()
