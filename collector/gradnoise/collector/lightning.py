"""A callback for Lightning: ``Trainer(callbacks=[GradNoise()])``. Works with ``lightning`` and ``pytorch_lightning``.

It attaches when the training begins, logs what the trainer knows of a step, and closes when the training ends. The
gradients come from the same taps as everywhere.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from gradnoise.collector._attach import attach
from gradnoise.collector._batch import batch_size_of
from gradnoise.collector._config import Limits, Sampling
from gradnoise.collector._logging import warn

if TYPE_CHECKING:
    import os

    import torch

    from gradnoise.collector._config import Probe
    from gradnoise.collector._handle import Handle

__all__ = ["GradNoise"]


def _callbacks() -> tuple[type, ...]:
    """Return the base classes of callbacks of every Lightning that is installed: the two know only their own."""
    found = []
    for name in ("lightning.pytorch", "pytorch_lightning"):
        with contextlib.suppress(ModuleNotFoundError):
            found.append(importlib.import_module(name).Callback)
    if not found:
        raise ModuleNotFoundError("gradnoise.collector.lightning needs Lightning: pip install lightning")
    return tuple(found)


_Callbacks: Any = type("_Callbacks", _callbacks(), {})


class GradNoise(_Callbacks):  # type: ignore[misc]
    """Records the gradient noise of a Lightning training.

    Of every step of a burst it logs the loss (of several microbatches their mean), the batch size where all tensors of
    a batch agree on their first dimension, the divisor (``accumulate_grad_batches``, with automatic optimisation) and
    the metric ``global_step``. With manual optimisation a step of several backward passes has no loss and no divisor:
    say it yourself by ``callback.handle.log(divisor=...)`` before the step. Validation, testing and the sanity check
    are not recorded. Nothing is kept in checkpoints: a training that is resumed is a run of its own, unless
    ``GRADNOISE_RESUME`` is set and the run has the same name.

    Args:
        endpoint, run, dump, sampling, probe, limits: as for :func:`gradnoise.collector.attach`.

    Attributes:
        handle: what ``attach`` returned for the last training; None before the first.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        run: str | None = None,
        dump: str | os.PathLike[str] | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        probe: Probe | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self.handle: Handle | None = None
        self._options: dict[str, Any] = {
            "endpoint": endpoint,
            "run": run,
            "dump": dump,
            "sampling": sampling,
            "probe": probe,
            "limits": limits,
        }
        self._loss: torch.Tensor | None = None
        self._backwards = 0  # since the last step
        self._sizes: set[int | None] = set()  # of the batches since the last step
        self._logged = -1  # global step of the last row

    def on_train_start(self, trainer: Any, pl_module: torch.nn.Module) -> None:
        """Attach: the model is wrapped, restored and on its device, and the sanity check is over."""
        self.close()
        self._loss, self._backwards, self._logged = None, 0, -1
        if "deepspeed" in type(trainer.strategy).__name__.lower():
            warn(
                "gradnoise records nothing: DeepSpeed keeps gradients scaled and sharded inside its engine. Train a "
                "while with strategy='ddp' or ModelParallelStrategy() to measure"
            )
            return
        self.handle = attach(
            pl_module,
            list(trainer.optimizers),
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            **self._options,
        )

    def on_train_batch_start(self, trainer: Any, pl_module: torch.nn.Module, batch: Any, batch_idx: int) -> None:
        """Take the batch's size."""
        if self.handle is None or not self.handle.wants():
            return
        if not self._backwards:
            self._sizes.clear()
        self._sizes.add(batch_size_of(batch))

    def on_before_backward(self, trainer: Any, pl_module: torch.nn.Module, loss: torch.Tensor) -> None:
        """Take the loss, as it is differentiated: divided for accumulation, and scaled where there is a scaler."""
        if self.handle is None or not self.handle.wants():
            return
        self.handle.before_backward(loss)  # training_step need not call the module
        loss = loss.detach()
        self._loss = loss if self._loss is None else self._loss + loss
        self._backwards += 1

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        """Log the step that is about to be taken."""
        if self.handle is None:
            return
        loss, backwards = self._loss, self._backwards
        self._loss, self._backwards = None, 0
        step = trainer.global_step
        # A closure may be called again within one step (a line search): it is the first that is of this theta.
        if step == self._logged or loss is None or not self.handle.wants():
            return
        self._logged = step
        divisor = trainer.accumulate_grad_batches if pl_module.automatic_optimization else None
        if divisor is not None:
            loss = loss * (divisor / backwards)
        elif backwards > 1:
            loss = None
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if loss is not None and scaler is not None and scaler.is_enabled():
            loss = loss / scaler._get_scale_async()  # get_scale() synchronises
        (size,) = self._sizes if len(self._sizes) == 1 else (None,)
        self.handle.log(loss=loss, batch_size=size, divisor=divisor, global_step=step)

    def on_train_end(self, trainer: Any, pl_module: torch.nn.Module) -> None:
        """Close."""
        self.close()

    def on_exception(self, trainer: Any, pl_module: torch.nn.Module, exception: BaseException) -> None:
        """Close: what was recorded until then is whole."""
        self.close()

    def teardown(self, trainer: Any, pl_module: torch.nn.Module, stage: str) -> None:
        """Close, however the training ended."""
        self.close()

    def close(self) -> None:
        """Close the handle, if there is one; it stays to be asked for ``stats()``. Idempotent."""
        if self.handle is not None:
            self.handle.close()
