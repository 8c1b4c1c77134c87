"""A loop of one's own with Accelerate: prepared objects are attached as they are."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradnoise.collector import Sampling, attach
from gradnoise.wire import Table

from .loops import assert_recorded, by_hand, hooks_left, loss_of, messages, mlp, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the library's own imports
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.state import AcceleratorState

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:accelerate", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Accelerate keeps its state in the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def prepared(accelerator: Any, examples: int = 48) -> tuple[Any, Any, Any]:
    torch.manual_seed(1)
    model = mlp()
    rng = torch.Generator().manual_seed(2)
    data = TensorDataset(torch.randn(examples, 6, generator=rng), torch.randint(0, 3, (examples,), generator=rng))
    loader: DataLoader[Any] = DataLoader(data, batch_size=8)
    found: tuple[Any, Any, Any] = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), loader)
    return found


def twin_of(model: nn.Module) -> nn.Module:
    """A network with the same parameters; no hook of the model sees what it does."""
    twin: nn.Module = mlp()
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.mark.parametrize("steps", [1, 4])
def test_accumulation_within_the_context(steps: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=steps)
    model, optimizer, loader = prepared(accelerator)
    expected = []
    with attach(model, optimizer, run="acc", dump=tmp_path / "dump", scaler=accelerator.scaler) as handle:
        for batch in loader:
            with accelerator.accumulate(model):
                twin = twin_of(model)
                expected.append(by_hand(twin, loss_of(twin, batch)))
                loss = loss_of(model, batch)
                accelerator.backward(loss)
                handle.log(loss=loss, batch_size=len(batch[1]), divisor=accelerator.gradient_accumulation_steps)
                accelerator.clip_grad_norm_(model.parameters(), 0.01)
                optimizer.step()
                optimizer.zero_grad()
    assert len(expected) == 6
    assert_recorded(tmp_path / "dump", {(0, draw): gradients for draw, gradients in enumerate(expected)})
    thetas = [row["theta"] for row in rows(tmp_path / "dump") if row["group"] == "0.bias"]
    assert thetas == ([0] * 4 + [1] * 2 if steps == 4 else list(range(6)))
    taken = rows(tmp_path / "dump", Table.STEPS)
    assert {row["divisor"] for row in taken} == {float(steps)}
    assert {row["batch_size"] for row in taken} == {8}
    assert hooks_left(model) == 0
    assert messages(caplog) == []


def test_training_is_bit_equal_to_one_without_the_hook(tmp_path: Path) -> None:
    states = []
    for hooked in (True, False):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16")
        model, optimizer, loader = prepared(accelerator)
        handle = (
            attach(model, optimizer, run="acc", dump=tmp_path / "dump", sampling=Sampling(burst=2, every=2))
            if hooked
            else None
        )
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, batch))
                optimizer.step()
                optimizer.zero_grad()
        if handle is not None:
            handle.close()
            assert handle.stats().draws == 6
        states.append(accelerator.unwrap_model(model).state_dict())
        AcceleratorState._reset_state(reset_partial_state=True)
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_the_loss_scale_of_a_prepared_optimizer_is_divided_out(tmp_path: Path) -> None:
    # On a CPU Accelerate makes no scaler by itself; a wrapped optimizer with one is what it makes on a GPU.
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = prepared(accelerator)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    optimizer = AcceleratedOptimizer(optimizer.optimizer, scaler=accelerator.scaler)
    expected = []
    with attach(model, optimizer, run="acc", dump=tmp_path / "dump", scaler=accelerator.scaler):
        for batch in loader:
            twin = twin_of(model)
            expected.append(by_hand(twin, loss_of(twin, batch)))
            accelerator.backward(loss_of(model, batch))
            optimizer.step()
            optimizer.zero_grad()
    assert_recorded(tmp_path / "dump", {(0, draw): gradients for draw, gradients in enumerate(expected)})
    assert {row["loss_scale"] for row in rows(tmp_path / "dump", Table.STEPS)} == {512.0}
