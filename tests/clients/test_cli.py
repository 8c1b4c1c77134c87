"""Commands: usage, an analyzer, and the process they run as: what they print and how they end."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gradnoise.analyzer.analysis import Contrast, Plan
from gradnoise.cli import Exit, _analyze, _tail, main
from gradnoise.client import DEFAULT_TARGET
from gradnoise.wire import DumpWriter, Table
from gradnoise.wire.results import FORMS, FULL_FORMS, RUNS_SCHEMA, TAIL_SCHEMA

from ..analyzer.producing import INFO, Producer
from ..proto.dumps import draws_batch
from ..servers import free_port
from .commands import Analyzer, Capture, lines, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..analyzer.conftest import Serve


# --- help and usage


def test_help_documents_every_command_and_exit_code(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for command in ("serve", "ship", "runs", "show", "tail", "align", "measure", "analyze", "export", "fit", "demo"):
        assert f"\n    {command} " in text
    for code in Exit:
        assert f"\n  {code.value}  " in text
    assert DEFAULT_TARGET in text


def test_names_that_help_writes_out_are_those_of_the_analyzer() -> None:
    assert list(_tail.FORM_NAMES) == list(FULL_FORMS)
    assert list(_analyze._CONTRASTS) == list(Contrast)
    assert list(_analyze._PLANS) == list(Plan)


@pytest.mark.parametrize("command", ["runs", "show", "tail", "align", "export", "ship", "fit"])
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
        ["align"],
        ["align", "x", "--steps", "5:1"],
        ["measure"],
        ["measure", "x.py:f", "--order", "x"],
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
    asking = (["runs"], ["show", "wide"], ["tail", "wide"], ["align", "wide"])
    for argv in (["--help"], *asking, ["show", dump], ["ship", dump]):
        done = _python(WITHOUT_EXTRAS, *argv)
        assert (done.returncode, done.stderr.count("gradnoise[")) == (0, 0), (argv, done.stderr)
    done = _python(WITHOUT_EXTRAS, "demo", "--out", tmp_path / "demo")
    assert (done.returncode, "pip install 'gradnoise[demo]'" in done.stderr) == (Exit.FAILED, True)
    assert not (tmp_path / "demo").exists()
    for argv in (["analyze", dump], ["tail", dump], ["align", dump], ["serve", "--data", tmp_path / "data"]):
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


def test_an_analysis_takes_one_thread_a_matrix_unless_told_otherwise(
    capsys: Capture, make_dump: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = make_dump()
    for given, expected in ((None, "1"), ("2", "2")):
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        if given is not None:
            monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
        assert run(capsys, "show", dump)[0] == Exit.DONE
        assert os.environ["OPENBLAS_NUM_THREADS"] == expected
    done = _python("import sys, gradnoise.cli; print('numpy' in sys.modules)")  # which reads it when it is loaded
    assert done.stdout.split() == ["False"]


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
