"""Which parameters and optimisers are listened to, as they come and go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.collector import CollectorError, Sampling, attach
from gradnoise.wire import Table

from .loops import Data, assert_recorded, counted, hooks_left, loss_of, messages, mlp, recorded, rows, train
from .test_taps_scaler import plain

if TYPE_CHECKING:
    from pathlib import Path


def named(model: Any) -> Any:
    """Its parameters, of whose gradients mypy need not know that they are there."""
    return model.named_parameters()


@pytest.mark.parametrize("known", [True, False])
def test_what_is_unfrozen_later_is_recorded_from_the_next_step_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    model, data = mlp(), Data()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with attach(model, optimizer if known else None, dump=tmp_path, sampling=Sampling(burst=2, every=4)):
        taken = train(model, optimizer, data, 4)
        model[0].requires_grad_(True)
        optimizer.add_param_group({"params": list(model[0].parameters())})
        taken += train(model, optimizer, data, 6)
    head = ("2.weight", "2.bias")
    taken[4] = {name: taken[4][name] for name in head}  # its burst had begun before
    assert_recorded(tmp_path, {(2 * (s - s % 4), s % 4): taken[s] for s in (0, 1, 4, 5, 8, 9)})
    assert {name for _, _, name in recorded(tmp_path)} > set(head)
    assert {name for window, _, name in recorded(tmp_path) if window == 0} == set(head)
    assert messages(caplog) == []


def test_an_optimizer_that_gets_the_models_parameters_late_counts_from_then_on(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with attach(model, dump=tmp_path, sampling=Sampling(burst=8, every=8)) as handle:
        optimizer.step()
        assert handle.stats().theta == 0
        optimizer.add_param_group({"params": list(model.parameters())})
        train(model, optimizer, data, 3)
        assert handle.stats().theta == 3
    assert len(rows(tmp_path)) == 12


def test_parameters_made_after_attach_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=1, every=2)):
        train(model, optimizer, data, 2)
        model.append(nn.Linear(3, 3))
        model[0] = nn.Linear(6, 8)
        model[2] = nn.Linear(8, 3, bias=False)
        model[2].weight = nn.Parameter(torch.randn(3, 8)[:, :8])
        optimizer.add_param_group({"params": [p for m in (0, 2, 3) for p in model[m].parameters()]})
        taken = train(model, optimizer, data, 6)
    (message,) = messages(caplog)
    assert "does not record 3.weight, 3.bias" in message
    assert "attach again" in message
    assert counted(tmp_path) == {"unknown_parameter": 2}
    found = recorded(tmp_path)
    np.testing.assert_array_equal(found[8, 0, "2.weight"], taken[2]["2.weight"])
    assert not any(name.startswith("3.") for _, _, name in found)


def test_several_optimizers_and_wrapped_ones(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    pair = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (model[0], model[2])]
    wrapped: Any = SimpleNamespace(optimizer=SimpleNamespace(optimizer=pair[1]))
    with attach(model, [pair[0], wrapped, pair[0]], dump=tmp_path, sampling=Sampling(burst=8, every=8)) as handle:
        for _ in range(2):
            model.zero_grad()
            loss_of(model, data()).backward()
            for optimizer in pair:
                optimizer.step()
        assert handle.stats().theta == 4
        other = torch.optim.SGD(model.parameters(), lr=0.1)
        other.step()
        assert handle.stats().theta == 4, "it was not named"
    assert {row["theta"] for row in rows(tmp_path)} == {0, 2}
    assert [len(o._optimizer_step_post_hooks) + len(o._optimizer_step_pre_hooks) for o in pair] == [0, 0]


def test_optimizers_that_cannot_be_listened_to_are_refused(tmp_path: Path) -> None:
    model = mlp()
    mine, foreign = plain(model), plain(mlp())
    for given, text in (
        ([], "at least one optimizer"),
        ([mine, foreign], "holds none of the parameters"),
        ([mine, 3], r"optimizer=int\): expected a torch.optim.Optimizer, several in a list"),
        (SimpleNamespace(optimizer="adam"), r"optimizer=SimpleNamespace\)"),
        ({"a": mine}, r"optimizer=dict\)"),
    ):
        with pytest.raises(CollectorError, match=text):
            attach(model, given, dump=tmp_path / "d")  # type: ignore[arg-type]
    assert not (tmp_path / "d").exists()
    assert not mine._optimizer_step_post_hooks


def test_adversaries_take_turns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A generator is judged by a discriminator: its backward pass leaves gradients in both."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.d = nn.Linear(6, 6), nn.Linear(6, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return self.d(self.g(x)).mean()

    model, data = Both(), Data()
    pair = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model.d, model.g)]
    signs = (1, -1)
    expected = {}
    with attach(model, pair, dump=tmp_path, sampling=Sampling(burst=8, every=8)) as handle:
        for turn in range(6):
            which = turn % 2
            model.zero_grad()
            (signs[which] * model(data()[0])).backward()
            expected[0, turn] = {n: p.grad.numpy().ravel().copy() for n, p in named(model)}
            pair[which].step()
        assert handle.stats().theta == 6
    assert_recorded(tmp_path, expected)
    assert messages(caplog) == []


@pytest.mark.parametrize("phase", ["pick", "at_step"])
def test_a_hook_of_the_users_own_survives_ours_going_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    from gradnoise.collector._taps.clip import ClipMeter
    from gradnoise.collector._taps.gather import Gatherer

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    model, data = mlp(), Data()
    optimizer, calls = plain(model), []
    handle = attach(model, optimizer, dump=tmp_path)
    before = optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    after = optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, optimizer, data, 2)
    monkeypatch.setattr(Gatherer if phase == "pick" else ClipMeter, phase, broken)
    train(model, optimizer, data, 3)
    assert handle.stats().state == "off"
    assert calls == ["before", "after"] * 5
    assert hooks_left(model) == 0
    handle.close()
    train(model, optimizer, data, 1)
    assert calls == ["before", "after"] * 6
    assert (len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)) == (1, 1)
    before.remove()
    after.remove()
    assert len(messages(caplog)) == 1


def test_bursts_for_which_there_is_no_room_are_skipped_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradnoise.collector._recording.sink import Sink

    model, data = mlp(), Data()
    optimizer = plain(model)
    asked: list[int] = []
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=2, every=4)) as handle:
        # Asked at steps 4 and 8; by then, the burst at 0 has begun.
        def room(sink: Sink) -> bool:
            asked.append(handle.stats().theta)
            return len(asked) > 1

        monkeypatch.setattr(Sink, "room", room)
        armed: list[bool] = []
        taken = train(model, optimizer, data, 12, lambda step: armed.append(hooks_left(model) > 0))
        assert handle.stats().skipped_bursts == 1
    assert asked[:2] == [4, 8]
    assert armed == [step % 4 < 2 and step not in (4, 5) for step in range(12)]
    assert_recorded(tmp_path, {(2 * (s - s % 4), s % 4): taken[s] for s in (0, 1, 8, 9)})
    windows = {w["window"]: w for w in rows(tmp_path, Table.WINDOWS)}
    skipped = windows[8]
    assert (skipped["declared"], skipped["recorded"], skipped["dropped"]) == (2, 0, 2)
    assert (skipped["first_step"], skipped["last_step"]) == (4, 5)
    assert counted(tmp_path) == {"burst_skipped": 2}
    assert len(messages(caplog)) == 1


def test_a_step_that_is_captured_into_a_graph_is_no_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=4, every=4)) as handle:
        taken = train(model, optimizer, data, 1)
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_initialized", lambda: True)
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            optimizer.step()
        assert handle.stats().theta == 1
        taken += train(model, optimizer, data, 1)
    assert_recorded(tmp_path, {(0, 0): taken[0], (0, 1): taken[1]})
    assert [row["clip_factor"] for row in rows(tmp_path, Table.STEPS)] == [1.0, 1.0]


def test_probes_for_which_there_is_no_room_are_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradnoise.collector import Probe
    from gradnoise.collector._recording.sink import Sink

    model, data, calls = mlp(), Data(), []

    def closure() -> torch.Tensor:
        calls.append(1)
        return loss_of(model, data())

    asked: list[Sink] = []

    def room(sink: Sink) -> bool:
        asked.append(sink)
        return len(asked) > 1

    monkeypatch.setattr(Sink, "room", room)
    optimizer = plain(model)
    probe = Probe(closure, draws=4, every=2)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=0), probe=probe) as handle:
        train(model, optimizer, data, 4)
        assert handle.stats().skipped_bursts == 1
    windows = {
        w["window"]: (w["kind"], w["declared"], w["recorded"], w["dropped"]) for w in rows(tmp_path, Table.WINDOWS)
    }
    assert windows == {5: ("probe", 4, 0, 4), 9: ("probe", 4, 4, 0)}
    assert len(calls) == 4
    assert counted(tmp_path) == {"burst_skipped": 4}


def test_a_loop_that_does_not_step_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Gradients that are thrown away are draws all the same: of the theta that stays."""
    model, data = mlp(), Data()
    optimizer = plain(model)
    expected = {}
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=4, every=4)) as handle:
        for turn in range(12):
            optimizer.zero_grad()
            loss_of(model, data()).backward()
            expected[0, turn] = {n: p.grad.numpy().ravel().copy() for n, p in named(model)}
            if turn % 3 == 2:
                optimizer.step()
        assert handle.stats().theta == 4
    assert_recorded(tmp_path, expected)
    thetas = [row["theta"] for row in rows(tmp_path) if row["group"] == "0.bias"]
    assert thetas == [turn // 3 for turn in range(12)]
    assert messages(caplog) == []
