"""The groups of a model: which of its tensors are recorded, and under which names."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradnoise.collector._config import Sampling
from gradnoise.collector._errors import CollectorError
from gradnoise.collector._logging import inform
from gradnoise.collector._recording.coordinates import MAX_GROUPS, sample_coordinates
from gradnoise.wire import Group

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

__all__ = ["groups_of", "held", "is_a", "is_dtensor", "named", "unwrapped"]


# Modules that stand around another one: where they are defined, their name, and the attribute that holds the other.
# Looked up among what is loaded: importing them here would cost seconds.
_WRAPPERS = (
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.distributed.algorithms._checkpoint.checkpoint_wrapper", "ActivationWrapper", "_checkpoint_wrapped_module"),
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
)


@dataclass(frozen=True, slots=True)
class _Sharding:
    """How a parameter is cut over processes.

    Attributes:
        dim: the dimension that is cut.
        count: into how many shards.
        mine: which of them this process holds.
        first: whether it holds the first of the shard's replicas.
    """

    dim: int
    count: int
    mine: int
    first: bool

    def shape(self, whole: tuple[int, ...], shard: int) -> tuple[int, ...]:
        """Return the shape of a shard: chunks as :func:`torch.chunk` cuts them, the last ones smaller or empty."""
        if self.count == 1:
            return whole
        extent = whole[self.dim]
        chunk = math.ceil(extent / self.count)
        length = max(0, min(chunk, extent - shard * chunk))
        return (*whole[: self.dim], length, *whole[self.dim + 1 :])

    def name(self, parameter: str, shard: int) -> str:
        """Return the name of the group of a shard."""
        return parameter if self.count == 1 else f"{parameter}@{shard}/{self.count}"


_WHOLE = _Sharding(0, 1, 0, first=True)


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside of ``torch.compile``, DistributedDataParallel, DataParallel and checkpoint wrappers."""
    return _unwrapped(model, _wrappers())


def named(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield each parameter once, in the order of ``named_parameters()``, under its name without any wrapper."""
    return _named(_unwrapped(model, wrappers := _wrappers()), "", wrappers, set())


def is_a(thing: object, where: str, name: str) -> bool:
    """Whether ``thing`` is of a class in a module that need not be loaded, and then nothing is of it."""
    kind = _loaded(where, name)
    return kind is not None and isinstance(thing, kind)


def is_dtensor(tensor: torch.Tensor) -> bool:
    """Whether a tensor is cut over processes, of which this one holds a part."""
    return is_a(tensor, "torch.distributed.tensor", "DTensor")


def held(model: torch.nn.Module) -> Iterator[tuple[str, tuple[int, ...], torch.nn.Parameter]]:
    """Yield the name and shape of the group of each parameter, as far as this process is the one to record it.

    Of a sharded parameter that is the process's own shard, unless another process holds an earlier replica of it.
    """
    for name, parameter in named(model):
        if not is_dtensor(parameter):
            yield name, tuple(parameter.shape), parameter
        elif (sharding := _sharding(name, parameter)).first:
            yield sharding.name(name, sharding.mine), sharding.shape(tuple(parameter.shape), sharding.mine), parameter


def groups_of(model: torch.nn.Module, sampling: Sampling) -> tuple[Group, ...]:
    """Return the groups of a model, equal in all processes of a job.

    Each parameter tensor is a group, frozen ones too: they have rows once they are unfrozen. A tied one is one group.
    One that ``fully_shard`` has cut is a group a shard, of the shard's shape, named ``<parameter>@<shard>/<shards>``;
    the model is resharded first, and its next forward pass gathers the parameters as ever.

    Raises:
        CollectorError: there is nothing to record, or what cannot be recorded.
    """
    _check(model, sampling)
    _reshard(model)
    groups, trainable, frozen, replicated = [], 0, 0, 0
    for name, parameter in named(model):
        _check_parameter(name, parameter)
        if parameter.requires_grad:
            trainable += 1
        else:
            frozen += 1
            if not parameter.is_floating_point():  # complex, quantised or an index
                continue
        dtype = str(parameter.dtype).removeprefix("torch.")
        sharding = _sharding(name, parameter) if is_dtensor(parameter) else _WHOLE
        replicated += not sharding.first
        for shard in range(sharding.count):
            shape, group = sharding.shape(tuple(parameter.shape), shard), sharding.name(name, shard)
            size = math.prod(shape)
            if size:
                indices = sample_coordinates(group, size, sampling.coordinates, sampling.seed)
                groups.append(Group(group, shape, dtype, indices))
    if not trainable or not groups:
        what = f"all of its {frozen} parameters are frozen" if frozen else "it has no parameters"
        raise CollectorError(
            f"attach(model={type(model).__name__}): nothing to record, {what}; "
            "attach a model with parameters that require gradients, after freezing and unfreezing"
        )
    if len(groups) > MAX_GROUPS:
        raise CollectorError(f"{len(groups)} parameter tensors: at most {MAX_GROUPS} can be recorded")
    if replicated:
        inform("%d parameters are replicas of other processes' shards, which record them", replicated)
    return tuple(groups)


def _check(model: torch.nn.Module, sampling: Sampling) -> None:
    try:
        from torch.nn import Module
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("attach needs PyTorch: pip install torch. A Recorder needs none") from error

    if not isinstance(model, Module):
        raise CollectorError(f"attach(model={type(model).__name__}): expected a torch.nn.Module")
    if not isinstance(sampling, Sampling):
        raise CollectorError(f"attach(sampling={sampling!r}): expected a Sampling(...)")
    fsdp1 = ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel")
    if any(is_a(module, *fsdp1) for module in model.modules()):
        raise CollectorError(
            f"attach(model={type(model).__name__}): FullyShardedDataParallel joins parameters into flat ones, of which "
            "no gradient can be told; shard the model with torch.distributed.fsdp.fully_shard instead"
        )


def _reshard(model: torch.nn.Module) -> None:
    """Have the model hold its shards: after a forward pass without a backward pass some parameters stay whole."""
    for module in model.modules():
        if is_a(module, "torch.distributed.fsdp", "FSDPModule"):
            sharded: Any = module
            sharded.reshard()


def _check_parameter(name: str, parameter: torch.nn.Parameter) -> None:
    from torch.nn.parameter import is_lazy

    if is_lazy(parameter):
        raise CollectorError(
            f"parameter {name!r} has no shape yet (a lazy module); attach after the first forward pass, which gives "
            "it one"
        )
    if parameter.is_complex() and parameter.requires_grad:
        raise CollectorError(
            f"parameter {name!r} is complex ({parameter.dtype}): stable laws of real noise do not describe it; "
            "freeze it, or hold it as real and imaginary parts"
        )


def _sharding(name: str, parameter: Any) -> _Sharding:
    from torch.distributed.tensor import Shard

    mesh = parameter.device_mesh
    here = mesh.get_coordinate()
    cut, first = _WHOLE, here is not None
    for axis, placement in enumerate(parameter.placements):
        count = mesh.size(axis)
        if count == 1:
            continue
        mine = 0 if here is None else here[axis]
        if placement.is_replicate():
            first = first and mine == 0
        elif type(placement) is Shard and cut.count == 1:
            cut = _Sharding(placement.dim, count, mine, first=True)
        else:
            raise CollectorError(
                f"parameter {name!r} is placed as {parameter.placements} over a mesh of shape {tuple(mesh.shape)}: "
                "what is recorded is sharded along one dimension of the mesh, and replicated along the others"
            )
    return _Sharding(cut.dim, cut.count, cut.mine, first)


def _named(
    module: torch.nn.Module, prefix: str, wrappers: dict[type, str], seen: set[int]
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    for name, parameter in module._parameters.items():
        if parameter is not None and id(parameter) not in seen:
            seen.add(id(parameter))
            yield prefix + name, parameter
    for name, child in module._modules.items():
        if child is not None:
            yield from _named(_unwrapped(child, wrappers), f"{prefix}{name}.", wrappers, seen)


def _unwrapped(module: torch.nn.Module, wrappers: dict[type, str]) -> torch.nn.Module:
    while True:
        for kind, attribute in wrappers.items():
            if isinstance(module, kind):
                module = getattr(module, attribute)
                break
        else:
            return module


def _wrappers() -> dict[type, str]:
    found = ((_loaded(where, name), attribute) for where, name, attribute in _WRAPPERS)
    return {kind: attribute for kind, attribute in found if kind is not None}


def _loaded(where: str, name: str) -> Any:
    """Return a class of a module that may not be loaded; None then, since no object can be of it."""
    return getattr(sys.modules.get(where), name, None)
