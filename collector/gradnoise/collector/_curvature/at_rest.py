"""The state in which curvature is measured: nothing of a training is changed by it."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.loaders import preserved_generators
from gradnoise.collector._taps.groups import is_a
from gradnoise.collector._taps.origin import is_sharded
from gradnoise.collector._taps.probe import frozen
from gradnoise.wire import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

__all__ = ["at_rest", "refuse_sharded"]

_FSDP1 = ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel")


@contextmanager
def at_rest(model: torch.nn.Module, data: Any, mode: str, seed: int) -> Iterator[None]:
    """Run with frozen parameters and the modules in a mode; on leaving everything is put back bit for bit.

    Parameters, buffers, gradients, train/eval flags, hooks, the global random number generators and those of the
    loader; an optimiser step inside raises. Hooks on the parameters' gradients are off meanwhile. The copy of the
    parameters is one vector of the whole model, on the host where the model is on another device.

    Raises:
        CurvatureError: the model is sharded.
    """
    refuse_sharded(model)
    with ExitStack() as stack:
        stack.enter_context(preserved_generators(data))
        stack.enter_context(frozen(model, seed, on_host=True))
        if mode != Mode.AS_IS:
            model.train(mode == Mode.TRAIN)
        for parameter in model.parameters():  # a hook that changes a gradient would change H twice
            if parameter._backward_hooks:
                parameter._backward_hooks.clear()
        yield


def refuse_sharded(model: torch.nn.Module) -> None:
    """Refuse a model of which this process holds a part only.

    Raises:
        CurvatureError: it is one.
    """
    if is_sharded(model) or any(is_a(module, *_FSDP1) for module in model.modules()):
        raise CurvatureError(
            f"the parameters of {type(model).__name__} are sharded (FSDP): a product with its Hessian would need every "
            "rank at once. Save a full state dict and measure it in one process with measure_curvature"
        )
