"""Where a run is recorded, and the beginning of its recording."""

from __future__ import annotations

import os
import platform
import re
import secrets
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from gradnoise.collector._config import default_dump, default_endpoint, resuming
from gradnoise.collector._errors import CollectorError
from gradnoise.collector._logging import inform, warn
from gradnoise.collector._recording.distributed import agreed_run
from gradnoise.collector._recording.join import check_join, is_of_job, note_job
from gradnoise.collector._recording.sink import Sink
from gradnoise.collector._shipping.launch import Shipping, check_endpoint
from gradnoise.wire import Dump, NotADumpError, RunInfo, WireError, check_run_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradnoise.collector._config import Limits, Probe, Sampling
    from gradnoise.wire import Group

__all__ = ["Destination", "Opened", "plan_of", "versions_of"]

# Dumps that this process has recorded into, each with its process: a forked child has recorded into none.
_mine: set[tuple[int, Path]] = set()


@dataclass(frozen=True, slots=True)
class Opened:
    """A dump being written, and the shipper that follows it."""

    sink: Sink
    shipping: Shipping | None


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a run is recorded.

    Attributes:
        run: its id.
        path: its dump's directory, absolute.
        endpoint: of the analyzer that gets it; None keeps it on disk.
        named: whether the id was given, and not made up.
    """

    run: str
    path: Path
    endpoint: str | None
    named: bool

    @classmethod
    def choose(
        cls,
        label: str,
        run: str | None,
        dump: str | os.PathLike[str] | None,
        endpoint: str | None,
        job: str | None = None,
    ) -> Destination:
        """Choose what was not given, from the environment or by default.

        In an interactive session, where a cell is run again and again, a run that this process has recorded already
        gets a number: ``name-2``.

        Args:
            label: what a made-up id tells of the model.
            run, dump, endpoint: as :func:`gradnoise.collector.attach` was given them.
            job: id of the distributed job of which this process is a rank.

        Raises:
            WireError: the run id is not usable.
            CollectorError: nor is the endpoint.
        """
        if run is not None:
            if not isinstance(run, str):
                raise CollectorError(f"run={run!r}: expected a name, as text")
            check_run_id(run)
        endpoint = endpoint or default_endpoint()
        if endpoint is not None:
            check_endpoint(endpoint)
        name = run or agreed_run(job, _readable_run(label))
        path = _absolute(default_dump(name) if dump is None else dump)
        if hasattr(sys, "ps1") and not resuming():
            taken, first, number = (os.getpid(), path), path, 1
            while taken in _mine:
                number += 1
                path = first.with_name(f"{first.name}-{number}")
                taken = (os.getpid(), path)
            if number > 1:
                name = name if run is None else f"{run}-{number}"
                inform("run %s was recorded in this session already: this is %s, in %s", run, name, path)
        return cls(name, path, endpoint, run is not None)

    def open(
        self,
        model: str,
        groups: tuple[Group, ...],
        plan: Mapping[str, float | int | None],
        limits: Limits,
        *,
        job: str | None = None,
    ) -> Opened:
        """Begin the recording.

        Args:
            model: what the run says of its model.
            groups: of the run.
            plan: what it says of its plan.
            limits: of memory and disk.
            job: id of the distributed job of which this process is a rank.

        Raises:
            RunExistsError: another run lies there, or a finished one that this process is no part of.
            WireError: the directory holds something else.
            OSError: it cannot be written.
        """
        there = _info_at(self.path)
        run = self.run if there is None or self.named else there.run
        info = RunInfo(
            run=run,
            model=model,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            groups=groups,
            plan=plan,
            versions=versions_of(),
        )
        if there is not None:
            check_join(self.path, there, info, job)
        sink = self._sink(info, limits)
        # The ranks of a job agreed on the run and come when they come: no news, but of a second training of this one.
        mine = (os.getpid(), self.path)
        say = inform if is_of_job(self.path, job) and mine not in _mine else warn
        _mine.add(mine)
        note_job(self.path, job)
        if there is not None:
            say("gradnoise: %s holds run %s already; this process joins it as another producer", self.path, run)
        shipping = None
        if self.endpoint is not None:
            shipping = Shipping.start(self.path, sink.producer, self.endpoint)
            sink.keep_looking(shipping.look)
        return Opened(sink, shipping)

    def unwritable(self, error: OSError) -> str:
        """Return what to say where the dump cannot be written."""
        return f"the dump {self.path} cannot be written ({error.strerror or error})"

    def _sink(self, info: RunInfo, limits: Limits) -> Sink:
        """Open the dump; a process that gave no run name joins the run of one that was faster."""
        trim = self.endpoint is not None
        try:
            return Sink(self.path, info, limits=limits, trim=trim)
        except WireError:
            there = None if self.named else _info_at(self.path)
            if there is None or there.run == info.run:
                raise
            return Sink(self.path, replace(info, run=there.run), limits=limits, trim=trim)


def plan_of(sampling: Sampling, probe: Probe | None = None) -> dict[str, float | int | None]:
    """Return what ``run.json`` says of the sampling."""
    return {
        "coordinates": sampling.coordinates,
        "burst": sampling.burst,
        "every": sampling.every,
        "seed": sampling.seed,
        "probe_draws": None if probe is None else probe.draws,
        "probe_every": None if probe is None else probe.every,
    }


def _absolute(dump: str | os.PathLike[str]) -> Path:
    try:
        path = Path(dump)
    except TypeError:
        raise CollectorError(f"dump={dump!r}: expected a directory's path") from None
    if "\0" in str(path):
        raise CollectorError(f"dump={str(path)!r}: a path holds no null characters")
    try:
        return path.absolute()
    except OSError:  # the working directory is gone: opening the dump says so
        return path


def _info_at(path: Path) -> RunInfo | None:
    try:
        return Dump(path).info
    except NotADumpError:
        return None


def _readable_run(label: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label)[:40]
    return f"{datetime.now():%Y%m%d-%H%M%S}-{name}-{secrets.token_hex(2)}"


def versions_of() -> dict[str, str]:
    """Return what ``run.json`` says of the software."""
    versions = {"python": platform.python_version()}
    for package in ("gradnoise", "torch", "numpy", "pyarrow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
