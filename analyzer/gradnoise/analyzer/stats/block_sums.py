"""The block-sum estimator of values too many to hold: ``estimators.mmo`` of a stream, from a few numbers.

    s = zero(n)                       # n values are to come
    for values in stream:
        s = update(s, values)
    estimate = finalize(s)

Values count in the order in which they come, and blocks reach from one call into the next. Who has the values
elsewhere (on a device) cuts them as ``cut`` says, sums the pieces there and hands the sums to ``extend``.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._alpha import any_shape, require_finite
from gradnoise.analyzer.stats._block_sum import EPS, block_length, published
from gradnoise.analyzer.stats._estimate import MIN_VALUES, AllZero, InvalidInput, NonFiniteValues, TooFewValues, as_real

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._alpha import AlphaEstimate
    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["EPS", "BlockSums", "cut", "extend", "finalize", "of_sample", "update", "zero"]


@dataclass(frozen=True, slots=True)
class BlockSums:
    """What ``mmo`` needs of the values so far. With D_b = ln|Y_b| − mean_{i in b} ln|X_i| over whole blocks b of m
    values with sum Y_b (ε = 2.2e-16 inside every logarithm)."""

    n: int
    """Values there will be."""
    m: int
    """Values a block: the largest divisor of n not above √n."""
    seen: int = 0
    zeros: int = 0
    total: float = 0.0
    """Σ D_b."""
    squares: float = 0.0
    """Σ D_b²."""
    open_sum: float = 0.0
    open_logs: float = 0.0
    """Sums of the values, and of ln(|X| + ε), of the block that is not whole."""


def zero(n: int) -> BlockSums:
    """The state before the first of ``n`` values. Raises ``TooFewValues`` below 30."""
    if n < MIN_VALUES:
        raise TooFewValues(f"n: expected at least {MIN_VALUES} values, got {n}")
    return BlockSums(n, block_length(n))


def cut(state: BlockSums, length: int) -> tuple[int, int, int]:
    """How the next ``length`` values fall into blocks: values that go on with the open block, whole blocks after it,
    and values left at the end."""
    filled = state.seen % state.m
    head = min((state.m - filled) % state.m, length)
    return head, (length - head) // state.m, (length - head) % state.m


def extend(state: BlockSums, length: int, sums: Floats, logs: Floats, zeros: int) -> BlockSums:
    """The state after ``length`` values more, of which sums are given.

    ``sums`` and ``logs``: sums of the values and of ln(|X| + ε) over the pieces that ``cut`` makes: the head if there
    is one, each whole block, the tail if there is one. ``zeros``: exact zeros among them.

    Raises ``InvalidInput`` for other than these pieces or more values than were to come, ``NonFiniteValues``.
    """
    head, whole, tail = cut(state, length)
    pieces = (head > 0) + whole + (tail > 0)
    if len(sums) != pieces or len(logs) != pieces:
        raise InvalidInput(f"sums, logs: expected one entry for each of {pieces} pieces, got {len(sums)}, {len(logs)}")
    if state.seen + length > state.n:
        raise InvalidInput(f"length: {state.seen + length} values where {state.n} were to come")
    if not (np.isfinite(sums).all() and np.isfinite(logs).all()):
        raise NonFiniteValues("sums: expected finite values, got NaN or infinity; drop or mend them first")
    sums, logs = np.array(sums, np.float64), np.array(logs, np.float64)
    if state.seen % state.m and pieces:  # the first piece goes on with the open block
        sums[0] += state.open_sum
        logs[0] += state.open_logs
    seen = state.seen + length
    ended = pieces - (seen % state.m > 0) if pieces else 0
    deviations = np.log(np.abs(sums[:ended]) + EPS) - logs[:ended] / state.m
    still_open = ended < pieces
    return dataclasses.replace(
        state,
        seen=seen,
        zeros=state.zeros + zeros,
        total=state.total + float(deviations.sum()),
        squares=state.squares + float(deviations @ deviations),
        open_sum=float(sums[-1]) if still_open else state.open_sum if not pieces else 0.0,
        open_logs=float(logs[-1]) if still_open else state.open_logs if not pieces else 0.0,
    )


def update(state: BlockSums, x: ArrayLike) -> BlockSums:
    """The state after the values ``x``, real numbers of any shape, in row-major order.

    Raises ``InvalidInput``, ``NonFiniteValues``.
    """
    values = any_shape(x).astype(np.float64).ravel()
    require_finite(values)
    head, whole, tail = cut(state, values.size)
    body = slice(head, head + whole * state.m)
    sums, logs = (
        np.concatenate(
            [
                given[:head].sum(keepdims=True)[: head > 0],
                given[body].reshape(whole, state.m).sum(axis=1),
                given[body.stop :].sum(keepdims=True)[: tail > 0],
            ]
        )
        for given in (values, np.log(np.abs(values) + EPS))
    )
    return extend(state, values.size, sums, logs, int((values == 0).sum()))


def finalize(state: BlockSums) -> AlphaEstimate:
    """``estimators.mmo`` of all values, with its standard error, interval and warnings.

    Raises ``TooFewValues`` if not all have come, ``AllZero``.
    """
    if state.seen != state.n:
        raise TooFewValues(f"state: {state.seen} of {state.n} values have come")
    if state.zeros == state.n:
        raise AllZero(f"state: all {state.n} values are exactly 0; there is no noise to estimate from")
    blocks = state.n // state.m
    mean = state.total / blocks
    variance = max(state.squares - blocks * mean * mean, 0.0) / (blocks - 1)
    return published(state.n, state.m, state.zeros / state.n, mean, math.sqrt(variance / blocks))


def of_sample(n: int, m: int, sums: ArrayLike, logs: ArrayLike, zeros: int) -> AlphaEstimate:
    """``estimators.mmo`` of ``n`` values from a random sample of their blocks.

    ``sums`` and ``logs``: sums of the values and of ln(|X| + ε) over whole blocks of ``m``; ``zeros``: exact zeros
    among them. The value is that of all blocks up to the sampling, which the error covers: it takes blocks as
    independent, as that of all of them does.

    Raises ``InvalidInput`` for other than as many sums as logarithms, ``NonFiniteValues``, ``TooFewValues`` (fewer
    than 2 blocks), ``AllZero``.
    """
    y, x = as_real(sums, "sums", 1).astype(np.float64), as_real(logs, "logs", 1).astype(np.float64)
    if len(x) != len(y):
        raise InvalidInput(f"logs: expected one entry for each of {len(y)} sums, got {len(x)}")
    if len(y) < 2:
        raise TooFewValues(f"sums: expected at least 2 blocks, got {len(y)}")
    require_finite(y, "sums")
    require_finite(x, "logs")
    used = len(y) * m
    if zeros == used:
        raise AllZero(f"sums: all {used} values are exactly 0; there is no noise to estimate from")
    deviations = np.log(np.abs(y) + EPS) - x / m
    se = float(deviations.std(ddof=1)) / math.sqrt(len(y))
    found = published(n, m, zeros / used, float(deviations.mean()), se)
    return dataclasses.replace(found, n=used, method=f"{found.method}; {len(y)} of {n // m} blocks, at random")
