"""What the service does, as plain functions from domain to domain; transports call them."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.aligning import METRICS
from gradnoise.analyzer.analysis import fit_vector
from gradnoise.analyzer.errors import (
    InvalidRequestError,
    UnknownGroupError,
    UnknownPartError,
    UnsupportedVersionError,
)
from gradnoise.analyzer.tables import fit_table, runs_table
from gradnoise.wire import SUPPORTED_VERSIONS, RunInfo
from gradnoise.wire.results import FULL_FORMS, MODEL_GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from gradnoise.analyzer._ingest import Acknowledged, Incoming, ProducerLog, Refused
    from gradnoise.analyzer.analyst import Analyst
    from gradnoise.analyzer.catalog import Catalog
    from gradnoise.analyzer.config import Limits
    from gradnoise.analyzer.store import Store

    _Rows = Callable[[int], pa.Table]  # the next rows behind a row, at most _CHUNK of them

__all__ = [
    "AlignmentQuery",
    "Query",
    "Service",
    "alignment",
    "append",
    "fit",
    "open_producer",
    "run",
    "runs",
    "tail",
    "watch",
    "watch_alignment",
]

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Service:
    """What the handlers work on: the rooms of the service, what clients may ask for, and whether it shuts down."""

    store: Store
    catalog: Catalog
    analyst: Analyst
    limits: Limits
    draining: Event = field(default_factory=Event)


@dataclass(frozen=True, slots=True)
class Query:
    """Which tail rows of a run: empty texts and None mean all."""

    run: str
    form: str = ""
    group: str = ""
    first_step: int | None = None
    last_step: int | None = None


@dataclass(frozen=True, slots=True)
class AlignmentQuery:
    """Which alignment rows of a run: empty texts and None mean all."""

    run: str
    part: str = ""
    metric: str = ""
    first_step: int | None = None
    last_step: int | None = None


def open_producer(service: Service, run_info: bytes, producer: str, schema_version: int) -> ProducerLog:
    """Register a run and a producer; the log says where to go on.

    Raises:
        WireError, UnsupportedVersionError, RunExistsError, InvalidRequestError, LimitError: why not.
    """
    if schema_version not in SUPPORTED_VERSIONS:
        raise UnsupportedVersionError(
            f"tables of schema version {schema_version} cannot be stored here, only {sorted(SUPPORTED_VERSIONS)}: "
            "upgrade the analyzer"
        )
    info = RunInfo.from_json(run_info, "the run description sent")
    return service.store.open(info, producer)


def append(service: Service, log: ProducerLog, incoming: Sequence[Incoming]) -> list[Acknowledged | Refused]:
    """Store a producer's batches durably, hand the windows they close to the analyst, and answer."""
    answers, closed = log.take(incoming)
    service.analyst.submit(closed)
    return answers


def runs(service: Service) -> pa.Table:
    """Return the runs in the store, a table of ``RUNS_SCHEMA``."""
    return runs_table(service.store.summaries(), service.catalog.analysed_counts())


def run(service: Service, name: str) -> tuple[RunInfo, pa.Table]:
    """Return a run's description and its row of :func:`runs`; :class:`UnknownRunError` names the known runs."""
    summary = service.store.summary(name)
    return summary.info, runs_table([summary], service.catalog.analysed_counts())


def tail(service: Service, query: Query) -> Iterator[pa.Table]:
    """Yield the rows that the query asks for, oldest first, as tables of ``TAIL_SCHEMA``; at least one, if empty.

    Raises:
        UnknownRunError, UnknownGroupError, InvalidRequestError: the query asks for what there is not.
    """
    _check(service, query)
    yield from _pages(_tail_rows(service, query))


def watch(service: Service, query: Query, after_row: int, cancelled: Event) -> Iterator[pa.Table]:
    """Yield the tail rows behind ``after_row``, then new ones as they come, until cancelled or draining.

    ``cancelled`` is set before ``service.catalog.wake()`` is called.

    Raises:
        UnknownRunError, UnknownGroupError, InvalidRequestError: the query asks for what there is not.
    """
    _check_row(after_row)
    _check(service, query)
    yield from _watched(service, _tail_rows(service, query), after_row, cancelled)


def alignment(service: Service, query: AlignmentQuery, after_row: int = 0) -> Iterator[pa.Table]:
    """Yield the rows behind ``after_row``, oldest first, as tables of ``ALIGNMENT_SCHEMA``; at least one, if empty.

    Raises:
        UnknownRunError, UnknownPartError, InvalidRequestError: the query asks for what there is not.
    """
    _check_row(after_row)
    _check_alignment(service, query)
    yield from _pages(_alignment_rows(service, query), after_row)


def watch_alignment(service: Service, query: AlignmentQuery, after_row: int, cancelled: Event) -> Iterator[pa.Table]:
    """As :func:`watch`, for alignment rows. A part may be asked for before the run's first measurement has come.

    Raises:
        UnknownRunError, UnknownPartError, InvalidRequestError: the query asks for what there is not.
    """
    _check_row(after_row)
    _check_alignment(service, query, waiting=True)
    yield from _watched(service, _alignment_rows(service, query), after_row, cancelled)


def fit(service: Service, values: bytes, location: bool) -> pa.Table:
    """Fit the laws to little-endian float64 values; return a table of ``FIT_SCHEMA``.

    Raises:
        InvalidRequestError, StatsError: the values cannot be fitted.
    """
    if len(values) % 8:
        raise InvalidRequestError(f"{len(values)} bytes are not a whole number of float64 values")
    if len(values) // 8 > service.limits.fit_values:
        raise InvalidRequestError(
            f"{len(values) // 8} values: this server fits up to {service.limits.fit_values}; fit them locally"
        )
    return fit_table(fit_vector(np.frombuffer(values, "<f8"), location=location))


def _tail_rows(service: Service, query: Query) -> _Rows:
    return lambda after_row: service.catalog.tail(
        query.run,
        form=query.form,
        group=query.group,
        steps=(query.first_step, query.last_step),
        after_row=after_row,
        limit=_CHUNK,
    )


def _alignment_rows(service: Service, query: AlignmentQuery) -> _Rows:
    return lambda after_row: service.catalog.alignment(
        query.run,
        part=query.part,
        metric=query.metric,
        steps=(query.first_step, query.last_step),
        after_row=after_row,
        limit=_CHUNK,
    )


def _pages(rows: _Rows, after_row: int = 0) -> Iterator[pa.Table]:
    table = rows(after_row)
    yield table
    while table.num_rows == _CHUNK:
        table = rows(table.column("row")[-1].as_py())
        if table.num_rows:
            yield table


def _watched(service: Service, rows: _Rows, after_row: int, cancelled: Event) -> Iterator[pa.Table]:
    while not cancelled.is_set() and not service.draining.is_set():
        seen = service.catalog.last_row  # before reading: a row stored meanwhile ends the wait
        table = rows(after_row)
        if table.num_rows:
            yield table
            after_row = table.column("row")[-1].as_py()
        elif not cancelled.is_set() and not service.draining.is_set():
            service.catalog.wait(seen, timeout=1.0)


def _check_row(after_row: int) -> None:
    if after_row < 0:
        raise InvalidRequestError(f"after_row is {after_row}: expected 0 or a row number")


def _check(service: Service, query: Query) -> None:
    info = service.store.info(query.run)
    if query.form and query.form not in FULL_FORMS:
        raise InvalidRequestError(f"no form {query.form!r}; the forms are: {', '.join(FULL_FORMS)}")
    names = [group.name for group in info.groups]
    if query.group and query.group not in (MODEL_GROUP, *names):
        raise UnknownGroupError(
            f"no group {query.group!r} in run {query.run!r}; its groups are: {', '.join(names)}, "
            f"and {MODEL_GROUP!r} for the whole model"
        )
    _check_steps(query.first_step, query.last_step)


def _check_alignment(service: Service, query: AlignmentQuery, *, waiting: bool = False) -> None:
    info = service.store.info(query.run)
    if query.metric and query.metric not in METRICS:
        raise InvalidRequestError(f"no metric {query.metric!r}; the metrics are: {', '.join(METRICS)}")
    _check_steps(query.first_step, query.last_step)
    groups = [group.name for group in info.groups]
    if not query.part or query.part in (MODEL_GROUP, *groups):
        return
    measured = service.catalog.parts(query.run)
    # The first measurement brings all its parts at once: before it there is nothing to tell a wrong one by.
    if query.part not in measured and not (waiting and not measured):
        parts = dict.fromkeys([MODEL_GROUP, *measured, *groups])
        raise UnknownPartError(f"no part {query.part!r} in run {query.run!r}; its parts are: {', '.join(parts)}")


def _check_steps(first: int | None, last: int | None) -> None:
    if first is not None and last is not None and first > last:
        raise InvalidRequestError(f"steps {first} to {last}: the first is behind the last")
