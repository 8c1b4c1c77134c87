"""The clip factor: how much of the drawn gradient the optimiser was given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from gradnoise.collector import Sampling, attach
from gradnoise.wire import Table

from .loops import Data, loss_of, messages, mlp, rows
from .test_taps_scaler import fused_adam, overflow, plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALL = Sampling(burst=16, every=16)


def norm(model: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None))


def factors(path: Path) -> list[float | None]:
    return [row["clip_factor"] for row in rows(path, Table.STEPS)]


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("microbatches", [1, 3])
def test_clipping_by_norm_and_by_value(tmp_path: Path, microbatches: int, to_none: bool) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    expected = []
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):
        for step in range(6):
            optimizer.zero_grad(set_to_none=to_none)
            for _ in range(microbatches):
                loss_of(model, data()).backward()
            before = norm(model)
            if step % 3 == 1:
                nn.utils.clip_grad_norm_(model.parameters(), before / 4)
            elif step % 3 == 2:
                nn.utils.clip_grad_value_(model.parameters(), 0.01)
            expected.append(norm(model) / before)
            optimizer.step()
    found = factors(tmp_path)
    assert found[0] == found[3] == 1.0
    # All of these small groups are sampled whole, and the four of them are all there are.
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[1] == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("make", [plain, fused_adam])
@pytest.mark.parametrize("unscale", [True, False])
def test_under_a_loss_scaler(tmp_path: Path, make: Any, unscale: bool) -> None:
    model, data = mlp(), Data()
    optimizer = make(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    with attach(model, optimizer, scaler=scaler, dump=tmp_path, sampling=ALL):
        for step in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, data())
            scaler.scale(overflow(loss) if step == 2 else loss).backward()
            if unscale:
                scaler.unscale_(optimizer)
                if step == 1:
                    nn.utils.clip_grad_norm_(model.parameters(), norm(model) / 8)
            scaler.step(optimizer)
            scaler.update()
    found = factors(tmp_path)
    second = pytest.approx(0.125, rel=1e-5) if unscale else 1.0
    assert found == [1.0, second, None, 1.0] if make is fused_adam else [1.0, second, 1.0]


def test_what_is_clipped_is_what_the_loop_steps_with(tmp_path: Path) -> None:
    """Gradients left from before recording are part of it; a gradient that is gone tells nothing."""
    model, data = mlp(), Data()
    optimizer = plain(model)
    loss_of(model, data()).backward()
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):
        for step in range(4):
            loss_of(model, data()).backward()
            if step == 1:
                nn.utils.clip_grad_norm_(model.parameters(), norm(model) / 2)
            elif step == 2:
                optimizer.zero_grad()
            elif step == 3:
                for p in model.parameters():
                    p.grad.zero_()
            optimizer.step()
    assert factors(tmp_path) == [1.0, pytest.approx(0.5, rel=1e-5), None, 0.0]


def test_of_large_groups_a_sample_shows_the_factor(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(30, 90), nn.Tanh(), nn.Linear(90, 30))
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(coordinates=1000, burst=8, every=8)):
        for part in (1, 2, 8, 100):
            optimizer.zero_grad()
            for _ in range(2):
                model(torch.randn(16, 30)).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), norm(model) / part)
            optimizer.step()
    assert factors(tmp_path) == pytest.approx([1, 1 / 2, 1 / 8, 1 / 100], rel=1e-5)


def test_each_optimizer_is_compared_with_its_own_groups(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    pair = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (model[0], model[2])]
    with attach(model, pair, dump=tmp_path, sampling=ALL):
        for which, one in enumerate(pair):
            model.zero_grad()
            loss_of(model, data()).backward()
            nn.utils.clip_grad_norm_(model[2 * which].parameters(), norm(model[2 * which]) / (2 + which))
            one.step()
    assert factors(tmp_path) == pytest.approx([1 / 2, 1 / 3], rel=1e-5)


def test_a_zero_gradient_has_no_factor(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):
        (loss_of(model, data()) * 0).backward()
        optimizer.step()
    assert factors(tmp_path) == [None]


def test_where_processes_average_there_is_no_factor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gradnoise.collector._taps.taps as taps

    average: Callable[[nn.Module], bool] = lambda model: True  # noqa: E731
    monkeypatch.setattr(taps, "averages_gradients", average)
    model, data = mlp(), Data()
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, data()).backward()
            for p in model.parameters():
                p.grad.mul_(0.5)  # as an all-reduce does
            optimizer.step()
    assert factors(tmp_path) == [None] * 3
    assert messages(caplog) == []
