"""The networks of the collector's benchmarks, on synthetic data of the usual shapes: what is timed is the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NETWORKS", "Training", "training"]


def mlp() -> nn.Module:
    """784-1000-500-100-10, as the MNIST network of DeepOBS (Schneider et al. 2019)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 1000),
        nn.ReLU(),
        nn.Linear(1000, 500),
        nn.ReLU(),
        nn.Linear(500, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def conv3c3d() -> nn.Module:
    """Three convolutions and three dense layers, as the CIFAR-10 network of DeepOBS (Schneider et al. 2019)."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 5),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(64, 96, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(96, 128, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Flatten(),
        nn.Linear(1152, 512),
        nn.ReLU(),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


class _Block(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or width != out:
            self.skip = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def resnet18() -> nn.Module:
    """ResNet-18 (He et al. 2016): 11.2 million parameters in 62 tensors, for 10 classes."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks: list[nn.Module] = []
    width = 64
    for out in (64, 128, 256, 512):
        for position in range(2):
            blocks.append(_Block(width, out, 2 if position == 0 and out > 64 else 1))
            width = out
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Transformer(nn.Module):
    """Six layers of width 256 with four heads, a vocabulary of 1000: 5.2 million parameters in 75 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 256)
        layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(256, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(self.embed(x)))
        return out.flatten(0, 1)


def _images(batch: int, channels: int, side: int) -> Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]:
    def draw(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(batch, channels, side, side, generator=rng), torch.randint(10, (batch,), generator=rng)

    return draw


def _tokens(batch: int, length: int) -> Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]:
    def draw(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.randint(1000, (batch, length + 1), generator=rng)
        return tokens[:, :-1], tokens[:, 1:].flatten()

    return draw


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "MLP": (mlp, _images(128, 1, 28)),
    "3c3d": (conv3c3d, _images(128, 3, 32)),
    "ResNet-18": (resnet18, _images(32, 3, 64)),
    "Transformer": (Transformer, _tokens(16, 128)),
}
"""Name -> what makes the network, and what draws a minibatch for it."""


@dataclass
class Training:
    """One copy of a training: SGD with momentum on eight minibatches, over and over."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: list[tuple[torch.Tensor, torch.Tensor]]
    loss: nn.Module
    taken: int = 0

    def step(self) -> None:
        x, y = self.batches[self.taken % len(self.batches)]
        self.taken += 1
        self.optimizer.zero_grad()
        self.loss(self.model(x), y).backward()
        self.optimizer.step()


def training(name: str, extend: Callable[[Any], Any] | None = None) -> Training:
    """A fresh copy of the training of that name; ``extend`` is applied to its model and its loss."""
    make, draw = NETWORKS[name]
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(1)
    model, loss = make(), nn.CrossEntropyLoss()
    if extend is not None:
        model, loss = extend(model), extend(loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    return Training(model, optimizer, [draw(rng) for _ in range(8)], loss)
