"""Several copies of one training, stepped in turn in random order, so that the machine's drift hits all alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["fastest", "interleaved", "ratio"]


def fastest(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the processor in the fastest of several calls: others on the machine only add to it."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def interleaved(
    steps: Sequence[Callable[[], object]], count: int, rng: np.random.Generator, *, warm: int = 3
) -> NDArray[np.float64]:
    """Wall seconds, copies x ``count``, of each copy's steps."""
    for step in steps:
        for _ in range(warm):
            step()
    times = np.empty((len(steps), count))
    for index in range(count):
        for which in rng.permutation(len(steps)):
            start = time.perf_counter()
            steps[which]()
            times[which, index] = time.perf_counter() - start
    return times


def ratio(
    plain: NDArray[np.float64], other: NDArray[np.float64], rng: np.random.Generator, *, block: int
) -> tuple[float, float, float]:
    """Total time of ``other`` over that of ``plain``, with a 95 % bootstrap interval over blocks of pairs.

    A block is a whole cycle of the plan (burst and rest), so that every block costs the same work.
    """
    n = len(plain) // block * block
    a, b = (times[:n].reshape(-1, block).sum(axis=1) for times in (plain, other))
    picks = rng.integers(len(a), size=(4000, len(a)))
    low, high = np.quantile(b[picks].sum(axis=1) / a[picks].sum(axis=1), [0.025, 0.975])
    return float(b.sum() / a.sum()), float(low), float(high)
