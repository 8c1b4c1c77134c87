"""Whose minibatches the gradients of a model are: this process's, or those of a whole job.

Nothing here is a collective, waits for another rank or raises: attach may be called on some ranks only.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import uuid
from typing import TYPE_CHECKING

from gradnoise.collector._recording.distributed import first_of, store, world_size
from gradnoise.collector._recording.records import Origin
from gradnoise.collector._taps.groups import is_a, is_dtensor, named
from gradnoise.wire import Scope

if TYPE_CHECKING:
    import torch

__all__ = ["averages_gradients", "is_ddp", "is_sharded", "origin_of", "processes_averaged"]


def origin_of(model: torch.nn.Module) -> Origin:
    """Return whose minibatches the draws of ``model`` are; called once an attach.

    In a job of several ranks (``torch.distributed`` is initialised) it carries the rank, the number of ranks and an id
    of the job on which all ranks agree: the first of them to ask the process group's store for one sets it. Ranks meet
    by the model's parameter names and by how often each has attached to such a model, so that a second attach is
    another job. Without a usable store the id is None, and the ranks stand alone.
    """
    scope, job, rank, ranks = Scope.PROCESS, None, None, None
    with contextlib.suppress(Exception):
        scope = Scope.GLOBAL if is_sharded(model) else Scope.PROCESS
        if world_size() > 1:
            ranks = world_size()
            rank = int(sys.modules["torch.distributed"].get_rank())
            job = _job(model, rank)
    return Origin(scope, job, rank, ranks)


def _job(model: torch.nn.Module, rank: int) -> str:
    """Return the id that the ranks share for this attach."""
    # Without wrappers: one rank may attach to one, and another to the module inside.
    names = [name for name, _ in named(model)]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    attach = store().add(f"gradnoise/attaches/{digest}/{rank}", 1)
    return first_of(f"gradnoise/job/{digest}/{attach}", uuid.uuid4().hex)


def is_ddp(model: torch.nn.Module) -> bool:
    """Whether ``model`` is wrapped in ``DistributedDataParallel``, which averages ``.grad`` over the ranks."""
    return is_a(model, "torch.nn.parallel.distributed", "DistributedDataParallel")


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether parameters are DTensors (``fully_shard``): gradients are of the job's minibatch, already reduced."""
    return any(is_dtensor(parameter) for parameter in model.parameters())


def processes_averaged(model: torch.nn.Module) -> int | None:
    """Return how many processes' minibatches a recorded gradient is the mean of; None where that is not known.

    Of ``fully_shard`` over one dimension of processes it is their number. Over more dimensions some of them may work on
    one minibatch together.
    """
    sharded = [each for each in model.parameters() if is_dtensor(each)]
    if not sharded:
        return 1
    meshes = {each.device_mesh for each in sharded}  # type: ignore[attr-defined]
    by_data = any(is_a(module, "torch.distributed.fsdp", "FSDPModule") for module in model.modules())
    if len(meshes) != 1 or not by_data:
        return None
    mesh = meshes.pop()
    return int(mesh.size()) if mesh.ndim == 1 else None


def averages_gradients(model: torch.nn.Module) -> bool:
    """Whether ``.grad`` may be an average over ranks, and so not the sum of this process's minibatch gradients.

    The module inside a ``DistributedDataParallel`` does not show it: in a job of several ranks any model may be one.
    """
    return is_ddp(model) or is_sharded(model) or world_size() > 1
