from __future__ import annotations

import threading

from gradnoise.analyzer._agenda import Agenda


def test_entries_come_in_the_order_in_which_they_are_due() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.put("later", 0.05)
    agenda.put("first")
    agenda.put("second")
    assert [agenda.take() for _ in range(3)] == ["first", "second", "later"]


def test_an_entry_put_again_is_held_once_and_has_its_new_time() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.put("put off")
    agenda.put("put off", 0.05)
    agenda.put("hastened", 1e6)
    agenda.put("hastened")
    agenda.put("end", 0.1)
    assert [agenda.take() for _ in range(3)] == ["hastened", "put off", "end"]


def test_an_entry_taken_off_can_be_put_again() -> None:
    agenda: Agenda[str] = Agenda()
    for _ in range(2):
        agenda.put("x")
        assert agenda.take() == "x"


def test_closing_ends_waiting_and_leaves_what_is_there() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.put("never", 1e6)
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(agenda.take())) for _ in range(2)]
    for thread in threads:
        thread.start()
    agenda.close()
    for thread in threads:
        thread.join(30)
    assert found == [None, None]
    agenda.put("more")
    assert agenda.take() is None
