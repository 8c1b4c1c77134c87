from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from gradnoise.analyzer.analysis import AnalysisOptions, Contrast, WindowReport, analyse
from gradnoise.analyzer.analyst import Analyst
from gradnoise.analyzer.batch import analyse_dump
from gradnoise.analyzer.catalog import Catalog
from gradnoise.analyzer.store import Store
from gradnoise.wire import Dump, Stamped, Table, schema

from ..proto.dumps import INFO, windows_batch
from ..servers import until
from .producing import idle, incoming, rank_window_batch, reference_batch, sketches_batch, stamped_draws, stamped_window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gradnoise.analyzer.windows import Window

P, Q = "a" * 32, "b" * 32
FOR_EVER = 1e6


@contextmanager
def rooms(data: Path, **options: Any) -> Iterator[tuple[Store, Catalog, Analyst]]:
    store = Store(data)
    store.recover()
    catalog = Catalog(data / "catalog.sqlite")
    analyst = Analyst(store, catalog, **options)
    try:
        yield store, catalog, analyst
    finally:
        assert analyst.stop(30)
        store.close()
        catalog.close()


def fill(store: Store, windows: range = range(3)) -> None:
    log = store.open(INFO, P)
    for number in windows:
        log.take(
            [
                incoming(stamped_draws(number, window=2 * number)),
                incoming(stamped_window(number, 40, window=2 * number)),
            ]
        )


def test_stored_windows_are_analysed_once_over_restarts(tmp_path: Path) -> None:
    seen: list[int] = []

    def analysis(window: Window, options: AnalysisOptions) -> WindowReport:
        seen.append(window.closed.window)
        assert window.missing == 0
        assert all(group.values.shape[0] == 40 for group in window.groups)
        return analyse(window, options)

    for count in (2, 3):
        with rooms(tmp_path, analysis=analysis) as (store, catalog, analyst):
            fill(store, range(count))
            analyst.start()
            idle(store, catalog)
            assert len(catalog.analysed()) == count
    assert seen == [0, 2, 4]


def test_a_failing_analysis_is_a_row_and_not_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def analysis(window: Window, options: AnalysisOptions) -> WindowReport:
        if window.closed.window == 0:
            raise ZeroDivisionError("by nought")
        return analyse(window, options)

    with rooms(tmp_path, analysis=analysis) as (store, catalog, analyst):
        fill(store)
        analyst.start()
        idle(store, catalog)
        rows = catalog.tail(INFO.run).to_pylist()
    failed = [row for row in rows if row["window"] == 0]
    assert len(failed) == 9
    assert {row["status"] for row in failed} == {"failed"}
    assert {row["reason"] for row in failed} == {"the analysis failed: ZeroDivisionError: by nought"}
    assert {row["window"] for row in rows if row["status"] != "failed"} == {2, 4}
    assert "by nought" in caplog.text


def test_a_failed_window_has_the_same_rows_live_and_from_the_dump(tmp_path: Path) -> None:
    def analysis(window: Window, options: AnalysisOptions) -> WindowReport:
        raise ZeroDivisionError("by nought")

    row = windows_batch(0, 40, kind="probe").to_pylist()[0] | {"non_finite": 7, "dropped": 3, "last_step": 100}
    closing = pa.RecordBatch.from_pylist([row], schema=schema(Table.WINDOWS))
    options = AnalysisOptions(contrast=Contrast.MEAN)
    with rooms(tmp_path, analysis=analysis, options=options) as (store, catalog, analyst):
        log = store.open(INFO, P)
        log.take([incoming(stamped_draws(0)), incoming(Stamped.of(Table.WINDOWS, 0, closing))])
        analyst.start()
        idle(store, catalog)
        live = catalog.tail(INFO.run)
    (batch,) = analyse_dump(Dump(tmp_path / "runs" / INFO.run), options, analysis=analysis)
    drop = ["analysed_at", "zeros"]  # the time, and NaN, which equals nothing
    assert live.drop(drop).equals(batch.tail.drop(drop))
    assert set(live.column("non_finite").to_pylist()) == {7}


def test_draws_that_are_gone_are_a_row_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with rooms(tmp_path) as (store, catalog, analyst):
        fill(store)
        for segment in (tmp_path / "runs" / INFO.run).glob("draws-*"):
            segment.unlink()
        analyst.start()
        idle(store, catalog)
        rows = catalog.tail(INFO.run).to_pylist()
    assert {row["status"] for row in rows} == {"failed"}
    assert "gone from the dump" in rows[0]["reason"]
    assert caplog.records


def test_results_of_windows_that_are_gone_are_dropped(tmp_path: Path) -> None:
    with rooms(tmp_path) as (store, catalog, analyst):
        fill(store)
        analyst.start()
        idle(store, catalog)
    for path in (tmp_path / "runs" / INFO.run).iterdir():
        path.unlink()
    (tmp_path / "runs" / INFO.run).rmdir()
    with rooms(tmp_path) as (store, catalog, analyst):
        fill(store, range(1))
        analyst.start()
        idle(store, catalog)
        assert catalog.analysed() == {(INFO.run, P, 0)}
        assert set(catalog.tail(INFO.run).column("window").to_pylist()) == {0}


def test_stopping_finishes_the_window_under_analysis_and_leaves_the_rest(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(window: Window, options: AnalysisOptions) -> WindowReport:
        begun.set()
        assert go_on.wait(30)
        return analyse(window, options)

    with rooms(tmp_path, analysis=slow) as (store, catalog, analyst):
        fill(store)
        analyst.start()
        assert begun.wait(30)
        assert not analyst.stop(0.05)
        assert catalog.analysed() == set()
        go_on.set()
        assert analyst.stop(30)
        assert catalog.analysed() == {(INFO.run, P, 0)}
    with rooms(tmp_path) as (store, catalog, analyst):
        analyst.start()
        idle(store, catalog)
        assert len(catalog.analysed()) == 3


def test_results_that_cannot_be_stored_are_computed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(table: object) -> None:
        raise OSError("no space")

    with rooms(tmp_path) as (store, catalog, analyst):
        fill(store, range(1))
        monkeypatch.setattr(catalog, "store", full)
        analyst.start()
        until(lambda: "were not stored" in caplog.text, what="the failure")
        assert catalog.analysed() == set()
    with rooms(tmp_path) as (store, catalog, analyst):
        analyst.start()
        idle(store, catalog)
        assert len(catalog.analysed()) == 1


def rank_closes(store: Store, analyst: Analyst, rank: int, *, window: int = 0, number: int = 0, **changed: Any) -> None:
    """A rank of a job of two records and closes a window; its ``number``-th."""
    log = store.open(INFO, (P, Q)[rank])
    closing = rank_window_batch(window, 40, rank, **changed)
    draws = stamped_draws(number, window=window, seed=rank)
    _, closed = log.take([incoming(draws), incoming(Stamped.of(Table.WINDOWS, number, closing))])
    analyst.submit(closed)


def results(catalog: Catalog) -> list[tuple[str, int, int, bool]]:
    """Producer, window and draws of every result, and whether a rank is missing."""
    rows = catalog.tail(INFO.run, group="a.weight", form="per_parameter").to_pylist()
    return [(r["producer"], r["window"], r["draws"], any("ranks" in w for w in r["warnings"])) for r in rows]


def test_ranks_are_waited_for_and_analysed_as_one_window(tmp_path: Path) -> None:
    with rooms(tmp_path, patience=FOR_EVER) as (store, catalog, analyst):
        analyst.start()
        rank_closes(store, analyst, 1)
        _, closed = store.open(INFO, "c" * 32).take(
            [incoming(stamped_draws(0, window=9)), incoming(stamped_window(0, 40, window=9))]
        )
        analyst.submit(closed)
        until(lambda: ("c" * 32, 9) in {key[1:] for key in catalog.analysed()}, what="the window of one producer")
        assert results(catalog) == [("c" * 32, 9, 40, False)]
        assert (store.summary(INFO.run).windows, store.summary(INFO.run).draws) == (2, 80)
        rank_closes(store, analyst, 0)
        idle(store, catalog)
        assert results(catalog) == [("c" * 32, 9, 40, False), (P, 0, 80, False)]
        assert catalog.analysed_counts() == {INFO.run: 2}
        assert (store.summary(INFO.run).windows, store.summary(INFO.run).draws) == (2, 120)


def test_a_rank_that_comes_late_has_the_window_analysed_again(tmp_path: Path) -> None:
    with rooms(tmp_path, patience=0.0) as (store, catalog, analyst):
        analyst.start()
        rank_closes(store, analyst, 1)
        idle(store, catalog)
        assert results(catalog) == [(Q, 0, 40, True)]
        before = catalog.last_row
        rank_closes(store, analyst, 0)
        idle(store, catalog)
        assert results(catalog) == [(P, 0, 80, False)]
        assert catalog.tail(INFO.run, after_row=before).num_rows == 9  # a watcher gets the new rows


def test_ranks_with_parameters_of_their_own_have_results_of_their_own(tmp_path: Path) -> None:
    with rooms(tmp_path, patience=FOR_EVER) as (store, catalog, analyst):
        analyst.start()
        for rank in (0, 1):
            rank_closes(store, analyst, rank, thetas=rank)
        idle(store, catalog)
        assert sorted(results(catalog)) == [(P, 0, 40, True), (Q, 0, 40, True)]


def test_a_restart_analyses_what_is_new_and_finds_again_what_waits(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def analysis(window: Window, options: AnalysisOptions) -> WindowReport:
        seen.append((window.closed.window, len(window.groups[0].draw)))
        return analyse(window, options)

    with rooms(tmp_path, analysis=analysis, patience=FOR_EVER) as (store, catalog, analyst):
        analyst.start()
        for rank in (0, 1):
            rank_closes(store, analyst, rank)
        idle(store, catalog)
        rank_closes(store, analyst, 0, window=2, number=1)
    assert seen == [(0, 80)]
    with rooms(tmp_path, analysis=analysis, patience=0.0) as (store, catalog, analyst):
        analyst.start()
        idle(store, catalog)
        assert results(catalog) == [(P, 0, 80, False), (P, 2, 40, True)]
    assert seen == [(0, 80), (2, 40)]
    with rooms(tmp_path, analysis=analysis, patience=0.0) as (store, catalog, analyst):
        rank_closes(store, analyst, 1, window=2, number=1)
        analyst.start()
        idle(store, catalog)
        assert results(catalog) == [(P, 0, 80, False), (P, 2, 80, False)]
    assert seen == [(0, 80), (2, 40), (2, 80)]


def test_a_slow_analysis_of_fewer_ranks_does_not_replace_that_of_all(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def analysis(window: Window, options: AnalysisOptions) -> WindowReport:
        if len(window.groups[0].draw) == 40:
            begun.set()
            assert go_on.wait(30)
        return analyse(window, options)

    with rooms(tmp_path, analysis=analysis, patience=0.0, workers=2) as (store, catalog, analyst):
        analyst.start()
        rank_closes(store, analyst, 0)
        assert begun.wait(30)
        rank_closes(store, analyst, 1)
        idle(store, catalog)
        go_on.set()
    assert results(catalog) == [(P, 0, 80, False)]


def test_reference_and_sketches_reach_the_analysis(tmp_path: Path) -> None:
    seen: list[Window] = []

    def analysis(window: Window, options: AnalysisOptions) -> WindowReport:
        seen.append(window)
        return analyse(window, options)

    reference = reference_batch(0, {"a.bias": np.ones(2, np.float32)})
    with rooms(tmp_path, analysis=analysis) as (store, catalog, analyst):
        batches = [
            stamped_draws(0),
            Stamped.of(Table.REFERENCE, 0, reference),
            Stamped.of(Table.SKETCHES, 0, sketches_batch(0, {1: {2: 3}})),
            Stamped.of(Table.SKETCHES, 1, sketches_batch(0, {3: {4: 5}})),
            stamped_window(0, 40),
        ]
        store.open(INFO, P).take([incoming(stamped) for stamped in batches])
        analyst.start()
        idle(store, catalog)
    (window,) = seen
    assert window.reference is not None
    assert window.reference["a.bias"].values.tolist() == [1, 1]
    assert [(sketch.draw, sketch.counts.tolist()) for sketch in window.sketches] == [(1, [3]), (3, [5])]
