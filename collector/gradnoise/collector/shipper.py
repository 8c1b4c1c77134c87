"""Ships a dump to an analyzer: by hand, and as the process that :func:`gradnoise.collector.attach` starts.

At least once on the wire: after any fault the stream is opened anew and goes on at the first batch that the analyzer
does not have on disk. This is the collector's only module that loads gRPC.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from gradnoise.collector._errors import RefusedError, ShipError, UnreachableError
from gradnoise.collector._launch import check_endpoint
from gradnoise.collector._progress import Progress, ShipState
from gradnoise.collector._session import CHANNEL_OPTIONS, CutError, run_session
from gradnoise.v1 import ingest_pb2_grpc
from gradnoise.wire import Dump, WireError, producer_is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradnoise.collector._flight import Flight

__all__ = [
    "ProducerReport",
    "RefusedError",
    "ShipError",
    "ShipReport",
    "UnreachableError",
    "main",
    "ship",
]

_FIRST_BACKOFF, _MAX_BACKOFF = 0.1, 15.0
_PROGRESS_EVERY = 0.2
_STALL = 30.0  # seconds without an answer, while batches are under way, after which a stream is dead
_log = logging.getLogger("gradnoise.shipper")


@dataclass(frozen=True, slots=True)
class ProducerReport:
    """One producer's shipment.

    Attributes:
        producer: its id.
        batches: batches acknowledged in this shipment.
        rows: rows of the draws table that the analyzer has, earlier shipments included.
        tables: table -> batches that the analyzer has.
        problems: what the dump holds and could not be shipped, because batches before it are damaged or missing.
    """

    producer: str
    batches: int
    rows: int
    tables: dict[str, int]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShipReport:
    """What :func:`ship` did, one report a producer."""

    run: str
    endpoint: str
    producers: tuple[ProducerReport, ...]

    @property
    def complete(self) -> bool:
        """Whether the analyzer has everything that the dump holds."""
        return not any(report.problems for report in self.producers)


def ship(
    dump: Path | str,
    endpoint: str,
    *,
    producer: str | None = None,
    grace: float = 10.0,
    patient: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ShipReport:
    """Send everything in a dump that the analyzer does not have; a running producer is followed to its end.

    Args:
        dump: the dump's directory.
        endpoint: ``HOST:PORT`` of the analyzer.
        producer: ship this producer's part only; default all, those that have ended first.
        grace: seconds for which the analyzer may take nothing before this gives up.
        patient: never give up while the producer runs; ``grace`` then counts from its end.
        on_progress: called now and then with how far the shipment has come.

    Raises:
        UnreachableError: the analyzer took nothing for ``grace`` seconds.
        RefusedError: it refuses the run or a batch for good.
        NotADumpError, UnknownSchemaVersionError: the directory is not a dump this gradnoise reads.
        CollectorError: the endpoint is not ``HOST:PORT``.
    """
    check_endpoint(endpoint)
    opened = Dump(dump)
    path = opened.path
    chosen = [producer] if producer is not None else opened.producers()
    chosen.sort(key=lambda each: producer_is_alive(path, each))
    reports = []
    with grpc.insecure_channel(endpoint, options=CHANNEL_OPTIONS) as channel:
        stub = ingest_pb2_grpc.IngestStub(channel)  # type: ignore[no-untyped-call]
        for each in chosen:
            shipment = _Shipment(opened, each, endpoint, grace, patient, on_progress)
            reports.append(shipment.run(stub))
    return ShipReport(opened.info.run, endpoint, tuple(reports))


class _Shipment:
    """One producer's part, over as many streams as it takes."""

    def __init__(
        self,
        dump: Dump,
        producer: str,
        endpoint: str,
        grace: float,
        patient: bool,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._dump = dump
        self._producer = producer
        self._endpoint = endpoint
        self._grace = grace
        self._stall = min(_STALL, max(1.0, grace / 3))
        self._patient = patient
        self._on_progress = on_progress
        self._rows = 0
        self._batches = 0
        self._tables: dict[str, int] = {}
        self._said = 0.0
        self._last_good = time.monotonic()
        self._attempts = 0

    def run(self, stub: ingest_pb2_grpc.IngestStub) -> ProducerReport:
        self._say(ShipState.SHIPPING)
        while True:
            advance = self._advance(self._batches)
            try:
                outcome = run_session(
                    stub, self._dump.path, self._dump.info, self._producer, advance, stall=self._stall
                )
            except CutError as cut:
                self._wait(cut)
            except (RefusedError, WireError, OSError) as error:
                self._say(ShipState.REFUSED if isinstance(error, RefusedError) else ShipState.FAILED, str(error))
                raise
            else:
                advance(outcome.flight)
                problem = "; ".join(outcome.problems) or None
                self._say(ShipState.DONE if problem is None else ShipState.FAILED, problem)
                return ProducerReport(self._producer, self._batches, self._rows, dict(self._tables), outcome.problems)

    def _advance(self, before: int) -> Callable[[Flight], None]:
        def advance(flight: Flight) -> None:
            if flight.batches:
                self._last_good = time.monotonic()
                self._attempts = 0
            self._batches = before + flight.batches
            # A new stream reads the dump from its start: until it has caught up it knows of fewer rows.
            self._rows = max(self._rows, flight.rows)
            self._tables = flight.tables
            if time.monotonic() - self._said >= _PROGRESS_EVERY:
                self._say(ShipState.SHIPPING)

        return advance

    def _wait(self, cut: CutError) -> None:
        """Sleep before the next attempt, or give up.

        Raises:
            UnreachableError: the time is over.
        """
        now = time.monotonic()
        if self._patient and producer_is_alive(self._dump.path, self._producer):
            self._last_good = now
        if now - self._last_good >= self._grace:
            message = (
                f"{self._endpoint} took nothing for {self._grace:g} s ({cut}); the dump {self._dump.path} holds what "
                "is left: start the analyzer there, or give another endpoint, and ship again"
            )
            self._say(ShipState.UNREACHABLE, message)
            raise UnreachableError(message)
        # Jitter keeps the ranks of a job from returning all at once.
        backoff = min(_MAX_BACKOFF, _FIRST_BACKOFF * 2**self._attempts) * random.uniform(0.5, 1.0)
        self._attempts = min(self._attempts + 1, 20)
        delay = max(cut.after, backoff)
        self._say(ShipState.UNREACHABLE, f"{self._endpoint}: {cut}")
        _log.info("%s: %s; again in %.1f s", self._endpoint, cut, delay)
        time.sleep(min(delay, max(0.05, self._grace)))

    def _say(self, state: ShipState, error: str | None = None) -> None:
        self._said = time.monotonic()
        progress = Progress(self._endpoint, state, self._rows, dict(self._tables), error)
        try:
            progress.write(self._dump.path, self._producer)
        except OSError as failure:  # a full or read-only disk does not stop the shipment
            _log.warning("progress cannot be written to %s: %s", self._dump.path, failure)
        if self._on_progress is not None:
            self._on_progress(progress)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process that ``attach`` starts; return 0 (all acknowledged), 3 (unreachable) or 1 (failed)."""
    parser = argparse.ArgumentParser(prog="python -m gradnoise.collector.shipper", description=__doc__)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--endpoint", required=True, help="HOST:PORT of the analyzer")
    parser.add_argument("--producer", help="ship this producer's part only")
    parser.add_argument("--grace", type=float, default=600.0, help="seconds to go on trying after the producer's end")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        report = ship(options.dump, options.endpoint, producer=options.producer, grace=options.grace, patient=True)
    except UnreachableError as error:
        _log.error("%s", error)
        return 3
    except (ShipError, WireError, OSError) as error:
        _log.error("%s", error)
        return 1
    for each in report.producers:
        _log.info("producer %s: %d batches, %d rows of draws", each.producer, each.batches, each.rows)
        for problem in each.problems:
            _log.error("%s", problem)
    return 0 if report.complete else 1


if __name__ == "__main__":
    sys.exit(main())
