"""The hook beside ``wandb.watch(log="gradients")`` and Cockpit, at equal frequency, in one run.

Copies of one training take the same steps in turn: plain, with gradnoise, with wandb.watch (offline mode, one ``log``
a watched step), with Cockpit's economy configuration (its BackPACK extensions and instruments), each every 16 steps and
at every step. gradnoise records bursts: 1 step in 16. What they give differs: gradnoise keeps sampled gradients of
every tensor, wandb.watch histograms of every tensor, Cockpit the α of the update, histograms, norms and tests over
samples.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradnoise.collector import Handle, Sampling, attach

from .networks import Training, training
from .paired import interleaved, ratio

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = {"MLP": 48, "3c3d": 64}


class _ForCockpit:
    """A training's optimiser, stepped without Cockpit's ending of the block: the block ends behind the step."""

    def __init__(self, name: str, interval: int) -> None:
        from backpack import extend
        from cockpit import Cockpit
        from cockpit.utils.configuration import configuration
        from cockpit.utils.schedules import linear

        self._work = training(name, extend)
        self._each = torch.nn.CrossEntropyLoss(reduction="none")
        quantities = configuration("economy", track_schedule=linear(interval))
        self._cockpit = Cockpit(self._work.model.parameters(), quantities=quantities)

    def step(self) -> None:
        work = self._work
        x, y = work.batches[work.taken % len(work.batches)]
        work.optimizer.zero_grad()
        out = work.model(x)
        loss = work.loss(out, y)
        with torch.no_grad():
            losses = self._each(out, y)
        with self._cockpit(
            work.taken,
            info={
                "batch_size": len(y),
                "individual_losses": losses,
                "loss": loss,
                "optimizer": work.optimizer,
            },
        ):
            loss.backward(create_graph=self._cockpit.create_graph(work.taken))
        work.optimizer.step()
        work.taken += 1


def watched(name: str, interval: int, folder: str, stack: ExitStack) -> Callable[[], object]:
    import wandb

    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    run = wandb.init(mode="offline", dir=folder, project="bench", settings=settings)
    stack.callback(run.finish)
    work = training(name)
    run.watch(work.model, log="gradients", log_freq=interval)

    def step() -> None:
        work.step()
        if work.taken % interval == 0:
            run.log({"step": work.taken})

    return step


def hooked(name: str, interval: int, folder: str, stack: ExitStack) -> Callable[[], object]:
    work: Training = training(name)
    plan = Sampling(burst=4, every=4 * interval)
    handle = stack.enter_context(attach(work.model, work.optimizer, dump=Path(folder) / f"g{interval}", sampling=plan))
    stack.callback(_must_have_recorded, handle)
    return work.step


def _must_have_recorded(handle: Handle) -> None:
    handle.flush()
    assert handle.stats().recorded > 0, "nothing was recorded: this would measure an idle hook"


def compare(name: str, rng: np.random.Generator) -> None:
    for interval in (16, 1):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            copies: dict[str, Callable[[], Any]] = {
                "plain": training(name).step,
                "gradnoise": hooked(name, interval, folder, stack),
                "wandb.watch": watched(name, interval, folder, stack),
            }
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # ten-year-old idioms of a package that is no longer kept
                    copies["Cockpit economy"] = _ForCockpit(name, interval).step
                    copies["Cockpit economy"]()
            except Exception as error:
                copies.pop("Cockpit economy", None)
                print(f"Cockpit does not run here: {type(error).__name__}: {error}")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                times = interleaved(list(copies.values()), STEPS[name], rng)
            print(f"{name}, every {interval}: plain step {1e3 * np.median(times[0]):.2f} ms", end="")
            for number, label in enumerate(copies):
                if number:
                    found, low, high = ratio(times[0], times[number], rng, block=16)
                    print(f"   {label} {found:.2f} [{low:.2f}, {high:.2f}]", end="")
            print(flush=True)


def main() -> None:
    os.environ.setdefault("WANDB_SILENT", "true")
    rng = np.random.default_rng(0)
    for name in STEPS:
        compare(name, rng)


if __name__ == "__main__":
    main()
