"""Every command, in this process: what it prints and how it ends."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from gradnoise.analyzer.analysis import Contrast, Plan
from gradnoise.cli import Exit, _analyze, _tail, main
from gradnoise.client import DEFAULT_TARGET
from gradnoise.wire import DumpWriter, Table, schema
from gradnoise.wire.results import FORMS, FULL_FORMS, RUNS_SCHEMA, TAIL_SCHEMA

from ..analyzer.producing import INFO, WIDE, Producer
from ..proto.dumps import draws_batch, windows_batch
from ..servers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gradnoise.analyzer.server import Server

    from ..analyzer.conftest import Serve

Analyzer = tuple[str, "Server"]
MakeDump = "Callable[..., Path]"
Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *argv: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main([str(part) for part in argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def lines(out: str) -> list[dict[str, Any]]:
    """JSON lines; NaN is none of JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in out.splitlines()]


# --- help and usage


def test_help_documents_every_command_and_exit_code(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for command in ("serve", "ship", "runs", "show", "tail", "analyze", "export", "fit", "demo"):
        assert f"\n    {command} " in text
    for code in Exit:
        assert f"\n  {code.value}  " in text
    assert DEFAULT_TARGET in text


def test_names_that_help_writes_out_are_those_of_the_analyzer() -> None:
    assert list(_tail.FORM_NAMES) == list(FULL_FORMS)
    assert list(_analyze._CONTRASTS) == list(Contrast)
    assert list(_analyze._PLANS) == list(Plan)


@pytest.mark.parametrize("command", ["runs", "show", "tail", "export", "ship", "fit"])
def test_help_says_which_analyzer_is_asked(capsys: Capture, command: str) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split("exit codes:")[0].split())
    if command == "fit":
        assert "--endpoint HOST:PORT fit on that analyzer (default: here)" in text
        assert "fit asks one only where --endpoint is given" in text
    else:
        assert f"--endpoint HOST:PORT the analyzer (default: $GRADNOISE_ENDPOINT, else {DEFAULT_TARGET})" in text


def test_fit_asks_no_analyzer_that_it_is_not_told_of(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADNOISE_ENDPOINT", f"127.0.0.1:{free_port()}")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal(40))
    assert run(capsys, "fit", tmp_path / "x.npy")[0] == Exit.DONE


def test_an_interrupt_is_130(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradnoise.cli._runs.connect", interrupted)
    assert run(capsys, "runs") == (130, "", "")


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("gradnoise 0.")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["tail"],
        ["tail", "x", "--form", "x"],
        ["tail", "x", "--steps", "a:b"],
        ["tail", "x", "--steps", "5:1"],
        ["tail", "x", "--steps", ":"],
        ["analyze", "x", "--contrast", "x"],
        ["serve"],
    ],
)
def test_wrong_usage_is_2(capsys: Capture, argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == Exit.USAGE
    assert "usage: gradnoise" in capsys.readouterr().err


# --- an analyzer


def test_runs(capsys: Capture, analyzer: Analyzer) -> None:
    code, out, _ = run(capsys, "runs")
    assert code == Exit.DONE
    header, row = (line.split() for line in out.splitlines())
    assert header == RUNS_SCHEMA.names
    assert row[:2] == ["wide", "Net"]
    code, out, _ = run(capsys, "runs", "--json")
    (found,) = lines(out)
    assert list(found) == RUNS_SCHEMA.names
    assert (found["run"], found["windows"], found["analysed"]) == ("wide", 2, 2)


def test_show(capsys: Capture, analyzer: Analyzer) -> None:
    code, out, _ = run(capsys, "show", "wide")
    assert code == Exit.DONE
    assert "a.weight" in out
    (found,) = lines(run(capsys, "show", "wide", "--json")[1])
    assert found["run"]["run"] == "wide"
    assert [group["group"] for group in found["groups"]] == ["a.weight", "b.weight"]
    assert [window["window"] for window in found["windows"]] == [0, 1]


def test_show_of_a_run_without_results_says_what_it_is(capsys: Capture, serve: Serve) -> None:
    server, channel = serve()
    Producer(channel, INFO).open()
    (found,) = lines(run(capsys, "show", INFO.run, "--json", "--endpoint", server.address)[1])
    assert found["groups"] == [
        {"group": "a.weight", "size": 12, "coordinates": 4, "shape": [4, 3], "dtype": "float32"},
        {"group": "a.bias", "size": 2, "coordinates": 2, "shape": [2], "dtype": "float32"},
    ]
    assert (found["run"]["plan.coordinates"], found["run"]["version.python"]) == (4, "3.11")
    assert found["windows"] == []
    code, out, _ = run(capsys, "show", INFO.run, "--endpoint", server.address)
    assert code == Exit.DONE
    assert "[4, 3]" in out


def test_tail(capsys: Capture, analyzer: Analyzer) -> None:
    code, out, err = run(capsys, "tail", "wide")
    assert code == Exit.DONE
    header, *rows = out.split("\n\n")[0].splitlines()
    assert header.split() == [
        *("window", "steps", "group", "form", "draws", "alpha", "[95", "%]", "gauss", "x4", "x16", "sums", "scale"),
        *("ref", "status", "verdict"),
    ]
    assert len(rows) == 18
    assert max(map(len, rows)) <= 140
    assert "alpha: stable index" in err
    found = lines(run(capsys, "tail", "wide", "--json")[1])
    assert len(found) == 18
    assert list(found[0]) == TAIL_SCHEMA.names
    assert found[0]["alpha_sum16"] is None
    selected = lines(run(capsys, "tail", "wide", "--json", "--form", FORMS[2], "--group", "*", "--steps", "0:5")[1])
    assert [(row["window"], row["form"], row["group"]) for row in selected] == [(0, FORMS[2], "*"), (1, FORMS[2], "*")]
    assert run(capsys, "tail", "wide", "--json", "--steps", "900:")[:2] == (Exit.DONE, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_tail_follows(capsys: Capture, analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    from gradnoise.client import Client

    watch = Client.watch

    def three(self: Client, *args: Any, **keys: Any) -> Any:
        rows = watch(self, *args, **keys)
        yield from (next(rows) for _ in range(3))
        rows.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "watch", three)
    code, out, err = run(capsys, "tail", "wide", "--follow", *options)
    assert code == Exit.DONE
    assert len(out.splitlines()) == 3 + (not options)
    assert "no longer following" in err
    assert run(capsys, "tail", "wide", "--follow", "--json", "--steps", "900:")[1] == ""


def test_what_an_analyzer_does_not_have_is_1(capsys: Capture, analyzer: Analyzer) -> None:
    for argv in (["tail", "x"], ["tail", "x", "--follow"], ["tail", "wide", "--group", "x"], ["show", "x"]):
        code, out, err = run(capsys, *argv)
        assert (code, out) == (Exit.FAILED, "") or argv[-1] == "--follow"
        assert code == Exit.FAILED
        assert err.splitlines()[-1].startswith(f"gradnoise {argv[0]}: no ")


def test_an_analyzer_that_does_not_answer_is_3(capsys: Capture, make_dump: Callable[..., Path]) -> None:
    endpoint = f"--endpoint=127.0.0.1:{free_port()}"
    for argv in (["runs"], ["show", "x"], ["tail", "x"], ["tail", "x", "-f"], ["ship", make_dump(), "--grace", "0.1"]):
        code, _, err = run(capsys, *argv, endpoint)
        assert code == Exit.UNREACHABLE
        assert "127.0.0.1" in err


def test_ship(capsys: Capture, analyzer: Analyzer, make_dump: Callable[..., Path]) -> None:
    dump = make_dump()
    code, out, _ = run(capsys, "ship", dump)
    assert code == Exit.DONE
    assert out.splitlines()[0] == f"run wide at {analyzer[0]}"
    code, out, _ = run(capsys, "ship", dump, "--json")
    (found,) = lines(out)
    assert (code, found["run"]) == (Exit.DONE, "wide")
    assert found["producers"][0]["tables"]["draws"] == 2


def test_shipping_a_run_whose_name_is_taken_is_1(capsys: Capture, analyzer: Analyzer, tmp_path: Path) -> None:
    import dataclasses

    writer = DumpWriter(tmp_path / "d", dataclasses.replace(INFO, run="wide"))
    writer.append(Table.DRAWS, draws_batch(range(3)))
    writer.close()
    code, _, err = run(capsys, "ship", tmp_path / "d")
    assert code == Exit.FAILED
    assert "another run name" in err


# --- a dump, without an analyzer


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


# --- fit


@pytest.fixture
def values() -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(1).standard_normal(200) + 5


@pytest.mark.parametrize("kind", ["npy", "arrow", "stream.arrow", "parquet", "csv", "bare.csv"])
def test_fit_reads_every_kind_of_file(
    capsys: Capture, tmp_path: Path, values: np.ndarray[Any, np.dtype[np.float64]], kind: str
) -> None:
    file = tmp_path / f"x.{kind}"
    table = pa.table({"x": values})
    if kind == "npy":
        np.save(file, values)
    elif kind == "arrow":
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    elif kind == "stream.arrow":
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    elif kind == "parquet":
        parquet.write_table(table, file)
    elif kind == "csv":
        csv.write_csv(table, file)
    else:
        np.savetxt(file, values)
    code, out, _ = run(capsys, "fit", file, "--json")
    assert code == Exit.DONE
    found = {(row["law"], row["parameter"]): row for row in lines(out)}
    assert found["gaussian", "mean"]["value"] == pytest.approx(values.mean(), rel=1e-6)
    assert found["stable", "alpha"]["n"] == 200
    code, out, _ = run(capsys, "fit", file)
    assert (code, out.split()[:3]) == (Exit.DONE, ["law", "parameter", "value"])


def test_fit_chooses_a_column_and_a_symmetric_law(
    capsys: Capture, tmp_path: Path, values: np.ndarray[Any, np.dtype[np.float64]]
) -> None:
    file = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"a": values, "b": values - 5, "v": [[v, -v] for v in values]}), file)
    rows = lines(run(capsys, "fit", file, "--column", "b", "--symmetric", "--json")[1])
    assert "location" not in {row["parameter"] for row in rows}
    assert {row["verdict"] for row in rows} <= {"gaussian", "undecided"}
    assert lines(run(capsys, "fit", file, "--column", "v", "--json")[1])[0]["n"] == 400
    code, _, err = run(capsys, "fit", file)
    assert (code, "choose one with --column" in err) == (Exit.USAGE, True)
    code, _, err = run(capsys, "fit", file, "--column", "z")
    assert (code, "its columns are: a, b, v" in err) == (Exit.USAGE, True)


def test_fit_on_an_analyzer(
    capsys: Capture, tmp_path: Path, analyzer: Analyzer, values: np.ndarray[Any, np.dtype[np.float64]]
) -> None:
    np.save(tmp_path / "x.npy", values)
    here = lines(run(capsys, "fit", tmp_path / "x.npy", "--json")[1])
    there = lines(run(capsys, "fit", tmp_path / "x.npy", "--json", "--endpoint", analyzer[0])[1])
    assert here == there
    np.save(tmp_path / "few.npy", values[:10])
    assert run(capsys, "fit", tmp_path / "few.npy", "--endpoint", analyzer[0])[0] == Exit.TOO_LITTLE


def _bad_files(tmp_path: Path) -> dict[str, tuple[Path, Exit]]:
    def saved(name: str, array: Any) -> Path:
        np.save(tmp_path / name, np.asarray(array))
        return tmp_path / name

    def written(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return {
        "no file": (tmp_path / "none.npy", Exit.FAILED),
        "another kind": (written("x.txt", "1"), Exit.USAGE),
        "text": (saved("text.npy", ["a"] * 40), Exit.CORRUPT),
        "text in a column": (written("text.csv", "x\n" + "a\n" * 40), Exit.CORRUPT),
        "objects": (written("objects.npy", "not numpy"), Exit.CORRUPT),
        "not parquet": (written("x.parquet", "junk"), Exit.CORRUPT),
        "not arrow": (written("x.arrow", "junk"), Exit.CORRUPT),
        "a matrix": (saved("matrix.npy", np.ones((40, 2))), Exit.CORRUPT),
        "empty": (saved("empty.npy", []), Exit.TOO_LITTLE),
        "an empty column": (written("empty.csv", "x\n"), Exit.TOO_LITTLE),
        "an empty file": (written("nothing.csv", ""), Exit.CORRUPT),
        "constant": (saved("constant.npy", np.ones(40)), Exit.FAILED),
        "too few": (saved("few.npy", np.arange(29.0)), Exit.TOO_LITTLE),
        "not finite": (saved("nan.npy", np.full(40, np.nan)), Exit.FAILED),
    }


@pytest.mark.parametrize("name", [
    "no file", "another kind", "text", "text in a column", "objects", "not parquet", "not arrow", "a matrix", "empty",
    "an empty column", "an empty file", "constant", "too few", "not finite",
])  # fmt: skip
def test_what_cannot_be_fitted_says_why(capsys: Capture, tmp_path: Path, name: str) -> None:
    file, expected = _bad_files(tmp_path)[name]
    code, out, err = run(capsys, "fit", file)
    assert (code, out) == (expected, "")
    assert err.startswith("gradnoise fit: ")
    assert len(err) > 30


# --- as a process


def _python(program: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_a_reader_that_has_enough_is_no_error(make_dump: Callable[..., Path]) -> None:
    tail = [sys.executable, "-m", "gradnoise.cli", "show", str(make_dump())]
    read, write = os.pipe()
    os.close(read)  # nobody reads
    with os.fdopen(write, "wb") as nowhere:
        done = subprocess.run(tail, stdout=nowhere, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


WITHOUT_EXTRAS = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"scipy", "statsmodels", "numba", "grpc_health", "tqdm", "torch", "sklearn"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from gradnoise.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_base_install_asks_and_the_rest_names_what_to_install(
    analyzer: Analyzer, make_dump: Callable[..., Path], tmp_path: Path
) -> None:
    dump = make_dump()
    for argv in (["--help"], ["runs"], ["show", "wide"], ["tail", "wide"], ["show", dump], ["ship", dump]):
        done = _python(WITHOUT_EXTRAS, *argv)
        assert (done.returncode, done.stderr.count("gradnoise[")) == (0, 0), (argv, done.stderr)
    done = _python(WITHOUT_EXTRAS, "demo", "--out", tmp_path / "demo")
    assert (done.returncode, "pip install 'gradnoise[demo]'" in done.stderr) == (Exit.FAILED, True)
    assert not (tmp_path / "demo").exists()
    for argv in (["analyze", dump], ["tail", dump], ["serve", "--data", tmp_path / "data"]):
        done = _python(WITHOUT_EXTRAS, *argv)
        assert done.returncode == Exit.FAILED
        assert "pip install 'gradnoise[analyzer]'" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["scipy", "numba", "grpc_health", "tqdm", "torch", "sklearn"])
def test_the_demo_says_at_once_what_to_install(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def begun(path: Path) -> None:
        raise AssertionError("the demo has begun")

    find = importlib.util.find_spec
    monkeypatch.setattr("gradnoise.cli._demo._fresh", begun)
    monkeypatch.setattr("gradnoise.cli._demo.find_spec", lambda name: None if name == missing else find(name))
    code, out, err = run(capsys, "demo", "--out", tmp_path / "demo")
    assert (code, out) == (Exit.FAILED, "")
    assert err == (
        f"gradnoise demo: this command needs {missing}, which is not installed: pip install 'gradnoise[demo]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom gradnoise.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'grpc', 'numba', 'scipy', 'sklearn', 'torch', 'tqdm'} & set(sys.modules)))"
    )
    done = _python(program)
    assert done.stdout.splitlines()[-1] == "[]"


def test_tail_tables_count_what_is_missing_and_part_producers() -> None:
    from gradnoise.cli._tail import tail_table

    row = dict.fromkeys(TAIL_SCHEMA.names) | {
        "producer": "b" * 32, "window": 401, "first_step": 200, "last_step": 200, "group": "w", "form": "per_parameter",
        "draws": 365, "dropped": 147, "sums": "flat", "reference": "pair", "status": "too_few_draws",
        "reason": "because", "verdict": "undecided",
    }  # fmt: skip
    text = tail_table([row | {"form": form} for form in ("per_parameter", "across_parameter")])
    assert "365/512" in text
    assert "producer" not in text
    assert text.endswith("too_few_draws: because [401 w per-param, 401 w across]")
    two = tail_table([row, row | {"producer": "a" * 32, "window": 201, "first_step": 100}]).splitlines()
    assert [line.split()[0] for line in two[:3]] == ["producer", "aaaaaaaa", "bbbbbbbb"]
