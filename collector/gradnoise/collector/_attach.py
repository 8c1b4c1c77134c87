"""The one line in a training loop."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from gradnoise.collector._config import Limits, Probe, Sampling, disabled
from gradnoise.collector._curvature.config import Curvature
from gradnoise.collector._errors import CollectorError
from gradnoise.collector._handle import Handle
from gradnoise.collector._logging import inform
from gradnoise.collector._recording.opening import Destination, plan_of
from gradnoise.collector._recording.refusals import positive_of
from gradnoise.collector._recording.sink import State
from gradnoise.collector._taps.groups import groups_of, unwrapped
from gradnoise.collector._taps.origin import origin_of

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import torch

    from gradnoise.collector._taps.interludes import Interlude

__all__ = ["attach"]

_WRAPPERS = 8  # around an optimiser

_PATIENCE = 1.0  # seconds to wait for what a former handle has not shipped

# By the identity of the model, which need not be hashable.
_attached: weakref.WeakValueDictionary[int, Handle] = weakref.WeakValueDictionary()


def attach(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    endpoint: str | None = None,
    run: str | None = None,
    dump: str | os.PathLike[str] | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    probe: Probe | None = None,
    scaler: torch.amp.GradScaler | None = None,
    batch_size: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    curvature: Curvature | None = None,
) -> Handle:
    """Record the gradient noise of ``model`` while it trains, into a dump and, with an endpoint, to an analyzer.

    Args:
        model: the network; every trainable parameter tensor of it becomes a group.
        optimizer: whose ``step()`` updates the parameters: one, several, or a wrapper that has it as ``.optimizer``;
            None listens to every torch optimiser that holds some.
        endpoint: ``HOST:PORT`` of an analyzer; default ``$GRADNOISE_ENDPOINT``; without one the dump stays on disk.
        run: the run's id; default a readable unique one, on which the ranks of a job agree.
        dump: the dump's directory; default ``$GRADNOISE_DUMP``, else ``./gradnoise/<run>``. An existing dump of the
            same run and groups is joined as another producer if it is of the same distributed job; with a warning, if
            one of its producers still runs, if a launcher restarted its job, or if ``GRADNOISE_RESUME`` is set.
        sampling: which coordinates of which steps.
        probe: extra minibatches at frozen parameters.
        scaler: the loss scaler, by whose scale gradients are divided.
        batch_size: examples in a minibatch, of the loop and of the probe; unknown stays null.
        limits: of memory and disk.
        curvature: eigenpairs of the Hessian at frozen parameters, and the noise along them.

    Returns:
        A handle. If the dump cannot be written, or ``GRADNOISE_DISABLED`` is set, it is inert: training goes on.

    Raises:
        CollectorError: the arguments cannot be recorded.
        RunExistsError: the dump directory holds another run, or a finished one that this process is no part of.
        WireError: the directory holds something else; the run id is not usable.
    """
    if disabled():
        return Handle(State.DISABLED)
    groups = groups_of(model, sampling)
    optimizers = _optimizers(model, optimizer)
    _check(sampling, probe, scaler, batch_size, limits, curvature)
    origin = origin_of(model)
    destination = Destination.choose(type(model).__name__, run, dump, endpoint, origin.job)
    plan = plan_of(sampling, probe)
    if curvature is not None:
        plan |= {"curvature_draws": curvature.draws, "curvature_every": curvature.every}
    try:
        opened = destination.open(type(model).__name__, groups, plan, limits, job=origin.job)
    except OSError as error:
        handle = Handle(State.OFF)
        handle._turn_off(destination.unwritable(error))
        return handle
    _detach(model)
    from gradnoise.collector._taps.taps import Taps

    interludes: list[Interlude] = []
    if curvature is not None:
        from gradnoise.collector._curvature.probing import CurvatureProbing

        interludes.append(CurvatureProbing(curvature, weakref.ref(model), sink=opened.sink, origin=origin))
    try:
        taps = Taps(
            model,
            optimizers,
            sink=opened.sink,
            origin=origin,
            sampling=sampling,
            probe=probe,
            scaler=scaler,
            batch_size=batch_size,
            interludes=interludes,
        )
    except Exception:
        opened.sink.close(1.0)
        raise
    inner = unwrapped(model)  # what wraps it may be gone before it
    handle = _attached[id(inner)] = Handle.of(opened, taps, inner)
    return handle


def _detach(model: torch.nn.Module) -> None:
    """Close the handle of an earlier attach to the same model: a cell that is run again replaces its hooks."""
    former = _attached.pop(id(unwrapped(model)), None)
    if former is not None and former.stats().state is State.RECORDING:
        inform("the model was attached to already: run %s is closed", former.run)
        former.close(_PATIENCE)


def _optimizers(model: torch.nn.Module, given: Any) -> tuple[torch.optim.Optimizer, ...]:
    """Return the optimisers themselves, out of what wraps them.

    Raises:
        CollectorError: something else, or one that updates another model.
    """
    if given is None:
        return ()
    from torch.optim import Optimizer

    if isinstance(given, list | tuple) and not given:
        raise CollectorError(f"attach(optimizer={given!r}): expected at least one optimizer, or None")
    mine = {id(parameter) for parameter in model.parameters()}
    found: list[torch.optim.Optimizer] = []
    for each in given if isinstance(given, list | tuple) else (given,):
        inner = each
        for _ in range(_WRAPPERS):
            within = getattr(inner, "optimizer", None)
            if isinstance(within, Optimizer) or hasattr(within, "optimizer"):
                inner = within
        if not isinstance(inner, Optimizer):
            raise CollectorError(
                f"attach(optimizer={type(each).__name__}): expected a torch.optim.Optimizer, several in a list, or a "
                "wrapper that has one as .optimizer; None listens to every optimizer of the model"
            )
        if not any(id(parameter) in mine for group in inner.param_groups for parameter in group["params"]):
            raise CollectorError(
                f"attach(optimizer={type(inner).__name__}): it holds none of the parameters of "
                f"{type(model).__name__}; pass the optimizer that updates this model"
            )
        if not any(inner is other for other in found):
            found.append(inner)
    return tuple(found)


def _check(sampling: Sampling, probe: Any, scaler: Any, batch_size: Any, limits: Any, curvature: Any) -> None:
    if probe is not None and not isinstance(probe, Probe):
        raise CollectorError(f"attach(probe={probe!r}): expected a Probe(closure, ...)")
    if not isinstance(limits, Limits):
        raise CollectorError(f"attach(limits={limits!r}): expected Limits(...)")
    if curvature is not None and not isinstance(curvature, Curvature):
        raise CollectorError(f"attach(curvature={curvature!r}): expected a Curvature(data, ...)")
    if probe is None and curvature is None and sampling.burst == 0:
        raise CollectorError("Sampling(burst=0) without a probe records nothing: give a probe, a curvature or a burst")
    if scaler is not None and not hasattr(scaler, "_get_scale_async"):
        raise CollectorError(f"attach(scaler={type(scaler).__name__}): expected a torch.amp.GradScaler")
    if batch_size is not None and (not isinstance(batch_size, int) or positive_of(batch_size) is None):
        raise CollectorError(f"attach(batch_size={batch_size!r}): expected a positive whole number, or None")
