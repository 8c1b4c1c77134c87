"""The device's side: pinned copies that nothing waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.collector import Probe, Sampling, attach
from gradnoise.wire import Table

from .loops import Data, by_hand, counted, hooks_left, loss_of, messages, mlp, recorded, rows, sampled

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_gradients_on_a_device_are_recorded_without_a_synchronisation(tmp_path: Path) -> None:
    model, data = mlp().cuda(), Data()
    data.x, data.y = data.x.cuda(), data.y.cuda()
    batches = [(data.x[8 * step : 8 * step + 8], data.y[8 * step : 8 * step + 8]) for step in range(6)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    taken: list[Any] = []
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=6, every=6)) as handle:
        for step, batch in enumerate(batches):
            optimizer.zero_grad()
            if step == 1:  # the first step fills the caches
                torch.cuda.set_sync_debug_mode("error")
            try:
                loss = loss_of(model, batch)
                loss.backward()
                kept = {name: p.grad.clone() for name, p in model.named_parameters()}
                optimizer.step()
                handle.log(loss=loss)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            taken.append({name: gradient.cpu().numpy().ravel() for name, gradient in kept.items()})
    found = recorded(tmp_path)
    for step, gradients in enumerate(taken):
        for name, values in sampled(tmp_path, gradients).items():
            np.testing.assert_array_equal(found[0, step, name], values)
    assert all(row["loss"] is not None for row in rows(tmp_path, Table.STEPS))


def test_a_probe_on_a_device_restores_its_generators(tmp_path: Path) -> None:
    model, data = mlp().cuda(), Data()
    data.x, data.y = data.x.cuda(), data.y.cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    taken: list[Any] = []

    def closure() -> torch.Tensor:
        chosen = torch.randint(0, 64, (8,), device="cuda")
        loss = loss_of(model, (data.x[chosen], data.y[chosen]))
        taken.append(by_hand(model, loss))
        return loss

    state = torch.cuda.get_rng_state()
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=0), probe=Probe(closure, draws=3, every=1)):
        loss_of(model, (data.x, data.y)).backward()
        optimizer.step()
    assert torch.equal(state, torch.cuda.get_rng_state())
    found = recorded(tmp_path)
    for draw, gradients in enumerate(taken):
        for name, values in sampled(tmp_path, gradients).items():
            np.testing.assert_array_equal(found[3, draw, name], values)
    assert hooks_left(model) == 0


SYNCHRONISES = ("cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaStreamSynchronize")


def synchronisations(path: Path | None) -> dict[str, int]:
    """Calls in six steps that make host or device wait, once the first steps have filled the caches."""
    torch.manual_seed(0)
    model, data = mlp().cuda(), Data()
    batches = [(data.x[8 * step : 8 * step + 8].cuda(), data.y[8 * step : 8 * step + 8].cuda()) for step in range(8)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    handle = None
    if path is not None:
        handle = attach(model, optimizer, dump=path, sampling=Sampling(burst=8, every=8))

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        if handle is not None:
            handle.log(loss=loss)

    for batch in batches[:2]:
        step(batch)
    if handle is not None:
        handle.flush()  # pinned memory is back in its pool
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for batch in batches[2:]:
            step(batch)
    if handle is not None:
        handle.close()
        assert handle.stats().draws == 8
    return {event.key: event.count for event in profile.key_averages() if event.key in SYNCHRONISES}


def test_the_profiler_sees_no_call_that_waits(tmp_path: Path) -> None:
    assert synchronisations(tmp_path) == synchronisations(None)


def test_sparse_and_strided_gradients_are_read_without_a_synchronisation(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 6, sparse=True)
            self.conv = nn.Conv2d(6, 4, 3)
            self.conv.weight.data = self.conv.weight.data.to(memory_format=torch.channels_last)

        def forward(self, index: torch.Tensor) -> torch.Tensor:
            spread = self.table(index).permute(0, 3, 1, 2)
            result: torch.Tensor = self.conv(spread.to(memory_format=torch.channels_last)).square().mean()
            return result

    model = Mixed().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    taken: list[Any] = []
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=4, every=4)):
        for step in range(4):
            index = torch.randint(0, 50, (2, 5, 5), device="cuda")
            optimizer.zero_grad()
            loss = model(index)
            if step:
                torch.cuda.set_sync_debug_mode("error")
            try:
                loss.backward()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            taken.append(
                {
                    name: (g.to_dense() if g.is_sparse else g).detach().contiguous().cpu().numpy().ravel().copy()
                    for name, g in gradients.items()
                }
            )
            optimizer.step()
    found = recorded(tmp_path)
    assert len(found) == 4 * 3
    for (_, draw, name), values in found.items():
        np.testing.assert_allclose(values, sampled(tmp_path, taken[draw])[name], rtol=1e-5, atol=1e-7)


def test_a_captured_step_is_left_alone_and_its_replays_train_as_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def final(path: Path | None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = mlp().cuda()
        x, y = torch.randn(8, 6, device="cuda"), torch.randint(0, 3, (8,), device="cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        handle = None
        if path is not None:
            handle = attach(model, optimizer, dump=path, sampling=Sampling(burst=64, every=64))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                optimizer.zero_grad()
                loss_of(model, (x, y)).backward()
                optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad()
        with torch.cuda.graph(graph):
            loss_of(model, (x, y)).backward()
            optimizer.step()
        for _ in range(4):
            graph.replay()
        if handle is not None:
            handle.close()
            assert handle.stats().draws == 3
        return [parameter.detach().cpu() for parameter in model.parameters()]

    for with_hook, without in zip(final(tmp_path), final(None), strict=True):
        assert torch.equal(with_hook, without)
    assert counted(tmp_path) == {"captured_backward": 1}
    assert len(messages(caplog)) == 1


def test_another_default_device_changes_nothing(tmp_path: Path) -> None:
    model, data = mlp().cuda(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    taken: list[Any] = []
    with torch.device("cuda"), attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=3, every=3)):
        for _ in range(3):
            x, y = data()
            optimizer.zero_grad()
            loss_of(model, (x.cuda(), y.cuda())).backward()
            taken.append({n: p.grad.cpu().numpy().ravel() for n, p in model.named_parameters() if p.grad is not None})
            optimizer.step()
    found = recorded(tmp_path)
    for (_, draw, name), values in found.items():
        np.testing.assert_array_equal(values, sampled(tmp_path, taken[draw])[name])
    assert len(found) == 3 * 4


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_model_over_two_devices_is_recorded(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8).to("cuda:0"), nn.Linear(8, 3).to("cuda:1")

        def forward(self, x: torch.Tensor) -> Any:
            return self.b(torch.relu(self.a(x.to("cuda:0"))).to("cuda:1"))

    model, data = Two(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    taken: list[Any] = []
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=3, every=3)):
        for _ in range(3):
            x, y = data()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y.to("cuda:1")).backward()
            taken.append({n: p.grad.cpu().numpy().ravel() for n, p in model.named_parameters() if p.grad is not None})
            optimizer.step()
    found = recorded(tmp_path)
    for (_, draw, name), values in found.items():
        np.testing.assert_array_equal(values, sampled(tmp_path, taken[draw])[name])
    assert len(found) == 3 * 4
