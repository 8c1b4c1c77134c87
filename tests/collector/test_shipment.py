"""One producer's shipment over several turns, with streams and a clock of the test's own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from gradnoise.collector._shipping import shipment as module
from gradnoise.collector._shipping.flight import Flight, Sent
from gradnoise.collector._shipping.lease import Lease
from gradnoise.collector._shipping.progress import Progress, ShipState
from gradnoise.collector._shipping.session import CutError, Link
from gradnoise.collector._shipping.shipment import Shipment
from gradnoise.collector.shipper import UnreachableError
from gradnoise.wire import Dump, DumpWriter, Table

from ..proto.dumps import INFO, draws_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HERE = "here:1"


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def producer(tmp_path: Path) -> str:
    writer = DumpWriter(tmp_path, INFO)
    writer.append(Table.DRAWS, draws_batch(range(4)))
    writer.close()
    return writer.producer


def turn(shipment: Shipment, link: Link, monkeypatch: pytest.MonkeyPatch, stream: Callable[..., Any]) -> float | None:
    monkeypatch.setattr(module, "run_session", lambda link, dump, producer, known, said, **_: stream(said))
    return shipment.step(link, lambda caught_up: False, threading.Event())


def cut(said: object) -> None:
    raise CutError("gone")


def link() -> Link:
    return Link(None, HERE)  # type: ignore[arg-type]


def test_the_grace_begins_with_the_first_turn(
    tmp_path: Path, producer: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = link()
    shipment = Shipment(Dump(tmp_path), producer, HERE, grace=10.0, patient=False)
    for clock.now, over in ((100.0, False), (109.0, False), (111.0, True)):
        assert (turn(shipment, there, monkeypatch, cut) is None) is over
    assert isinstance(shipment.failure, UnreachableError)


def test_an_analyzer_that_takes_what_others_send_is_there(
    tmp_path: Path, producer: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = link()
    shipment = Shipment(Dump(tmp_path), producer, HERE, grace=10.0, patient=False)
    for clock.now, there.contact.last, over in ((0.0, 0.0, False), (50.0, 45.0, False), (60.0, 45.0, True)):
        assert (turn(shipment, there, monkeypatch, cut) is None) is over


def test_what_another_shipper_has_brought_elsewhere_is_not_done(
    tmp_path: Path, producer: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for endpoint, over in ((HERE, True), ("elsewhere:1", False)):
        shipment = Shipment(Dump(tmp_path), producer, HERE, grace=10.0, patient=False)
        other = Lease(tmp_path, producer)
        assert other.take()
        assert turn(shipment, link(), monkeypatch, cut) is not None
        Progress(endpoint, ShipState.DONE, tables={"draws": 1}).write(tmp_path, producer)
        other.release()
        assert (turn(shipment, link(), monkeypatch, cut) is None) is over
        assert (shipment.report is not None) is over


def test_what_an_analyzer_has_lost_counts_as_not_acknowledged_again(
    tmp_path: Path, producer: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (segment,) = tmp_path.glob("draws-*")
    size = segment.stat().st_size
    shipment = Shipment(Dump(tmp_path), producer, HERE, grace=10.0, patient=False)
    assert shipment.unacknowledged() == size

    def one_arrives(said: Callable[[Flight], None]) -> None:
        flight = Flight({}, 1 << 20)
        flight.admit(Table.DRAWS, Sent(0, 4, 100, (0, 500)), 1.0)
        flight.acknowledge(Table.DRAWS, 1)
        said(flight)
        raise CutError("gone")

    def nothing_is_there(said: Callable[[Flight], None]) -> None:
        said(Flight({}, 1 << 20))
        raise CutError("gone")

    turn(shipment, link(), monkeypatch, one_arrives)
    assert shipment.unacknowledged() == size - 500
    turn(shipment, link(), monkeypatch, nothing_is_there)
    assert shipment.unacknowledged() == size
    tally = shipment.tally()
    assert (tally.batches, tally.bytes, tally.retries, tally.reconnects) == (1, 100, 2, 1)
