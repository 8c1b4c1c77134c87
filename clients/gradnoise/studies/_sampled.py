"""The published α evaluation from a sample of its blocks: one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradnoise.analyzer.stats import StatsError, block_sums
from gradnoise.studies._alpha import REFERENCE, AlphaStudy, StudyError, notes
from gradnoise.studies._pass import Flat, gradients, trainable, untouched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["sampled_alpha"]


def sampled_alpha(
    model: torch.nn.Module,
    losses: Callable[[], Any],
    *,
    minibatches: int,
    blocks: int = 512,
    seed: int = 0,
) -> AlphaStudy:
    """Return ``full_alpha`` estimated from a random sample of its block sums: one pass instead of two.

    Of the blocks that ``full_alpha`` would form some are chosen at random before the pass and kept, and the mean
    gradient is taken off after it. The expected value is that of ``full_alpha``; the error stands for the sampling of
    blocks. In memory: two gradients and ``blocks`` times the block length, √(minibatches × parameters).

    Args:
        model, losses, seed: as of ``full_alpha``.
        minibatches: of the pass, ``len(loader)``: the block length depends on it.
        blocks: sampled; all, where there are fewer.

    Raises:
        StudyError: as of ``full_alpha``; another number of minibatches came.
    """
    for name, value, least in (("minibatches", minibatches, 2), ("blocks", blocks, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise StudyError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    parameters = trainable(model)
    mean = Flat(parameters)
    d = mean.values.numel()
    try:
        m = block_sums.zero(minibatches * d).m
    except StatsError as error:
        raise StudyError(f"model: its gradients carry no estimate: {error}") from error
    there = minibatches * d // m
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(there, min(blocks, there), replace=False))
    # All in one piece of memory: small ones, kept while a network's activations come and go, would scatter the heap.
    kept = mean.values.new_zeros(len(chosen), m)
    with torch.no_grad():
        count = 0
        with untouched(model, seed):
            for tensors in gradients(losses, parameters):
                count += 1
                if count > minibatches:
                    break
                mean.add(tensors)
                for index, where, low in _pieces(chosen, m, d, count - 1):
                    _copy(mean, tensors, low, kept[index, where])
                del tensors
        if count != minibatches:
            came = f"more than {minibatches}" if count > minibatches else count
            raise StudyError(f"losses: {came} minibatches; minibatches={minibatches} were announced")
        mean.values.div_(minibatches)
        for minibatch in range(minibatches):
            for index, where, low in _pieces(chosen, m, d, minibatch):
                values = kept[index, where]
                values.sub_(mean.values[low : low + len(values)])
        return _study(kept, minibatches, d)


def _pieces(chosen: NDArray[np.int64], m: int, d: int, minibatch: int) -> Iterator[tuple[int, slice, int]]:
    """Yield what of the chosen blocks lies in a minibatch: which of them, where in the block, and where in the gradient
    it begins. Blocks may begin in one minibatch and end in another."""
    begin = minibatch * d
    first, last = np.searchsorted(chosen, [begin // m, (begin + d - 1) // m + 1]).tolist()
    for index in range(first, last):
        start = int(chosen[index]) * m - begin
        low, high = max(start, 0), min(start + m, d)
        yield index, slice(low - start, high - start), low


def _copy(flat: Flat, tensors: Sequence[torch.Tensor | None], low: int, out: torch.Tensor) -> None:
    """Copy what follows ``low`` in a gradient."""
    high = low + len(out)
    for begin, tensor in zip(flat.starts, tensors, strict=True):
        if tensor is None or begin >= high or begin + tensor.numel() <= low:
            continue
        first, last = max(low - begin, 0), min(high - begin, tensor.numel())
        dense = tensor.to_dense() if tensor.is_sparse else tensor
        out[begin + first - low : begin + last - low] = dense.reshape(-1)[first:last]


def _study(noise: torch.Tensor, minibatches: int, d: int) -> AlphaStudy:
    blocks, m = noise.shape
    sums = noise.sum(1)
    zeros = blocks * m - int(torch.count_nonzero(noise))
    logs = noise.abs_().add_(block_sums.EPS).log_().sum(1)
    try:
        alpha = block_sums.of_sample(
            minibatches * d, m, sums.double().cpu().numpy(), logs.double().cpu().numpy(), zeros
        )
    except StatsError as error:
        raise StudyError(f"the noise carries no estimate: {error}") from error
    return AlphaStudy(alpha, "mmo", REFERENCE, minibatches, d, m, notes(alpha, ordered=True))
