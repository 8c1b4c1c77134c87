from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from gradnoise.analyzer.analysis import AlignmentRow, Plan, TailRow, WindowReport
from gradnoise.analyzer.catalog import Catalog
from gradnoise.analyzer.tables import WindowTables, window_tables
from gradnoise.wire.results import ALIGNMENT_SCHEMA, FORMS, TAIL_SCHEMA

from .test_tables import NOW, distinct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "catalog.sqlite")
    yield opened
    opened.close()


def window(number: int, *, run: str = "r", producer: str = "p", **changed: Any) -> WindowTables:
    """Two groups in every form, steps 10 * number to 10 * number + 9."""
    steps = {"first_step": 10 * number, "last_step": 10 * number + 9}
    rows = [
        replace(distinct(TailRow), window=number, group=group, form=form, **(steps | changed))
        for group in ("g", "*")
        for form in FORMS
    ]
    return window_tables(WindowReport(run, producer, number, Plan.LIVE, tuple(rows)), analysed_at=NOW)


def curvature(number: int, *, run: str = "r", producer: str = "p", **changed: Any) -> WindowTables:
    """Two parts in two metrics, at step 10 * number."""
    common: dict[str, Any] = {"window": number, "first_step": 10 * number, "last_step": 10 * number, "kind": "hessian"}
    rows = [
        replace(distinct(AlignmentRow), part=part, metric=metric, **(common | changed))
        for part in ("w.*", "*")
        for metric in ("gamma", "slope")
    ]
    return window_tables(WindowReport(run, producer, number, Plan.LIVE, (), tuple(rows)), analysed_at=NOW)


def both(number: int) -> WindowTables:
    return WindowTables(window(number).tail, curvature(number, kind="burst").alignment)


def numbers(table: pa.Table) -> list[int]:
    found: list[int] = table.column("row").to_pylist()
    return found


def test_every_column_goes_there_and_back(catalog: Catalog) -> None:
    tables = window(1, alpha=float("nan"), zeros=0.25)
    tables = WindowTables(tables.tail, curvature(1, value=float("nan"), index=None).alignment)
    catalog.store(tables)
    for found, schema, stored in (
        (catalog.tail("r"), TAIL_SCHEMA, tables.numbered(1).tail),
        (catalog.alignment("r"), ALIGNMENT_SCHEMA, tables.numbered(1).alignment),
    ):
        found.validate(full=True)
        assert found.schema.equals(schema, check_metadata=True)
        assert found.equals(stored)


def test_nan_in_a_column_without_nulls_stays_nan(catalog: Catalog) -> None:
    catalog.store(window(1, zeros=float("nan")))
    (value, *_) = catalog.tail("r").column("zeros").to_pylist()
    assert value != value


def test_rows_are_numbered_on_and_selected(catalog: Catalog) -> None:
    for number in range(4):
        catalog.store(window(number))
        catalog.store(window(number, run="other"))
    assert numbers(catalog.tail("r")) == [12 * w + i for w in range(4) for i in range(1, 7)]
    assert catalog.last_row == 48
    assert catalog.tail("r", form=FORMS[1], group="*").column("window").to_pylist() == [0, 1, 2, 3]
    assert set(catalog.tail("r", steps=(10, 29)).column("window").to_pylist()) == {1, 2}
    assert set(catalog.tail("r", steps=(None, 0)).column("window").to_pylist()) == {0}
    assert set(catalog.tail("r", steps=(39, None)).column("window").to_pylist()) == {3}
    assert numbers(catalog.tail("r", after_row=38)) == [39, 40, 41, 42]
    assert numbers(catalog.tail("r", limit=2)) == [1, 2]
    assert catalog.tail("nobody").equals(TAIL_SCHEMA.empty_table())
    assert catalog.analysed_counts() == {"r": 4, "other": 4}
    assert ("other", "p", 3) in catalog.analysed()


def test_rows_of_alignment_are_numbered_with_the_others_and_selected(catalog: Catalog) -> None:
    for number in range(3):
        catalog.store(window(number))
        catalog.store(curvature(number + 10))
    assert numbers(catalog.alignment("r")) == [10 * w + i for w in range(3) for i in range(7, 11)]
    assert set(numbers(catalog.tail("r"))) & set(numbers(catalog.alignment("r"))) == set()
    assert catalog.last_row == 30
    assert catalog.alignment("r", part="*", metric="slope").column("window").to_pylist() == [10, 11, 12]
    assert set(catalog.alignment("r", steps=(105, 119)).column("window").to_pylist()) == {11}
    assert numbers(catalog.alignment("r", after_row=29)) == [30]
    assert numbers(catalog.alignment("r", limit=2)) == [7, 8]
    assert catalog.alignment("nobody").equals(ALIGNMENT_SCHEMA.empty_table())
    assert catalog.analysed_counts() == {"r": 6}
    assert catalog.parts("r") == ["*", "w.*"]
    catalog.store(curvature(20, run="s", kind="probe"))
    assert catalog.parts("s") == []


def test_rows_of_both_tables_come_and_go_together(catalog: Catalog) -> None:
    catalog.store(both(0))
    catalog.store(curvature(0))
    assert (numbers(catalog.tail("r")), numbers(catalog.alignment("r"))) == ([], [11, 12, 13, 14])
    assert catalog.analysed() == {("r", "p", 0)}
    catalog.store(both(0))
    assert (numbers(catalog.tail("r")), numbers(catalog.alignment("r"))) == ([*range(15, 21)], [*range(21, 25)])
    catalog.forget([("r", "p", 0)])
    assert (catalog.tail("r").num_rows, catalog.alignment("r").num_rows, catalog.analysed()) == (0, 0, set())


def test_a_window_analysed_again_replaces_its_rows_under_new_numbers(catalog: Catalog) -> None:
    catalog.store(window(0))
    catalog.store(window(1))
    catalog.store(window(0))
    assert numbers(catalog.tail("r")) == [*range(7, 13), *range(13, 19)]
    catalog.forget([("r", "p", 1), ("r", "p", 99)])
    assert set(catalog.tail("r").column("window").to_pylist()) == {0}
    catalog.forget([("r", "p", 0)])
    catalog.store(window(5))
    assert numbers(catalog.tail("r")) == [*range(19, 25)]


def test_a_result_of_several_producers_counts_once_and_replaces_those_of_fewer(catalog: Catalog) -> None:
    assert catalog.store(window(0, producer="q"))
    assert catalog.store(window(0, producer="p"), ["p", "q"])
    assert numbers(catalog.tail("r")) == list(range(7, 13))
    assert set(catalog.tail("r").column("producer").to_pylist()) == {"p"}
    assert catalog.analysed() == {("r", "p", 0), ("r", "q", 0)}
    assert catalog.analysed_counts() == {"r": 1}
    assert catalog.analysed("r", 0) == catalog.analysed()
    assert catalog.analysed("r", 1) == catalog.analysed("s") == set()


def test_a_result_of_fewer_producers_does_not_replace_one_of_more(catalog: Catalog) -> None:
    assert catalog.store(window(0, producer="p"), ["p", "q"])
    assert not catalog.store(window(0, producer="q"))
    assert not catalog.store(window(0, producer="p"), ["p"])
    assert numbers(catalog.tail("r")) == list(range(1, 7))
    assert catalog.store(window(0, producer="o"), ["o", "p", "q"])
    assert set(catalog.tail("r").column("producer").to_pylist()) == {"o"}
    assert catalog.analysed_counts() == {"r": 1}


def test_forgetting_one_producer_of_a_result_drops_it_and_leaves_the_others_to_be_analysed(catalog: Catalog) -> None:
    catalog.store(window(0, producer="p"), ["p", "q"])
    catalog.store(window(0, producer="x"))
    catalog.forget([("r", "q", 0)])
    assert catalog.analysed() == {("r", "x", 0)}
    assert set(catalog.tail("r").column("producer").to_pylist()) == {"x"}


def test_it_opens_again_where_it_was(tmp_path: Path) -> None:
    for number in range(2):
        with closing(Catalog(tmp_path / "c", rebuilding=True)) as catalog:
            catalog.store(window(number))
            first = numbers(catalog.tail("r"))[0]
    assert numbers(catalog.tail("r")) == list(range(first, first + 12))


@pytest.mark.parametrize("damage", ["text", "version", "gone"])
def test_a_lost_catalog_begins_above_every_number_given_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = tmp_path / "c"
    with closing(Catalog(path)) as catalog:
        catalog.store(window(0))
    if damage == "version":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 3")  # which had no table of alignment
    elif damage == "text":
        path.write_bytes(b"not a database" * 100)
    else:
        path.unlink()
    with closing(Catalog(path, rebuilding=True)) as catalog:
        assert catalog.analysed() == set()
        catalog.store(window(0))
        assert numbers(catalog.tail("r"))[0] > 1_000_000
    assert bool(caplog.records) == (damage != "gone")


def test_a_failed_transaction_leaves_nothing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog.store(both(0))

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("gradnoise.analyzer.catalog._ALIGNMENT.insert", fail)  # behind that of the tail rows
        with pytest.raises(sqlite3.Error):
            catalog.store(both(0))
        with pytest.raises(sqlite3.Error):
            catalog.store(both(1))
    assert catalog.analysed() == {("r", "p", 0)}
    assert (numbers(catalog.tail("r")), numbers(catalog.alignment("r"))) == ([*range(1, 7)], [*range(7, 11)])
    catalog.store(both(1))
    assert numbers(catalog.tail("r", after_row=6))[0] == 11


def test_waiting_ends_with_a_row_a_call_or_the_time(catalog: Catalog) -> None:
    assert not catalog.wait(0, timeout=0.01)
    thread = threading.Timer(0.05, lambda: catalog.store(window(0)))
    thread.start()
    assert catalog.wait(0, timeout=30)
    thread.join()
    assert catalog.wait(5, timeout=30)  # rows are there already
    waker = threading.Timer(0.05, catalog.wake)
    waker.start()
    assert catalog.wait(6, timeout=30)
    waker.join()
