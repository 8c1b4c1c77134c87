"""The taps on a torch model: which backward passes are draws of which theta.

Leaf hooks see exactly one backward pass's gradient: before accumulation, clipping and all-reduce. They are
registered at the start of each burst and removed after it, so that a step outside a burst costs one short call.
"""

from __future__ import annotations

import os
import time
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Variable
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from gradnoise.collector._gather import Gatherer, UnsupportedGradientError, to_host
from gradnoise.collector._hooks import LeafHooks
from gradnoise.collector._probe import ProbeError, run_probe
from gradnoise.collector._records import Draw, DrawsAt, StepRow, WindowEnd, window_id
from gradnoise.collector._sink import AMBIGUOUS
from gradnoise.wire import Group, WindowKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradnoise.collector._config import Probe, Sampling
    from gradnoise.collector._records import Number
    from gradnoise.collector._sink import Sink
    from gradnoise.wire import RunInfo

__all__ = ["DRAWS_PER_THETA", "Taps"]

# Outside probes; they wait in memory until the update shows what they were.
DRAWS_PER_THETA = 64
_PENDING_BYTES = 32 << 20


@dataclass(slots=True)
class _Window:
    """The open burst."""

    first_step: int
    last_step: int
    declared: int
    backwards: int = 0
    draws: int = 0
    thetas: int = 0
    dropped: int = 0

    @property
    def kind(self) -> WindowKind:
        # A skipped step now and then (an overflow under a loss scaler) does not make microbatches of a burst.
        many = self.thetas > 0 and self.draws >= 2 * self.thetas
        return WindowKind.MICROBATCH if many else WindowKind.BURST


@dataclass(slots=True)
class _AtTheta:
    """What happened since the last parameter update."""

    backwards: int = 0
    draws: list[Draw] = field(default_factory=list)
    nbytes: int = 0
    versions: list[int] = field(default_factory=list)
    changed: bool = False
    full: bool = False


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
        self._sentinels = _sentinels(info.groups)
        self._sentinel_gatherer = Gatherer([group for _, group in self._sentinels])
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
        self._window: _Window | None = None
        self._at = _AtTheta()
        self._rows: dict[int, StepRow] = {}
        self._log_follows_update: bool | None = None
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
            # Called after optimizer.step(), the values belong to the step before. Which of the two the loop does shows
            # before the first update, or while hooks are armed, and holds from then on.
            if self._log_follows_update is None or self._hooks.armed:
                if self._theta == 0 or self.forwards or self._at.backwards:
                    self._log_follows_update = False
                elif self._log_follows_update is None:
                    self._log_follows_update = True
            row = self._row(self._theta - 1 if self._log_follows_update else self._theta)
            if loss is not None:
                row.loss = self._number("loss", loss)
            if batch_size is not None:
                row.batch_size = int(batch_size)
            for name, value in metrics.items():
                number = self._number(name, value)
                if number is not None:
                    row.metrics[name] = number
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
            for row in self._rows.values():
                self._sink.step(row)
            self._rows.clear()
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
            self._window = _Window(self._theta, self._theta, self._sampling.burst - phase)
            # By name again at each burst, because parameters may have been replaced.
            self._hooks.disarm()
            model = self._model()
            self._parameters = {} if model is None else self._hooks.arm(model)

    def _take(self, draft: dict[int, torch.Tensor]) -> None:
        """Take one finished backward pass."""
        at, window = self._at, self._window
        if window is None or at.full:
            return
        at.backwards += 1
        window.backwards += 1
        versions = [parameter._version for parameter in self._parameters.values()]
        if at.backwards > 1:
            at.changed = at.changed or versions != at.versions
        at.versions = versions
        if not draft:
            return
        with torch.no_grad():
            sentinels = [
                self._sentinel_gatherer.pick(index, self._parameters[number].detach())
                for index, (number, _) in enumerate(self._sentinels)
                if number in self._parameters
            ]
            draw = self._gatherer.draw(draft, scale=self._scale(), fingerprint=sentinels)
        at.draws.append(draw)
        at.nbytes += draw.nbytes
        if len(at.draws) >= DRAWS_PER_THETA or at.nbytes >= _PENDING_BYTES:
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
        self._at = _AtTheta()
        self._drafts.clear()  # of backward passes that raised
        if window is None or not at.backwards:
            return
        window.last_step = self._theta
        if at.backwards > 1 and (at.changed or self.forwards != at.backwards):
            detail = "parameters changed" if at.changed else f"{at.backwards} backwards, {self.forwards} forwards"
            self._sink.event("ambiguous_backwards", detail, count=at.backwards, step=self._theta)
            self._sink.warn_once("ambiguous", AMBIGUOUS)
            return
        if not at.draws:
            return
        row = self._rows.get(self._theta)
        batch_size = self._batch_size if row is None or row.batch_size is None else row.batch_size
        number = window_id(window.first_step, probe=False)
        item = DrawsAt(number, self._theta, self._theta, tuple(at.draws), batch_size)
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
            self._row(theta)
        self._at.full = False
        if self._rows:
            self._finish_rows(theta, optimizer)
        self._theta = theta = theta + 1
        phase = theta % self._sampling.every
        if self._window is not None and (phase == 0 or phase >= self._sampling.burst):
            self._end_window()
        if self._probe is not None and theta % self._probe.every == 0:
            self._run_probe(self._probe)
        self._begin()

    def _end_window(self) -> None:
        window, self._window = self._window, None
        if window is None or not window.backwards:
            return
        self._sink.end_window(
            WindowEnd(
                window_id(window.first_step, probe=False),
                window.kind,
                window.first_step,
                window.last_step,
                max(window.declared, window.draws),
                window.dropped,
            )
        )

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

    # --- rows of the steps table -----------------------------------------------------------------------------

    def _row(self, step: int) -> StepRow:
        row = self._rows.get(step)
        if row is None:
            row = self._rows[step] = StepRow(step, step, time.time_ns(), batch_size=self._batch_size)
        return row

    def _finish_rows(self, theta: int, optimizer: Optimizer) -> None:
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
        self._rows.clear()
        self._drafts.clear()
        self._at = _AtTheta(full=True)
        if torch._C._current_graph_task_id() == -1:
            self._hooks.disarm()
            self._update_hook.remove()


def _sentinels(groups: Sequence[Group]) -> list[tuple[int, Group]]:
    """Return a few coordinates of a few groups, by which a change of the parameters shows."""
    numbers = sorted({0, len(groups) // 2, len(groups) - 1})
    chosen = []
    for number in numbers:
        group = groups[number]
        size = group.size
        indices = tuple(sorted({0, size // 3, 2 * size // 3, size - 1}))
        chosen.append((number, Group(group.name, group.shape, group.dtype, indices)))
    return chosen
