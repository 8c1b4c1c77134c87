"""A guest's manners: whatever happens around it, training is not hurt and what was recorded is readable."""

from __future__ import annotations

import gc
import logging
import sys
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.collector import Limits, Recorder, Sampling, attach
from gradnoise.collector._recording import opening
from gradnoise.collector._recording import sink as _sink
from gradnoise.wire import Dump, RunExistsError, Table

from .fake import FakeServer
from .guests import EVERY, assert_same, assert_sealed, run, weights
from .loops import Data, assert_recorded, counted, hooks_left, messages, mlp, rows, train
from .test_bursts import sgd

if TYPE_CHECKING:
    from collections.abc import Callable


# --- several models, cells that are run again, models that go ----------------------------------------------------


def test_models_attached_side_by_side_do_not_mix(tmp_path: Path) -> None:
    models = [mlp() for _ in range(3)]
    optimizers = [sgd(model) for model in models]
    handles = [attach(model, dump=tmp_path / str(n), sampling=EVERY) for n, model in enumerate(models)]
    taken: list[list[Any]] = [[], [], []]
    for _ in range(4):
        for n in range(3):
            taken[n] += train(models[n], optimizers[n], Data(seed=n), n + 1)
    handles[1].close()
    for n in (0, 2):
        taken[n] += train(models[n], optimizers[n], Data(seed=n), 1)
        handles[n].close()
    for n in range(3):
        assert_recorded(tmp_path / str(n), {(20 * (s // 10), s % 10): each for s, each in enumerate(taken[n])})
        assert hooks_left(models[n]) == 0


def test_attaching_again_to_a_model_replaces_the_former_hook(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    former = attach(model, optimizer, dump=tmp_path / "1", run="one", sampling=EVERY)
    first = train(model, optimizer, data, 3)
    with caplog.at_level(logging.INFO, "gradnoise"):
        compiled: Any = torch.compile(model, backend="eager")
        again = attach(compiled, optimizer, dump=tmp_path / "2", sampling=EVERY)
    assert "run one is closed" in caplog.text
    assert former.stats().state == "closed"
    second = train(model, optimizer, data, 2)
    again.close()
    assert_recorded(tmp_path / "1", {(0, step): each for step, each in enumerate(first)})
    assert_recorded(tmp_path / "2", {(0, step): each for step, each in enumerate(second)})
    assert hooks_left(model) == 0
    assert messages(caplog) == []


def test_a_cell_that_is_run_again_records_into_another_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(opening, "_mine", set())
    monkeypatch.delenv("GRADNOISE_DUMP", raising=False)

    def cell(**options: Any) -> Any:
        model = mlp()
        handle = attach(model, run="name", sampling=EVERY, **options)
        train(model, sgd(model), Data(), 2)
        return handle

    with caplog.at_level(logging.INFO, "gradnoise"):
        handles = [cell(), cell()]  # the first is still open
        handles[1].close()
        handles.append(cell())
    handles += [cell(dump=tmp_path / "given"), cell(dump=tmp_path / "given")]
    assert [handle.run for handle in handles] == ["name", "name-2", "name-3", "name", "name-2"]
    assert [handle.path.name for handle in handles] == ["name", "name-2", "name-3", "given", "given-2"]
    assert "run name was recorded in this session already: this is name-2" in caplog.text
    for handle in handles:
        handle.close()
        assert len(rows(handle.path)) == 8
    assert messages(caplog) == []
    monkeypatch.delattr(sys, "ps1")
    with pytest.raises(RunExistsError, match="is finished"):
        cell()  # in a script it is a mistake


def test_a_model_that_is_gone_takes_its_handle_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sink, "_LOOK", 0.01)
    for keep in (True, False):
        model = mlp()
        optimizer = sgd(model)
        handle = attach(model, optimizer, dump=tmp_path / str(keep), sampling=EVERY)
        train(model, optimizer, Data(), 3)
        parameters = [weakref.ref(parameter) for parameter in model.parameters()]
        kept = handle if keep else None
        path = handle.path
        sink = handle._sink
        assert path is not None
        assert sink is not None
        del model, optimizer, handle
        gc.collect()
        sink._thread.join(30)
        assert not sink._thread.is_alive(), "sealed without being asked"
        gc.collect()
        assert [ref() for ref in parameters] == [None] * 4
        assert len(rows(path)) == 12
        assert_sealed(path)
        if kept is not None:
            assert kept.stats().state == "closed"
            kept.close()


def test_a_handle_that_was_closed_does_not_stay_for_as_long_as_its_model(tmp_path: Path) -> None:
    model = mlp()
    handles = []
    for name in ("first", "second"):
        with attach(model, sgd(model), dump=tmp_path / name, sampling=EVERY) as handle:
            handles.append(weakref.ref(handle))
    del handle
    gc.collect()
    assert [ref() for ref in handles] == [None, None]


# --- places, clocks, logs ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no file system that nobody may write to")
def test_a_read_only_place_gives_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = mlp()
    optimizer = sgd(model)
    with attach(model, optimizer, dump="/proc/self/gradnoise") as handle:
        train(model, optimizer, Data(), 2)
        assert handle.stats().state == "off"
    (message,) = messages(caplog)
    assert "/proc/self/gradnoise cannot be written" in message
    assert hooks_left(model) == 0


def test_a_directory_removed_while_recording_gives_one_warning_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    def loop(path: Path | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model, data = mlp(), Data()
        optimizer = sgd(model)
        handle = None if path is None else attach(model, optimizer, dump=path, sampling=EVERY)
        train(model, optimizer, data, 5)
        if handle is not None and path is not None:
            handle.flush()
            shutil.rmtree(path)
        train(model, optimizer, data, 30)
        if handle is not None:
            handle.flush()
            train(model, optimizer, data, 1)
            assert handle.stats().state == "off"
            handle.close()
            assert hooks_left(model) == 0
        else:
            train(model, optimizer, data, 1)
        return weights(model)

    assert_same(loop(None), loop(tmp_path / "d"))
    (message,) = messages(caplog)
    assert "No such file or directory" in message


def test_a_working_directory_that_is_gone_gives_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        model = mlp()
        handle = attach(model, sgd(model))
        assert handle.stats().state == "off"
        train(model, sgd(model), Data(), 3)
        handle.close()
    finally:
        monkeypatch.undo()
    (message,) = messages(caplog)
    assert "cannot be written" in message


def test_a_clock_that_goes_back_changes_nothing_but_the_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [2_000_000_000_000_000_000]

    def back() -> int:
        now[0] -= 3600 * 10**9
        return now[0]

    monkeypatch.setattr(time, "time_ns", back)
    monkeypatch.setattr(time, "time", lambda: back() / 1e9)
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY) as handle:
        taken = train(model, optimizer, data, 12)
        handle.log(loss=1.0)
        assert handle.flush(20)
    assert_recorded(tmp_path, {(20 * (s // 10), s % 10): taken[s] for s in range(12)})
    assert [row["step"] for row in rows(tmp_path, Table.STEPS)] == list(range(12))


def test_nothing_goes_to_standard_output_and_nothing_is_said_twice(tmp_path: Path) -> None:
    code = """
    handle = attach(model, optimizer, dump=path, run="r", sampling=every)
    for step in range(20):
        optimizer.zero_grad()
        hidden = model(data()[0])
        hidden.sum().backward(retain_graph=True)
        hidden.square().sum().backward()  # two losses
        optimizer.step()
        handle.log(loss="no number", other=object())
    handle.close()
    handle.close()
    """
    status, out, err = run(code, tmp_path)
    assert (status, out) == (0, "")
    lines = err.splitlines()
    assert len(lines) == len(set(lines)) == 3, err
    assert all(line.startswith("gradnoise") for line in lines), (
        "without logging set up, nothing else says whose they are"
    )
    assert counted(tmp_path)["ambiguous_backwards"] == 40


def test_a_handler_of_the_users_that_raises_is_no_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("handler")

    logger, handler = logging.getLogger("gradnoise"), Broken()
    logger.addHandler(handler)
    try:
        model, data = mlp(), Data()
        optimizer = sgd(model)
        with attach(model, optimizer, dump=tmp_path, sampling=EVERY) as handle:
            handle.log(loss="no number")
            train(model, optimizer, data, 2)
            handle._sink.fail("a reason")  # type: ignore[union-attr]
            train(model, optimizer, data, 2)
        assert handle.stats().error == "a reason"
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr().out == ""


# --- the disk ----------------------------------------------------------------------------------------------------


def test_a_spool_that_is_shipped_in_time_never_fills_up(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    server = serve()
    sampling = Sampling(coordinates=10_000, burst=4, every=8)
    limits = Limits(spool=1 << 20)
    recorder = Recorder("r", tmp_path, server.endpoint, {"w": 10_000}, sampling, limits)
    deadline = time.monotonic() + 60
    for step in range(8 * 25):  # four times what the spool holds
        recorder.record(step, "w", np.full((1, 10_000), step, np.float32))
        if step % 8 == 7:
            recorder.flush()
            while recorder.stats().shipped < recorder.stats().recorded and time.monotonic() < deadline:
                time.sleep(0.01)
    recorder.close()
    stats = recorder.stats()
    assert (stats.recorded, stats.shipped, stats.skipped_bursts, stats.error) == (100, 100, 0, None)
    assert sum(entry.stat().st_size for entry in tmp_path.glob("*.arrow")) < 1.1 * (1 << 20)
    (producer,) = Dump(tmp_path).producers()
    stored = server.ingest.stored[producer, "draws"]
    values = [row["values"][0] for stamped in stored for row in stamped.batch.to_pylist()]
    assert values == [step for step in range(200) if step % 8 < 4]
    assert next(iter(Dump(tmp_path).batches(Table.DRAWS, producer))).sequence > 0
    assert server.ingest.duplicates == 0


@pytest.mark.parametrize(("width", "samples", "everything"), [(256, 1.05, 1.065), (1024, 1.015, 1.02)])
def test_a_dump_takes_little_more_than_its_samples(
    tmp_path: Path, width: int, samples: float, everything: float
) -> None:
    groups = {f"layers.{n}.attention.weight": (4, width) for n in range(10)}
    value = np.ones((1, 4, width), np.float32)
    bursts = 20
    with Recorder(
        dump=tmp_path, groups=groups, sampling=Sampling(width, burst=64, every=64), batch_size=32
    ) as recorder:
        for step in range(64 * bursts):
            for name in groups:
                recorder.record(step, name, value)
            recorder.log(step=step, loss=1.0, lr=0.1)
            if step % 64 == 63:
                recorder.flush()
    nbytes = 4 * width * len(groups) * 64 * bursts
    assert recorder.stats().recorded == nbytes // (4 * width)
    sizes = {entry.name.partition("-")[0]: entry.stat().st_size for entry in tmp_path.iterdir()}
    assert sizes["draws"] + sizes["windows"] < samples * nbytes
    assert sum(sizes.values()) - sizes["run.json"] < everything * nbytes, "with a row of the steps table a step"


def test_a_full_spool_skips_whole_bursts_of_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def loop(path: Path | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 500), nn.ReLU(), nn.Linear(500, 3))
        data = Data()
        optimizer = sgd(model)
        handle = None
        if path is not None:
            sampling = Sampling(coordinates=5000, burst=10, every=20)
            handle = attach(model, optimizer, dump=path, sampling=sampling, limits=Limits(spool=1 << 20))
        for burst in range(20):
            train(model, optimizer, data, 20 if burst < 19 else 15)
            if handle is not None:
                handle.flush()
        if handle is not None:
            handle.close()
            stats = handle.stats()
            assert stats.skipped_bursts > 5
            assert stats.windows == 20
            assert stats.draws == 10 * (20 - stats.skipped_bursts)
            assert stats.dropped == 0
        return weights(model)

    assert_same(loop(None), loop(tmp_path))
    (message,) = messages(caplog)
    assert "skips whole bursts" in message
    windows = rows(tmp_path, Table.WINDOWS)
    taken = [window["recorded"] for window in windows]
    assert set(taken) == {0, 10}
    assert taken == sorted(taken, reverse=True)
    assert all(window["recorded"] + window["dropped"] <= window["declared"] for window in windows)
    assert counted(tmp_path) == {"burst_skipped": 10 * taken.count(0)}
    size = sum(entry.stat().st_size for entry in tmp_path.iterdir() if entry.suffix in (".open", ".arrow"))
    assert size < 1.1 * (1 << 20)
    assert not list(Dump(tmp_path).problems)
