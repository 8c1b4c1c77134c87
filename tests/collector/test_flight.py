"""The books of a stream: no more is under way than the analyzer gave credit for."""

from __future__ import annotations

import threading

from gradnoise.collector._shipping.flight import Flight, Sent
from gradnoise.wire import Table

CREDIT = 100
PATIENT = 60.0  # seconds; no test waits for it


def admit(flight: Flight, sequence: int, nbytes: int, table: Table = Table.DRAWS, *, stall: float = 0.0) -> bool:
    return flight.admit(table, Sent(sequence, 1, nbytes), stall)


def test_no_more_than_the_credit_is_admitted_over_all_tables() -> None:
    flight = Flight({}, CREDIT)
    assert admit(flight, 0, 60)
    assert admit(flight, 0, 40, Table.WINDOWS), "the credit can be used up to the last byte"
    assert not admit(flight, 1, 1)
    assert flight.expected(Table.DRAWS) == 1, "what was not admitted is still to be sent"
    flight.acknowledge(Table.WINDOWS, 1)
    assert not admit(flight, 1, 41)
    assert admit(flight, 1, 40)
    flight.acknowledge(Table.DRAWS, 2)
    assert flight.landed
    assert flight.tables == {"draws": 2, "windows": 1}
    assert (flight.batches, flight.counted[0]) == (3, 2)


def test_a_batch_beyond_the_credit_goes_alone() -> None:
    flight = Flight({}, CREDIT)
    assert admit(flight, 0, 5 * CREDIT)
    assert not admit(flight, 1, 1)
    flight.acknowledge(Table.DRAWS, 1)
    assert admit(flight, 1, 1)
    assert not admit(flight, 2, 5 * CREDIT)


def test_a_waiting_sender_goes_on_when_credit_comes_and_stops_when_the_stream_ends() -> None:
    flight = Flight({"draws": 7}, CREDIT)
    assert admit(flight, 7, CREDIT)
    answers: list[bool] = []

    def send() -> None:
        answers.append(admit(flight, flight.expected(Table.DRAWS), CREDIT, stall=PATIENT))

    def acknowledge() -> None:
        flight.acknowledge(Table.DRAWS, 8)

    for release in (acknowledge, flight.end):
        thread = threading.Thread(target=send)
        thread.start()
        release()
        thread.join(PATIENT / 2)
        assert not thread.is_alive()
    assert answers == [True, False]
