"""What the ranks of the tests do: trainings that are recorded, beside gradients that each rank computes by hand.

A file of its own, because every rank imports it.
"""

from __future__ import annotations

import copy
import os
import signal
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradnoise.collector import Probe, Sampling, attach
from gradnoise.collector._recording.distributed import agreed_run
from gradnoise.collector._taps.origin import averages_gradients, is_ddp, is_sharded, origin_of, processes_averaged
from gradnoise.wire import RunExistsError

from .loops import Data, by_hand, hooks_left, loss_of, mlp

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Gradients = dict[str, "NDArray[np.float32]"]
Parameters = dict[str, "NDArray[np.float32]"]
EVERY_STEP = Sampling(burst=64, every=64)


class Branched(nn.Module):
    """Uses one of two layers, so that the other has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])
        self.head = nn.Linear(3, 3)
        self.used = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.layers[self.used](x))
        return out


@dataclass(frozen=True)
class Way:
    """A way of training with ``DistributedDataParallel``."""

    inner: bool = False
    microbatches: int = 1
    no_sync: bool = False
    unused: bool = False
    bucket_view: bool = False
    compressed: bool = False


def wrapped(way: Way) -> DistributedDataParallel:
    torch.manual_seed(0)
    model = DistributedDataParallel(
        Branched() if way.unused else mlp(),
        find_unused_parameters=way.unused,
        gradient_as_bucket_view=way.bucket_view,
    )
    if way.compressed:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        model.register_comm_hook(dist.group.WORLD, fp16_compress_hook)
    return model


def trained(rank: int, way: Way, steps: int, path: Path | None = None) -> tuple[Any, ...]:
    """Train; return the producer, this rank's gradients by hand of its every draw, and the parameters at the end."""
    model = wrapped(way)
    alone = copy.deepcopy(model.module)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = Data(seed=10 + rank)
    handle = None
    if path is not None:
        target = model.module if way.inner else model
        handle = attach(target, optimizer, run="job", dump=path, sampling=EVERY_STEP, batch_size=8)
    expected: list[Gradients] = []
    for step in range(steps):
        optimizer.zero_grad()
        if way.unused:
            model.module.used = alone.used = (rank + step) % 2
        alone.load_state_dict(model.module.state_dict())
        for microbatch in range(way.microbatches):
            batch = data()
            if path is not None:
                expected.append(by_hand(alone, loss_of(alone, batch)))
            waits = way.no_sync and microbatch < way.microbatches - 1
            with model.no_sync() if waits else nullcontext():
                loss_of(model, batch).backward()
        optimizer.step()
    producer = None
    if handle is not None:
        producer = handle._sink.producer if handle._sink is not None else None
        handle.close()
        assert hooks_left(model) == 0
    return producer, expected, {name: value.numpy() for name, value in alone.state_dict().items()}


def trained_with_and_without(rank: int, way: Way, path: Path) -> tuple[Any, ...]:
    _, _, plain = trained(rank, way, 4)
    producer, expected, hooked = trained(rank, way, 4, path)
    return producer, expected, all(np.array_equal(plain[name], hooked[name]) for name in plain)


def probed(rank: int, path: Path | None, inner: bool) -> Parameters:
    """Train with probes whose minibatches come from the generator that all ranks have seeded alike."""
    model = wrapped(Way())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = None
    if path is not None:
        target = model.module if inner else model
        fixed = Data(seed=5)

        def closure() -> torch.Tensor:
            chosen = torch.randint(0, len(fixed.x), (8,))
            return loss_of(model, (fixed.x[chosen], fixed.y[chosen]))

        sampling = Sampling(burst=0, every=64)
        handle = attach(
            target, optimizer, run="job", dump=path, sampling=sampling, probe=Probe(closure, draws=4, every=2)
        )
    data = Data(seed=10 + rank)
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(model, data()).backward()
        optimizer.step()
    if handle is not None:
        handle.close()
    return {name: parameter.detach().numpy() for name, parameter in model.module.named_parameters()}


def independent(rank: int, path: Path, rate: float, die_at: int | None = None) -> None:
    """A training that exchanges nothing with the other rank's."""
    torch.manual_seed(rank if rate else 0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    data = Data(seed=10 + rank)
    with attach(model, optimizer, run="own", dump=path, sampling=Sampling(burst=4, every=4)) as handle:
        for step in range(12):
            if step == die_at and rank == 1:
                assert handle.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            optimizer.zero_grad()
            loss_of(model, data()).backward()
            optimizer.step()


def on_one_rank(rank: int, path: Path) -> str | None:
    model = wrapped(Way())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = attach(model, optimizer, dump=path, sampling=EVERY_STEP) if rank == 1 else None
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model, Data(seed=rank)()).backward()
        optimizer.step()
    if handle is not None:
        handle.close()
    return None if handle is None else handle.run


def unnamed(rank: int, parent: Path) -> tuple[str | None, Path | None]:
    os.chdir(parent)
    model = wrapped(Way())
    with attach(model) as handle:
        return handle.run, handle.path


def origins(rank: int) -> list[Any]:
    model, other = mlp(), nn.Linear(2, 2)
    found: list[Any] = [origin_of(model), origin_of(wrapped(Way())), origin_of(other)]
    found.append([averages_gradients(other), is_ddp(other), is_ddp(wrapped(Way())), is_sharded(other)])
    found.append(agreed_run(found[0].job, f"run-{rank}"))
    return found


def without_store(rank: int) -> list[Any]:
    from torch.distributed import distributed_c10d

    def gone() -> Any:
        raise RuntimeError("no store")

    kept, distributed_c10d._get_default_store = distributed_c10d._get_default_store, gone
    try:
        return [origin_of(mlp()), agreed_run("job", "mine")]
    finally:
        distributed_c10d._get_default_store = kept


def one_draw(path: Path) -> None:
    model = mlp()
    with attach(model, run="job", dump=path):
        loss_of(model, Data()()).backward()


def again(rank: int, path: Path) -> str:
    try:
        one_draw(path)
    except RunExistsError as error:
        return str(error)
    finally:
        dist.barrier()
    return "joined"


def one_after_the_other(rank: int, path: Path) -> None:
    for turn in range(2):
        if turn == rank:
            one_draw(path)
        dist.barrier()


def sharded(rank: int, path: Path | None, microbatches: int, attached: bool) -> tuple[Any, ...]:
    """Train sharded; return this rank's own gradients of the whole by hand, and the shards it holds."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = mlp()
    alone = copy.deepcopy(model)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = attach(model, optimizer, run="shards", dump=path, sampling=EVERY_STEP, batch_size=8) if attached else None
    data = Data(seed=10 + rank)
    expected: list[Gradients] = []
    for _ in range(4):
        optimizer.zero_grad()
        with torch.no_grad():
            whole = {name: parameter.full_tensor() for name, parameter in model.named_parameters()}
            alone.load_state_dict(whole)
        for _ in range(microbatches):
            batch = data()
            expected.append(by_hand(alone, loss_of(alone, batch)))
            loss_of(model, batch).backward()
        optimizer.step()
    if handle is not None:
        handle.close()
    final = {name: parameter.to_local().detach().numpy() for name, parameter in model.named_parameters()}
    return expected, final, [is_sharded(model), processes_averaged(model)]
