"""A callback for the Trainer of Hugging Face's transformers: ``trainer.add_callback(GradNoiseCallback(trainer))``.

It attaches when the training begins, logs what the trainer knows of a step, and closes when the training ends. The
gradients come from the same taps as everywhere.
"""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import transformers

from gradnoise.collector._attach import attach
from gradnoise.collector._config import Limits, Sampling
from gradnoise.collector._logging import warn

if TYPE_CHECKING:
    import os

    import torch

    from gradnoise.collector._config import Probe
    from gradnoise.collector._handle import Handle

__all__ = ["GradNoiseCallback"]


class GradNoiseCallback(transformers.TrainerCallback):
    """Records the gradient noise of a training with ``transformers.Trainer``.

    Of every step of a burst it logs the batch size (null for the last of an epoch where that one may be smaller), the
    loss, the divisor and the metric ``global_step``. Loss and, with gradient accumulation, divisor are known only to
    the trainer, which does not pass itself to callbacks: they stay null without ``trainer``. The divisor stays null,
    too, where the trainer divides by the items (tokens) of the whole accumulated batch: each microbatch then has a
    weight of its own, and its draw lies in the dump as it was added up. Nothing is kept in checkpoints. A training that
    ends by an exception is closed with the interpreter, by the next training, or by :meth:`close`.

    Args:
        trainer: the trainer that this is a callback of.
        endpoint, run, dump, sampling, probe, limits: as for :func:`gradnoise.collector.attach`.

    Attributes:
        handle: what ``attach`` returned for the last training; None before the first.
    """

    def __init__(
        self,
        trainer: transformers.Trainer | None = None,
        *,
        endpoint: str | None = None,
        run: str | None = None,
        dump: str | os.PathLike[str] | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        probe: Probe | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self.handle: Handle | None = None
        self._trainer: weakref.ref[Any] = (lambda: None) if trainer is None else weakref.ref(trainer)  # type: ignore[assignment]
        self._options: dict[str, Any] = {
            "endpoint": endpoint,
            "run": run,
            "dump": dump,
            "sampling": sampling,
            "probe": probe,
            "limits": limits,
        }
        self._microbatches = 0  # before the last one of a step
        self._loss_before: torch.Tensor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach: the model is wrapped and restored, the optimizer is made."""
        self.close()
        self._microbatches, self._loss_before = 0, None
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if args.deepspeed is not None or "deepspeed" in type(optimizer).__name__.lower():
            warn(
                "gradnoise records nothing: DeepSpeed keeps gradients scaled and sharded inside its engine. Train a "
                "while without it, with DDP or FSDP2, to measure"
            )
            return
        self.handle = attach(model, optimizer, scaler=getattr(optimizer, "scaler", None), **self._options)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the trainer's sum of losses."""
        self._microbatches = 0
        if self.handle is None or not self.handle.wants():
            return
        running = getattr(self._trainer(), "_tr_loss", None)
        self._loss_before = None if running is None else running.detach().clone()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a microbatch."""
        self._microbatches += 1

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the step that is about to be taken."""
        before, self._loss_before = self._loss_before, None
        if self.handle is None or not self.handle.wants():
            return
        running = getattr(self._trainer(), "_tr_loss", None)
        loss = None if before is None or running is None else running.detach() - before
        self.handle.log(
            loss=loss,
            batch_size=_batch_size(args, state, kwargs.get("train_dataloader")),
            divisor=self._divisor(self._microbatches + 1, args.world_size),
            global_step=state.global_step,
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the handle, if there is one; it stays to be asked for ``stats()``. Idempotent."""
        if self.handle is not None:
            self.handle.close()

    def _divisor(self, microbatches: int, world_size: int) -> int | None:
        """Return what the loss of each microbatch was divided by; None where that is not known, or not one number."""
        trainer = self._trainer()
        if trainer is not None and not _divides_by_items(trainer):
            return microbatches
        return 1 if microbatches == world_size == 1 else None


def _divides_by_items(trainer: Any) -> bool:
    """Whether the trainer leaves it to the model, or to the user's function, to divide by the items of all batches."""
    said = getattr(trainer, "loss_is_scaled_for_ga", None)
    if said is not None:
        return bool(said)
    return trainer.compute_loss_func is not None or bool(getattr(trainer, "model_accepts_loss_kwargs", True))


def _batch_size(args: Any, state: Any, loader: Any) -> int | None:
    """Return the examples of each microbatch of the step that is about to be taken; None where that is not certain."""
    size: int | None = state.train_batch_size
    if args.world_size > 1 and args.accelerator_config.split_batches:  # each process gets a part of the batch
        return None
    if size is None or args.dataloader_drop_last:
        return size
    try:
        steps = math.ceil(len(loader) / args.gradient_accumulation_steps)
        whole = len(loader.dataset) % (size * args.world_size) == 0
    except TypeError:  # no length: any batch may be the last
        return None
    last = steps > 0 and (state.global_step + 1) % steps == 0
    return None if last and not whole else size
