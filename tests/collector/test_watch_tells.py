"""What a watch tells: metrics, summaries, what is wrong with its arguments."""

from __future__ import annotations

import re
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gradnoise.collector._errors import CollectorError
from gradnoise.collector._shipping import watch as _watch
from gradnoise.collector._shipping.metrics import metrics_at, parse_address
from gradnoise.collector.shipper import ship, watch
from gradnoise.wire import DumpWriter

from ..proto.dumps import INFO
from ..servers import until
from .fake import FakeServer, Faults
from .test_shipper import DRAWS, WINDOWS, dump_of, fill
from .watching import BATCHES, Watching, run_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradnoise.collector._shipping.snapshot import Snapshot


def numbers(url: str) -> dict[str, float]:
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    return {name: float(value) for name, value in re.findall(r"^(gradnoise\S+) (\S+)$", text, re.MULTILINE)}


def test_metrics_tell_what_was_acknowledged_and_what_is_left(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    writer = DumpWriter(tmp_path / "d", INFO, segment_bytes=4000)
    fill(writer)
    server = serve(Faults(cut_after=[3]))
    urls: list[str] = []
    watching = Watching(tmp_path, server.endpoint, expose=metrics_at("0", ready=urls.append))
    assert server.ingest.wait_for(BATCHES)
    until(lambda: numbers(urls[0])["gradnoise_ship_batches_total"] == BATCHES, what="the acknowledgements")
    found = numbers(urls[0])
    assert urls[0].startswith("http://127.0.0.1:"), "loopback by default"
    labels = f'producer="{writer.producer}",run="{INFO.run}"'
    assert found[f"gradnoise_ship_producer_batches_total{{{labels}}}"] == BATCHES
    assert found[f"gradnoise_ship_producer_rows{{{labels}}}"] == WINDOWS * DRAWS * 2
    assert found["gradnoise_ship_retries_total"] == found["gradnoise_ship_reconnects_total"] == 1
    assert found["gradnoise_ship_bytes_total"] > 4000
    assert found['gradnoise_ship_producers{state="live"}'] == 1
    assert found[f'gradnoise_ship_producer_state{{{labels},state="shipping"}}'] == 1
    assert sum(value for name, value in found.items() if "producer_state{" in name) == 1
    assert 0 <= found[f"gradnoise_ship_producer_seconds_since_ack{{{labels}}}"] < 60
    assert found["gradnoise_ship_unacknowledged_bytes"] < 1000, "but for a footer nothing is left"
    server.stop()
    size = _size(writer)
    fill(writer)
    until(lambda: numbers(urls[0])["gradnoise_ship_unacknowledged_bytes"] > 0.9 * (_size(writer) - size), what="a lag")
    assert numbers(urls[0])["gradnoise_ship_unacknowledged_bytes"] < 1.1 * (_size(writer) - size)
    until(
        lambda: numbers(urls[0])[f'gradnoise_ship_producer_state{{{labels},state="unreachable"}}'] == 1, what="a state"
    )
    server.start()
    writer.close()
    until(lambda: numbers(urls[0])['gradnoise_ship_producers{state="done"}'] == 1, what="the end")
    assert numbers(urls[0])["gradnoise_ship_unacknowledged_bytes"] == 0
    watching.stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(urls[0], timeout=10)


def _size(writer: DumpWriter) -> int:
    return sum(path.stat().st_size for path in writer.path.glob(f"*-{writer.producer}-*"))


def test_metrics_name_a_bounded_number_of_producers(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "_SHOWN", 3)
    for number in range(6):
        run_of(tmp_path / f"d{number}", f"d{number}")
    server = serve()
    taken: list[Callable[[], Snapshot]] = []

    import contextlib

    def expose(snapshot: Callable[[], Snapshot]) -> contextlib.AbstractContextManager[object]:
        taken.append(snapshot)
        return contextlib.nullcontext()

    watch(tmp_path, server.endpoint, until_done=True, expose=expose)
    assert len(taken[0]().producers) <= 3
    assert (taken[0]().totals.batches, taken[0]().done) == (6 * BATCHES, 6), "sums are of all"


def test_metrics_without_their_package_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(CollectorError, match=r"pip install 'gradnoise\[metrics\]'"):
        metrics_at("127.0.0.1:0")


def test_an_address_for_metrics(tmp_path: Path) -> None:
    assert parse_address("0.0.0.0:9464") == ("0.0.0.0", 9464)
    assert parse_address("[::1]:0") == ("::1", 0)
    assert parse_address(":9464") == parse_address("9464") == ("127.0.0.1", 9464)
    for text in ("", "host", "host:", "host:70000", "host:-1"):
        with pytest.raises(CollectorError, match="expected HOST:PORT"):
            metrics_at(text)
    with FakeServerPort() as port, pytest.raises(CollectorError, match="cannot be served"):
        watch(tmp_path, "there:1", until_done=True, expose=metrics_at(f"127.0.0.1:{port}"))


class FakeServerPort:
    """A port that is taken."""

    def __enter__(self) -> int:
        import socket

        self._socket = socket.create_server(("127.0.0.1", 0))
        return int(self._socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_the_summary_comes_now_and_then_and_only_when_something_changed(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path / "d", "d")
    server = serve()
    lines: list[str] = []
    watching = Watching(tmp_path, server.endpoint, on_summary=lines.append)
    assert server.ingest.wait_for(BATCHES)
    watching.stop()
    assert len(lines) == 2, "one at the beginning, one at the end, ten seconds apart at least between"
    assert re.fullmatch(
        r"0 live, [01] waiting, [01] done, 0 failed; \d+ batches, 0\.0 MB acknowledged, 0\.0 MB to go, 0 retries",
        lines[-1],
    )


def test_arguments_that_cannot_be_are_named(tmp_path: Path) -> None:
    with pytest.raises(CollectorError, match="expected HOST:PORT"):
        watch(tmp_path, "nowhere")
    for streams in (0, 65):
        with pytest.raises(CollectorError, match=rf"streams={streams}\): expected 1 to 64"):
            watch(tmp_path, "there:1", streams=streams)
    with pytest.raises(CollectorError, match="there is no such directory"):
        watch(tmp_path / "none", "there:1")
    dump_of(tmp_path)
    for grace in (-1.0, float("nan")):
        with pytest.raises(CollectorError, match="expected a number of seconds"):
            ship(tmp_path, "there:1", grace=grace)
