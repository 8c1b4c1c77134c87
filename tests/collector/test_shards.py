"""``fully_shard`` over two processes: the reduced shards, against gradients by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.collector import Sampling, attach
from gradnoise.collector._taps.gather import Gatherer, UnsupportedGradientError
from gradnoise.collector._taps.shards import ShardHooks
from gradnoise.wire import Dump, Group, Table

from .loops import counted, rows
from .ranks import Ranks

WORLD = 2
STEPS = 4
PARTS = 3
BATCH = 4
KINDS = ("plain", "accumulated", "unsynchronised", "divided")
MERGED = ("unsynchronised", "divided")  # one reduction after several backward passes

# --- what the two processes do -------------------------------------------------------------------------------


def _model() -> nn.Sequential:
    """Over two processes the last bias is one row and an empty shard, and the last weight three rows and two."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 1))


def _loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = model(batch).square().mean()
    return loss


def _by_hand(whole: nn.Module, sharded: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of the present parameters, averaged over the processes."""
    from torch import distributed

    for (name, parameter), copied in zip(sharded.named_parameters(), whole.parameters(), strict=True):
        full: Any = parameter
        assert name
        copied.data.copy_(full.full_tensor().detach())
    gradients = torch.autograd.grad(_loss(whole, batch), list(whole.parameters()))
    averaged = {}
    for (name, _), gradient in zip(whole.named_parameters(), gradients, strict=True):
        distributed.all_reduce(gradient)
        averaged[name] = gradient / WORLD
    return averaged


def _train(kind: str, rank: int, path: Path | None) -> tuple[list[dict[str, torch.Tensor]], nn.Module]:
    """Train a while; return the draws by hand, and the model."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model: Any = _model()
    whole = copy.deepcopy(model)
    fully_shard(model[0])
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with torch.no_grad():
        model(torch.ones(1, 6))  # without a backward pass, the root's parameters stay whole after it
    handle = None
    if path is not None:
        sampling = Sampling(coordinates=12, burst=STEPS, every=8)
        handle = attach(model, optimizer, run="r", dump=path, sampling=sampling, batch_size=BATCH)
    data = torch.Generator().manual_seed(1 + rank)
    draws = []
    for step in range(STEPS):
        # In place, the gradient that was there before is not None but zero.
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        for part in range(1 if kind == "plain" else PARTS):
            batch = torch.randn(BATCH, 6, generator=data)
            if path is not None:
                draws.append(_by_hand(whole, model, batch))
            if kind in MERGED:
                model.set_requires_gradient_sync(part == PARTS - 1)
            (_loss(model, batch) / (PARTS if kind == "divided" else 1)).backward()
        if handle is not None and kind == "divided":
            handle.log(divisor=PARTS)
        optimizer.step()
    if handle is not None:
        handle.close()
    return draws, model


def work(rank: int, kind: str, path: Path) -> list[dict[str, torch.Tensor]]:
    """One way of training in one process of the job, with the collector and without; return the draws by hand."""
    draws, model = _train(kind, rank, path)
    for parameter in model.parameters():
        assert getattr(parameter, "_post_accumulate_grad_hooks", None) is None
        assert parameter._backward_hooks is None
    _, bare = _train(kind, rank, None)
    assert [len(module._forward_hooks) for module in model.modules()] == [
        len(module._forward_hooks) for module in bare.modules()
    ]
    for with_hook, without in zip(model.parameters(), bare.parameters(), strict=True):
        assert torch.equal(_whole(with_hook), _whole(without)), "training changed"
    return draws


def _whole(parameter: Any) -> torch.Tensor:
    full: torch.Tensor = parameter.full_tensor()
    return full


# --- what must have come of it -------------------------------------------------------------------------------


Job = dict[str, tuple[Path, list[dict[str, torch.Tensor]]]]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The dump of each way of training, and its draws by hand."""
    place = tmp_path_factory.mktemp("job")
    with Ranks(WORLD) as ranks:
        return {kind: (place / kind, ranks.run(work, kind, place / kind)[0]) for kind in KINDS}


def shard(gradient: torch.Tensor, group: Group) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The values by hand at a group's coordinates."""
    _, _, which = group.name.partition("@")
    number, count = map(int, which.split("/"))
    part = torch.chunk(gradient, count)[number]
    assert tuple(part.shape) == group.shape
    values: np.ndarray[Any, np.dtype[np.float32]] = part.contiguous().flatten()[list(group.indices)].numpy()
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_each_process_records_its_reduced_shards(job: Job, kind: str) -> None:
    path, by_hand = job[kind]
    info = Dump(path).info
    assert [group.name for group in info.groups] == [
        f"{layer}.{part}@{number}/2"
        for layer in (0, 2, 4)
        for part in ("weight", "bias")
        for number in range(1 if layer == 4 else 2)
    ]
    if kind in MERGED:  # one reduction of the sum; divided, it is the mean of their minibatches
        parts = [by_hand[PARTS * step : PARTS * (step + 1)] for step in range(STEPS)]
        by_hand = [{name: torch.stack([part[name] for part in at]).sum(0) for name in at[0]} for at in parts]
    if kind == "divided":
        by_hand = [{name: gradient / PARTS for name, gradient in draw.items()} for draw in by_hand]
    found = {(row["draw"], row["group"]): np.array(row["values"], np.float32) for row in rows(path)}
    assert found.keys() == {(draw, group.name) for draw in range(len(by_hand)) for group in info.groups}
    assert {row["batch_size"] for row in rows(path)} == {BATCH * WORLD * (PARTS if kind in MERGED else 1)}
    for (draw, name), values in found.items():
        group = info.group(name)
        wanted = shard(by_hand[draw][name.partition("@")[0]], group)
        if kind == "plain" or (kind == "accumulated" and draw % PARTS == 0):
            np.testing.assert_array_equal(values, wanted, err_msg=f"{draw} {name}")
        else:  # differences of running sums
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-6, err_msg=f"{draw} {name}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_windows_say_that_they_are_of_the_whole_job(job: Job, kind: str) -> None:
    path, _ = job[kind]
    windows = rows(path, Table.WINDOWS)
    assert sorted(window["rank"] for window in windows) == [0, 1]
    draws = STEPS * (PARTS if kind == "accumulated" else 1)
    for window in windows:
        assert window["scope"] == "global"
        assert window["world_size"] == WORLD
        assert window["kind"] == ("microbatch" if kind == "accumulated" else "burst")
        assert window["recorded"] == draws
    assert len({window["job"] for window in windows}) == 1
    assert counted(path) == {}


# --- one process ---------------------------------------------------------------------------------------------


def test_a_running_sum_of_which_the_beginning_was_not_seen_is_refused() -> None:
    refused: list[tuple[int, UnsupportedGradientError]] = []
    taken: list[int] = []
    failed: list[Exception] = []
    gatherer = Gatherer([Group("w", (3,), "float32", (0, 2))])
    hooks = ShardHooks(
        gatherer.pick,
        lambda number, gradient, before: taken.append(number),
        lambda number, error: refused.append((number, error)),
        failed.append,
    )
    parameter: Any = nn.Parameter(torch.ones(3))
    hooks.arm({0: parameter})
    (parameter * 2).sum().backward()
    ((number, error),) = refused
    assert number == 0
    assert "attach the module that the training loop calls" in str(error)
    hooks.disarm()
    assert parameter._post_accumulate_grad_hooks is None
    (parameter * 2).sum().backward()
    assert len(refused) == 1
    assert taken == []
    assert failed == []


def test_an_error_in_a_hook_of_a_shard_does_not_reach_the_training() -> None:
    failed: list[Exception] = []

    def broken(*_: object) -> Any:
        raise ZeroDivisionError("a bug")

    hooks = ShardHooks(broken, broken, broken, failed.append)
    parameter: Any = nn.Parameter(torch.ones(3))
    hooks.arm({0: parameter})
    for _ in range(2):  # the second one finds a gradient, which is no shard
        output = parameter * 2
        hooks.mark((output, {"more": [output, 3, None]}))
        output.sum().backward()
    assert {type(error) for error in failed} == {AttributeError, ZeroDivisionError}
    assert torch.equal(parameter.grad, torch.full((3,), 4.0))
