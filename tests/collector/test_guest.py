"""The guest's manners: training with the hook is training without it, whatever happens."""

from __future__ import annotations

import copy
import io
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradnoise.collector import Probe, Sampling, attach
from gradnoise.collector._recording import sink as _sink
from gradnoise.collector._shipping import launch as _launch
from gradnoise.collector._taps.gather import Gatherer
from gradnoise.wire import Dump, Table, recover

from .loops import Data, hooks_left, loss_of, messages, mlp, rows, train
from .test_bursts import adam, sgd

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 300


def rough_model() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(144, 10),
    )


def train_rough(make: Any, path: Path | None) -> dict[str, torch.Tensor]:
    """300 steps over a shuffling loader; with ``path``, the collector and its probes beside it."""
    torch.manual_seed(3)
    dataset = TensorDataset(torch.randn(200, 64), torch.randint(0, 10, (200,)))
    model = rough_model()
    optimizer = make(model)
    handle = None
    if path is not None:

        def batches() -> Any:
            while True:
                yield from DataLoader(dataset, batch_size=16, shuffle=True)

        fresh = batches()
        probe = Probe(lambda: loss_of(model, next(fresh)), draws=6, every=70)
        handle = attach(model, optimizer, dump=path, sampling=Sampling(burst=8, every=40), probe=probe)
    step = 0
    while step < STEPS:
        for batch in DataLoader(dataset, batch_size=16, shuffle=True):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            if handle is not None:
                handle.log(loss=loss)
            step += 1
            if step == STEPS:
                break
    if handle is not None:
        handle.close()
        assert handle.stats().state == "closed"
        assert handle.stats().draws == 8 * 8 + 6 * 4
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("make", [sgd, adam])
def test_training_is_bit_equal_with_and_without_the_hook_and_its_probes(tmp_path: Path, make: Any) -> None:
    without, with_hook = train_rough(make, None), train_rough(make, tmp_path)
    assert without.keys() == with_hook.keys()
    for name, value in without.items():
        assert torch.equal(value, with_hook[name]), name


def test_an_unexpected_error_in_a_hook_turns_the_collector_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    for place in ("pick", "draw"):
        caplog.clear()
        model, data = mlp(), Data()
        optimizer = sgd(model)
        with monkeypatch.context() as patch, attach(model, optimizer, dump=tmp_path / place) as handle:
            train(model, optimizer, data, 2)
            patch.setattr(Gatherer, place, broken)
            train(model, optimizer, data, 3)
            assert hooks_left(model) == 0
            assert handle.stats().state == "off"
            assert "a bug" in str(handle.stats().error)
        assert len(messages(caplog)) == 1
        assert "turned itself off: unexpected ZeroDivisionError" in messages(caplog)[0]


def test_an_unwritable_place_gives_an_inert_handle_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path / "file" / "d") as handle:
        train(model, optimizer, data, 3)
        stats = handle.stats()
    assert stats.state == "off"
    assert "cannot be written" in str(stats.error)
    assert hooks_left(model) == 0
    assert len(messages(caplog)) == 1


PRELUDE = """
import logging, os, signal, sys, time
from pathlib import Path
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
import torch
torch.set_num_threads(1)
from tests.collector.loops import Data, loss_of, mlp, train
from gradnoise.collector import Probe, Sampling, attach
from gradnoise.collector._shipping import launch as _launch
from gradnoise.collector._recording import sink as _sink
path = Path(sys.argv[1])
model, data = mlp(), Data()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
"""


def python(code: str, path: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code), str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        **options,
    )


def test_a_disk_that_fills_up_turns_the_collector_off_and_training_goes_on(tmp_path: Path) -> None:
    done = python(
        """
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        handle = attach(model, optimizer, dump=path, sampling=Sampling(burst=10, every=10))
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        deadline = time.monotonic() + 30
        while handle.stats().state == "recording" and time.monotonic() < deadline:
            train(model, optimizer, data, 10)
            handle.flush()
        trained, hooks = len(train(model, optimizer, data, 5)), len(optimizer._optimizer_step_post_hooks)
        handle.close()  # the writer's thread has said what it has to say
        print(handle.stats().state, handle.stats().error)
        print("recorded", handle.stats().recorded)
        print("trained", trained)
        print(hooks)
        """,
        tmp_path,
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("WARNING gradnoise turned itself off: the dump cannot be written (File too large)")
    assert lines[1] == "off the dump cannot be written (File too large)"
    assert lines[3:] == ["trained 5", "0"]
    assert done.stderr == ""
    dump = Dump(tmp_path)
    kept = sum(batch.batch.num_rows for batch in dump.batches(Table.DRAWS, dump.producers()[0]))
    assert kept > 0
    assert lines[2] == f"recorded {kept}"


def contents(path: Path) -> list[tuple[Table, int, int]]:
    """Table, sequence number and checksum of every batch."""
    dump = Dump(path)
    (producer,) = dump.producers()
    return [(table, each.sequence, each.crc32) for table in Table for each in dump.batches(table, producer)]


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    code = """
    handle = attach(model, optimizer, dump=path, run="r", sampling=Sampling(burst=5, every=5))
    while True:
        train(model, optimizer, data, 5)
        handle.flush()
        print(handle.stats().recorded, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    confirmed = 0
    for line in process.stdout:
        confirmed = int(line)
        if confirmed >= 200:
            os.kill(process.pid, signal.SIGKILL)
            break
    confirmed = max([confirmed, *(int(line) for line in process.stdout.read().split())])
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    found = rows(tmp_path)
    assert len(found) >= confirmed
    left = len(list(tmp_path.glob("*.open")))
    before = contents(tmp_path)
    recovery = recover(tmp_path)
    assert left >= 2, "draws and windows were being written"
    assert (recovery.sealed, recovery.batches) == (left, len(before))
    assert not list(tmp_path.glob("*.open"))
    assert contents(tmp_path) == before


def test_a_script_that_ends_without_closing_leaves_a_sealed_dump(tmp_path: Path) -> None:
    done = python(
        "attach(model, optimizer, dump=path, run='r'); train(model, optimizer, data, 7)",
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert len(rows(tmp_path)) == 28
    assert not list(tmp_path.glob("*.open"))
    assert not list(tmp_path.glob("*.lock"))


def test_a_forked_child_neither_records_nor_closes(tmp_path: Path) -> None:
    code = """
    import multiprocessing
    from torch.utils.data import DataLoader
    handle = attach(model, optimizer, dump=path, run="r", sampling=Sampling(burst=20, every=20))
    for batch in DataLoader(list(range(8)), num_workers=2, multiprocessing_context="fork"):
        train(model, optimizer, data, 1)
    read, write = os.pipe()
    def child():
        train(model, optimizer, data, 3)
        handle.log(loss=1.0)
        handle.flush()
        handle.close()
        os.write(write, b"done")
        signal.pause()  # outlives its parent, whose lock it must not hold
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert os.read(read, 4) == b"done"
    train(model, optimizer, data, 1)
    handle.flush()
    print(handle.stats().recorded, process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    count, child = (int(word) for word in process.stdout.readline().split())
    process.wait()
    try:
        os.kill(child, 0)  # still there
        assert count == 9 * 4
        assert len(rows(tmp_path)) == count
        assert len(list(tmp_path.glob("*.lock"))) == 1
        assert recover(tmp_path).sealed > 0, "the dead parent's lock is free"
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_the_model_can_be_pickled_and_copied_during_a_burst(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path) as handle:
        train(model, optimizer, data, 1)
        assert hooks_left(model) > 0
        copied = copy.deepcopy(model)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=False)
        copy.deepcopy(optimizer)
        for other in (copied, loaded):
            train(other, sgd(other), data, 2)
        train(model, optimizer, data, 1)
        assert handle.stats().theta == 2
    assert len(rows(tmp_path)) == 8
    assert torch.equal(copied[0].weight.isfinite().all(), torch.tensor(True))


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def test_importing_the_collector_needs_neither_torch_nor_the_statistics() -> None:
    blocked = BLOCKED.replace("{blocked}", repr({"torch", "scipy", "statsmodels", "numba", "grpc", "google"}))
    done = subprocess.run(
        [sys.executable, "-c", blocked + "import gradnoise.collector as c; print(c.Sampling())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Sampling(coordinates=1024, burst=64, every=1024, seed=0" in done.stdout


def test_the_training_process_never_loads_grpc(tmp_path: Path) -> None:
    done = python(
        """
        probe = Probe(lambda: loss_of(model, data()), draws=2, every=2)
        with attach(model, optimizer, endpoint="127.0.0.1:1", dump=path, run="r", probe=probe) as handle:
            train(model, optimizer, data, 3)
            handle.close(timeout=0.1)
            os.kill(handle._shipping._process.pid, signal.SIGKILL)
        print([name for name in ("grpc", "google.protobuf", "scipy", "numba") if name in sys.modules])
        """,
        tmp_path,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""


def test_an_endpoint_that_does_not_answer_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    handle = attach(model, optimizer, endpoint="127.0.0.1:1", dump=tmp_path, run="r")
    assert messages(caplog) == []
    train(model, optimizer, data, 5)
    deadline = time.monotonic() + 30
    while handle.stats().error is None and time.monotonic() < deadline:
        train(model, optimizer, data, 1)
    assert "127.0.0.1:1" in str(handle.stats().error)
    assert handle.stats().state == "recording"
    handle.close(timeout=0.2)
    process = handle._shipping._process  # type: ignore[union-attr]
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    os.waitpid(process.pid, 0)
    (message,) = messages(caplog)
    assert "127.0.0.1:1 has not acknowledged everything" in message
    assert f"gradnoise ship {tmp_path}" in message
    stats = handle.stats()
    assert stats.shipped == 0
    assert stats.recorded == len(rows(tmp_path)) >= 20


def test_an_endpoint_out_of_reach_is_mentioned_while_the_training_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sink, "_LOOK", 0.02)
    monkeypatch.setattr(_launch, "_SILENCE", 0.2)
    model = mlp()
    optimizer = sgd(model)
    handle = attach(model, optimizer, endpoint="127.0.0.1:1", dump=tmp_path, run="r")
    deadline = time.monotonic() + 30
    while not messages(caplog) and time.monotonic() < deadline:
        train(model, optimizer, Data(), 1)
    (message,) = messages(caplog)
    assert "127.0.0.1:1 has not acknowledged everything (127.0.0.1:1" in message
    assert {r.threadName for r in caplog.records if r.levelno >= logging.WARNING} == {"gradnoise-writer"}
    assert handle.stats().state == "recording"
    handle.close(timeout=0.1)
    process = handle._shipping._process  # type: ignore[union-attr]
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    os.waitpid(process.pid, 0)
    assert len(messages(caplog)) == 1
