"""A watch's numbers for Prometheus, over HTTP."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from gradnoise.collector._errors import CollectorError
from gradnoise.collector._shipping.progress import ShipState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from prometheus_client.core import Metric

    from gradnoise.collector._shipping.snapshot import Snapshot

__all__ = ["metrics_at", "parse_address"]

_TOTALS = {
    "batches": "Batches that the analyzer has acknowledged.",
    "bytes": "Payload bytes that the analyzer has acknowledged.",
    "retries": "Attempts that failed and were made again.",
    "reconnects": "Streams that took over from a lost one.",
}


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``[HOST:]PORT``; without a host it is loopback, port 0 takes a free one.

    Raises:
        CollectorError: it is neither.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise CollectorError(f"metrics address {text!r}: expected HOST:PORT, such as 127.0.0.1:9464")
    return host.strip("[]") or "127.0.0.1", int(port)


def metrics_at(
    address: str, *, ready: Callable[[str], None] = lambda url: None
) -> Callable[[Callable[[], Snapshot]], AbstractContextManager[object]]:
    """Return what :func:`~gradnoise.collector._shipping.watch.watch` exposes its numbers by, at ``HOST:PORT``.

    Args:
        address: where to serve; see :func:`parse_address`.
        ready: called with the URL once it is served.

    Raises:
        CollectorError: prometheus-client is not installed, or the address is not usable.
    """
    host, port = parse_address(address)
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ModuleNotFoundError as error:
        raise CollectorError(
            f"metrics need {error.name}, which is not installed: pip install 'gradnoise[metrics]'"
        ) from error

    @contextmanager
    def expose(snapshot: Callable[[], Snapshot]) -> Iterator[None]:
        registry = CollectorRegistry()
        registry.register(_Collector(snapshot))
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise CollectorError(f"metrics cannot be served at {address} ({error.strerror or error})") from error
        try:
            ready(f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics")
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    return expose


class _Collector:
    """Makes metrics of a snapshot when they are asked for. Label sets are those of the snapshot: bounded."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        taken = self._snapshot()
        for name, text in _TOTALS.items():
            yield CounterMetricFamily(f"gradnoise_ship_{name}", text, value=getattr(taken.totals, name))
        producers = GaugeMetricFamily("gradnoise_ship_producers", "Producers by how they stand.", labels=["state"])
        for state in ("live", "waiting", "done", "failed"):
            producers.add_metric([state], getattr(taken, state))
        yield producers
        yield GaugeMetricFamily(
            "gradnoise_ship_unacknowledged_bytes", "Bytes on disk not acknowledged.", value=taken.unacknowledged
        )
        yield from _by_producer(taken)


def _by_producer(taken: Snapshot) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ["run", "producer"]
    counters = {
        name: CounterMetricFamily(f"gradnoise_ship_producer_{name}", text, labels=labels)
        for name, text in _TOTALS.items()
    }
    rows = GaugeMetricFamily("gradnoise_ship_producer_rows", "Rows of draws that the analyzer has.", labels=labels)
    left = GaugeMetricFamily(
        "gradnoise_ship_producer_unacknowledged_bytes", "Bytes on disk not acknowledged.", labels=labels
    )
    silence = GaugeMetricFamily(
        "gradnoise_ship_producer_seconds_since_ack", "Seconds since the last acknowledgement.", labels=labels
    )
    states = GaugeMetricFamily(
        "gradnoise_ship_producer_state", "1 for the state the shipment is in.", labels=[*labels, "state"]
    )
    for each in taken.producers:
        tally = each.tally
        whose = [tally.run, tally.producer]
        for name, family in counters.items():
            family.add_metric(whose, getattr(tally, name))
        rows.add_metric(whose, tally.rows)
        left.add_metric(whose, each.unacknowledged)
        silence.add_metric(whose, each.silence)
        for state in ShipState:
            states.add_metric([*whose, state.value], float(tally.state is state))
    yield from (*counters.values(), rows, left, silence, states)
