"""Models on which curvature is tested, each with a loss and data; and truths that owe nothing to the code tested."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

__all__ = ["CASES", "Case", "dense_gauss_newton", "dense_hessian", "differenced", "three_layers"]

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Case:
    """A model in double precision, its loss, and minibatches of unequal size."""

    model: nn.Module
    loss_fn: Callable[[Any, Any], torch.Tensor]
    data: Batches

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [each for each in self.model.parameters() if each.requires_grad]

    def mean_loss(self) -> torch.Tensor:
        """F, with PyTorch's own settings; the same dropout masks each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            total = sum(self.loss_fn(self.model(x), y) * len(x) for x, y in self.data)
        return torch.as_tensor(total) / sum(len(x) for x, _ in self.data)

    def gradient(self) -> torch.Tensor:
        found = torch.autograd.grad(self.mean_loss(), self.parameters, allow_unused=True)
        pairs = zip(found, self.parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g.to_dense()).reshape(-1) for g, p in pairs])


class _Sequence(nn.Module):
    """Embedding, some body over (batch, time, width), and a classifier of the last position."""

    def __init__(self, body: nn.Module, *, sparse: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8, sparse=sparse)
        self.body = body
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found = self.body(self.embed(tokens))
        out: torch.Tensor = self.head((found[0] if isinstance(found, tuple) else found)[:, -1])
        return out


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (each.unflatten(-1, (2, 4)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + mixed.transpose(1, 2).flatten(-2)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return out


class _Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(checkpoint(self.first, x, use_reentrant=False))
        return out


class _Frozen(nn.Module):
    """Its first layer is frozen, and one layer is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5).requires_grad_(False)
        self.idle = nn.Linear(2, 2)
        self.head = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.first(x)))
        return out


_SIZES = (6, 6, 3)
_ENTROPY = nn.functional.cross_entropy


def _case(model: nn.Module, inputs: Callable[[int], torch.Tensor], *, train: bool = False) -> Case:
    model = model.double().train(train)
    return Case(model, _ENTROPY, [(inputs(n), torch.randint(0, 3, (n,))) for n in _SIZES])


def _vectors(n: int) -> torch.Tensor:
    return torch.randn(n, 4, dtype=torch.float64)


def _images(n: int) -> torch.Tensor:
    return torch.randn(n, 2, 5, 5, dtype=torch.float64)


def _tokens(n: int) -> torch.Tensor:
    return torch.randint(0, 7, (n, 5))


def three_layers() -> Case:
    return _case(
        nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
        _vectors,
    )


def _conv() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3))


def _channels_last() -> Case:
    case = _case(_conv(), _images)
    case.model = case.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    case.data = [(x.to(memory_format=torch.channels_last), y) for x, y in case.data]
    return case


def _encoder(dropout: float) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=dropout, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 2)


CASES: dict[str, Callable[[], Case]] = {
    "three layers": three_layers,
    "batch norm, eval": lambda: _case(_conv(), _images),
    "batch norm, train": lambda: _case(_conv(), _images, train=True),
    "channels last": _channels_last,
    "dropout, train": lambda: _case(
        nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)), _vectors, train=True
    ),
    "attention": lambda: _case(_Sequence(_Attention()), _tokens),
    "transformer encoder, eval": lambda: _case(_Sequence(_encoder(0.1)), _tokens),
    "transformer encoder, train": lambda: _case(_Sequence(_encoder(0.1)), _tokens, train=True),
    "lstm": lambda: _case(_Sequence(nn.LSTM(8, 8, batch_first=True)), _tokens),
    "gru": lambda: _case(_Sequence(nn.GRU(8, 8, batch_first=True)), _tokens),
    "sparse embedding": lambda: _case(_Sequence(nn.Tanh(), sparse=True), _tokens),
    "tied": lambda: _case(_Tied(), _vectors),
    "checkpointed": lambda: _case(_Checkpointed(), _vectors),
    "frozen and unused": lambda: _case(_Frozen(), _vectors),
}
"""Name -> what makes a fresh case."""


def differenced(case: Case, vector: torch.Tensor, step: float = 2e-4) -> torch.Tensor:
    """H v by a fourth-order central difference of the gradient with PyTorch's own settings, about 1e-9 exact."""
    parameters = case.parameters
    before = [each.detach().clone() for each in parameters]
    pieces = vector.split([each.numel() for each in parameters])

    def at(multiple: float) -> torch.Tensor:
        with torch.no_grad():
            for each, start, piece in zip(parameters, before, pieces, strict=True):
                each.copy_(start + multiple * step * piece.view(each.shape))
        return case.gradient()

    found = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
    at(0)
    return found


def _functional(case: Case) -> tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], torch.Tensor]:
    named = {name: each for name, each in case.model.named_parameters() if each.requires_grad}
    sizes = [each.numel() for each in named.values()]

    def outputs(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        parts = theta.split(sizes)
        shaped = {name: part.view(named[name].shape) for name, part in zip(named, parts, strict=True)}
        found: torch.Tensor = functional_call(case.model, shaped, (x,))
        return found

    return outputs, torch.cat([each.detach().reshape(-1) for each in named.values()])


def dense_hessian(case: Case) -> torch.Tensor:
    """The Hessian of F by torch.func."""
    outputs, theta = _functional(case)
    n = sum(len(x) for x, _ in case.data)

    def loss(theta: torch.Tensor) -> torch.Tensor:
        return torch.stack([case.loss_fn(outputs(theta, x), y) * len(x) for x, y in case.data]).sum() / n

    found: torch.Tensor = torch.func.jacrev(torch.func.grad(loss))(theta)
    return found


def dense_gauss_newton(case: Case) -> torch.Tensor:
    """The mean of J^T L'' J for cross-entropy, L'' = diag(p) - p p^T, with J by torch.func."""
    outputs, theta = _functional(case)
    x = torch.cat([each for each, _ in case.data])
    jacobian: torch.Tensor = torch.func.jacrev(outputs)(theta, x)
    p = outputs(theta, x).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nia,nij,njb->ab", jacobian, inner, jacobian) / len(x)


def losses(case: Case) -> Callable[[], Iterable[tuple[torch.Tensor, int]]]:
    """The case's data as a function of the losses of a pass."""
    return lambda: ((case.loss_fn(case.model(x), y), len(x)) for x, y in case.data)
