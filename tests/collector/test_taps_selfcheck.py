"""The first backward passes are checked against what they leave in ``.grad``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from gradnoise.collector import Sampling, attach
from gradnoise.wire import Table

from .loops import Data, counted, loss_of, messages, mlp, rows, train
from .test_taps_scaler import plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALL = Sampling(burst=16, every=16)


def own_hook(model: Any) -> None:
    model[2].weight.register_hook(lambda gradient: gradient * 0.5)


def afterwards(model: Any) -> None:
    def triple(parameter: Any) -> None:
        parameter.grad.mul_(3)

    model[0].bias.register_post_accumulate_grad_hook(triple)


@pytest.mark.parametrize(
    ("install", "group", "says"),
    [(own_hook, "2.weight", "register such hooks before attach()"), (afterwards, "0.bias", "post-accumulate-grad")],
)
def test_a_gradient_that_another_hook_changes_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, install: Callable[[Any], None], group: str, says: str
) -> None:
    def trained(path: Path | None) -> Any:
        torch.manual_seed(0)
        model, data = mlp(), Data()
        optimizer = plain(model)
        handle = None if path is None else attach(model, optimizer, dump=path, sampling=ALL)
        install(model)
        train(model, optimizer, data, 6)
        if handle is not None:
            handle.close()
        return model

    with_hook, without = trained(tmp_path), trained(None)
    for a, b in zip(with_hook.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)
    (event,) = rows(tmp_path, Table.EVENTS)
    assert (event["kind"], event["group"], event["count"], event["step"]) == ("self_check", group, 1, 0)
    (message,) = messages(caplog)
    assert says in message
    assert group in message


def test_hooks_from_before_attach_are_part_of_the_gradient(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    own_hook(model)
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):
        train(model, optimizer, data, 6)
    assert counted(tmp_path) == {}
    assert messages(caplog) == []


def never_zeroed(model: Any, data: Data, step: int) -> None:
    loss_of(model, data()).backward()


def zeroed_in_place(model: Any, data: Data, step: int) -> None:
    model.zero_grad(set_to_none=False)
    loss_of(model, data()).backward()


def accumulated(model: Any, data: Data, step: int) -> None:
    model.zero_grad()
    for _ in range(3):
        loss_of(model, data()).backward()


def by_grad(model: Any, data: Data, step: int) -> None:
    found = torch.autograd.grad(loss_of(model, data()), list(model.parameters()))
    for p, gradient in zip(model.parameters(), found, strict=True):
        p.grad = gradient * 2


def clipped(model: Any, data: Data, step: int) -> None:
    model.zero_grad()
    loss_of(model, data()).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)


def infinite(model: Any, data: Data, step: int) -> None:
    model.zero_grad()
    (loss_of(model, data()) * float("inf")).backward()


def released(model: Any, data: Data, step: int) -> None:
    model.zero_grad()
    hooks = [p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None)) for p in model.parameters()]
    loss_of(model, data()).backward()
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("backward", [never_zeroed, zeroed_in_place, accumulated, by_grad, clipped, infinite, released])
def test_what_is_as_it_should_be_is_no_mismatch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, backward: Callable[[Any, Data, int], None], dtype: torch.dtype
) -> None:
    model, data = mlp(dtype=dtype), Data(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):
        for step in range(6):
            backward(model, data, step)
            optimizer.step()
    assert set(counted(tmp_path)) <= {"non_finite"}
    assert messages(caplog) == []
    assert len(rows(tmp_path)) >= 24


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accumulated_sparse_gradients_with_many_equal_rows_are_no_mismatch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: torch.dtype
) -> None:
    model = nn.Sequential(nn.Embedding(50, 8, sparse=True), nn.Flatten(), nn.Linear(56, 3)).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):
        for _ in range(3):
            for _ in range(3):
                loss_of(model, (torch.randint(0, 5, (64, 7)), torch.randint(0, 3, (64,)))).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert messages(caplog) == []
    assert len(rows(tmp_path)) == 27


def test_later_passes_are_not_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):
        train(model, optimizer, data, 8)
        own_hook(model)
        train(model, optimizer, data, 4)
    assert messages(caplog) == []


@pytest.mark.parametrize("fused", [False, True])
def test_a_loss_scaler_that_attach_does_not_know_of_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fused: bool
) -> None:
    model, data = mlp(), Data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):
        for _ in range(4):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, data())).backward()
            scaler.step(optimizer)
            scaler.update()
    (message,) = messages(caplog)
    assert "divided by 16384" in message
    assert "attach(scaler=...)" in message
    (event,) = rows(tmp_path, Table.EVENTS)
    assert (event["kind"], event["step"]) == ("self_check", 0)


def test_strong_clipping_is_not_taken_for_a_loss_scaler(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):
        for limit in (1e-2, 1e-3, 1e-4):
            optimizer.zero_grad()
            loss_of(model, data()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
    assert messages(caplog) == []
