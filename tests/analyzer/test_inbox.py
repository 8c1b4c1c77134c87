from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gradnoise.analyzer._inbox import Inbox

from ..servers import until

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_a_busy_receiver_holds_the_source_back_at_the_limit() -> None:
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for number in range(1000):
            pulled += 1
            yield number

    inbox = Inbox(source(), lambda item: 10, limit=30)
    until(lambda: pulled >= 4, what="three items held and one in hand")
    found = []
    while items := inbox.take():
        assert len(items) <= 3
        found += items
        assert pulled <= len(found) + 4
    assert found == list(range(1000))


def test_an_item_beyond_the_limit_is_taken_alone() -> None:
    inbox = Inbox([10, 100, 100, 10], lambda item: item, limit=30)
    parts = []
    while items := inbox.take():
        parts.append(items)
    assert [item for part in parts for item in part] == [10, 100, 100, 10]
    assert all(sum(part) <= 30 or len(part) == 1 for part in parts)


def test_closing_lets_a_reader_that_is_held_back_end() -> None:
    before = set(threading.enumerate())
    pulled = threading.Event()

    def source() -> Iterator[int]:
        yield from (0, 1)
        pulled.set()
        yield from (2, 3)

    inbox = Inbox(source(), lambda item: 10, limit=20)
    assert pulled.wait(30)
    inbox.close()
    until(lambda: set(threading.enumerate()) <= before, what="the end of the reader")
    assert inbox.take() == []
