"""What a burst records, against gradients computed by hand."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.collector import Probe, Sampling, attach
from gradnoise.wire import Dump, Table

from .loops import Data, assert_recorded, by_hand, counted, hooks_left, loss_of, messages, mlp, recorded, rows, train

if TYPE_CHECKING:
    from pathlib import Path

    from gradnoise.collector import Handle


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


@pytest.mark.parametrize("make", [sgd, adam])
@pytest.mark.parametrize("known", [True, False])
def test_bursts_record_each_steps_gradients_at_the_sampled_coordinates(tmp_path: Path, make: Any, known: bool) -> None:
    model, data = mlp(), Data()
    optimizer = make(model)
    sampling = Sampling(coordinates=10, burst=3, every=8)
    handle = attach(model, optimizer if known else None, dump=tmp_path / "d", run="r", sampling=sampling, batch_size=8)
    taken = train(model, optimizer, data, 20)
    handle.close()
    assert_recorded(tmp_path / "d", {(2 * (s - s % 8), s % 8): taken[s] for s in range(20) if s % 8 < 3})
    for row in rows(tmp_path / "d"):
        assert row["theta"] == row["step"] == row["window"] // 2 + row["draw"]
        assert row["batch_size"] == 8
    windows = rows(tmp_path / "d", Table.WINDOWS)
    assert [(w["window"], w["kind"], w["first_step"], w["last_step"], w["recorded"], w["rows"]) for w in windows] == [
        (0, "burst", 0, 2, 3, 12),
        (16, "burst", 8, 10, 3, 12),
        (32, "burst", 16, 18, 3, 12),
    ]
    info = Dump(tmp_path / "d").info
    assert [(g.name, g.shape, len(g.indices)) for g in info.groups] == [
        ("0.weight", (8, 6), 10),
        ("0.bias", (8,), 8),
        ("2.weight", (3, 8), 10),
        ("2.bias", (3,), 3),
    ]
    assert info.plan == {
        "coordinates": 10,
        "burst": 3,
        "every": 8,
        "seed": 0,
        "probe_draws": None,
        "probe_every": None,
    }
    stats = handle.stats()
    assert (stats.state, stats.recorded, stats.draws, stats.windows, stats.dropped) == ("closed", 36, 9, 3, 0)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("burst", "every", "probe_every"), [(3, 16, 7), (1, 5, 3), (2, 6, 25), (0, 16, 7)])
def test_nothing_is_passed_over_where_bursts_probes_and_logged_steps_alternate(
    tmp_path: Path, burst: int, every: int, probe_every: int, after: bool
) -> None:
    model, data, fresh = mlp(), Data(), Data(seed=2)
    optimizer, steps = sgd(model), 120
    logged = [0, *(step for step in range(steps) if step % 11 == 4 or step % 16 in (5, 15)), steps - 1]
    probed: list[dict[str, Any]] = []
    taken: list[dict[str, Any]] = []

    def closure() -> torch.Tensor:
        loss = loss_of(model, fresh())
        probed.append(by_hand(model, loss))
        return loss

    def log(handle: Handle, step: int, _: object = None) -> None:
        handle.log(at=step)

    with attach(
        model,
        optimizer,
        dump=tmp_path,
        sampling=Sampling(burst=burst, every=every),
        probe=Probe(closure, draws=2, every=probe_every),
    ) as handle:
        for step in range(steps):
            before_update: Any = partial(log, handle, step) if step in logged and not after else None
            taken += train(model, optimizer, data, 1, before_update)
            if step in logged and after:
                log(handle, step)
        assert handle.stats().theta == steps
    in_bursts = [step for step in range(steps) if step % every < burst]
    probes = range(probe_every, steps + 1, probe_every)
    expected = {(2 * (step - step % every), step % every): taken[step] for step in in_bursts}
    expected |= {(2 * theta + 1, draw): probed[2 * i + draw] for i, theta in enumerate(probes) for draw in (0, 1)}
    assert_recorded(tmp_path, expected)
    assert {row["theta"] for row in rows(tmp_path)} == {*in_bursts, *probes}
    windows = [window["window"] for window in rows(tmp_path, Table.WINDOWS)]
    assert sorted(windows) == sorted({window for window, _ in expected})
    told = rows(tmp_path, Table.STEPS)
    assert [row["step"] for row in told] == sorted({*in_bursts, *logged})
    # After the update nothing is left to read the learning rate from: outside bursts it is unknown then.
    assert all(row["lr"] == 0.1 for row in told if not after or row["step"] in in_bursts)
    found = {row["step"]: dict(row["metrics"] or ()) for row in told}
    assert found == {step: {"at": step} if step in logged else {} for step in sorted({*in_bursts, *logged})}


def test_burst_equal_to_every_records_every_step_in_adjoining_windows(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, run="r", sampling=Sampling(burst=4, every=4)):
        taken = train(model, optimizer, data, 10)
    assert_recorded(tmp_path, {(2 * (s - s % 4), s % 4): taken[s] for s in range(10)})
    assert [w["recorded"] for w in rows(tmp_path, Table.WINDOWS)] == [4, 4, 2]


def test_nothing_is_left_on_the_model_outside_a_burst(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    armed = []
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=2, every=6)):
        train(model, optimizer, data, 12, lambda step: armed.append(hooks_left(model) > 0))
    assert armed == [step % 6 < 2 for step in range(12)]
    assert hooks_left(model) == 0
    assert not optimizer._optimizer_step_post_hooks


def test_a_users_own_hook_survives_the_bursts(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer, calls = sgd(model), []
    model[0].weight.register_hook(lambda gradient: calls.append(1))
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=1, every=3)):
        train(model, optimizer, data, 6)
    assert len(calls) == 6


def test_channels_last_gradients_are_read_where_they_lie(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.scale = nn.Parameter(torch.ones(()))
            self.offset = nn.Parameter(torch.zeros(4, 1, 1))

        def forward(self, x: torch.Tensor) -> Any:
            return (self.conv(x) * self.scale + self.offset).sum()

    model: Any = Net()
    model.to(memory_format=torch.channels_last)
    optimizer = sgd(model)
    expected = {}
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(coordinates=50, burst=2, every=2)):
        for step in range(2):
            x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            model(x).backward()
            grad = model.conv.weight.grad
            assert grad is not None
            assert not grad.is_contiguous()
            gradients = {n: p.grad.contiguous().numpy().ravel().copy() for n, p in model.named_parameters()}
            expected[0, step] = gradients
            optimizer.step()
    assert_recorded(tmp_path, expected)


def test_an_expanded_gradient_is_read_through_its_strides(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(5, 4))

        def forward(self) -> Any:
            return self.w.sum() * 3

    model = Sum()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=1, every=1)):
        model().backward()
        optimizer.step()
    np.testing.assert_array_equal(recorded(tmp_path)[0, 0, "w"], np.full(20, 3.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types_are_recorded_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model, data = mlp(dtype=dtype), Data(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=3, every=3)):
        taken = train(model, optimizer, data, 3)
    assert_recorded(tmp_path, {(0, s): taken[s] for s in range(3)})
    assert Dump(tmp_path).info.groups[0].dtype == str(dtype).removeprefix("torch.")


def test_clipped_and_zeroed_gradients_are_recorded_as_they_were_drawn(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    expected = {}
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=4, every=4)):
        for step in range(4):
            loss = loss_of(model, data())
            expected[0, step] = by_hand_unseen(model, loss)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()
            optimizer.zero_grad(set_to_none=step % 2 == 0)
    assert_recorded(tmp_path, expected)


def by_hand_unseen(model: nn.Module, loss: torch.Tensor) -> dict[str, Any]:
    """Gradients by hand with the hooks aside: ``autograd.grad`` would fire them, too."""
    saved = {name: p._backward_hooks for name, p in model.named_parameters()}
    for p in model.parameters():
        p._backward_hooks = None
    try:
        return by_hand(model, loss)
    finally:
        for name, p in model.named_parameters():
            p._backward_hooks = saved[name]


def test_a_loss_scalers_scale_is_divided_out(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    expected = {}
    with attach(model, optimizer, scaler=scaler, dump=tmp_path, sampling=Sampling(burst=6, every=6)):
        for step in range(6):
            optimizer.zero_grad()
            loss = loss_of(model, data())
            expected[0, step] = by_hand_unseen(model, loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 8192.0
    assert_recorded(tmp_path, expected)


def test_a_step_that_the_scaler_skips_leaves_theta_where_it_is(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with attach(model, optimizer, scaler=scaler, dump=tmp_path, sampling=Sampling(burst=6, every=6)) as handle:
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, data()) * (float("inf") if step == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
        assert handle.stats().theta == 3
    assert [row["theta"] for row in rows(tmp_path) if row["group"] == "0.bias"] == [0, 1, 1, 2]
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["kind"], window["recorded"], window["non_finite"]) == ("burst", 4, 1)


def test_groups_without_a_gradient_have_no_row_in_that_draw(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)
            self.frozen = nn.Linear(6, 3).requires_grad_(False)
            self.tied = self.a

        def forward(self, x: torch.Tensor, which: int) -> Any:
            return (self.a(x) if which else self.b(x)) + self.frozen(x)

    model, data = Two(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=4, every=4)):
        for step in range(4):
            optimizer.zero_grad()
            x, y = data()
            nn.functional.cross_entropy(model(x, step % 2), y).backward()
            optimizer.step()
    assert [group.name for group in Dump(tmp_path).info.groups] == [
        f"{module}.{kind}" for module in ("a", "b", "frozen") for kind in ("weight", "bias")
    ]
    found = {(row["draw"], row["group"]) for row in rows(tmp_path)}
    assert found == {(s, f"{'ab'[s % 2 == 0]}.{kind}") for s in range(4) for kind in ("weight", "bias")}
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["recorded"], window["rows"]) == (4, 8)


def test_replaced_parameters_are_found_again_at_the_next_burst(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, dump=tmp_path, sampling=Sampling(burst=1, every=2)):
        train(model, optimizer, data, 2)
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
        optimizer = sgd(model)
        taken = train(model, optimizer, data, 3)
    found = recorded(tmp_path)
    assert {key[0] for key in found} >= {0, 8}
    np.testing.assert_array_equal(found[8, 0, "2.bias"], taken[2]["2.bias"])


def test_non_finite_gradients_are_recorded_and_counted(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=5, every=5)):
        for step in range(5):
            optimizer.zero_grad()
            loss = loss_of(model, data())
            if step in (1, 3):
                loss = loss + model[2].bias[0] * float("nan")
            loss.backward()
            if step in (1, 3):
                optimizer.zero_grad()  # as a careful loop does
            optimizer.step()
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["recorded"], window["rows"], window["non_finite"]) == (5, 20, 2)
    (event,) = rows(tmp_path, Table.EVENTS)
    assert (event["kind"], event["group"], event["count"], event["step"]) == ("non_finite", "2.bias", 2, 1)
    assert np.isnan(recorded(tmp_path)[0, 3, "2.bias"][0])


def test_a_gradient_of_a_kind_of_its_own_is_named_once_and_the_rest_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(torch.Tensor):
        pass

    model, data = mlp(), Data()
    model[0].weight.register_hook(lambda gradient: gradient.as_subclass(Odd))
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=3, every=3)):
        train(model, optimizer, data, 3)
    assert {row["group"] for row in rows(tmp_path)} == {"0.bias", "2.weight", "2.bias"}
    assert counted(tmp_path) == {"unsupported_gradient": 1}
    (message,) = messages(caplog)
    assert "0.weight" in message
    assert "type Odd" in message


@pytest.mark.parametrize("after", [False, True])
def test_logged_values_join_the_row_of_their_step(tmp_path: Path, after: bool) -> None:
    model, data = mlp(), Data()
    optimizer = adam(model)
    losses = []
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=2, every=6)) as handle:
        for step in range(8):
            optimizer.zero_grad()
            loss = loss_of(model, data())
            loss.backward()
            losses.append(float(loss.detach()))
            if not after:
                handle.log(loss=loss, batch_size=8, step_number=step)
            optimizer.step()
            if after:
                handle.log(loss=loss, batch_size=8, step_number=step)
    found = rows(tmp_path, Table.STEPS)
    assert [row["step"] for row in found] == list(range(8))
    assert [row["loss"] for row in found] == losses
    assert [dict(row["metrics"])["step_number"] for row in found] == list(range(8))
    assert {row["batch_size"] for row in found} == {8}
    armed = [row for row in found if row["step"] % 6 < 2]
    assert [(row["lr"], row["beta1"], row["beta2"]) for row in armed] == [(0.01, 0.9, 0.999)] * 4
    if not after:
        assert {row["batch_size"] for row in rows(tmp_path)} == {8}


def test_what_is_no_number_is_ignored_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=2, every=2)) as handle:
        for _ in range(2):
            handle.log(loss=torch.zeros(3), name="x", good=1)
            train(model, optimizer, data, 1)
    found = rows(tmp_path, Table.STEPS)
    assert [(row["loss"], row["metrics"]) for row in found] == [(None, [("good", 1.0)])] * 2
    assert found[0]["beta1"] == 0.9
    assert found[0]["beta2"] is None
    assert sorted(message.split("(")[1][:4] for message in messages(caplog)) == ["loss", "name"]


@pytest.mark.parametrize(
    "value", [10**400, torch.tensor(1 + 2j), torch.zeros(1, device="meta")], ids=["huge", "complex", "meta"]
)
def test_a_number_that_cannot_be_had_turns_nothing_off(
    value: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=2, every=2)) as handle:
        handle.log(loss=value)
        train(model, optimizer, data, 1)
        assert handle.stats().error is None
    assert [row["loss"] for row in rows(tmp_path, Table.STEPS)] == [None]
    assert [message.split("(")[1][:4] for message in messages(caplog)] == ["loss"]


def test_a_batch_size_that_comes_too_late_for_its_draws_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, batch_size=8, sampling=Sampling(burst=4, every=4)) as handle:
        for size in (8, 8, 4, 4):
            optimizer.zero_grad()
            loss_of(model, data()).backward()
            optimizer.step()
            handle.log(batch_size=size)
    assert [row["batch_size"] for row in rows(tmp_path, Table.STEPS)] == [8, 8, 4, 4]
    assert {row["batch_size"] for row in rows(tmp_path)} == {8}
    (message,) = messages(caplog)
    assert "log(batch_size=4) after optimizer.step() is too late" in message
