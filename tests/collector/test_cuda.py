"""The device's side: pinned copies that nothing waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from gradnoise.collector import Probe, Sampling, attach
from gradnoise.wire import Table

from .loops import Data, by_hand, hooks_left, loss_of, mlp, recorded, rows, sampled

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
