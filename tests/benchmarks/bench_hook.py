"""The share of a training step spent in the hook, on the demo's training.

Two copies of one job take the same steps in turn, one with the hook, in random order within each pair, so that the
machine's drift hits both. The flush that ends a burst is charged to the hooked copy: its writer thread does its work
there and not behind the other copy's step. The interval is a bootstrap over pairs in blocks of 16.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from gradnoise.cli._digits import Job, job
from gradnoise.collector import Sampling, attach

BURST, EVERY, CYCLES = 64, 1024, 4
BLOCK = 16


def timed(work: Job) -> float:
    start = time.perf_counter()
    work.step()
    return time.perf_counter() - start


def share(plain: np.ndarray, hooked: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """(hooked - plain) / hooked of total times, with a 95 % block-bootstrap interval."""
    n = len(plain) // BLOCK * BLOCK
    a, b = (times[:n].reshape(-1, BLOCK).sum(axis=1) for times in (plain, hooked))
    picks = rng.integers(len(a), size=(2000, len(a)))
    replicates = 1 - a[picks].sum(axis=1) / b[picks].sum(axis=1)
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(1 - a.sum() / b.sum()), float(low), float(high)


def measure(optimizer: Literal["sgd", "adam"], batch_size: int, rng: np.random.Generator) -> None:
    plain, hooked = job(optimizer, batch_size), job(optimizer, batch_size)
    times = np.empty((2, CYCLES * EVERY))
    with tempfile.TemporaryDirectory() as folder:
        for work in (plain, hooked):
            for _ in range(50):
                work.step()
        plan = Sampling(burst=BURST, every=EVERY)
        with attach(hooked.model, hooked.optimizer, dump=Path(folder) / "dump", sampling=plan) as handle:
            for step in range(CYCLES * EVERY):
                for which in rng.permutation(2):
                    times[which, step] = timed((plain, hooked)[which])
                if step % EVERY == BURST:
                    start = time.perf_counter()
                    handle.flush()
                    times[1, step] += time.perf_counter() - start
            recorded = handle.stats().recorded
    assert recorded > 0, "nothing was recorded: this would measure an idle hook"
    in_burst = np.arange(CYCLES * EVERY) % EVERY <= BURST
    print(f"{optimizer:>5} B={batch_size:<4} median step {1e6 * np.median(times[0]):6.0f} µs", end="")
    for label, which in (("whole plan", slice(None)), ("in bursts", in_burst), ("outside", ~in_burst)):
        value, low, high = share(times[0, which], times[1, which], rng)
        print(f"   {label} {100 * value:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]", end="")
    print()


def main() -> None:
    torch.set_num_threads(1)
    print(
        f"share of a step in the hook; bursts of {BURST} in {EVERY}, 1024 coordinates a group, "
        f"{CYCLES * EVERY} paired steps"
    )
    rng = np.random.default_rng(0)
    for optimizer in ("sgd", "adam"):
        for batch_size in (32, 128):
            measure(optimizer, batch_size, rng)


if __name__ == "__main__":
    main()
