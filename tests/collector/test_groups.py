"""Which tensors of a model are groups, and under which names."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from gradnoise.collector import CollectorError, Sampling, attach
from gradnoise.collector._recording.coordinates import sample_coordinates
from gradnoise.collector._taps.groups import groups_of, held, named, unwrapped

from .loops import Data, assert_recorded, hooks_left, loss_of, mlp, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SAMPLING = Sampling(coordinates=4, burst=2, every=2)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.again = self.second  # tied modules, and a tied tensor
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.same = self.scale
        self.register_parameter("missing", None)

    def forward(self, x: torch.Tensor) -> Any:
        return self.again(torch.relu(self.first(x))) * self.same


def wrapped_inside() -> nn.Module:
    compiled: Any = torch.compile(Block())
    model = nn.ModuleDict({"a": checkpoint_wrapper(Block()), "b": compiled, "c": nn.DataParallel(Block())})
    model["d"] = nn.Sequential(checkpoint_wrapper(nn.Linear(6, 8)), nn.ReLU())
    return model


def plain_inside() -> nn.Module:
    return nn.ModuleDict({"a": Block(), "b": Block(), "c": Block(), "d": nn.Sequential(nn.Linear(6, 8), nn.ReLU())})


@pytest.mark.parametrize("make", [mlp, Block, plain_inside, lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True)])
def test_names_and_order_are_those_of_named_parameters(make: Callable[[], nn.Module]) -> None:
    model = make()
    assert [(name, id(p)) for name, p in named(model)] == [(name, id(p)) for name, p in model.named_parameters()]


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of torch.compile's own imports
@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        checkpoint_wrapper,
        lambda model: torch.compile(nn.DataParallel(checkpoint_wrapper(model))),
    ],
)
def test_wrappers_leave_no_trace_in_names(wrap: Callable[[nn.Module], Any]) -> None:
    model = Block()
    names = [name for name, _ in model.named_parameters()]
    assert unwrapped(wrap(model)) is model
    assert [name for name, _ in named(wrap(model))] == names
    assert groups_of(wrap(model), SAMPLING) == groups_of(model, SAMPLING)
    assert [name for name, _ in named(wrapped_inside())] == [name for name, _ in plain_inside().named_parameters()]
    assert unwrapped(model) is model


def test_a_module_that_is_merely_called_like_a_wrapper_keeps_its_name() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self._orig_mod = nn.Linear(2, 2), nn.Linear(2, 2)

    assert [name for name, _ in named(Mine())] == ["module.weight", "module.bias", "_orig_mod.weight", "_orig_mod.bias"]


def test_frozen_parameters_are_groups_and_what_can_have_no_gradient_is_none() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    model.table = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    model.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64), requires_grad=False)
    model.empty = nn.Parameter(torch.ones(0, 3))
    groups = groups_of(model, SAMPLING)
    assert [group.name for group in groups] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert groups[0].indices == sample_coordinates("0.weight", 48, 4, 0)
    assert [name for name, _, _ in held(model)] == [name for name, _ in model.named_parameters()]


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3))


def complex_model() -> nn.Module:
    return nn.ParameterDict({"w": nn.Parameter(torch.ones(2, dtype=torch.complex64))})


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lambda: mlp().requires_grad_(False), "all of its 4 parameters are frozen"),
        (nn.ReLU, "it has no parameters"),
        (lambda: nn.ParameterList([nn.Parameter(torch.ones(0))]), "it has no parameters"),
        (lambda: [1], "expected a torch.nn.Module"),
        (lazy, "'0.weight' has no shape yet"),
        (complex_model, "'w' is complex"),
    ],
)
def test_what_cannot_be_recorded_is_refused(model: Callable[[], Any], text: str) -> None:
    with pytest.raises(CollectorError, match=text):
        groups_of(model(), SAMPLING)


def test_flat_parameters_are_refused_with_the_remedy() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(model)
    with pytest.raises(CollectorError, match="fully_shard instead"):
        groups_of(model, SAMPLING)


def test_a_wrapped_model_is_recorded_under_the_names_of_the_inner_one(tmp_path: Path) -> None:
    wrappers: tuple[Callable[[nn.Module], Any], ...] = (lambda model: nn.DataParallel(model, []), checkpoint_wrapper)
    for number, wrap in enumerate(wrappers):
        model, data = mlp(), Data()
        outer = wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        expected = {}
        with attach(outer, optimizer, dump=tmp_path / str(number), sampling=SAMPLING):
            for step in range(2):
                optimizer.zero_grad()
                loss_of(outer, data()).backward()
                expected[0, step] = {n: p.grad.numpy().ravel().copy() for n, p in model.named_parameters()}
                optimizer.step()
        assert_recorded(tmp_path / str(number), expected)
        assert hooks_left(model) + hooks_left(outer) == 0


def test_a_tied_weight_is_one_group_with_the_sum_of_its_uses(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))

    model, data = Tied(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=3, every=3)):
        taken = train(model, optimizer, data, 3)
    assert [*taken[0]] == ["a.weight", "a.bias", "b.bias", "head.weight", "head.bias"]
    assert_recorded(tmp_path, {(0, step): taken[step] for step in range(3)})


@pytest.fixture
def four_ranks() -> Iterator[Callable[[int], None]]:
    """A job of four ranks of which this process can be any; collectives do nothing."""
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def become(rank: int) -> None:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        distributed.init_process_group("fake", rank=rank, world_size=4, store=FakeStore())

    yield become
    if distributed.is_initialized():
        distributed.destroy_process_group()


class Cut(nn.Module):
    """10 rows over 4 ranks are 3, 3, 3 and 1; 2 rows are 1, 1 and two empty shards."""

    def __init__(self) -> None:
        super().__init__()
        self.even, self.uneven, self.short = nn.Linear(3, 8), nn.Linear(8, 10, bias=False), nn.Linear(10, 2, bias=False)


SHARDS = [
    *((f"even.weight@{shard}/4", (2, 3)) for shard in range(4)),
    *((f"even.bias@{shard}/4", (2,)) for shard in range(4)),
    *((f"uneven.weight@{shard}/4", (1 if shard == 3 else 3, 8)) for shard in range(4)),
    *((f"short.weight@{shard}/4", (1, 10)) for shard in range(2)),
]


def test_a_shard_is_a_group_and_every_rank_declares_all(four_ranks: Callable[[int], None]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for rank in range(4):
        four_ranks(rank)
        model = Cut()
        # Equal meshes are kept over the jobs of a process, with the rank of the first: hence a name of its own.
        fully_shard(model, mesh=init_device_mesh("cpu", (4,), mesh_dim_names=(f"of_{rank}",)))
        groups = groups_of(model, SAMPLING)
        assert [(group.name, group.shape) for group in groups] == SHARDS
        for group in groups:
            assert group.indices == sample_coordinates(group.name, math.prod(group.shape), 4, 0)
        own: dict[str, Any] = {name: (shape, parameter) for name, shape, parameter in held(model)}
        assert [name for name, _ in SHARDS if name.endswith(f"@{rank}/4")] == [n for n in own if n in dict(SHARDS)]
        for shape, parameter in own.values():
            assert tuple(parameter.to_local().shape) == shape


def test_replicas_are_recorded_once(four_ranks: Callable[[int], None], caplog: pytest.LogCaptureFixture) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    found = []
    for rank in range(4):
        caplog.clear()
        four_ranks(rank)
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=(f"replicas_{rank}", f"shards_{rank}"))
        model = nn.Linear(3, 4, bias=False)
        fully_shard(model, mesh=mesh)
        with caplog.at_level(logging.INFO, "gradnoise"):
            groups = groups_of(model, SAMPLING)
        assert [(group.name, group.shape) for group in groups] == [("weight@0/2", (2, 3)), ("weight@1/2", (2, 3))]
        assert ("1 parameters are replicas" in caplog.text) == (rank >= 2)
        found.append([name for name, _, _ in held(model)])
    assert found == [["weight@0/2"], ["weight@1/2"], [], []]


def test_a_mesh_of_one_cuts_nothing_and_two_cuts_are_refused(four_ranks: Callable[[int], None]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    four_ranks(1)
    mesh = init_device_mesh("cpu", (4, 1), mesh_dim_names=("a", "b"))
    model = nn.Module()
    model.w = nn.Parameter(distribute_tensor(torch.ones(8, 4), mesh, [Shard(1), Shard(0)], src_data_rank=None))
    assert [(group.name, group.shape) for group in groups_of(model, SAMPLING)] == [
        (f"w@{shard}/4", (8, 1)) for shard in range(4)
    ]
    model.w = nn.Parameter(distribute_tensor(torch.ones(8, 4), mesh, [Replicate(), Shard(0)], src_data_rank=None))
    assert [(group.name, group.shape) for group in groups_of(model, SAMPLING)] == [("w", (8, 4))]
    assert list(held(model)) == []
    square = init_device_mesh("cpu", (2, 2))
    model.w = nn.Parameter(distribute_tensor(torch.ones(8, 4), square, [Shard(0), Shard(1)], src_data_rank=None))
    with pytest.raises(CollectorError, match="sharded along one dimension"):
        groups_of(model, SAMPLING)
