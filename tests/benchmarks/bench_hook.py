"""What the hook costs a training: four networks, recording 1 step in 16 (bursts) and every step.

Three copies of one training take the same steps in turn, in random order within each turn. Two figures each: the ratio
of total times with a bootstrap interval over cycles of the plan, and the time spent in our code (every entry point that
torch calls, and the processor time of the writer's thread, which may run beside the training or not) over the time of
a plain step. The second is blind to what the hook does to caches; the first to nothing, but it carries the machine's
noise. Then a step outside a burst with 100 parameter tensors, and the bytes on disk.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradnoise.collector import Sampling, attach
from gradnoise.wire import Dump, Table

from .networks import NETWORKS, training
from .paired import interleaved, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

# Cycles of the plan that is recorded 1 step in 16; shorter bursts where a step is long, which costs us more.
PLANS = {
    "MLP": (Sampling(), 3),
    "3c3d": (Sampling(burst=4, every=64), 3),
    "ResNet-18": (Sampling(burst=4, every=64), 2),
    "Transformer": (Sampling(burst=4, every=64), 2),
}
ENTRIES = ("_on_gradient", "_on_backward_end", "_on_update", "_on_any_update", "_before_update")


@contextmanager
def clocked() -> Iterator[dict[Any, float]]:
    """Seconds spent in each :class:`Taps`'s entry points, while it lasts."""
    from gradnoise.collector._taps.taps import Taps

    spent: dict[Any, float] = {}
    inside = threading.local()
    originals = {name: getattr(Taps, name) for name in ENTRIES if hasattr(Taps, name)}

    def timed(function: Any) -> Any:
        def call(self: Any, *args: Any) -> Any:
            if getattr(inside, "depth", 0):
                return function(self, *args)
            inside.depth = 1
            start = time.perf_counter()
            try:
                return function(self, *args)
            finally:
                spent[self] = spent.get(self, 0.0) + time.perf_counter() - start
                inside.depth = 0

        return call

    for name, function in originals.items():
        setattr(Taps, name, timed(function))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(Taps, name, function)


def writers() -> dict[int, float]:
    """Processor seconds of the writers' threads."""
    return {
        thread.ident: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.name.startswith("gradnoise-writer") and thread.ident is not None
    }


def cost(name: str, rng: np.random.Generator) -> None:
    sparse, cycles = PLANS[name]
    every = sparse.every
    plans = (sparse, Sampling(burst=every, every=every))
    count = cycles * every
    plain = training(name)
    hooked = [training(name) for _ in plans]
    with tempfile.TemporaryDirectory() as folder, clocked() as spent:
        handles = []
        for number, (work, plan) in enumerate(zip(hooked, plans, strict=True)):
            before = writers()
            dump = Path(folder) / str(number)
            handle = attach(work.model, work.optimizer, dump=dump, run=f"r{number}", sampling=plan)
            (ident,) = writers().keys() - before.keys()
            handles.append((handle, ident))
        # Nothing is recorded before the first update; then whole cycles of the plan are timed.
        interleaved([plain.step, *(work.step for work in hooked)], min(every, 64), rng, warm=0)
        for handle, _ in handles:
            handle.flush()
        spent.clear()
        started = writers()
        times = interleaved([plain.step, *(work.step for work in hooked)], count, rng, warm=0)
        for handle, _ in handles:
            handle.flush()
        ended = writers()
        by_tap = [spent[handle._taps] for handle, _ in handles]
        median = float(np.median(times[0]))
        print(
            f"{name:>12}: plain step {1e3 * median:7.2f} ms (median of {count}); "
            f"1 in 16 is bursts of {sparse.burst} in {sparse.every}"
        )
        for number, (label, (handle, ident)) in enumerate(zip(("1 in 16", "every"), handles, strict=True)):
            found, low, high = ratio(times[0], times[number + 1], rng, block=max(16, every // 16))
            hook = by_tap[number] / times[0].sum()
            writer = (ended[ident] - started[ident]) / times[0].sum()
            stats = handle.stats()
            assert stats.recorded > 0
            assert stats.dropped == 0, "samples were dropped: the cost would be that of less work"
            print(
                f"{label:>20}: ratio {found:.3f} [{low:.3f}, {high:.3f}]   time in our code / plain step: hooks "
                f"{100 * hook:.2f} %, writer's thread {100 * writer:.2f} %, in all {1 + hook + writer:.4f}"
            )
            handle.close()


def outside(rng: np.random.Generator) -> None:
    """A step outside a burst: one optimiser with 100 small parameter tensors, with and without a hook."""

    def optimizer() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(50))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)

    (_, plain), (model, hooked) = optimizer(), optimizer()
    with tempfile.TemporaryDirectory() as folder:
        plan = Sampling(burst=1, every=1 << 30)
        with attach(model, hooked, dump=Path(folder) / "d", sampling=plan):
            hooked.step()
            times = interleaved([plain.step, hooked.step], 20000, rng)
    extra = times[1] - times[0]
    blocks = extra.reshape(-1, 100).mean(axis=1)
    se = blocks.std(ddof=1) / len(blocks) ** 0.5
    print(
        f"a step outside a burst, 100 tensors: {1e6 * np.median(times[1] - times[0]):.1f} µs more by the median pair, "
        f"{1e6 * blocks.mean():.1f} ± {1.96e6 * se:.1f} µs by the mean"
    )


def disk() -> None:
    """Bytes on disk over bytes of the sampled values, with the batch size unknown and given."""
    for coordinates, batch_size in itertools.product((256, 1024), (None, 8)):
        model = torch.nn.Sequential(*(torch.nn.Linear(64, 64, bias=False) for _ in range(10)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "d"
            plan = Sampling(coordinates=coordinates, burst=64, every=64)
            with attach(model, optimizer, dump=path, sampling=plan, batch_size=batch_size):
                for _ in range(1024):
                    optimizer.zero_grad()
                    model(torch.randn(8, 64)).square().mean().backward()
                    optimizer.step()
            dump = Dump(path)
            draws = sum(s.batch.num_rows for p in dump.producers() for s in dump.batches(Table.DRAWS, p))
            values = 4 * coordinates * draws
            tables = sum(file.stat().st_size for file in path.glob("*.arrow"))
            whole = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(
            f"disk, groups of {coordinates} coordinates, batch size {batch_size or 'unknown'}: tables "
            f"{tables / values:.4f}, whole directory {whole / values:.4f} of {values / 1e6:.0f} MB of sampled values"
        )


def main() -> None:
    print("hook against none; 1024 coordinates a group")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    rng = np.random.default_rng(0)
    for name in NETWORKS:
        cost(name, rng)
    torch.set_num_threads(1)
    outside(rng)
    disk()


if __name__ == "__main__":
    main()
