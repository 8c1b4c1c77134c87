"""Loss scaling: what is recorded is unscaled, and steps that the scaler skips are events, whoever steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.collector import Sampling, attach
from gradnoise.wire import Table

from .loops import Data, assert_recorded, counted, loss_of, messages, mlp, recorded, rows
from .test_bursts import by_hand_unseen

if TYPE_CHECKING:
    from pathlib import Path

ALL = Sampling(burst=8, every=8)


def plain(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def fused_adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01, fused=True)


def fused_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, fused=True)


def overflow(loss: torch.Tensor) -> torch.Tensor:
    return loss * float("inf")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("make", [plain, fused_adam, fused_sgd])
def test_a_skipped_step_is_an_event_and_no_update(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, known: bool
) -> None:
    model, data = mlp(), Data()
    optimizer = make(model)
    fused = bool(optimizer.defaults.get("fused"))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    skipped, scales, parameters = (2, 3), [], []
    expected: dict[tuple[int, int], Any] = {}
    with attach(
        model, optimizer if known else None, scaler=scaler, dump=tmp_path, sampling=Sampling(burst=9, every=9)
    ) as handle:
        for step in range(9):
            optimizer.zero_grad()
            loss = loss_of(model, data())
            expected[0, step] = by_hand_unseen(model, loss)
            scales.append(scaler.get_scale())
            parameters.append(model[0].weight.detach().clone())
            scaler.scale(overflow(loss) if step in skipped else loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert handle.stats().theta == (9 if fused else 7)
    assert torch.equal(parameters[2], parameters[4])
    found = rows(tmp_path)
    thetas = [row["theta"] for row in found if row["group"] == "0.bias"]
    assert thetas == ([0, 1, 2, 2, 2, 5, 6, 7, 8] if fused else [0, 1, 2, 2, 2, 3, 4, 5, 6])
    for (window, draw, group), values in recorded(tmp_path).items():
        if draw in skipped:
            assert not np.isfinite(values).all()
        else:
            np.testing.assert_array_equal(values, expected[window, draw][group])
    events = [(row["kind"], row["step"]) for row in rows(tmp_path, Table.EVENTS) if row["kind"] == "skipped_step"]
    assert events == [("skipped_step", 2), ("skipped_step", 3 if fused else 2)]
    (end,) = rows(tmp_path, Table.WINDOWS)
    assert (end["recorded"], end["non_finite"], end["kind"]) == (9, 2, "burst")
    steps = {row["step"]: row["loss_scale"] for row in rows(tmp_path, Table.STEPS)}
    taken = [step for step in range(9) if fused or step not in skipped]
    assert [steps[index if not fused else step] for index, step in enumerate(taken)] == [scales[s] for s in taken]
    assert messages(caplog) == []


def test_a_scale_that_the_loop_sets_itself_is_no_skipped_step(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    expected = {}
    with attach(model, optimizer, scaler=scaler, dump=tmp_path, sampling=ALL):
        for step in range(5):
            optimizer.zero_grad()
            loss = loss_of(model, data())
            expected[0, step] = by_hand_unseen(model, loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update(16.0 if step == 2 else None)
    assert_recorded(tmp_path, expected)
    assert counted(tmp_path) == {}
    assert [row["loss_scale"] for row in rows(tmp_path, Table.STEPS)] == [1024.0] * 3 + [16.0] * 2


def test_a_scaler_that_is_switched_off_scales_nothing(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    expected = {}
    with attach(model, optimizer, scaler=scaler, dump=tmp_path, sampling=ALL):
        for step in range(3):
            optimizer.zero_grad()
            loss = loss_of(model, data())
            expected[0, step] = by_hand_unseen(model, loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert_recorded(tmp_path, expected)
    assert [(r["loss_scale"], r["clip_factor"]) for r in rows(tmp_path, Table.STEPS)] == [(None, 1.0)] * 3


def test_skipped_steps_of_accumulated_microbatches(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    expected = {}
    with attach(model, optimizer, scaler=scaler, dump=tmp_path, sampling=ALL) as handle:
        for step in range(4):
            optimizer.zero_grad()
            for part in range(2):
                loss = loss_of(model, data())
                expected[0, 2 * step + part] = by_hand_unseen(model, loss)
                scaler.scale(overflow(loss) if (step, part) == (1, 1) else loss).backward()
            handle.log(divisor=2)
            scaler.step(optimizer)
            scaler.update()
    assert counted(tmp_path)["skipped_step"] == 1
    assert [row["theta"] for row in rows(tmp_path) if row["group"] == "0.bias"] == [0, 0, 1, 1, 1, 1, 2, 2]
    for (window, draw, group), values in recorded(tmp_path).items():
        if draw != 3:
            np.testing.assert_array_equal(values, 2 * expected[window, draw][group])


def test_of_two_fused_optimizers_both_have_to_skip(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    pair = [torch.optim.SGD(layer.parameters(), lr=0.1, fused=True) for layer in (model[0], model[2])]
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    with attach(model, pair, scaler=scaler, dump=tmp_path, sampling=Sampling(burst=10, every=10)):
        for step in range(5):
            model.zero_grad()
            scaler.scale(loss_of(model, data())).backward()
            if step in (1, 3):
                model[2].bias.grad[0] = float("inf")
            if step == 3:
                model[0].bias.grad[0] = float("inf")
            for optimizer in pair:
                scaler.step(optimizer)
            scaler.update()
    thetas = [row["theta"] for row in rows(tmp_path) if row["group"] == "0.bias"]
    assert thetas == [0, 2, 4, 6, 6]
    events = [row["step"] for row in rows(tmp_path, Table.EVENTS) if row["kind"] == "skipped_step"]
    assert events == [3, 6, 7]
