"""Ships dumps to an analyzer: by hand, and as the process that :func:`gradnoise.collector.attach` starts.

At least once on the wire: after any fault the stream is opened anew and goes on at the first batch that the analyzer
does not have on disk. Only this side of the collector loads gRPC.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradnoise.collector._errors import (
    CollectorError,
    EndpointError,
    GoneError,
    RefusedError,
    ShipError,
    UnreachableError,
)
from gradnoise.collector._shipping.fleet import Fleet
from gradnoise.collector._shipping.launch import check_endpoint
from gradnoise.collector._shipping.metrics import metrics_at
from gradnoise.collector._shipping.shipment import ProducerReport, Shipment
from gradnoise.collector._shipping.watch import DEFAULT_STREAMS, DumpReport, WatchReport, watch
from gradnoise.wire import Dump, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gradnoise.collector._shipping.progress import Progress

__all__ = [
    "DEFAULT_STREAMS",
    "DumpReport",
    "EndpointError",
    "GoneError",
    "ProducerReport",
    "RefusedError",
    "ShipError",
    "ShipReport",
    "UnreachableError",
    "WatchReport",
    "main",
    "metrics_at",
    "ship",
    "watch",
]

_log = logging.getLogger("gradnoise.shipper")


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

    While another shipper has a producer in hand this one stands by.

    Args:
        dump: the dump's directory.
        endpoint: ``HOST:PORT`` of the analyzer.
        producer: ship this producer's part only; default all.
        grace: seconds for which the analyzer may take nothing before this gives up.
        patient: never give up while the producer runs; ``grace`` then counts from its end.
        on_progress: called now and then, on another thread, with how far the shipment of a producer has come.

    Raises:
        UnreachableError: the analyzer took nothing for ``grace`` seconds.
        RefusedError: it refuses the run or a batch for good.
        GoneError: the dump was deleted meanwhile; ShipError: it cannot be read.
        NotADumpError, UnknownSchemaVersionError: the directory is not a dump this gradnoise reads.
        CollectorError: the endpoint is not ``HOST:PORT``, or the environment's credentials cannot be used.
    """
    check_endpoint(endpoint)
    if not grace >= 0:
        raise CollectorError(f"ship(grace={grace}): expected a number of seconds, 0 or more")
    opened = Dump(dump)
    chosen = [producer] if producer is not None else opened.producers()
    shipments = [
        Shipment(opened, each, endpoint, grace=grace, patient=patient, on_progress=on_progress) for each in chosen
    ]
    with Fleet(endpoint, min(DEFAULT_STREAMS, len(shipments) or 1)) as fleet:
        for shipment in shipments:
            fleet.add(shipment)
        fleet.wait()
    for shipment in shipments:
        if shipment.failure is not None:
            raise shipment.failure
    reports = tuple(shipment.report for shipment in shipments if shipment.report is not None)
    return ShipReport(opened.info.run, endpoint, reports)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process that ``attach`` starts; return 0 (all acknowledged), 1 (failed), 3 (unreachable), 130 (stopped).

    Without ``--producer`` it serves every producer that appears in the dump on this machine, until all have ended.
    """
    parser = argparse.ArgumentParser(prog="python -m gradnoise.collector.shipper", description=__doc__)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--endpoint", required=True, help="HOST:PORT of the analyzer")
    parser.add_argument("--producer", help="ship this producer's part only")
    parser.add_argument("--grace", type=float, default=600.0, help="seconds to go on trying after the producer's end")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        if options.producer is None:
            Dump(options.dump)
            done = watch(options.dump, options.endpoint, until_done=True, grace=options.grace, here_only=True)
            unreachable, complete = done.unreachable, done.complete
            reports = done.reports
        else:
            report = ship(options.dump, options.endpoint, producer=options.producer, grace=options.grace, patient=True)
            unreachable, complete, reports = False, report.complete, report.producers
    except KeyboardInterrupt:
        return 130
    except UnreachableError as error:
        _log.error("%s", error)
        return 3
    except (CollectorError, WireError, OSError) as error:
        _log.error("%s", error)
        return 1
    for each in reports:
        _log.info("producer %s: %d batches, %d rows of draws", each.producer, each.batches, each.rows)
        for problem in each.problems:
            _log.error("%s", problem)
    return 0 if complete else 3 if unreachable else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
