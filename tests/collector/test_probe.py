from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.collector import Probe, Sampling, attach
from gradnoise.collector._torch_state import preserved, preserved_random
from gradnoise.wire import Dump, Table

from .loops import Data, assert_recorded, by_hand, counted, hooks_left, loss_of, messages, mlp, recorded, rows, train
from .test_bursts import sgd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROBES_ONLY = Sampling(burst=0)


def test_a_probe_records_gradients_of_the_closures_losses_at_frozen_parameters(tmp_path: Path) -> None:
    model, data, fresh = mlp(), Data(), Data(seed=2)
    optimizer = sgd(model)
    taken: list[dict[str, Any]] = []

    def closure() -> torch.Tensor:
        loss = loss_of(model, fresh())
        taken.append(by_hand(model, loss))
        return loss

    with attach(
        model, optimizer, dump=tmp_path, sampling=PROBES_ONLY, probe=Probe(closure, draws=4, every=3), batch_size=8
    ) as handle:
        train(model, optimizer, data, 7)
        assert handle.stats().theta == 7
    assert len(taken) == 8
    assert_recorded(
        tmp_path, {(2 * theta + 1, d): taken[4 * i + d] for i, theta in enumerate((3, 6)) for d in range(4)}
    )
    assert {(row["window"], row["theta"], row["step"]) for row in rows(tmp_path)} == {(7, 3, 3), (13, 6, 6)}
    assert {row["batch_size"] for row in rows(tmp_path)} == {8}
    assert [(w["window"], w["kind"], w["declared"], w["recorded"]) for w in rows(tmp_path, Table.WINDOWS)] == [
        (7, "probe", 4, 4),
        (13, "probe", 4, 4),
    ]
    assert Dump(tmp_path).info.plan["probe_draws"] == 4


def test_a_probe_within_a_burst_leaves_the_burst_as_it_is(tmp_path: Path) -> None:
    model, data, fresh = mlp(), Data(), Data(seed=2)
    optimizer = sgd(model)
    probe = Probe(lambda: loss_of(model, fresh()), draws=3, every=2)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=5, every=5), probe=probe):
        taken = train(model, optimizer, data, 5)
    found = {key: values for key, values in recorded(tmp_path).items() if key[0] % 2 == 0}
    assert len(found) == 20
    for (_, draw, name), values in found.items():
        np.testing.assert_array_equal(values, taken[draw][name])
    assert hooks_left(model) == 0


class Rough(nn.Module):
    """Everything a probe could disturb."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        self.register_buffer("calls", torch.zeros(1))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        self.calls = self.calls + 1  # a buffer replaced, not only changed
        out: torch.Tensor = self.body(x)
        return out


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "parameters": [(id(p), p.detach().clone(), p._version) for p in model.parameters()],
        "gradients": [(id(p.grad), p.grad.clone()) if p.grad is not None else None for p in model.parameters()],
        "buffers": [(id(b), b.clone()) for b in model.buffers()],
        "modes": [module.training for module in model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "python": random.getstate(),
    }


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def disturb(model: Any) -> None:
    model.eval()
    model(torch.randn(4, 6))
    model.train()
    model(torch.randn(4, 6)).sum().backward()
    random.random()
    np.random.rand(3)  # noqa: NPY002
    model.body[1].eval()


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_everything_is_put_back_bit_for_bit(error: type[BaseException] | None) -> None:
    model: Any = Rough()
    model(torch.randn(4, 6)).sum().backward()
    model.body[4].bias.grad = None
    before = snapshot(model)

    def visit() -> None:
        with preserved(model), preserved_random(5):
            disturb(model)
            if error is not None:
                raise error

    if error is None:
        visit()
    else:
        with pytest.raises(error):
            visit()
    assert_same(before, snapshot(model))


def test_parameters_changed_or_replaced_inside_are_put_back() -> None:
    model: Any = Rough()
    before = snapshot(model)["parameters"]
    with preserved(model):
        with torch.no_grad():
            model.body[0].weight.add_(1.0)
            model.frozen.weight.data.zero_()
        model.body[4].bias = nn.Parameter(torch.ones(3))
    after = snapshot(model)["parameters"]
    assert [(i, v.tolist()) for i, v, _ in before] == [(i, v.tolist()) for i, v, _ in after]


def broken(model: nn.Module, data: Data) -> torch.Tensor:
    raise ValueError("no more data")


def exhausted(model: nn.Module, data: Data) -> torch.Tensor:
    return next(iter([]))


def vector(model: nn.Module, data: Data) -> Any:
    return model(data()[0])


def number(model: nn.Module, data: Data) -> float:
    return loss_of(model, data()).item()


def detached(model: nn.Module, data: Data) -> torch.Tensor:
    return loss_of(model, data()).detach()


def foreign(model: nn.Module, data: Data) -> torch.Tensor:
    return torch.ones((), requires_grad=True) * 2


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (broken, "ValueError: no more data"),
        (exhausted, "iterator is exhausted"),
        (vector, r"shape \(8, 3\)"),
        (number, "returned float"),
        (detached, "requires_grad=False"),
        (foreign, "depends on no recorded parameter"),
    ],
)
def test_a_failing_closure_ends_the_probes_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: Callable[..., Any], text: str
) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    calls = []

    def closure() -> Any:
        calls.append(1)
        return loss_of(model, data()) if len(calls) < 3 else body(model, data)

    with attach(
        model, optimizer, dump=tmp_path, sampling=Sampling(burst=6, every=6), probe=Probe(closure, draws=5, every=2)
    ):
        taken = train(model, optimizer, data, 6)
    assert len(calls) == 3
    (message,) = messages(caplog)
    assert "stops probing" in message
    assert pytest.raises(AssertionError, match=text).matches(AssertionError(message))
    assert counted(tmp_path) == {"probe_failed": 1}
    assert [(w["kind"], w["recorded"]) for w in rows(tmp_path, Table.WINDOWS)] == [("probe", 2), ("burst", 6)]
    assert len(taken) == 6


def test_successive_probes_see_other_minibatches_also_if_training_draws_no_random_number(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batch = data()
    seen: list[list[int]] = []

    def closure() -> torch.Tensor:
        chosen = torch.randint(0, 64, (4,))
        seen.append([*chosen.tolist(), random.randrange(10**6), int(np.random.randint(10**6))])  # noqa: NPY002
        return loss_of(model, (data.x[chosen], data.y[chosen]))

    state = torch.get_rng_state()
    with attach(model, optimizer, dump=tmp_path, sampling=PROBES_ONLY, probe=Probe(closure, draws=2, every=1)):
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
    assert len(seen) == 6
    assert len({tuple(one) for one in seen}) == 6
    assert len({one[4] for one in seen}) == len({one[5] for one in seen}) == 6
    assert torch.equal(state, torch.get_rng_state())


def test_a_probe_works_with_gradients_switched_off_around_the_step(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    probe = Probe(lambda: loss_of(model, data()), draws=2, every=1)
    with attach(model, optimizer, dump=tmp_path, sampling=PROBES_ONLY, probe=probe):
        loss_of(model, data()).backward()
        with torch.no_grad():
            optimizer.step()
    assert [w["recorded"] for w in rows(tmp_path, Table.WINDOWS)] == [2]


@pytest.mark.parametrize(("updates", "warnings"), [(2, 1), (3, 0)])
def test_a_probe_that_never_came_is_mentioned_at_close(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, updates: int, warnings: int
) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    handle = attach(model, optimizer, dump=tmp_path, probe=Probe(lambda: loss_of(model, data()), draws=2, every=3))
    train(model, optimizer, data, updates)
    handle.close()
    text = "gradnoise: no probe ran: the first comes at update 3; 2 updates were seen"
    assert messages(caplog) == [text] * warnings
