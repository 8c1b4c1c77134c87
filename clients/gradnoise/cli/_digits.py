"""A small real training job: scikit-learn's handwritten digits and a fully connected network.

Shared by the demo, its test and the benchmark of the hook. Needs the ``demo`` extra.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from sklearn.datasets import load_digits
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Job", "Minibatch", "job"]

Minibatch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Job:
    """A network, its optimiser, its data and its loss, ready to train.

    Attributes:
        model: 64-64-64-64-10, ReLU: 4 weight matrices and 4 biases.
        optimizer: SGD with momentum, or Adam.
        batches: shuffled epochs of minibatches without end.
        probe: the loss of a fresh minibatch drawn with replacement; what ``Probe`` calls.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterator[Minibatch]
    probe: Callable[[], torch.Tensor]

    def step(self) -> torch.Tensor:
        """Take one optimiser step on the next minibatch and return its loss."""
        x, y = next(self.batches)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def job(optimizer: Literal["sgd", "adam"], batch_size: int, seed: int = 0) -> Job:
    """Make a training job, the same for the same arguments.

    Args:
        optimizer: ``sgd`` (learning rate 0.05, momentum 0.9) or ``adam`` (1e-3).
        batch_size: examples in a minibatch.
        seed: of the initial weights and of the data order.
    """
    digits = load_digits()
    x = torch.tensor(digits.data / 16.0, dtype=torch.float32)
    y = torch.tensor(digits.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Linear(64, 64), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
    steps: torch.optim.Optimizer
    if optimizer == "sgd":
        steps = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    else:
        steps = torch.optim.Adam(model.parameters(), lr=1e-3)

    def probe() -> torch.Tensor:
        rows = torch.randint(len(x), (batch_size,))
        return nn.functional.cross_entropy(model(x[rows]), y[rows])

    return Job(model, steps, _epochs(x, y, batch_size, torch.Generator().manual_seed(seed)), probe)


def _epochs(x: torch.Tensor, y: torch.Tensor, batch_size: int, order: torch.Generator) -> Iterator[Minibatch]:
    while True:
        rows = torch.randperm(len(x), generator=order)
        for start in range(0, len(x) - batch_size + 1, batch_size):
            chosen = rows[start : start + batch_size]
            yield x[chosen], y[chosen]
