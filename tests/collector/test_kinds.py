"""Kinds of parameters and of models, and copies of a model that is being recorded."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from gradnoise.collector import Sampling, attach
from gradnoise.wire import Table

from .loops import Data, assert_recorded, counted, hooks_left, loss_of, messages, mlp, recorded, rows, sampled, train
from .test_bursts import adam, sgd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

EVERY_STEP = Sampling(coordinates=40, burst=4, every=4)


class Bag(nn.Module):
    """Sparse gradients, of rows that repeat."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(30, 6, mode=mode, sparse=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.table((x.abs() * 10).long() % 30))


def by_grad(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradient = parameter.grad.detach()
            dense = gradient.to_dense() if gradient.is_sparse else gradient.clone()
            found[name] = dense.float().contiguous().numpy().ravel()
    return found


def train_any(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    loss: Callable[[nn.Module], torch.Tensor],
) -> list[dict[str, NDArray[np.float32]]]:
    taken = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        taken.append(by_grad(model))
        optimizer.step()
    return taken


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_sparse_gradients_are_recorded_as_their_dense_form(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    model, data = Bag(mode), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP):
        taken = train_any(model, optimizer, 4, lambda m: loss_of(m, data()))
    found = recorded(tmp_path)
    assert len(found) == 4 * 3
    for (window, draw, name), values in found.items():
        wanted = sampled(tmp_path, taken[draw])[name]
        assert window == 0
        np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-7)
        if name != "table.weight":
            np.testing.assert_array_equal(values, wanted)
    assert np.count_nonzero(found[0, 0, "table.weight"]) > 3
    assert counted(tmp_path) == {}
    assert messages(caplog) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_parameters_of_any_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    model, data = mlp(dtype=dtype), Data(dtype=dtype)
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP):
        taken = train(model, optimizer, data, 4)
    assert_recorded(tmp_path, {(0, step): taken[step] for step in range(4)})


class Half(nn.Module):
    """float16, whose products the CPU may lack: a scaled table of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(7, 3, dtype=torch.float16))
        self.zero = nn.Parameter(torch.tensor(0.5))  # 0-d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.w.float() * x).sum() * self.zero


def test_half_precision_and_a_parameter_without_dimensions(tmp_path: Path) -> None:
    model = Half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP):
        taken = train_any(model, optimizer, 4, lambda m: m(torch.randn(7, 3)))
    assert_recorded(tmp_path, {(0, step): taken[step] for step in range(4)})


def test_gradients_in_the_order_of_the_input_and_expanded_ones(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path / "conv", sampling=EVERY_STEP):
        taken = train_any(
            model,
            optimizer,
            4,
            lambda m: m(torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)).square().mean(),
        )
    assert model[0].weight.grad.stride() == (27, 1, 9, 3)
    assert_recorded(tmp_path / "conv", {(0, step): taken[step] for step in range(4)})

    summed = nn.ParameterList([nn.Parameter(torch.randn(6, 5))])  # the gradient of a sum is an expanded one
    optimizer = sgd(summed)
    with attach(summed, optimizer, dump=tmp_path / "sum", sampling=EVERY_STEP):
        taken = train_any(summed, optimizer, 4, lambda m: next(m.parameters()).sum() * torch.rand(()))
    assert_recorded(tmp_path / "sum", {(0, step): taken[step] for step in range(4)})


def test_parametrized_weights_are_recorded_as_what_the_optimizer_updates(tmp_path: Path) -> None:
    class Symmetric(nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return w.triu() + w.triu(1).mT

    model, data = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)), Data()
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP):
        taken = train(model, optimizer, data, 4)
    assert "0.parametrizations.weight.original" in taken[0]
    assert_recorded(tmp_path, {(0, step): taken[step] for step in range(4)})


def test_a_recurrent_network_is_recorded(tmp_path: Path) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell: Any = nn.LSTM(6, 5, num_layers=2)
            self.head = nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(self.cell(x.expand(4, *x.shape))[0][-1])

    model, data = Network(), Data()
    optimizer = adam(model)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP):
        taken = train(model, optimizer, data, 4)
    assert len(taken[0]) == 10
    assert_recorded(tmp_path, {(0, step): taken[step] for step in range(4)})


def test_a_loss_that_is_a_method_of_the_model_is_recorded_once_a_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def loss(self, batch: Any) -> torch.Tensor:
            return loss_of(self.net, batch)

    model, data = Own(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP):
        taken = train_any(model, optimizer, 4, lambda m: cast(Any, m).loss(data()))
    assert_recorded(tmp_path, {(0, step): taken[step] for step in range(4)})
    assert messages(caplog) == []


# --- copies of a model while its hooks are in place --------------------------------------------------------------


def by_pickle(model: nn.Module) -> nn.Module:
    found: nn.Module = pickle.loads(pickle.dumps(model))
    return found


def by_save(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    found: nn.Module = torch.load(buffer, weights_only=False)
    return found


def by_state(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    found: nn.Module = mlp()
    found.load_state_dict(torch.load(buffer))
    return found


def by_average(model: nn.Module) -> nn.Module:
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    found = averaged.module
    assert isinstance(found, nn.Module)
    return found


def by_sharing(model: nn.Module) -> nn.Module:
    found: nn.Module = copy.deepcopy(model).share_memory()
    return found


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle, by_save, by_state, by_average, by_sharing])
def test_a_copy_of_an_armed_model_carries_no_live_hook(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, duplicate: Callable[[nn.Module], nn.Module]
) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP) as handle:
        taken = train(model, optimizer, data, 2)
        twin = duplicate(model)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(ours, theirs)
            assert not theirs._backward_hooks  # unpickling makes an empty dictionary of its own
        for _ in range(3):  # a copy that trains on its own is no draw, and no forward pass, of the model
            loss_of(twin, data()).backward()
        taken += train(model, optimizer, data, 2)
        assert handle.stats().theta == 4
    assert_recorded(tmp_path, {(0, step): taken[step] for step in range(4)})
    assert counted(tmp_path) == {}
    assert messages(caplog) == []
    # The hooks of the model are off; what a copy may still carry does nothing.
    assert hooks_left(model) == 0
    loss_of(twin, data()).backward()
    assert_recorded(tmp_path, {(0, step): taken[step] for step in range(4)})


def test_a_model_that_is_shared_while_it_is_recorded_goes_on(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP):
        taken = train(model, optimizer, data, 2)
        model.share_memory()
        taken += train(model, optimizer, data, 2)
    assert all(parameter.is_shared() for parameter in model.parameters())
    assert_recorded(tmp_path, {(0, step): taken[step] for step in range(4)})


def test_a_copy_can_be_recorded_by_itself(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    with attach(model, sgd(model), dump=tmp_path / "model", sampling=EVERY_STEP):
        twin: Any = copy.deepcopy(model)
        optimizer = sgd(twin)
        with attach(twin, optimizer, dump=tmp_path / "twin", sampling=EVERY_STEP):
            taken = train(twin, optimizer, data, 4)
    assert_recorded(tmp_path / "twin", {(0, step): taken[step] for step in range(4)})
    assert rows(tmp_path / "model", Table.DRAWS) == []


def test_a_model_that_is_gone_is_not_kept_alive_by_its_hooks(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    handle = attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=1, every=4))
    train(model, optimizer, data, 2)  # the burst is over
    gone: list[bool] = []
    watched = nn.Identity()
    model.append(watched)
    weakref.finalize(watched, gone.append, True)
    del model, watched, optimizer
    gc.collect()
    assert gone == [True]
    handle.close()
