"""``gradnoise ship``: what it takes, prints and ends with."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gradnoise.cli import main
from gradnoise.cli._exit import Exit
from gradnoise.wire import DumpWriter, Table

from ..collector.fake import FakeIngest, FakeServer, TokenCheck
from ..proto.dumps import INFO, draws_batch, windows_batch
from ..servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    server = FakeServer(FakeIngest())
    monkeypatch.setenv("GRADNOISE_ENDPOINT", server.endpoint)
    yield server
    server.stop()


def dump(path: Path, run: str) -> str:
    writer = DumpWriter(path, replace(INFO, run=run))
    writer.append(Table.DRAWS, draws_batch(range(3)))
    writer.append(Table.WINDOWS, windows_batch(0, 3))
    writer.close()
    return writer.producer


def run(capsys: Capture, *argv: object) -> tuple[int, str, str]:
    code = main([str(each) for each in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def usage(capsys: Capture, *argv: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in argv])
    assert ended.value.code == Exit.USAGE
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("grace", ["nan", "inf", "-1", "ten"])
def test_a_grace_that_is_no_time_is_wrong_usage(capsys: Capture, tmp_path: Path, grace: str) -> None:
    assert f"'{grace}' is not a number of seconds, 0 or more" in usage(capsys, "ship", tmp_path, f"--grace={grace}")


def test_one_dump_or_a_directory_to_watch(capsys: Capture, tmp_path: Path) -> None:
    assert "one of the arguments DUMP --watch is required" in usage(capsys, "ship")
    assert "not allowed with" in usage(capsys, "ship", tmp_path, "--watch", tmp_path)
    for option in (["--streams", "2"], ["--until-done"], ["--metrics", "127.0.0.1:0"]):
        assert f"{option[0]} goes with --watch" in usage(capsys, "ship", tmp_path, *option)
    assert "is not a number of streams, 1 to 64" in usage(capsys, "ship", "--watch", tmp_path, "--streams", "0")


def test_a_watched_directory_is_shipped_and_told_of(capsys: Capture, tmp_path: Path, server: FakeServer) -> None:
    producers = {name: dump(tmp_path / name, name) for name in ("a", "b")}
    code, out, err = run(capsys, "ship", "--watch", tmp_path, "--until-done", "--metrics", "127.0.0.1:0")
    assert code == Exit.DONE
    first, _, *table = out.splitlines()
    assert first == f"2 producers whole at {server.endpoint}, 0 not"
    assert sorted(line.split() for line in table) == [[name, producers[name], "2", "6"] for name in ("a", "b")]
    assert re.search(r"^gradnoise ship: metrics at http://127\.0\.0\.1:\d+/metrics$", err, re.MULTILINE)
    assert "gradnoise ship: 0 live, 0 waiting, 2 done, 0 failed; 4 batches" in err
    code, out, _ = run(capsys, "ship", "--watch", tmp_path, "--until-done", "--json")
    found = json.loads(out)
    assert (code, found["done"], found["failed"], found["dumps"]) == (Exit.DONE, 2, 0, [])


def test_what_could_not_be_shipped_shows_in_the_exit_code(capsys: Capture, tmp_path: Path, server: FakeServer) -> None:
    dump(tmp_path / "a", "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text("{")
    assert run(capsys, "ship", "--watch", tmp_path, "--until-done")[0] == Exit.CORRUPT
    away = ["--until-done", "--endpoint", f"127.0.0.1:{free_port()}", "--grace", "0.2"]
    assert run(capsys, "ship", "--watch", tmp_path / "a", *away)[0] == Exit.UNREACHABLE
    code, _, err = run(capsys, "ship", "--watch", tmp_path / "none", *away)
    assert (code, "there is no such directory" in err) == (Exit.FAILED, True)


def test_a_refused_client_is_told_why(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump(tmp_path, "a")
    server = FakeServer(FakeIngest(), check=TokenCheck("other"))
    for argv in (["--watch", tmp_path], [tmp_path]):
        code, out, err = run(capsys, "ship", *argv, "--endpoint", server.endpoint)
        assert (code, out) == (Exit.FAILED, "")
        assert "set GRADNOISE_TOKEN" in err
    monkeypatch.setenv("GRADNOISE_TLS_CA", str(tmp_path / "none.pem"))
    code, _, err = run(capsys, "ship", tmp_path, "--endpoint", server.endpoint)
    assert (code, "none.pem cannot be read" in err) == (Exit.FAILED, True)
    server.stop()


def test_metrics_without_their_package_are_named(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    code, _, err = run(capsys, "ship", "--watch", tmp_path, "--metrics", "127.0.0.1:0")
    assert (code, "pip install 'gradnoise[metrics]'" in err) == (Exit.FAILED, True)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_watch_well(tmp_path: Path, server: FakeServer, how: signal.Signals) -> None:
    writer = DumpWriter(tmp_path / "a", replace(INFO, run="a"))
    writer.append(Table.DRAWS, draws_batch(range(3)))
    command = [sys.executable, "-m", "gradnoise.cli", "ship", "--watch", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.ingest.wait_for(1)
    process.send_signal(how)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (Exit.DONE, False)
    assert out.startswith("0 producers whole at")
    assert not list(tmp_path.glob("a/*.lease"))
    writer.close()
