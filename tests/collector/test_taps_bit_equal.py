"""Training with the taps is training without them, to the last bit, however people train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from gradnoise.collector import Sampling, attach

from .loops import Data, hooks_left, loss_of, messages, mlp, rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gradnoise.collector import Handle

    Attach = Callable[..., Handle | None]

STEPS = 24


def plain(watch: Attach) -> Any:
    model, data = mlp(), Data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    handle = watch(model, optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, data())
        loss.backward()
        optimizer.step()
        if handle is not None:
            handle.log(loss=loss, batch_size=8)
    return model


def accumulation(watch: Attach) -> Any:
    model, data = mlp(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    handle = watch(model, optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=False)
        for _ in range(3):
            (loss_of(model, data()) / 3).backward()
        if handle is not None:
            handle.log(divisor=3)
        optimizer.step()
    return model


def scaler(watch: Attach, *, fused: bool) -> Any:
    model, data = mlp(), Data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaling = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=4)
    watch(model, optimizer, scaler=scaling)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, data())
        scaling.scale(loss * float("inf") if step in (1, 5, 18) else loss).backward()
        scaling.step(optimizer)
        scaling.update()
    return model


def unfused_scaler(watch: Attach) -> Any:
    return scaler(watch, fused=False)


def fused_scaler(watch: Attach) -> Any:
    return scaler(watch, fused=True)


def autocast(watch: Attach) -> Any:
    model, data = mlp(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, data())
        loss.backward()
        optimizer.step()
    return model


def clipping(watch: Attach) -> Any:
    model, data = mlp(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    watch(model, optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, data()).backward()
        if step % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        else:
            nn.utils.clip_grad_value_(model.parameters(), 0.01)
        optimizer.step()
    return model


def closure(watch: Attach) -> Any:
    model, data = mlp(), Data()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, line_search_fn="strong_wolfe")
    watch(model, optimizer)
    for _ in range(STEPS):
        batch = data()

        def evaluated(batch: Any = batch) -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        optimizer.step(evaluated)
    return model


class Unusual(nn.Module):
    """Tied weights, a frozen layer, an unused one, a sparse table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 6, sparse=True)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.unused = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(torch.tanh(self.frozen(self.a(self.table(x)))))


def unusual(watch: Attach) -> Any:
    model, rng = Unusual(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randint(0, 12, (8,), generator=rng)).square().mean().backward()
        optimizer.step()
    return model


def half(watch: Attach) -> Any:
    model, data = mlp(dtype=torch.bfloat16), Data(dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, data()).backward()
        optimizer.step()
    return model


def two_optimizers(watch: Attach) -> Any:
    model, data = mlp(), Data()
    pair = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters(), lr=0.01)]
    watch(model, pair)
    for step in range(STEPS):
        model.zero_grad()
        loss_of(model, data()).backward()
        for optimizer in pair if step % 3 else pair[:1]:
            optimizer.step()
    return model


def convolutions(watch: Attach) -> Any:
    model: Any = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
    )
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    watch(model, optimizer)
    for _ in range(STEPS):
        x = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.randint(0, 10, (4,))).backward()
        optimizer.step()
    return model


def sam(watch: Attach) -> Any:
    model, data = mlp(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    for _ in range(STEPS):
        batch = data()
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        with torch.no_grad():
            shifts = [0.05 * p.grad for p in model.parameters()]
            torch._foreach_add_(list(model.parameters()), shifts)
            optimizer.zero_grad()
        loss_of(model, batch).backward()
        with torch.no_grad():
            torch._foreach_sub_(list(model.parameters()), shifts)
        optimizer.step()
    return model


def unfreezing(watch: Attach) -> Any:
    model, data = mlp(), Data()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    watch(model, optimizer)
    for step in range(STEPS):
        if step == 10:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.01})
        optimizer.zero_grad()
        loss_of(model, data()).backward()
        optimizer.step()
    return model


LOOPS = [
    plain,
    accumulation,
    unfused_scaler,
    fused_scaler,
    autocast,
    clipping,
    closure,
    unusual,
    half,
    two_optimizers,
    convolutions,
    sam,
    unfreezing,
]


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_training_ends_at_the_same_bits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, loop: Callable[[Attach], Any], everything: bool
) -> None:
    sampling = Sampling(coordinates=20, burst=5, every=8, norms=everything, sketch=everything)
    handles: list[Handle] = []

    def watch(model: nn.Module, optimizer: Any, **arguments: Any) -> Handle:
        handles.append(attach(model, optimizer, dump=tmp_path, sampling=sampling, **arguments))
        return handles[0]

    torch.manual_seed(0)
    without = loop(lambda *_, **__: None)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    watched = loop(watch)
    assert torch.equal(torch.get_rng_state(), state)
    (handle,) = handles
    handle.close()
    assert handle.stats().state == "closed"
    assert hooks_left(watched) == 0
    before, after = without.state_dict(), watched.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert bool(rows(tmp_path)) == (loop is not sam)
    assert len(messages(caplog)) == (loop is sam)
