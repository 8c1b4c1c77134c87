"""``gradnoise align`` and what the other commands say of measurements of the curvature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pyarrow import parquet

from gradnoise.analyzer.aligning import LOSS
from gradnoise.cli import Exit
from gradnoise.cli._align import alignment_table
from gradnoise.client import Client
from gradnoise.wire import DumpWriter, Table, curvature_batch
from gradnoise.wire.results import ALIGNMENT_SCHEMA, TAIL_SCHEMA

from ..analyzer.measuring import barrier, closing, hessian, send_curvature, sharpness
from ..analyzer.producing import WIDE, Producer, idle
from ..proto.dumps import draws_batch, windows_batch
from ..servers import free_port
from .commands import Capture, lines, run

if TYPE_CHECKING:
    from pathlib import Path

    from ..analyzer.conftest import Serve


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """An ordinary window and two measurements, at steps 100 and 200, of two parts each."""
    writer = DumpWriter(tmp_path / "dump", WIDE)
    for draws in (range(40), range(40, 80)):
        writer.append(Table.DRAWS, draws_batch(draws, info=WIDE))
    writer.append(Table.WINDOWS, windows_batch(0, 80, info=WIDE))
    for step in (100, 200):
        writer.append(Table.CURVATURE, curvature_batch([hessian(step, "a.*"), hessian(step)]))
        writer.append(Table.WINDOWS, closing(step))
    writer.close()
    return tmp_path / "dump"


@pytest.fixture
def analyzer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> str:
    """An analyzer that has the same."""
    server, channel = serve()
    producer = Producer(channel, WIDE)
    producer.open()
    producer.send_window()
    for number, step in enumerate((100, 200)):
        send_curvature(producer, number, step, [hessian(step, "a.*"), hessian(step)], closes=number + 1)
    idle(server.service.store, server.service.catalog)
    monkeypatch.setenv("GRADNOISE_ENDPOINT", server.address)
    return server.address


def test_align_prints_a_table_for_each_measurement_and_part(capsys: Capture, dump: Path) -> None:
    code, out, err = run(capsys, "align", dump)
    assert code == Exit.DONE
    blocks = out.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        "burst of * (128 parameters) at step 0-79, 80 draws",
        *(f"hessian of {part} (20 parameters) at step {s}, 256 draws" for s in (100, 200) for part in ("a.*", "*")),
    ]
    assert blocks[0].endswith("\n2 groups more: --part shows one, --metric b_simple all")
    assert run(capsys, "align", dump, "--part", "a.weight")[1].startswith("burst of a.weight (64 parameters)")
    assert run(capsys, "align", dump, "--metric", "b_simple")[1].count("burst of ") == 3
    header, *rows = blocks[-1].splitlines()[1:]
    assert header.split() == ["metric", "value", "[95", "%]", "null", "[95", "%]", "n", "what", "it", "says"]
    assert any(row.startswith("gamma ") and "exponent of the noise's variance" in row for row in rows)
    assert any(row.startswith("matrix_cosine ") and row.endswith("above its null") for row in rows)
    assert sum(row.startswith("eigenvalue ") for row in rows) == 5
    assert any("rows more of eigenvalue, variance" in row for row in rows)
    assert any(row.startswith("not_measured: ") and row.endswith("[tic_damped]") for row in rows)
    assert "docs/alignment.md" in err


def test_align_of_a_dump_and_of_an_analyzer_select_the_same(capsys: Capture, dump: Path, analyzer: str) -> None:
    def rows(*argv: object) -> list[dict[str, Any]]:
        code, out, _ = run(capsys, "align", *argv, "--json")
        assert code == Exit.DONE
        found = lines(out)
        assert all(list(row) == ALIGNMENT_SCHEMA.names for row in found)
        return found

    for options in ([], ["--part", "a.*"], ["--metric", "eigenvalue"], ["--steps", "150:"], ["--metric", LOSS]):
        here, there = rows(dump, *options), rows("wide", *options)
        own = ("row", "producer", "analysed_at")
        assert [{k: v for k, v in row.items() if k not in own} for row in here] == [
            {k: v for k, v in row.items() if k not in own} for row in there
        ], options
        assert here
    assert len(rows(dump, "--metric", "eigenvalue", "--part", "*", "--steps", "100")) == 12
    assert run(capsys, "align", dump, "--metric", "eigenvalue", "--part", "*")[1].count("\neigenvalue ") == 24


@pytest.mark.parametrize("options", [["--follow"], ["--watch", "--json"]])
def test_align_follows_an_analyzer(
    capsys: Capture, analyzer: str, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    watch = Client.watch_alignment

    def three(self: Client, *args: Any, **keys: Any) -> Any:
        rows = watch(self, *args, **keys)
        yield from (next(rows) for _ in range(3))
        rows.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "watch_alignment", three)
    code, out, err = run(capsys, "align", "wide", "--metric", "gamma", *options)
    assert code == Exit.DONE
    assert len(out.splitlines()) == 3 + ("--json" not in options)
    assert "no longer following" in err


def test_align_follows_a_dump(capsys: Capture, dump: Path) -> None:
    stored = lines(run(capsys, "align", dump, "--json", "--metric", "gamma")[1])
    followed = lines(run(capsys, "align", dump, "--json", "--metric", "gamma", "-f")[1])
    assert [row["value"] for row in followed] == [row["value"] for row in stored]
    assert len(lines(run(capsys, "align", dump, "--json", "--metric", "gamma", "-f", "--steps", "200")[1])) == 2


def test_what_there_is_not_is_1_with_the_names_there_are(capsys: Capture, dump: Path, analyzer: str) -> None:
    for name in (dump, "wide"):
        for options in ([], ["--watch"]):
            code, _, err = run(capsys, "align", name, "--part", "x", *options)
            assert (code, "its parts are: *, a" in err) == (Exit.FAILED, True)
            code, _, err = run(capsys, "align", name, "--metric", "x", *options)
            assert (code, "the metrics are: loss, gamma" in err) == (Exit.FAILED, True)
    code, _, err = run(capsys, "align", "nowhere")
    assert (code, "the runs here are: wide" in err) == (Exit.FAILED, True)
    code, _, err = run(capsys, "align", "wide", "--endpoint", f"127.0.0.1:{free_port()}")
    assert code == Exit.UNREACHABLE


def test_where_there_is_nothing_align_says_so(capsys: Capture, dump: Path) -> None:
    code, out, err = run(capsys, "align", dump, "--steps", "900:")
    assert (code, out) == (Exit.DONE, "")
    assert "nothing of that" in err


def test_show_names_measurements_among_the_windows(capsys: Capture, dump: Path, analyzer: str) -> None:
    for name in (dump, "wide"):
        (found,) = lines(run(capsys, "show", name, "--json")[1])
        assert [(row["window"], row["kind"], row["first_step"], row["draws"]) for row in found["windows"]] == [
            (0, "burst", 0, 80), (-101, "curvature", 100, 256), (-201, "curvature", 200, 256),
        ]  # fmt: skip
        assert found["run"]["windows"] == 3
    assert found["run"]["analysed"] == 3


def test_analyze_writes_alignment_beside_the_tails(capsys: Capture, dump: Path, tmp_path: Path) -> None:
    tails, alignment = tmp_path / "tails.parquet", tmp_path / "alignment.parquet"
    code, _, err = run(capsys, "analyze", dump, "--out", tails, "--alignment", alignment)
    assert code == Exit.DONE
    assert parquet.read_table(tails).schema.equals(TAIL_SCHEMA)
    table = parquet.read_table(alignment)
    assert table.schema.equals(ALIGNMENT_SCHEMA)
    assert f"{table.num_rows} rows of alignment in {alignment}" in err
    numbers = [*parquet.read_table(tails)["row"].to_pylist(), *table["row"].to_pylist()]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    printed = run(capsys, "analyze", dump, "--json")
    assert len(lines(printed[1])) == 9
    assert f"gradnoise align {dump}" in printed[2]
    assert run(capsys, "analyze", dump, "--alignment", tmp_path / "x.csv")[0] == Exit.USAGE
    assert run(capsys, "analyze", dump, "--alignment", tmp_path / "no" / "x.parquet")[0] == Exit.FAILED


def test_a_dump_of_measurements_alone_is_enough(capsys: Capture, tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path / "d", WIDE)
    landscape = [sharpness([1.0, 2.0, 1.5, 2.5]), barrier([0.0, 0.5, 1.0], [1.0, 4.0, 2.0])]
    writer.append(Table.CURVATURE, curvature_batch(landscape))
    writer.append(Table.WINDOWS, closing(0))
    writer.close()
    assert run(capsys, "analyze", tmp_path / "d")[0] == Exit.DONE
    out = run(capsys, "align", tmp_path / "d")[1]
    assert "sharpness of * (20 parameters) at step 0" in out
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("barrier ")] == [
        ["barrier", "of"], ["barrier", "2.5"],
    ]  # fmt: skip


def test_tables_part_producers_and_tell_a_failure_once() -> None:
    row = dict.fromkeys(ALIGNMENT_SCHEMA.names) | {
        "producer": "a" * 32, "window": -1, "kind": "hessian", "part": "*", "dimension": 5, "draws": 0, "first_step": 0,
        "last_step": 0, "row": 1, "metric": "loss", "n": 0, "status": "failed", "reason": "because", "warnings": ["w"],
    }  # fmt: skip
    text = alignment_table([row, row | {"producer": "b" * 32, "row": 2}], whole=False)
    assert text == (
        "hessian of * (5 parameters) at step 0, producer aaaaaaaa\nfailed: because [loss]\n\n"
        "hessian of * (5 parameters) at step 0, producer bbbbbbbb\nfailed: because [loss]"
    )


def test_alignment_is_exported_as_scalars(capsys: Capture, dump: Path, analyzer: str, tmp_path: Path) -> None:
    from .test_export import tensorboard_scalars, tensorboard_texts

    rows = lines(run(capsys, "align", dump, "--json", "--part", "*", "--metric", "eigenvalue")[1])
    for name in (dump, "wide"):
        argv = ("export", name, "--tensorboard", tmp_path / str(name is dump), "--alignment", "--part", "*")
        code, out, _ = run(capsys, *argv, "--metric", "eigenvalue")
        assert (code, out) == (Exit.DONE, "72 numbers of 24 rows written, 0 were there already\n")
        ((place,),) = [tuple((tmp_path / str(name is dump) / "wide").iterdir())]
        found = tensorboard_scalars(place)
        assert set(found) == {
            f"gradnoise/eigenvalue-{index}/whole_model/hessian/{number}"
            for index in range(12)
            for number in ("value", "low", "high")
        }
        third = [row for row in rows if row["index"] == 3]
        steps, values = zip(*found["gradnoise/eigenvalue-3/whole_model/hessian/value"], strict=True)
        assert list(steps) == [row["last_step"] for row in third]
        assert list(values) == pytest.approx([row["value"] for row in third])
        text = tensorboard_texts(place)["gradnoise/eigenvalue-3/whole_model/hessian/verdict"]
        assert text == [(100, "lambda_i"), (200, "lambda_i")]
    for wrong in (["--metric", "gamma"], ["--alignment", "--form", "standardized"], ["--alignment", "--group", "*"]):
        assert run(capsys, "export", dump, "--tensorboard", tmp_path / "x", *wrong)[0] == Exit.USAGE


def test_control_characters_of_whoever_made_the_dump_reach_no_terminal(capsys: Capture, tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path / "dump", WIDE)
    measured = hessian(0, "a\x1b[2J\nforged", notes=("\x9bm\x1b]0;title\x07\r\nwarning: forged",))
    writer.append(Table.CURVATURE, curvature_batch([measured]))
    writer.append(Table.WINDOWS, closing(0))
    writer.close()
    for options in ((), ("--follow",), ("--json",)):
        _, out, err = run(capsys, "align", tmp_path / "dump", *options)
        assert all(char == "\n" or char.isprintable() for char in out + err)
        assert "\\u001b[2J" in out
        assert not any(line.startswith(("forged", "warning: forged")) for line in (out + err).splitlines())
    found = lines(run(capsys, "align", tmp_path / "dump", "--json")[1])
    assert {row["part"] for row in found} == {measured.part}
    assert all(measured.notes[0] in row["warnings"] for row in found)
