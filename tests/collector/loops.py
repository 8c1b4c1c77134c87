"""Small models, loops, and what they must have recorded."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from gradnoise.wire import Dump, Table, completed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from numpy.typing import NDArray

Row = dict[str, Any]


def mlp(*, dtype: torch.dtype = torch.float32) -> Any:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


class Data:
    """Minibatches drawn from a generator of their own."""

    def __init__(self, *, size: int = 64, batch: int = 8, seed: int = 1, dtype: torch.dtype = torch.float32) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, 6, generator=rng).to(dtype)
        self.y = torch.randint(0, 3, (size,), generator=rng)
        self._rng = rng
        self._batch = batch

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(0, len(self.x), (self._batch,), generator=self._rng)
        return self.x[chosen], self.y[chosen]


def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


def by_hand(model: nn.Module, loss: torch.Tensor) -> dict[str, NDArray[np.float32]]:
    """Gradients as ``.grad`` shows them, flat and row-major; ``loss`` keeps its graph."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        name: gradient.detach().float().contiguous().cpu().numpy().ravel()
        for name, gradient in zip(named, gradients, strict=True)
        if gradient is not None
    }


def rows(path: Path, table: Table = Table.DRAWS) -> list[Row]:
    dump = Dump(path)
    batches = [completed(table, b.batch) for p in dump.producers() for b in dump.batches(table, p)]
    found = [row for batch in batches for row in batch.to_pylist()]
    assert dump.problems == []
    return found


def recorded(path: Path) -> dict[tuple[int, int, str], NDArray[np.float32]]:
    """(window, draw, group) -> values."""
    return {(r["window"], r["draw"], r["group"]): np.array(r["values"], np.float32) for r in rows(path)}


def sampled(path: Path, gradients: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    info = Dump(path).info
    return {name: values[list(info.group(name).indices)] for name, values in gradients.items()}


def assert_recorded(path: Path, expected: dict[tuple[int, int], dict[str, NDArray[np.float32]]]) -> None:
    """Exactly the draws (window, draw) -> gradients by hand are in the dump, to the last bit."""
    found = recorded(path)
    wanted = {
        (window, draw, name): values
        for (window, draw), gradients in expected.items()
        for name, values in sampled(path, gradients).items()
    }
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        np.testing.assert_array_equal(found[key], values, err_msg=str(key))


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "gradnoise" and r.levelno >= logging.WARNING]


def hooks_left(model: nn.Module) -> int:
    return len(model._forward_hooks) + sum(p._backward_hooks is not None for p in model.parameters())


def counted(path: Path) -> dict[str, int]:
    """Events: kind -> count."""
    total: defaultdict[str, int] = defaultdict(int)
    for row in rows(path, Table.EVENTS):
        total[row["kind"]] += row["count"]
    return dict(total)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    steps: int,
    after_backward: Callable[[int], object] | None = None,
) -> list[dict[str, NDArray[np.float32]]]:
    """A plain loop; returns the gradients of every step, taken from ``.grad``."""
    taken = []
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, data()).backward()
        taken.append(
            {
                name: p.grad.detach().float().contiguous().numpy().ravel().copy()
                for name, p in model.named_parameters()
                if p.grad is not None
            }
        )
        if after_backward is not None:
            after_backward(step)
        optimizer.step()
    return taken
