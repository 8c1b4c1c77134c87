"""What attach refuses, where the dump goes, and the states of a handle."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import gradnoise.collector
from gradnoise.collector import CollectorError, Limits, Probe, Sampling, attach
from gradnoise.collector._shipping.launch import Shipping
from gradnoise.collector._taps.groups import groups_of
from gradnoise.wire import Dump, NotADumpError, RunExistsError, WireError

from .loops import Data, hooks_left, loss_of, messages, mlp, rows, train
from .test_bursts import sgd

if TYPE_CHECKING:
    from pathlib import Path

    from gradnoise.collector import Handle


def test_models_without_anything_to_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectorError, match=r"attach\(model=ReLU\): nothing to record, it has no parameters"):
        attach(nn.ReLU(), dump=tmp_path / "d")
    with pytest.raises(CollectorError, match="all of its 4 parameters are frozen"):
        attach(mlp().requires_grad_(False), dump=tmp_path / "d")
    with pytest.raises(CollectorError, match="parameter 'weight' is complex"):
        attach(nn.Linear(2, 2, dtype=torch.complex64), dump=tmp_path / "d")
    with pytest.raises(CollectorError, match=r"model=function.*torch.nn.Module"):
        attach(lambda x: x, dump=tmp_path / "d")  # type: ignore[arg-type]
    assert not (tmp_path / "d").exists()


def test_without_torch_attach_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    monkeypatch.setitem(sys.modules, "torch.nn", None)
    with pytest.raises(ModuleNotFoundError, match="attach needs PyTorch"):
        attach(model)


def test_arguments_that_cannot_work_are_refused(tmp_path: Path) -> None:
    model = mlp()

    def refused(text: str, **arguments: object) -> None:
        with pytest.raises(CollectorError, match=text):
            attach(model, **{"dump": tmp_path / "d"} | arguments)  # type: ignore[arg-type]

    refused("holds none of the parameters of Sequential", optimizer=sgd(mlp()))
    refused("optimizer=str", optimizer="sgd")
    refused("probe=3", probe=3)
    refused("sampling=3", sampling=3)
    refused("records nothing", sampling=Sampling(burst=0))
    refused("scaler=float", scaler=2.0)
    refused("batch_size=0", batch_size=0)
    refused("batch_size='8'", batch_size="8")
    refused("batch_size=2147483648", batch_size=2**31)
    refused("run=3", run=3)
    refused("dump=3", dump=3)
    refused("null characters", dump="a\0b")
    refused("endpoint 3: expected HOST:PORT", endpoint=3)
    for endpoint in ("localhost", "host:0", "host:99999", "http://host:1", "a b:1"):
        refused("expected HOST:PORT", endpoint=endpoint)
    with pytest.raises(WireError, match="run id"):
        attach(model, run="../x", dump=tmp_path / "d")
    assert not (tmp_path / "d").exists()
    assert hooks_left(model) == 0


def test_where_the_dump_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with attach(mlp()) as handle:
        assert handle.run is not None
        assert re.fullmatch(r"\d{8}-\d{6}-Sequential-[0-9a-f]{4}", handle.run)
        assert handle.path == tmp_path / "gradnoise" / handle.run
    with attach(mlp(), run="named") as handle:
        assert handle.path == tmp_path / "gradnoise" / "named"
    monkeypatch.setenv("GRADNOISE_DUMP", "elsewhere")
    with attach(mlp(), run="named") as handle:
        assert handle.path == tmp_path / "elsewhere"
    with attach(mlp(), run="named", dump="here") as handle:
        assert handle.path == tmp_path / "here"
    assert Dump(tmp_path / "here").info.model == "Sequential"
    assert {"python", "torch", "numpy"} <= Dump(tmp_path / "here").info.versions.keys()


def test_where_the_samples_are_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints: list[str] = []

    def start(dump: Path, producer: str, endpoint: str) -> Shipping:
        endpoints.append(endpoint)
        return Shipping(dump, producer, endpoint, None)

    monkeypatch.setattr(Shipping, "start", start)
    for variable in (None, "", " "):
        if variable is not None:
            monkeypatch.setenv("GRADNOISE_ENDPOINT", variable)
        attach(mlp(), dump=tmp_path, run="r").close()
    assert endpoints == []
    monkeypatch.setenv("GRADNOISE_ENDPOINT", "there:1")
    attach(mlp(), dump=tmp_path, run="r").close()
    attach(mlp(), endpoint="here:2", dump=tmp_path, run="r").close()
    assert endpoints == ["there:1", "here:2"]
    monkeypatch.setenv("GRADNOISE_ENDPOINT", "nowhere")
    with pytest.raises(CollectorError, match="endpoint 'nowhere': expected HOST:PORT"):
        attach(mlp(), dump=tmp_path, run="r")


def test_a_finished_run_is_gone_on_with_only_if_that_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADNOISE_RESUME", "1")
    for run in ("r", "r", None):
        model = mlp()
        with attach(model, dump=tmp_path, run=run, sampling=Sampling(burst=2, every=2)) as handle:
            train(model, sgd(model), Data(), 2)
        assert handle.run == "r"
    assert len(Dump(tmp_path).producers()) == 3
    assert len(rows(tmp_path)) == 3 * 2 * 4
    assert len(messages(caplog)) == 2
    assert "joins it as another producer" in messages(caplog)[0]
    monkeypatch.setenv("GRADNOISE_RESUME", "0")
    before = sorted(tmp_path.iterdir())
    for run in ("r", None):
        text = rf"run 'r' in {tmp_path} is finished \(3 producers\).*another run= or dump=.*GRADNOISE_RESUME=1"
        with pytest.raises(RunExistsError, match=text):
            attach(mlp(), dump=tmp_path, run=run, sampling=Sampling(burst=2, every=2))
    assert sorted(tmp_path.iterdir()) == before
    assert len(messages(caplog)) == 2


def one_step(path: Path, **arguments: Any) -> Handle:
    model = mlp()
    handle = attach(model, dump=path, run="r", **arguments)
    train(model, sgd(model), Data(), 1)
    return handle


def test_a_run_whose_producer_lives_is_joined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with one_step(tmp_path), one_step(tmp_path):
        pass
    assert len(Dump(tmp_path).producers()) == 2
    assert len(messages(caplog)) == 1
    with pytest.raises(RunExistsError, match=r"finished \(2 producers\)"):
        one_step(tmp_path)


def test_a_later_rank_of_the_same_job_joins_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradnoise.collector._recording import opening

    def rank(job: str, *, another_process: bool = True) -> None:
        if another_process:
            monkeypatch.setattr(opening, "_mine", set())
        destination = opening.Destination("r", tmp_path, None, named=True)
        stays.append(destination.open("m", groups_of(mlp(), Sampling()), {}, Limits(), job=job).sink)

    stays: list[Any] = []
    rank("a")
    rank("a")
    assert messages(caplog) == []
    rank("a", another_process=False)  # a second training under one name
    assert len(messages(caplog)) == 1
    rank("b")
    assert len(messages(caplog)) == 2
    for sink in stays:
        assert sink.close(10)


@pytest.mark.parametrize(
    ("variable", "value", "joins"),
    [
        ("RANK", "0", True),
        ("WORLD_SIZE", "2", True),
        ("TORCHELASTIC_RESTART_COUNT", "1", True),
        ("WORLD_SIZE", "1", False),
        ("WORLD_SIZE", "many", False),
        ("TORCHELASTIC_RESTART_COUNT", "0", False),
    ],
)
def test_processes_of_a_distributed_or_restarted_job_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, joins: bool
) -> None:
    one_step(tmp_path).close()
    monkeypatch.setenv(variable, value)
    if joins:
        one_step(tmp_path).close()
    else:
        with pytest.raises(RunExistsError, match=r"finished \(1 producer\)"):
            one_step(tmp_path)
    assert len(Dump(tmp_path).producers()) == 1 + joins


def test_a_process_group_of_torch_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_step(tmp_path).close()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    one_step(tmp_path).close()
    assert len(Dump(tmp_path).producers()) == 2


def test_an_existing_dump_of_another_run_is_refused(tmp_path: Path) -> None:
    one_step(tmp_path).close()
    with pytest.raises(RunExistsError, match="has another run id: choose another run name"):
        attach(mlp(), dump=tmp_path, run="other")
    with pytest.raises(RunExistsError, match=r"other groups \(2 new, 4 missing: 'weight' is new\)"):
        attach(nn.Linear(2, 2), dump=tmp_path, run="r")
    wider = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises(RunExistsError, match=r"group '0.weight' in shape \[9, 6\] instead of \[8, 6\]"):
        attach(wider, dump=tmp_path, run="r")
    with pytest.raises(RunExistsError, match=r"other sampled coordinates \(4 of group '0.weight', 48 there"):
        attach(mlp(), dump=tmp_path, run="r", sampling=Sampling(coordinates=4))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(NotADumpError):
        attach(mlp(), dump=tmp_path, run="r")


def test_disabled_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADNOISE_DISABLED", "1")
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path / "d", probe=Probe(lambda: 1 / 0, every=1)) as handle:
        train(model, optimizer, data, 2)
        handle.log(loss=1.0)
        assert not handle.flush()
        assert handle.stats().state == "disabled"
        assert (handle.run, handle.path) == (None, None)
    assert not (tmp_path / "d").exists()
    monkeypatch.setenv("GRADNOISE_DISABLED", "0")
    with attach(model, optimizer, dump=tmp_path / "d") as handle:
        assert handle.stats().state == "recording"


def test_flush_makes_everything_so_far_readable(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path) as handle:
        train(model, optimizer, data, 5)
        assert handle.flush()
        assert len(rows(tmp_path)) == 20
        assert handle.stats().recorded == 20


def test_closing_in_the_middle_keeps_what_was_drawn_and_is_idempotent(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    handle = attach(model, optimizer, dump=tmp_path)
    train(model, optimizer, data, 2)
    loss_of(model, data()).backward()
    handle.close()
    handle.close()
    train(model, optimizer, data, 2)
    handle.log(loss=1.0)
    assert hooks_left(model) == 0
    assert len(rows(tmp_path)) == 12
    assert not handle.flush()
    assert handle.stats().state == "closed"


def test_the_handle_closes_when_the_block_raises(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    handle = attach(model, optimizer, dump=tmp_path)

    def fail(step: int) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"), handle:
        train(model, optimizer, data, 2, fail)
    assert handle.stats().state == "closed"
    assert len(rows(tmp_path)) == 4


def test_two_models_are_recorded_side_by_side(tmp_path: Path) -> None:
    one, two, data = mlp(), nn.Linear(6, 3), Data()
    first, second = sgd(one), sgd(two)
    with attach(one, dump=tmp_path / "1"), attach(two, dump=tmp_path / "2"):
        train(one, first, data, 3)
        train(two, second, data, 2)
    assert len(rows(tmp_path / "1")) == 12
    assert len(rows(tmp_path / "2")) == 4


def test_a_handle_says_what_it_is_and_attach_informs_who_listens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d"
    attach(mlp(), dump=path, run="r").close()
    assert caplog.records == []
    with caplog.at_level(logging.INFO, "gradnoise"), attach(mlp(), dump=tmp_path / "e", run="s") as handle:
        assert [r.getMessage() for r in caplog.records] == [f"recording run s into {tmp_path / 'e'}"]
        assert repr(handle) == f"<Handle recording run='s' path='{tmp_path / 'e'}'>"
    assert repr(handle).startswith("<Handle closed run='s'")
    monkeypatch.setenv("GRADNOISE_DISABLED", "1")
    assert repr(attach(mlp())) == "<Handle disabled>"


def test_the_public_names() -> None:
    assert gradnoise.collector.__all__ == [
        "CollectorError",
        "Curvature",
        "CurvatureError",
        "Handle",
        "Limits",
        "Probe",
        "Recorder",
        "Sampling",
        "State",
        "Stats",
        "attach",
    ]
