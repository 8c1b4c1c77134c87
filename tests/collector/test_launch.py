"""The shipper beside a training: watched, started again, one a machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gradnoise.collector import Sampling, attach
from gradnoise.collector._recording import sink as _sink
from gradnoise.collector._shipping import launch as _launch
from gradnoise.collector._shipping.launch import Shipping
from gradnoise.collector._shipping.lease import Lease
from gradnoise.collector._shipping.progress import Progress, ShipState
from gradnoise.wire import Dump, DumpWriter

from ..proto.dumps import INFO
from ..servers import until
from .fake import FakeIngest, FakeServer
from .loops import Data, messages, mlp, rows, train
from .test_bursts import sgd
from .test_shipper import assert_stored, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Process:
    """A process of which only the exit code is known."""

    def __init__(self, code: int | None = None) -> None:
        self.code = self.returncode = code

    def poll(self) -> int | None:
        return self.code


class Launcher:
    """Starts nothing, remembers what was started, and keeps the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.started: list[tuple[list[str], Process]] = []
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep)
        monkeypatch.setattr(_launch, "time", clock)
        monkeypatch.setattr(_launch.subprocess, "Popen", self._start)  # type: ignore[attr-defined]

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _start(self, command: list[str], **_: Any) -> Process:
        process = Process()
        self.started.append((command, process))
        return process

    @property
    def last(self) -> Process:
        return self.started[-1][1]


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    for variable in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    return Launcher(monkeypatch)


def say(dump: Path, state: ShipState, error: str | None = None) -> None:
    Progress("there:1", state, error=error).write(dump, "p")


def test_contact_in_time_and_the_end_of_a_shipment_are_no_cause_for_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, launcher: Launcher
) -> None:
    shipping = Shipping.start(tmp_path, "p", "there:1")
    unreachable, shipped = ShipState.UNREACHABLE, ShipState.SHIPPING
    for at, state in ((0, unreachable), (9, unreachable), (10, shipped), (11, unreachable), (20, unreachable)):
        launcher.now = at
        say(tmp_path, state, "gone" if state is unreachable else None)
        assert shipping.look()
    assert messages(caplog) == []
    launcher.now = 21
    assert shipping.look(), "it goes on looking: the shipper may die"
    assert shipping.look()
    (message,) = messages(caplog)
    assert "there:1 has not acknowledged everything (gone)" in message
    say(tmp_path, ShipState.DONE)
    assert not shipping.look()
    assert not Shipping(tmp_path, "p", "there:1", None).look()
    assert len(messages(caplog)) == 1


def test_a_shipper_that_dies_is_started_again_a_few_times_ever_later_and_given_up_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, launcher: Launcher
) -> None:
    shipping = Shipping.start(tmp_path, "p", "there:1")
    say(tmp_path, ShipState.SHIPPING)
    pauses = []
    for count in range(1, 6):
        assert len(launcher.started) == count
        launcher.last.code = -9
        died = launcher.now
        while len(launcher.started) == count:
            assert shipping.look()
            launcher.now += 0.5
            assert launcher.now < died + 100
        pauses.append(launcher.now - died - 0.5)
    assert pauses == [2, 4, 8, 16, 32]
    assert len({tuple(command) for command, _ in launcher.started}) == 1, "each like the first"
    assert messages(caplog) == []
    launcher.last.code = -9
    assert not shipping.look()
    (message,) = messages(caplog)
    assert f"gradnoise ship {tmp_path} --endpoint there:1" in message
    assert not shipping.finish(1.0)
    assert len(messages(caplog)) == 1
    assert len(launcher.started) == 6


def test_a_shipper_that_dies_now_and_then_is_always_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, launcher: Launcher
) -> None:
    shipping = Shipping.start(tmp_path, "p", "there:1")
    for count in range(1, 10):
        launcher.now += 1000
        launcher.last.code = -9
        assert shipping.look()
        launcher.now += 2
        assert shipping.look()
        assert len(launcher.started) == count + 1
    assert messages(caplog) == []


def test_what_a_dead_shipper_said_last_is_no_silence_of_the_analyzer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, launcher: Launcher
) -> None:
    shipping = Shipping.start(tmp_path, "p", "there:1")
    say(tmp_path, ShipState.UNREACHABLE)
    assert shipping.look()
    launcher.last.code = -9
    assert shipping.look()
    launcher.now += 15
    assert shipping.look()
    assert len(launcher.started) == 2
    assert shipping.look(), "the new one has not said anything yet"
    say(tmp_path, ShipState.SHIPPING)
    assert shipping.look()
    assert messages(caplog) == []


@pytest.mark.parametrize("code", [1, 3])
def test_a_shipper_that_failed_is_not_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, launcher: Launcher, code: int
) -> None:
    shipping = Shipping.start(tmp_path, "p", "there:1")
    say(tmp_path, ShipState.REFUSED, "no such thing")
    launcher.last.code = code
    assert not shipping.look()
    assert len(launcher.started) == 1
    assert ["no such thing" in message for message in messages(caplog)] == [True]


def test_one_process_a_machine_serves_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: Launcher
) -> None:
    Shipping.start(tmp_path, "p", "there:1")
    assert launcher.started[-1][0][-2:] == ["--producer", "p"], "alone"
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    first = Shipping.start(tmp_path, "p", "there:1")
    assert "--producer" not in launcher.started[-1][0]
    say(tmp_path, ShipState.DONE)
    assert first.finish(5.0), "the process goes on for the others"
    assert launcher.now < 1
    monkeypatch.setenv("LOCAL_RANK", "1")
    started = len(launcher.started)
    second = Shipping.start(tmp_path, "q", "there:1")
    lease = Lease(tmp_path, "q")
    assert lease.take()
    for _ in range(100):
        assert second.look()
        launcher.now += 1
    Progress("there:1", ShipState.DONE).write(tmp_path, "q")
    assert second.finish(5.0)
    assert not second.look()
    assert len(launcher.started) == started


def test_a_rank_that_nobody_serves_starts_a_shipper_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: Launcher
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    shipping = Shipping.start(tmp_path, "p", "there:1")
    while not launcher.started:
        assert shipping.look()
        launcher.now += 1
        assert launcher.now < 20
    assert launcher.now >= 10, "the first rank's may be on its way"
    assert launcher.started[0][0][-2:] == ["--producer", "p"]
    at_the_end = Shipping.start(tmp_path, "q", "there:1")
    begun = launcher.now
    assert not at_the_end.finish(5.0)
    assert len(launcher.started) == 2, "and at once where it ends unseen"
    assert launcher.now - begun == pytest.approx(5.0, abs=0.1)


def test_a_certificate_that_cannot_be_used_costs_one_warning_and_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADNOISE_TLS_CA", str(tmp_path / "none.pem"))
    model = mlp()
    optimizer = sgd(model)
    handle = attach(
        model, optimizer, endpoint="127.0.0.1:1", dump=tmp_path / "d", run="r", sampling=Sampling(burst=5, every=5)
    )
    train(model, optimizer, Data(), 5)
    handle.close()
    (message,) = messages(caplog)
    assert f"GRADNOISE_TLS_CA={tmp_path / 'none.pem'} cannot be read" in message
    assert f"gradnoise ship {tmp_path / 'd'} --endpoint 127.0.0.1:1" in message
    assert "GRADNOISE_TLS_CA" in str(handle.stats().error)
    assert len(rows(tmp_path / "d")) == 20


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer(FakeIngest())
    yield server
    server.stop()


def test_a_killed_shipper_is_replaced_while_the_training_runs(
    tmp_path: Path, server: FakeServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sink, "_LOOK", 0.02)
    monkeypatch.setattr(_launch, "_PAUSE", 0.05)
    model, data = mlp(), Data()
    optimizer = sgd(model)
    handle = attach(
        model, optimizer, endpoint=server.endpoint, dump=tmp_path, run="r", sampling=Sampling(burst=5, every=5)
    )
    train(model, optimizer, data, 10)
    handle.flush()
    assert server.ingest.wait_for(2)
    first = handle._shipping._process  # type: ignore[union-attr]
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: handle._shipping._process is not first, what="another shipper")  # type: ignore[union-attr]
    train(model, optimizer, data, 10)
    handle.close(timeout=30)
    assert_stored(server.ingest, tmp_path)
    assert handle.stats().shipped == handle.stats().recorded == 80
    assert messages(caplog) == []


def test_the_process_without_a_producer_serves_all_that_appear_until_the_last_has_ended(
    tmp_path: Path, server: FakeServer
) -> None:
    first = DumpWriter(tmp_path, INFO, segment_bytes=4000)
    command = [sys.executable, "-m", "gradnoise.collector.shipper", str(tmp_path), "--endpoint", server.endpoint]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    fill(first)
    assert server.ingest.wait_for(15)
    second = DumpWriter(tmp_path, INFO, segment_bytes=4000)
    fill(second)
    assert server.ingest.wait_for(30)
    first.close()
    fill(second)
    second.close()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert_stored(server.ingest, tmp_path)
    assert said.count("rows of draws") == 2
    assert {Progress.read(tmp_path, each).state for each in Dump(tmp_path).producers()} == {ShipState.DONE}  # type: ignore[union-attr]
    assert not list(tmp_path.glob("*.lease"))


RANK = """
import sys, torch
from gradnoise.collector import Sampling, attach
from gradnoise.collector._shipping import launch as _launch
_launch._UNSEEN = 60.0  # however slowly the machine starts the shipper
torch.manual_seed(0)
model = torch.nn.Linear(6, 3)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
sampling = Sampling(burst=5, every=5)
handle = attach(model, optimizer, dump=sys.argv[1], endpoint=sys.argv[2], run="job", sampling=sampling)
for step in range(10):
    optimizer.zero_grad()
    model(torch.randn(8, 6)).pow(2).mean().backward()
    optimizer.step()
handle.close(timeout=40)
stats = handle.stats()
print(stats.recorded, stats.shipped, stats.error)
"""


def test_the_ranks_of_a_machine_share_a_shipper(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = []
    for rank in range(2):
        job = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        command = [sys.executable, "-c", RANK, str(tmp_path / "d"), server.endpoint]
        ranks.append(
            subprocess.Popen(command, env=os.environ | job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [rank.communicate(timeout=90) for rank in ranks]
    assert [out for out, _ in said] == ["20 20 None\n"] * 2, said
    assert_stored(server.ingest, tmp_path / "d")
    assert server.ingest.opens == 2
    log = tmp_path / "d" / "ship.log"
    until(lambda: log.read_text().count("rows of draws") == 2, what="the shipper's end")
    assert "standing by" not in log.read_text()
