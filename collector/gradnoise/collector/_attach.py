"""The one line in a training loop."""

from __future__ import annotations

import os
import platform
import re
import secrets
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradnoise.collector._config import Sampling, default_dump, default_endpoint, disabled
from gradnoise.collector._distributed import agreed_run, origin_of
from gradnoise.collector._errors import CollectorError
from gradnoise.collector._groups import groups_of
from gradnoise.collector._handle import Handle
from gradnoise.collector._join import check_join, note_job
from gradnoise.collector._launch import Shipping, check_endpoint
from gradnoise.collector._sink import Sink, State, inform, warn
from gradnoise.wire import Dump, NotADumpError, RunInfo, WireError, check_run_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from gradnoise.collector._config import Probe
    from gradnoise.wire import Group

__all__ = ["attach"]


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
) -> Handle:
    """Record the gradient noise of ``model`` while it trains, into a dump and, with an endpoint, to an analyzer.

    Args:
        model: the network; every trainable parameter tensor of it becomes a group.
        optimizer: whose ``step()`` updates the parameters: one, several, or a wrapper that has it as ``.optimizer``;
            None listens to every torch optimiser that holds some.
        endpoint: ``HOST:PORT`` of an analyzer; default ``$GRADNOISE_ENDPOINT``; without one the dump stays on disk.
        run: the run's id; default a readable unique one.
        dump: the dump's directory; default ``$GRADNOISE_DUMP``, else ``./gradnoise/<run>``. An existing dump of the
            same run and groups is joined as another producer, with a warning, if one of its producers still runs, if
            this process is one of a distributed or restarted job, or if ``GRADNOISE_RESUME`` is set.
        sampling: which coordinates of which steps.
        probe: extra minibatches at frozen parameters.
        scaler: the loss scaler, by whose scale gradients are divided.
        batch_size: examples in a minibatch, of the loop and of the probe; unknown stays null.

    Returns:
        A handle. If the dump cannot be written, or ``GRADNOISE_DISABLED`` is set, it is inert: training goes on.

    Raises:
        CollectorError: the arguments cannot be recorded.
        RunExistsError: the dump directory holds another run, or a finished one that this process is no part of.
        WireError: the directory holds something else; the run id is not usable.
    """
    if disabled():
        return Handle(state=State.DISABLED)
    groups = groups_of(model, sampling)
    optimizers = _optimizers(model, optimizer)
    _check(sampling, probe, scaler, batch_size)
    if run is not None:
        check_run_id(run)
    endpoint = endpoint or default_endpoint()
    if endpoint is not None:
        check_endpoint(endpoint)
    origin = origin_of(model)
    name = run or agreed_run(origin.job, _readable_run(model))
    path = (Path(dump) if dump is not None else default_dump(name)).absolute()
    there = _info_at(path)
    if there is not None:
        name = run or there.run
    info = _info(name, model, groups, sampling, probe)
    if there is not None:
        check_join(path, there, info, origin.job)
    try:
        sink = _sink(path, info, adopt=run is None)
    except OSError as error:
        reason = f"the dump {path} cannot be written ({error.strerror or error})"
        warn("gradnoise turned itself off: %s. Training goes on", reason)
        return Handle(state=State.OFF, error=reason)
    note_job(path, origin.job)
    if there is not None:
        warn("gradnoise: %s holds run %s already; this process joins it as another producer", path, name)
    from gradnoise.collector._taps import Taps

    try:
        taps = Taps(
            model,
            optimizers,
            sink=sink,
            info=info,
            origin=origin,
            sampling=sampling,
            probe=probe,
            scaler=scaler,
            batch_size=batch_size,
        )
    except Exception:
        sink.close(1.0)
        raise
    shipping = None
    if endpoint is not None:
        shipping = Shipping.start(path, sink.producer, endpoint)
        sink.watch(shipping.look)
    inform("recording run %s into %s", info.run, path)
    return Handle(state=State.RECORDING, run=info.run, path=path, sink=sink, taps=taps, shipping=shipping)


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
        while isinstance(getattr(inner, "optimizer", None), Optimizer):
            inner = inner.optimizer
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


def _check(sampling: Sampling, probe: Any, scaler: Any, batch_size: Any) -> None:
    from gradnoise.collector._config import Probe

    if probe is not None and not isinstance(probe, Probe):
        raise CollectorError(f"attach(probe={probe!r}): expected a Probe(closure, ...)")
    if probe is None and sampling.burst == 0:
        raise CollectorError("Sampling(burst=0) without a probe records nothing: give a probe, or a burst")
    if scaler is not None and not hasattr(scaler, "_get_scale_async"):
        raise CollectorError(f"attach(scaler={type(scaler).__name__}): expected a torch.amp.GradScaler")
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise CollectorError(f"attach(batch_size={batch_size!r}): expected a positive whole number, or None")


def _sink(path: Path, info: RunInfo, *, adopt: bool) -> Sink:
    """Open the dump; a process that gave no run name joins the run of one that was faster."""
    from dataclasses import replace

    try:
        return Sink(path, info)
    except WireError:
        there = _info_at(path) if adopt else None
        if there is None or there.run == info.run:
            raise
        return Sink(path, replace(info, run=there.run))


def _info_at(path: Path) -> RunInfo | None:
    try:
        return Dump(path).info
    except NotADumpError:
        return None


def _readable_run(model: object) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", type(model).__name__)[:40]
    return f"{datetime.now():%Y%m%d-%H%M%S}-{name}-{secrets.token_hex(2)}"


def _info(run: str, model: object, groups: tuple[Group, ...], sampling: Sampling, probe: Probe | None) -> RunInfo:
    versions = {"python": platform.python_version()}
    for package in ("gradnoise", "torch", "numpy", "pyarrow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return RunInfo(
        run=run,
        model=type(model).__name__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        groups=groups,
        plan={
            "coordinates": sampling.coordinates,
            "burst": sampling.burst,
            "every": sampling.every,
            "seed": sampling.seed,
            "probe_draws": None if probe is None else probe.draws,
            "probe_every": None if probe is None else probe.every,
        },
        versions=versions,
    )
