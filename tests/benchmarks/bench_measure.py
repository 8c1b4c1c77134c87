"""One whole measurement of curvature: its time over that of its products and gradients, and its memory.

Both in one run: the clock runs inside the measurement, around every product with the Hessian, the gradient of F and the
gradients of the minibatches that are draws; what is left is the measurement's own. Gradients that are taken again for
want of memory are its own, too.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import nn

from gradnoise.collector._curvature import draws, measure
from gradnoise.collector._curvature.config import Curvature
from gradnoise.collector._curvature.data import Passes
from gradnoise.collector._curvature.products import Products
from gradnoise.collector._curvature.space import Space
from tests.benchmarks.networks import conv3c3d
from tests.collector.curvature.storage import LiveStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["main", "whole_measurement"]

DRAWS = 128
TOP = 20
PROMISED_TIME = 1.15
PROMISED_VECTORS = TOP + 6


class Encoder(nn.Module):
    """A Transformer encoder of six layers (Vaswani et al. 2017) over 64 tokens, which classifies."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.tokens = nn.Embedding(1000, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.out = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        classes: torch.Tensor = self.out(self.layers(self.tokens(x)).mean(1))
        return classes


@dataclass
class Clock:
    """Seconds and calls of what the measurement cannot do without, and of gradients taken again."""

    draws: int
    device: torch.device
    products: float = 0.0
    gradients: float = 0.0
    again: float = 0.0
    taken: int = 0
    calls: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        begun = self.now()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + self.now() - begun)
            self.calls[name] = self.calls.get(name, 0) + 1

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Measure what is measured inside."""
        clock, multiply, gradient, noise, some = self, Products.__call__, Products.gradient, draws._noise, draws._some

        def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                with clock.running(name):
                    return function(*args, **options)

            return call

        def which() -> str:
            return "gradients" if clock.taken < clock.draws else "again"

        def evaluated(*args: Any) -> Iterator[Any]:
            iterator = some(*args)
            while True:
                with clock.running(which()):
                    minibatch = next(iterator, None)
                if minibatch is None:
                    return
                yield minibatch

        def differentiated(*args: Any) -> None:
            with clock.running(which()):
                noise(*args)
            clock.taken += 1

        with (
            patch.object(Products, "__call__", timed(multiply, "products")),
            patch.object(Products, "gradient", timed(gradient, "gradients")),
            patch.object(draws, "_some", evaluated),
            patch.object(draws, "_noise", differentiated),
        ):
            yield


def whole_measurement(device: torch.device, *, small: bool = False) -> None:
    """Print time and memory of a measurement with 20 eigenpairs and 128 draws, of two networks."""
    for label, model, inputs in _cases(device, small=small):
        targets = torch.randint(0, 10, (len(inputs[0]),), device=device)
        data = [(each, targets) for each in inputs]
        for minibatches in (len(data), 1):
            _measured(f"{label}, {minibatches} minibatches of {len(targets)}", model, data[:minibatches], device, small)


def _cases(device: torch.device, *, small: bool) -> Iterator[tuple[str, nn.Module, list[torch.Tensor]]]:
    batch, count = (2, 2) if small else (64, 4)
    torch.manual_seed(0)
    images = [torch.randn(batch, 3, 32, 32, device=device) for _ in range(count)]
    yield "3c3d", conv3c3d().to(device), images
    yield "6-layer Transformer", Encoder().to(device), [torch.randint(0, 1000, (batch, 64), device=device)] * count


def _measured(label: str, model: nn.Module, data: list[Any], device: torch.device, small: bool) -> None:
    loss_fn = nn.CrossEntropyLoss()
    count = 6 if small else DRAWS

    def draw() -> tuple[torch.Tensor, int]:
        inputs, targets = data[int(torch.randint(0, len(data), ()))]
        rows = torch.randint(0, len(targets), (len(targets),))
        return loss_fn(model(inputs[rows]), targets[rows]), len(targets)

    probes, limit = (2, TOP + 2) if small else (16, None)
    plan = Curvature(data, loss_fn, draw=draw, top=TOP, draws=count, probes=probes, max_products=limit)
    clock = Clock(count, device)
    begun = clock.now()
    with clock.inside():
        (row,) = measure.measure(model, plan)
    total, alone = clock.now() - begun, clock.products + clock.gradients
    print(
        f"{label}: {total:.1f} s, of which {row.products} products {clock.products:.1f} s, gradients "
        f"{clock.gradients:.1f} s, gradients taken again {clock.again:.1f} s: {total / alone:.3f} of products and "
        f"gradients alone (promised: {PROMISED_TIME})"
    )
    vectors = _vectors(model, data, plan, device)
    print(f"    {vectors:.2f} vectors beside the double backward (promised: {PROMISED_VECTORS})", flush=True)


def _vectors(model: nn.Module, data: list[Any], plan: Curvature, device: torch.device) -> float:
    """Return the memory beside the model's own double backward, in vectors; that of a short measurement."""
    short = Curvature(data, plan.loss_fn, draw=plan.draw, top=TOP, draws=4, probes=1, max_products=TOP + 7)
    space, passes = Space(list(model.parameters())), Passes(model, plan.loss_fn, data)
    passes.check()
    vector, out = space.zeros().normal_(), space.zeros()
    products = Products(space, passes)

    def twice() -> None:
        products(vector, out)
        products(vector, out)

    own = _peak(twice, device)
    products.release()
    whole = _peak(lambda: measure.measure(model, short), device)
    # On the CPU the host's copy of the parameters is seen, too.
    return (whole - own) / out.nbytes - (device.type == "cpu")


def _peak(function: Callable[[], Any], device: torch.device) -> int:
    """Return the bytes that are alive at once at most, beside what was there before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        peak: int = torch.cuda.max_memory_allocated(device) - before
        return peak
    with LiveStorage() as memory:
        function()
    return int(memory.peak)


def main() -> None:
    """Run it: on a CUDA device where there is one; ``--small`` sees whether it runs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    whole_measurement(device, small="--small" in sys.argv)


if __name__ == "__main__":
    main()
