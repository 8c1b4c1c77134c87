"""The α evaluation of a whole pass: streamed, sampled, and as published, with all gradients in memory.

On the same network and data; times are CPU times, the best of some repeats of all variants in turn. Peaks are of the
resident memory above that of a pass over four minibatches, each in a process of its own. The published procedure
(Simsekli et al. 2019) is: the gradients of all minibatches stacked, less their mean, block sums of all values.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradnoise.studies import full_alpha, sampled_alpha
from tests.benchmarks.networks import conv3c3d

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MINIBATCHES, BATCH, REPEATS = 32, 64, 3


def published(model: nn.Module, losses: Callable[[], Iterator[torch.Tensor]]) -> float:
    """All gradients in memory, as the procedure was published, in torch."""
    stacked = []
    for loss in losses():
        model.zero_grad()
        loss.backward()
        stacked.append(torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]))
    gradients = torch.cat(stacked).view(len(stacked), -1)
    values = (gradients - gradients.sum(0) / len(stacked)).view(-1, 1)
    n = values.numel()
    m = max(i for i in range(1, 1 + int(math.sqrt(n))) if n % i == 0)
    eps = 2.220446049250313e-16
    sums = values.view(-1, m).sum(1)
    sums_log = torch.log(sums.abs() + eps).mean()
    values_log = torch.log(values.norm(dim=1) + eps).mean()
    return float(math.log(m) / (sums_log - values_log))


def only_gradients(model: nn.Module, losses: Callable[[], Iterator[torch.Tensor]]) -> float:
    """The pass alone."""
    for loss in losses():
        model.zero_grad()
        loss.backward()
    return math.nan


VARIANTS: dict[str, Callable[..., float]] = {
    "gradients of the pass alone": only_gradients,
    "published procedure": published,
    "full_alpha": lambda model, losses: float(full_alpha(model, losses).alpha.value),
    "sampled_alpha": lambda model, losses: float(sampled_alpha(model, losses, minibatches=MINIBATCHES).alpha.value),
}


def peak() -> float:
    """Highest resident memory of this process in MB (Linux); ``getrusage`` would count what was forked from, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def job() -> tuple[nn.Module, Callable[[], Iterator[torch.Tensor]]]:
    """The network and the losses of a pass, after what only the first use costs."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = conv3c3d()
    batches = [(torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))) for _ in range(MINIBATCHES)]

    def losses(count: int = MINIBATCHES) -> Iterator[torch.Tensor]:
        return (nn.functional.cross_entropy(model(x), y) for x, y in batches[:count])

    small = nn.Linear(8, 8)
    full_alpha(small, lambda: (small(torch.ones(2, 8)).square().sum() * i for i in range(3)))
    only_gradients(model, lambda: losses(4))
    model.zero_grad()
    return model, losses


def grown(name: str, out: Any) -> None:
    """Report how far the resident memory of this process rises."""
    model, losses = job()
    gc.collect()
    before = peak()
    VARIANTS[name](model, losses)
    out.put(peak() - before)


def memory(name: str) -> float:
    """The same from a process of its own, in MB."""
    context = multiprocessing.get_context("spawn")
    out: Any = context.SimpleQueue()
    process = context.Process(target=grown, args=(name, out))
    process.start()
    found = float(out.get())
    process.join(60)
    return found


def main(repeats: int = REPEATS) -> None:
    model, losses = job()
    d = sum(p.numel() for p in model.parameters())
    print(
        f"3c3d, {d} parameters, {MINIBATCHES} minibatches of {BATCH}; one gradient {4 * d / 2**20:.1f} MB, all of them "
        f"{4 * d * MINIBATCHES / 2**20:.0f} MB; one thread, best of {repeats} in turn"
    )
    times = dict.fromkeys(VARIANTS, math.inf)
    values = {}
    for _ in range(repeats):
        for name, evaluate in VARIANTS.items():
            start = time.process_time()
            values[name] = evaluate(model, losses)
            times[name] = min(times[name], time.process_time() - start)
    alone = next(iter(times.values()))
    for name, seconds in times.items():
        print(
            f"{name:<28} {seconds:6.2f} s   {seconds / alone:4.2f} x   peak +{memory(name):6.1f} MB"
            + ("" if math.isnan(values[name]) else f"   alpha {values[name]:.6f}"),
            flush=True,
        )


if __name__ == "__main__":
    main()
