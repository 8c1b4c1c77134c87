"""Shipping whatever appears under a directory, for as long as it takes."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gradnoise.collector._errors import CollectorError, EndpointError, UnreachableError
from gradnoise.collector._shipping.discovery import find_dumps, find_producers, runs_elsewhere
from gradnoise.collector._shipping.fleet import Fleet
from gradnoise.collector._shipping.launch import check_endpoint
from gradnoise.collector._shipping.progress import Progress, ShipState
from gradnoise.collector._shipping.shipment import ProducerReport, Shipment
from gradnoise.collector._shipping.snapshot import Snapshot, Totals
from gradnoise.wire import Dump, WireError, producer_is_alive

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEFAULT_STREAMS", "DumpReport", "WatchReport", "watch"]

DEFAULT_STREAMS = 16
_MOST_STREAMS = 64  # what a server takes by default
_TICK = 0.1
_SCAN = 1.0  # seconds from one scan to the next, and
_SCAN_SHARE = 20  # so many times what a scan takes: a large tree does not cost more than a twentieth of a core
_SETTLED = 2.0  # seconds after its last change from which an unchanged directory need not be listed again
_SUMMARY = 10.0
_REPORTS = 1000  # producers of which the final report tells; counts are of all
_SHOWN = 256  # producers of which a snapshot tells
_log = logging.getLogger("gradnoise.shipper")


@dataclass(frozen=True, slots=True)
class DumpReport:
    """What became of a dump.

    Attributes:
        dump: its directory.
        run: its run; None where it cannot be read.
        producers: what was shipped, of each producer.
        failures: why something of it was not shipped.
    """

    dump: str
    run: str | None
    producers: tuple[ProducerReport, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchReport:
    """What :func:`watch` did.

    Attributes:
        endpoint: the analyzer.
        dumps: one report a dump, of the last 1000 producers.
        done: producers that the analyzer has whole, also those shipped before.
        failed: producers, or dumps, of which it has not.
        unreachable: whether some of them failed because the analyzer took nothing.
    """

    endpoint: str
    dumps: tuple[DumpReport, ...]
    done: int
    failed: int
    unreachable: bool

    @property
    def complete(self) -> bool:
        """Whether the analyzer has everything that was found."""
        return self.failed == 0

    @property
    def reports(self) -> tuple[ProducerReport, ...]:
        """The reports of all producers."""
        return tuple(report for dump in self.dumps for report in dump.producers)


def watch(
    directory: Path | str,
    endpoint: str,
    *,
    streams: int = DEFAULT_STREAMS,
    until_done: bool = False,
    grace: float = 10.0,
    here_only: bool = False,
    stop: threading.Event | None = None,
    on_summary: Callable[[str], None] | None = None,
    expose: Callable[[Callable[[], Snapshot]], contextlib.AbstractContextManager[object]] | None = None,
) -> WatchReport:
    """Ship every dump in a directory, or at most three below it: those there are, and those that appear.

    Running producers are followed, finished ones shipped; a producer whose progress file says that this endpoint has
    everything is not read again. A dump that is damaged, refused or deleted is reported once, in the log, and not tried
    again by this call; the others go on. While another shipper has a producer in hand this one stands by.

    Args:
        directory: where to look.
        endpoint: ``HOST:PORT`` of the analyzer.
        streams: streams at a time, over one connection.
        until_done: return once everything found is shipped and no producer lives; otherwise only ``stop`` or a
            KeyboardInterrupt ends it, and an analyzer that is out of reach is waited for without end.
        grace: with ``until_done``, seconds for which the analyzer may take nothing before a finished producer is given
            up.
        here_only: leave producers that run on other machines to those.
        stop: ends it when set.
        on_summary: called with a line on how it goes, every ten seconds at most, when something has changed.
        expose: given a function that returns a snapshot; the context it returns lasts as long as the watch.

    Raises:
        EndpointError: the endpoint refuses us, or is no analyzer.
        CollectorError: an argument, or the environment's credentials, cannot be used.
    """
    check_endpoint(endpoint)
    if not 1 <= streams <= _MOST_STREAMS:
        raise CollectorError(f"watch(streams={streams}): expected 1 to {_MOST_STREAMS}")
    root = Path(directory).absolute()
    if not root.is_dir():
        raise CollectorError(f"watch({str(directory)!r}): there is no such directory")
    stop = stop or threading.Event()
    with Fleet(endpoint, streams) as fleet:
        watching = _Watch(root, endpoint, fleet, grace if until_done else math.inf, here_only)
        exposed = expose(watching.snapshot) if expose is not None else contextlib.nullcontext()
        # An interrupt ends it as stop does: everything is on disk, for the next one to go on with.
        with contextlib.suppress(KeyboardInterrupt), exposed:
            watching.run(stop, until_done, on_summary)
    watching.collect()
    if on_summary is not None:
        on_summary(watching.snapshot().line)
    return watching.report()


@dataclass(slots=True)
class _Known:
    """A dump that was found."""

    dump: Dump
    producers: set[str] = field(default_factory=set)
    changed: int = -1  # the directory's time of change when it was listed last


class _Watch:
    def __init__(self, root: Path, endpoint: str, fleet: Fleet, grace: float, here_only: bool) -> None:
        self._root = root
        self._endpoint = endpoint
        self._fleet = fleet
        self._grace = grace
        self._here_only = here_only
        self._dumps: dict[Path, _Known] = {}
        self._refused: dict[Path, tuple[int, int]] = {}  # run.json that cannot be read -> what it was like
        self._active: set[Shipment] = set()
        self._recent: deque[Shipment] = deque(maxlen=_SHOWN)
        self._entries: deque[tuple[str, str | None, ProducerReport | None, str | None]] = deque(maxlen=_REPORTS)
        self._past = Totals()
        self._done = self._failed = 0
        self._unreachable = False
        self._lock = threading.Lock()

    def run(self, stop: threading.Event, until_done: bool, on_summary: Callable[[str], None] | None) -> None:
        """Look, ship, look again.

        Raises:
            EndpointError: see :func:`watch`.
        """
        next_scan = next_summary = 0.0
        said = ""
        while not stop.is_set():
            now = time.monotonic()
            if now >= next_scan:
                was_idle = self._fleet.idle
                found = self._scan()
                took = time.monotonic() - now
                next_scan = now + max(_SCAN, _SCAN_SHARE * took)
                if until_done and was_idle and not found:
                    self.collect()
                    return
            if self.collect() and until_done:
                next_scan = min(next_scan, time.monotonic() + _TICK)
            if on_summary is not None and now >= next_summary:
                line = self.snapshot().line
                if line != said:
                    said = line
                    on_summary(line)
                next_summary = time.monotonic() + _SUMMARY
            stop.wait(_TICK)

    def collect(self) -> int:
        """Take account of the shipments that are over; return their number.

        Raises:
            EndpointError: see :func:`watch`.
        """
        ended = self._fleet.ended()
        for shipment in ended:
            with self._lock:
                self._active.discard(shipment)
                self._recent.append(shipment)
                self._past = self._past.plus(shipment.tally())
            self._account(shipment)
        for shipment in ended:
            if isinstance(shipment.failure, EndpointError):
                raise shipment.failure
        return len(ended)

    def snapshot(self) -> Snapshot:
        """Return how it stands; from any thread."""
        with self._lock:
            active = list(self._active)
            recent = list(self._recent)[-max(0, _SHOWN - len(active)) :]
            past, done, failed = self._past, self._done, self._failed
        return Snapshot.of(active, recent, past, done, failed, shown=_SHOWN)

    def report(self) -> WatchReport:
        """Return what was done."""
        dumps: dict[str, DumpReport] = {}
        for path, run, shipped, failure in self._entries:
            old = dumps.get(path, DumpReport(path, run))
            dumps[path] = DumpReport(
                path,
                old.run or run,
                old.producers + ((shipped,) if shipped is not None else ()),
                old.failures + ((failure,) if failure is not None else ()),
            )
        return WatchReport(self._endpoint, tuple(dumps.values()), self._done, self._failed, self._unreachable)

    def _scan(self) -> bool:
        """Look for dumps and producers; return whether there were new ones to ship."""
        found = False
        there = set()
        for path in find_dumps(self._root):
            there.add(path)
            try:
                found = self._look_at(path) or found
            except FileNotFoundError:
                continue  # gone between two looks: nothing was shipped of it yet, or its shipment says so
            except (WireError, OSError) as error:
                self._refuse(path, str(error))
        for path in self._dumps.keys() - there:
            del self._dumps[path]
        return found

    def _look_at(self, path: Path) -> bool:
        known = self._dumps.get(path)
        if known is None:
            if self._refused.get(path) == _signature(path):
                return False
            known = self._dumps[path] = _Known(Dump(path))
        changed = path.stat().st_mtime_ns
        if changed == known.changed and time.time() - changed / 1e9 > _SETTLED:
            return False
        found = False
        for producer in find_producers(path):
            if producer not in known.producers and not (self._here_only and _is_elsewhere(path, producer)):
                known.producers.add(producer)
                found = self._ship(known.dump, producer) or found
        known.changed = changed
        return found

    def _ship(self, dump: Dump, producer: str) -> bool:
        """Have a producer shipped, unless that was done before."""
        if not producer_is_alive(dump.path, producer):
            before = Progress.read(dump.path, producer)
            if before is not None and (before.state, before.endpoint) == (ShipState.DONE, self._endpoint):
                self._done += 1
                return False
        shipment = Shipment(dump, producer, self._endpoint, grace=self._grace, patient=True)
        with self._lock:
            self._active.add(shipment)
        self._fleet.add(shipment)
        return True

    def _account(self, shipment: Shipment) -> None:
        path, run, report, failure = shipment.dump.path, shipment.dump.info.run, shipment.report, shipment.failure
        if report is not None and not report.problems:
            self._done += 1
            _log.info("%s: producer %s is shipped whole", path, shipment.producer[:8])
        else:
            self._failed += 1
            self._unreachable = self._unreachable or isinstance(failure, UnreachableError)
            reasons = [str(failure)] if report is None else report.problems
            for reason in reasons:
                _log.error("%s: producer %s: %s", path, shipment.producer[:8], reason)
        self._entries.append((str(path), run, report, None if failure is None else str(failure)))

    def _refuse(self, path: Path, reason: str) -> None:
        """Take account of a dump that cannot be read. It is looked at again once its ``run.json`` is another one."""
        self._dumps.pop(path, None)
        signature = _signature(path)
        if self._refused.get(path) == signature:
            return
        self._refused[path] = signature
        self._failed += 1
        _log.error("%s", reason)
        self._entries.append((str(path), None, None, reason))


def _is_elsewhere(path: Path, producer: str) -> bool:
    return producer_is_alive(path, producer) and runs_elsewhere(path, producer)


def _signature(path: Path) -> tuple[int, int]:
    try:
        status = (path / "run.json").stat()
    except OSError:
        return (0, 0)
    return (status.st_ino, status.st_mtime_ns)
