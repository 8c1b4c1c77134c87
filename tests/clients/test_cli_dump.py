"""Commands on a dump, without an analyzer: what they print and how they end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from gradnoise.cli import Exit
from gradnoise.wire import DumpWriter, Table, schema
from gradnoise.wire.results import FORMS, TAIL_SCHEMA

from ..analyzer.producing import WIDE
from ..proto.dumps import draws_batch, windows_batch
from ..servers import free_port
from .commands import Capture, lines, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_dumps_path_needs_no_analyzer(
    capsys: Capture, make_dump: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADNOISE_ENDPOINT", f"127.0.0.1:{free_port()}")
    dump = make_dump()
    for argv in (["show", dump], ["tail", dump], ["tail", dump, "--follow"], ["analyze", dump]):
        code, out, _ = run(capsys, *argv)
        assert code == Exit.DONE
        assert "a.weight" in out
    monkeypatch.chdir(dump.parent)
    assert run(capsys, "tail", "dump")[0] == Exit.DONE


def test_show_of_a_dump(capsys: Capture, make_dump: Callable[..., Path]) -> None:
    (found,) = lines(run(capsys, "show", make_dump(), "--json")[1])
    assert (found["run"]["run"], found["run"]["draws"], found["run"]["problems"]) == ("wide", 160, 0)
    assert found["groups"][0] == {
        "group": "a.weight", "size": 64, "coordinates": 48, "shape": [64], "dtype": "float32",
    }  # fmt: skip
    assert [window["draws"] for window in found["windows"]] == [80, 80]


def test_show_of_a_dump_tells_its_events(capsys: Capture, tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path / "d", WIDE)
    early = {"wall_time": [0], "kind": ["dropped"], "count": [4], "detail": ["without a step"]}
    fields = [schema(Table.EVENTS).field(name) for name in early]  # of a run that had no event with a step or a group
    writer.append(Table.EVENTS, pa.RecordBatch.from_pydict(early, schema=pa.schema(fields)))
    columns = {"step": [3, 3, 9], "wall_time": [0, 1, 2], "kind": ["self_check", "non_finite", "non_finite"]}
    columns |= {"group": [None, "a.weight", "a.weight"], "count": [1, 2, 5], "detail": ["why", "one", "another"]}
    writer.append(Table.EVENTS, pa.RecordBatch.from_pydict(columns, schema=schema(Table.EVENTS)))
    writer.close()
    (found,) = lines(run(capsys, "show", tmp_path / "d", "--json")[1])
    assert [tuple(event.values()) for event in found["events"]] == [
        ("dropped", 1, 4, None, "without a step"),
        ("self_check", 1, 1, 3, "why"),
        ("non_finite", 2, 7, 3, "one"),
    ]
    assert "why" in run(capsys, "show", tmp_path / "d")[1]


def test_tail_of_a_dump_selects_as_an_analyzer_does(capsys: Capture, make_dump: Callable[..., Path]) -> None:
    dump = make_dump()
    rows = lines(run(capsys, "tail", dump, "--json", "--form", FORMS[0], "--group", "b.weight")[1])
    assert [(row["window"], row["group"]) for row in rows] == [(0, "b.weight"), (1, "b.weight")]
    followed = lines(run(capsys, "tail", dump, "--json", "--follow", "--form", FORMS[0], "--group", "b.weight")[1])
    assert [row["alpha"] for row in followed] == [row["alpha"] for row in rows]
    code, _, err = run(capsys, "tail", dump, "--group", "x")
    assert (code, "its groups are: a.weight, b.weight" in err) == (Exit.FAILED, True)


def test_analyze_prints_or_writes(capsys: Capture, make_dump: Callable[..., Path], tmp_path: Path) -> None:
    dump = make_dump()
    printed = lines(run(capsys, "analyze", dump, "--json", "--contrast", "mean", "--threads", 1)[1])
    out = tmp_path / "results.parquet"
    code, text, err = run(capsys, "analyze", dump, "--out", out, "--contrast", "mean")
    assert (code, text) == (Exit.DONE, "")
    assert "18 rows of 2 windows" in err
    table = parquet.read_table(out)
    assert table.schema.equals(TAIL_SCHEMA)
    assert table.column("alpha").to_pylist() == [row["alpha"] for row in printed]
    assert set(table.column("reference").to_pylist()) == {"mean"}
    (summary,) = lines(run(capsys, "analyze", dump, "--out", out, "--json", "--steps", "0")[1])
    assert summary == {"run": "wide", "windows": 2, "rows": 18, "out": str(out)}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_analyze_refuses_what_it_cannot_do(capsys: Capture, make_dump: Callable[..., Path], tmp_path: Path) -> None:
    dump = make_dump()
    assert run(capsys, "analyze", dump, "--threads", 0)[0] == Exit.USAGE
    assert run(capsys, "analyze", dump, "--out", tmp_path / "no" / "where.parquet")[0] == Exit.FAILED
    code, _, err = run(capsys, "analyze", tmp_path / "nowhere")
    assert (code, "there is no dump" in err) == (Exit.FAILED, True)


def test_a_torn_dump_is_analysed_as_far_as_it_is_whole_and_ends_4(
    capsys: Capture, make_dump: Callable[..., Path], tmp_path: Path
) -> None:
    dump = make_dump(windows=3)
    (segment,) = dump.glob("draws-*.arrow")
    torn = segment.with_suffix(".open")
    segment.rename(torn)
    os.truncate(torn, torn.stat().st_size * 6 // 10)
    for argv in (["tail", dump], ["analyze", dump], ["show", dump], ["tail", dump, "--follow"]):
        code, out, err = run(capsys, *argv, "--json")
        assert code == Exit.CORRUPT, argv
        assert "torn: draws" in err
        assert lines(out)
    table = lines(run(capsys, "tail", dump, "--json")[1])
    assert {row["window"] for row in table if row["status"] == "ok"} == {0}
    written = tmp_path / "t.parquet"
    assert run(capsys, "analyze", dump, "--out", written)[0] == Exit.CORRUPT
    assert parquet.read_table(written).num_rows == 27


def test_what_is_no_dump_is_4(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for text in (None, "nonsense", '{"schema_version": 99}'):
        if text is not None:
            (tmp_path / "d" / "run.json").write_text(text)
        for command in ("show", "tail", "analyze", "ship"):
            code, out, err = run(capsys, command, tmp_path / "d")
            assert (code, out) == (Exit.CORRUPT, ""), (command, text)
            assert str(tmp_path / "d") in err


def test_a_dump_with_too_little_is_5(capsys: Capture, make_dump: Callable[..., Path], tmp_path: Path) -> None:
    code, _, err = run(capsys, "analyze", make_dump("small", draws=8))
    assert (code, "no window carries an estimate" in err) == (Exit.TOO_LITTLE, True)
    writer = DumpWriter(tmp_path / "open", WIDE)
    writer.append(Table.DRAWS, draws_batch(range(40), info=WIDE))
    writer.close()
    code, _, err = run(capsys, "analyze", tmp_path / "open")
    assert (code, "no closed window" in err) == (Exit.TOO_LITTLE, True)


def test_a_dump_that_is_being_written_is_not_torn(capsys: Capture, tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path / "d", WIDE)
    writer.append(Table.DRAWS, draws_batch(range(80), info=WIDE))
    writer.append(Table.WINDOWS, windows_batch(0, 80, info=WIDE))
    assert run(capsys, "tail", tmp_path / "d")[0] == Exit.DONE
    assert lines(run(capsys, "show", tmp_path / "d", "--json")[1])[0]["run"]["recording"] == 1
    writer.close()
