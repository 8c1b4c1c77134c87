"""Which reference a window's noise is measured against, and the noise of a group against it."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.report import Contrast
from gradnoise.analyzer.stats import InvalidInput, contrasts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradnoise.analyzer.windows import GroupDraws, Reference, Window

__all__ = ["NoReferenceError", "chosen", "noise_of"]

_NOTED = 1.05
"""Times the variance by which draws of one pass differ from independent ones, from which on a row says so."""


class NoReferenceError(Exception):
    """The full gradient that noise should be measured against is not there; the message says why."""


def chosen(window: Window, contrast: Contrast) -> tuple[Contrast, tuple[str, ...]]:
    """Return what a window's noise is measured against, and what must be said of the choice.

    ``AUTO`` is the exact gradient where one was recorded with draws of its theta, and pairs everywhere else.
    """
    if contrast is not Contrast.AUTO:
        return contrast, ()
    if not any(reference.kind == "full" for reference in (window.reference or {}).values()):
        return Contrast.PAIR, ()
    for group in window.groups:
        if len(group.draw):
            try:
                _full(window, group)
            except NoReferenceError as error:
                return Contrast.PAIR, (f"measured against pairs, for in group {group.name} {error}",)
    return Contrast.FULL, ()


def noise_of(window: Window, group: GroupDraws, keep: NDArray[np.bool_], kind: Contrast) -> contrasts.Contrast:
    """Return the noise of one group's draws.

    Args:
        window: which may hold a reference.
        group: one of its groups.
        keep: which of its draws.
        kind: not ``AUTO``.

    Raises:
        NoReferenceError: noise against the full gradient, and there is none.
        gradnoise.analyzer.stats.StatsError: too few draws.
    """
    draws = group.values[keep]
    match kind:
        case Contrast.FULL:
            return _against(draws, _full(window, group), _minibatch(group))
        case Contrast.MEAN:
            return contrasts.mean(draws)
        case Contrast.DIFFERENCE:
            return contrasts.difference(draws)
        case Contrast.EMA:
            return contrasts.ema(draws)
        case _:
            return contrasts.pair(draws, group.theta[keep])


def _full(window: Window, group: GroupDraws) -> Reference:
    reference = (window.reference or {}).get(group.name)
    if reference is None or reference.kind != "full":
        raise NoReferenceError("no full gradient was recorded: probe with Probe(full=...)")
    if len(reference.values) != group.values.shape[1]:
        raise NoReferenceError(
            f"the full gradient has {len(reference.values)} coordinates and the draws {group.values.shape[1]}"
        )
    if not np.isfinite(reference.values).all():
        raise NoReferenceError("the full gradient holds NaN or infinity")
    if len(np.unique(group.theta)) > 1:
        raise NoReferenceError("draws are of several thetas and the full gradient is of one")
    return reference


def _minibatch(group: GroupDraws) -> int | None:
    """The number of examples in each draw, if it is known and the same (a pass may end with a smaller minibatch)."""
    if group.batch_size is None or not len(group.batch_size):
        return None
    sizes, counts = np.unique(group.batch_size, return_counts=True)
    most = int(counts.argmax())
    return int(sizes[most]) if sizes[0] > 0 and counts[most] >= len(group.batch_size) - 1 else None


def _against(draws: NDArray[np.float32], reference: Reference, batch_size: int | None) -> contrasts.Contrast:
    minibatches = None
    n = reference.dataset_size
    if n is not None and batch_size is not None and reference.replacement is False:
        # Whether of one pass or not is the same for draws against the exact gradient.
        with contextlib.suppress(InvalidInput):  # a minibatch of the whole dataset
            minibatches = contrasts.Minibatches(n, batch_size, contrasts.Replacement.EPOCH)
    found = contrasts.full(draws, reference.values, minibatches=minibatches)
    factor = found.covariance_factor
    if factor < _NOTED:
        return found
    note = (
        f"minibatches of {batch_size} of {n} examples, drawn without replacement: the variance of their noise is "
        f"smaller than with replacement by a factor of {factor:.2f}, and the scale is theirs"
    )
    return dataclasses.replace(found, warnings=(*found.warnings, note))
