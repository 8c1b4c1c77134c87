from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gradnoise.analyzer.analysis import AnalysisOptions, Contrast, WindowReport, analyse
from gradnoise.analyzer.batch import analyse_dump, count_windows, follow_dump
from gradnoise.wire import Dump, DumpWriter, Table
from gradnoise.wire.results import ALIGNMENT_SCHEMA, TAIL_SCHEMA

from ..proto.dumps import INFO, draws_batch, windows_batch
from .producing import rank_window_batch

if TYPE_CHECKING:
    from pathlib import Path

    from gradnoise.analyzer.tables import WindowTables
    from gradnoise.analyzer.windows import Window


def write(writer: DumpWriter, windows: range) -> None:
    for number in windows:
        writer.append(Table.DRAWS, draws_batch(range(40), window=number, seed=number))
        row = windows_batch(number, 40).to_pylist()[0] | {"first_step": 100 * number, "last_step": 100 * number + 39}
        writer.append(Table.WINDOWS, pa.RecordBatch.from_pylist([row], schema=windows_batch(0, 1).schema))


def dump(path: Path, windows: int = 4) -> Dump:
    writer = DumpWriter(path, INFO)
    write(writer, range(windows))
    writer.close()
    return Dump(path)


def test_tables_come_in_order_with_rows_numbered_on(tmp_path: Path) -> None:
    stored = dump(tmp_path)
    assert count_windows(stored) == 4
    tables = list(analyse_dump(stored, threads=3))
    numbers = [each.column("row").to_pylist() for found in tables for each in (found.tail, found.alignment)]
    assert [number for each in numbers for number in each] == list(range(1, 1 + sum(t.num_rows for t in tables)))
    assert [found.tail.num_rows for found in tables] == [9] * 4
    assert [found.key[2] for found in tables] == [0, 1, 2, 3]
    assert stored.problems == []
    alone = list(analyse_dump(stored, threads=1))
    for name in ("tail", "alignment"):
        one, other = (pa.concat_tables(getattr(found, name) for found in each) for each in (tables, alone))
        assert one.schema.equals(TAIL_SCHEMA if name == "tail" else ALIGNMENT_SCHEMA, check_metadata=True)
        assert one.drop(["analysed_at"]).equals(other.drop(["analysed_at"]))


def test_options_and_steps_are_heeded(tmp_path: Path) -> None:
    stored = dump(tmp_path)
    seen: list[int] = []

    def analysis(window: Window, options: AnalysisOptions) -> WindowReport:
        seen.append(window.closed.window)
        return analyse(window, options)

    options = AnalysisOptions(contrast=Contrast.DIFFERENCE)
    found = analyse_dump(stored, options, steps=(139, 200), threads=1, analysis=analysis)
    table = pa.concat_tables(tables.tail for tables in found)
    assert set(table.column("reference").to_pylist()) == {"difference"}
    assert seen == [1, 2]
    assert count_windows(stored, (139, 200)) == 2
    assert count_windows(stored, (None, 0)) == 1
    assert list(analyse_dump(stored, steps=(1000, None))) == []


def test_a_failing_window_is_a_table_of_reasons(tmp_path: Path) -> None:
    def analysis(window: Window, options: AnalysisOptions) -> WindowReport:
        if window.closed.window == 1:
            raise ValueError("not this one")
        return analyse(window, options)

    found = list(analyse_dump(dump(tmp_path, 3), analysis=analysis))
    tables = [each.tail for each in found]
    assert [set(t.column("status").to_pylist()) == {"failed"} for t in tables] == [False, True, False]
    assert tables[1].column("reason")[0].as_py() == "the analysis failed: ValueError: not this one"
    firsts = [1, 1 + found[0].num_rows, 1 + found[0].num_rows + found[1].num_rows]
    assert [t.column("row")[0].as_py() for t in tables] == firsts


def test_leaving_early_leaves_no_thread_behind(tmp_path: Path) -> None:
    tables = analyse_dump(dump(tmp_path), threads=2)
    assert next(tables).tail.num_rows == 9
    tables.close()
    assert next(tables, None) is None


def test_following_a_growing_dump_yields_windows_as_they_close_and_ends_with_the_producer(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, INFO)
    write(writer, range(1))
    writer.append(Table.DRAWS, draws_batch(range(20), window=1))
    waits = 0

    def pause(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            writer.append(Table.DRAWS, draws_batch(range(20, 40), window=1))
            writer.append(Table.WINDOWS, windows_batch(1, 40))
        elif waits == 3:
            write(writer, range(2, 4))
            writer.close()

    tables = list(follow_dump(Dump(tmp_path), pause=pause))
    assert [t.key[2] for t in tables] == [0, 1, 2, 3]
    numbers = [number for t in tables for number in (*t.tail["row"].to_pylist(), *t.alignment["row"].to_pylist())]
    assert numbers == list(range(1, 1 + sum(t.num_rows for t in tables)))
    assert {t.tail.column("draws")[0].as_py() for t in tables} == {40}
    assert waits == 3
    again = list(follow_dump(Dump(tmp_path), pause=pause))[-1]
    assert again.tail.column("row")[0].as_py() == tables[-1].tail.column("row")[0].as_py()
    assert waits == 3


def rank(path: Path, number: int, windows: range, *, thetas: int = 7) -> DumpWriter:
    writer = DumpWriter(path, INFO)
    close(writer, number, windows, thetas=thetas)
    return writer


def close(writer: DumpWriter, number: int, windows: range, *, thetas: int = 7) -> None:
    for window in windows:
        writer.append(Table.DRAWS, draws_batch(range(40), window=window, seed=number))
        steps: dict[str, Any] = {"first_step": 100 * window, "last_step": 100 * window + 39}
        writer.append(Table.WINDOWS, rank_window_batch(window, 40, number, thetas=thetas, **steps))


def drawn(tables: list[WindowTables]) -> list[tuple[int, int, int, bool]]:
    """Window, draws, thetas, and whether a rank is missing."""
    rows = [each.tail.to_pylist()[0] for each in tables]
    return [(r["window"], r["draws"], r["thetas"], any("ranks" in w for w in r["warnings"])) for r in rows]


def test_ranks_that_share_their_parameters_are_one_window(tmp_path: Path) -> None:
    for number in range(2):
        rank(tmp_path, number, range(2)).close()
    assert count_windows(Dump(tmp_path)) == 2
    assert count_windows(Dump(tmp_path), (100, None)) == 1
    tables = list(analyse_dump(Dump(tmp_path)))
    assert drawn(tables) == [(0, 80, 40, False), (1, 80, 40, False)]
    assert drawn(list(follow_dump(Dump(tmp_path)))) == drawn(tables)


def test_independent_trainings_of_one_job_stay_apart(tmp_path: Path) -> None:
    for number in range(2):
        rank(tmp_path, number, range(1), thetas=number).close()
    assert count_windows(Dump(tmp_path)) == 2
    assert drawn(list(analyse_dump(Dump(tmp_path)))) == [(0, 40, 40, True)] * 2
    assert drawn(list(follow_dump(Dump(tmp_path)))) == [(0, 40, 40, True)] * 2


def test_following_waits_for_the_other_ranks_and_not_for_ever(tmp_path: Path) -> None:
    writers = [rank(tmp_path, 0, range(2)), rank(tmp_path, 1, range(0))]
    waits = 0

    def pause(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            close(writers[1], 1, range(1))
        elif waits == 40:  # 20 seconds
            close(writers[0], 0, range(2, 3))
            for writer in writers:
                writer.close()

    found = [(*drawn([table])[0], waits) for table in follow_dump(Dump(tmp_path), pause=pause)]
    assert found == [(0, 80, 40, False, 2), (1, 40, 40, True, 20), (2, 40, 40, True, 40)]


def test_following_gives_a_rank_that_comes_too_late_a_window_of_its_own(tmp_path: Path) -> None:
    writers = [rank(tmp_path, 0, range(1)), rank(tmp_path, 1, range(0))]
    waits = 0

    def pause(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 30:
            close(writers[1], 1, range(1))
            for writer in writers:
                writer.close()

    found = [(*drawn([table])[0], waits) for table in follow_dump(Dump(tmp_path), pause=pause)]
    assert found == [(0, 40, 40, True, 20), (0, 40, 40, True, 30)]
    assert drawn(list(analyse_dump(Dump(tmp_path)))) == [(0, 80, 40, False)]


def test_following_holds_only_a_few_windows_for_ranks_that_do_not_come(tmp_path: Path) -> None:
    writer = rank(tmp_path, 0, range(12))
    waits = 0

    def pause(seconds: float) -> None:
        nonlocal waits
        waits += 1
        writer.close()

    found = [(tables.key[2], waits) for tables in follow_dump(Dump(tmp_path), pause=pause)]
    assert found == [(window, 0 if window < 4 else 1) for window in range(12)]
