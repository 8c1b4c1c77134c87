"""The recorder without a framework: the loop hands in its gradients itself."""

from __future__ import annotations

import math
import os
import threading
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from gradnoise.collector._config import Limits, Sampling, disabled
from gradnoise.collector._errors import CollectorError
from gradnoise.collector._recording.logged import LoggedSteps
from gradnoise.collector._recording.named_groups import NamedGroups
from gradnoise.collector._recording.opening import Destination, plan_of
from gradnoise.collector._recording.recording import Recording
from gradnoise.collector._recording.records import ReferenceAt
from gradnoise.collector._recording.refusals import Refusals, RefusedInputError, divisor_of, index_of, positive_of
from gradnoise.collector._recording.sink import Sink, State
from gradnoise.collector._recording.stepwise import Stepwise
from gradnoise.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Recorder"]

P = ParamSpec("P")


def _guarded(method: Callable[Concatenate[Recorder, P], None]) -> Callable[Concatenate[Recorder, P], None]:
    """Let nothing that a method raises reach the training: what is refused is warned of, anything else turns off."""

    @wraps(method)
    def guarded(self: Recorder, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if not self._listening:
            return
        with self._lock:
            try:
                method(self, *args, **kwargs)
            except RefusedInputError as error:
                self._refusals.note(error, 0 if self._steps.at is None else self._steps.at.step)
            except Exception as error:
                self._fail(f"unexpected {type(error).__name__} in Recorder.{method.__name__}: {error}")

    return guarded


class Recorder(Recording):
    """Records gradients that the loop hands in: for JAX, numpy, or anything else with arrays on the host.

    A step makes K draws: K minibatch gradients at the same parameters, the same K for every group. K = 1 is one draw a
    step, recorded over consecutive steps; K of 2 or more are several minibatches at the parameters of one step. Which
    steps are kept ``sampling`` says: those whose number, modulo ``every``, is below ``burst``; all others are passed
    over. :meth:`wants` tells which before the gradients are fetched from a device. Steps come in ascending order.
    After construction nothing raises: what cannot be recorded is warned of once, and counted in the dump's events.

    Args:
        run: the run's id; default a readable unique one.
        dump: the dump's directory; default ``$GRADNOISE_DUMP``, else ``./gradnoise/<run>``.
        endpoint: ``HOST:PORT`` of an analyzer; default ``$GRADNOISE_ENDPOINT``; without one the dump stays on disk.
        groups: the name of each parameter group and its shape, or an array of that shape; None takes those of the first
            step that is recorded, and opens the dump at the step that follows.
        sampling: which coordinates of which steps; ``norms`` and ``sketch`` are for :func:`gradnoise.collector.attach`.
        limits: of memory and disk.
        batch_size: examples in a minibatch; unknown stays null.

    Raises:
        CollectorError: the arguments cannot be recorded.
        RunExistsError, WireError: as :func:`gradnoise.collector.attach`.
    """

    def __init__(
        self,
        run: str | None = None,
        dump: str | os.PathLike[str] | None = None,
        endpoint: str | None = None,
        groups: Mapping[str, Any] | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        limits: Limits = Limits(),  # noqa: B008 - frozen
        batch_size: int | None = None,
    ) -> None:
        if disabled():
            super().__init__(State.DISABLED)
            return
        _check(sampling, limits, batch_size, groups)
        self._lock = threading.RLock()
        self._sampling = sampling
        self._limits = limits
        self._batch_size = batch_size
        self._groups = NamedGroups(sampling.coordinates, sampling.seed)
        for name, shape in {} if groups is None else groups.items():
            self._groups.declare(name, shape)
        self._refusals = Refusals()
        self._rows = LoggedSteps(batch_size, self._refusals)
        self._steps = Stepwise(sampling, self._groups, self._refusals, limits.memory // 4, self._open_late)
        self._destination = Destination.choose("recorder", run, dump, endpoint)
        super().__init__(State.RECORDING, run=self._destination.run, path=self._destination.path)
        if groups is not None:
            try:
                self._steps.sink = self._open()
            except OSError as error:
                self._turn_off(self._destination.unwritable(error))
            except Exception:
                self.close()
                raise

    # --- what the loop calls ---------------------------------------------------------------------------------

    def wants(self, step: int) -> bool:
        """Return whether :meth:`record` would keep this step, the next to be taken; if not, spare it the copy."""
        wanted = False

        def wants(self: Recorder) -> None:
            nonlocal wanted
            number = index_of("step", step)
            self._steps.leave(number)
            wanted = self._steps.keeps(number)

        _guarded(wants)(self)
        return wanted

    @_guarded
    def record(
        self,
        step: int,
        group: str,
        gradients: Any,
        theta: int | None = None,
        batch_size: int | None = None,
        divisor: float | None = None,
    ) -> None:
        """Hand in the K minibatch gradients of one group at one step; once a group and step.

        Args:
            step: the optimiser step being taken, from 0.
            group: whose gradients.
            gradients: ``[K, *shape]`` or ``[K, d]``; of a group given up front also ``[*shape]``, one draw. float16,
                bfloat16, float32 or float64: a numpy array, or what offers ``__array__`` or DLPack on the host. Copied
                at the sampled coordinates.
            theta: parameter updates so far; default ``step``. Draws of equal theta were taken at equal parameters.
            batch_size: examples in each minibatch, where it is not the recorder's.
            divisor: what the losses were divided by; undone in the values recorded.
        """
        number = index_of("step", step)
        at = self._steps.begin(number, number if theta is None else index_of("theta", theta))
        if at is None:
            return
        row = self._rows.at(at.step, lambda: at.theta)
        row.theta = at.theta
        if batch_size is not None:
            row.batch_size = self._valid("batch_size", positive_of(batch_size), batch_size)
        if divisor is not None:
            row.divisor = self._valid("divisor", divisor_of(divisor), divisor)
        at.batch_size, at.divisor = row.batch_size, row.divisor
        self._steps.take(at, *self._groups.draws(group, gradients))

    @_guarded
    def reference(
        self,
        step: int,
        group: str,
        gradient: Any,
        minibatches: int | None = None,
        dataset_size: int | None = None,
        replacement: bool | None = None,
        theta: int | None = None,
    ) -> None:
        """Hand in the full gradient of one group: of a pass over the data, at the parameters of a step's draws.

        Args:
            step: that of the draws; one that is not kept has no reference either.
            group: whose gradient.
            gradient: ``[*shape]`` or ``[d]``.
            minibatches, dataset_size: what it was taken over; None where unknown.
            replacement: whether the minibatches of the draws are drawn with replacement; None where unknown.
            theta: as :meth:`record` takes it.
        """
        number = index_of("step", step)
        at = self._steps.begin(number, number if theta is None else index_of("theta", theta))
        if at is None:
            return
        index, values, norm2 = self._groups.reference(group, gradient)
        item = ReferenceAt(
            self._steps.window(at),
            at.theta,
            "full",
            (index,),
            (values,),
            (norm2,) if math.isfinite(norm2) else None,
            minibatches=None if minibatches is None else index_of("minibatches", minibatches, 2**31),
            dataset_size=None if dataset_size is None else index_of("dataset_size", dataset_size),
            replacement=None if replacement is None else bool(replacement),
        )
        self._steps.refer(at, item)

    @_guarded
    def log(self, /, step: int, *, theta: int | None = None, loss: Any = None, lr: Any = None, **metrics: Any) -> None:
        """Record what the loop knows of a step, kept or not: numbers, or arrays of one element.

        JAX's arrays are not waited for.
        """
        number = index_of("step", step)
        self._steps.leave(number)
        at = self._steps.at
        known = at.theta if at is not None and at.step == number else number
        given = known if theta is None else index_of("theta", theta)
        row = self._rows.at(number, lambda: given)
        if loss is not None:
            row.loss = self._rows.number("loss", loss)
        if lr is not None:
            row.lr = self._rows.number("lr", lr)
        for name, value in metrics.items():
            found = self._rows.number(name, value)
            if found is not None:
                row.metrics[name] = found

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until what was recorded so far is in the dump; False after ``timeout`` seconds or a failure.

        It ends the step being recorded: groups of it that come later are refused.
        """

        def flush(self: Recorder) -> None:
            self._steps.hand_over()

        _guarded(flush)(self)
        return super().flush(timeout)

    # --- the rest --------------------------------------------------------------------------------------------

    @property
    def _listening(self) -> bool:
        return not self._closed and os.getpid() == self._pid and self._now() is State.RECORDING

    def _valid(self, name: str, found: Any, given: Any) -> Any:
        if found is None:
            self._refusals.say(name, f"ignores record({name}={given!r}): expected a positive number")
        return found

    def _open(self) -> Sink:
        plan = plan_of(self._sampling)
        opened = self._destination.open("recorder", self._groups.all(), plan, self._limits)
        self._begin(opened)
        self._groups.settled = True
        self._rows.open(opened.sink)
        return opened.sink

    def _open_late(self) -> Sink | None:
        """Open the dump in the middle of the training, where nothing may be raised."""
        try:
            return self._open()
        except OSError as error:
            self._turn_off(self._destination.unwritable(error))
        except WireError as error:
            self._turn_off(str(error))
        return None

    def _theta(self) -> int:
        return self._steps.theta

    def _finish(self) -> None:
        if self._now() is not State.RECORDING:
            return
        with self._lock:
            self._steps.hand_over()
            self._steps.end()
            self._rows.put_out()

    def _fail(self, reason: str) -> None:
        if self._sink is None:
            self._turn_off(reason)
        else:
            self._sink.fail(reason)


def _check(sampling: object, limits: object, batch_size: object, groups: object) -> None:
    if not isinstance(sampling, Sampling):
        raise CollectorError(f"Recorder(sampling={sampling!r}): expected a Sampling(...)")
    if not isinstance(limits, Limits):
        raise CollectorError(f"Recorder(limits={limits!r}): expected Limits(...)")
    if sampling.burst == 0:
        raise CollectorError("Sampling(burst=0) records nothing: give the recorder a burst")
    if batch_size is not None and positive_of(batch_size) is None:
        raise CollectorError(f"Recorder(batch_size={batch_size!r}): expected a positive whole number, or None")
    if groups is not None and (not hasattr(groups, "items") or not groups):
        raise CollectorError(
            f"Recorder(groups={groups!r}): expected the name and shape of each group, or None to take the first step's"
        )
