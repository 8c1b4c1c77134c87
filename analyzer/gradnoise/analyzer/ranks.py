"""Ranks of a distributed job: whose draws are of one window, and putting them together.

Two kinds of windows are shared. Of ``process`` scope: every rank records its own minibatches, at the same parameters,
which a hash of samples of them shows (``thetas``); ranks that train parameters of their own share nothing. Of
``global`` scope (sharded training): every rank records its shards of the job's one minibatch.

Probes have no such hash and stay each rank's own: nothing tells whether their ranks draw different minibatches.
Measurements of the curvature stay each rank's own too, whatever they say of their parameters: a rank's H, gradient and
noise are of the data that this rank went through, and eigenvectors are not kept, in which they could be put together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.windows import GroupDraws, Window
from gradnoise.wire import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from gradnoise.analyzer.windows import ClosedWindow, SketchRow

__all__ = ["PATIENCE", "Meeting", "all_met", "joined", "meeting", "merged", "together"]

Meeting = tuple[str, str, int]

PATIENCE = 10.0
"""Seconds for which a window waits for further ranks of its job, after one has closed it."""


def meeting(closed: ClosedWindow) -> Meeting:
    """Return where ranks meet: run, job and window; of a window that cannot be shared run, producer and window."""
    return closed.run, closed.producer if closed.job is None or not _shared(closed) else closed.job, closed.window


def _shared(closed: ClosedWindow) -> bool:
    """Whether other ranks may have recorded the same window."""
    known = (closed.scope == Scope.GLOBAL or closed.thetas is not None) and not closed.measures_curvature
    return known and closed.job is not None and closed.rank is not None


def all_met(met: Sequence[ClosedWindow]) -> bool:
    """Whether no rank is missing from windows that meet."""
    ranks = {closed.rank for closed in met}
    return all(len(ranks) >= (closed.world_size or 1) for closed in met if _shared(closed))


def joined(windows: Iterable[ClosedWindow]) -> list[tuple[ClosedWindow, ...]]:
    """Put together the windows that are one, each by rank, in the order of the first of each."""
    found: dict[tuple[object, ...], dict[int, ClosedWindow]] = {}
    for closed in windows:
        at = meeting(closed)
        rank = closed.rank or 0
        shared = (*at, closed.scope, None if closed.scope == Scope.GLOBAL else closed.thetas)
        ranks = found.setdefault(shared, {})
        # Two producers that say they are one rank: the later one stands alone.
        ranks = ranks if rank not in ranks else found.setdefault((*shared, closed.producer), {})
        ranks[rank] = closed
    return [tuple(ranks[rank] for rank in sorted(ranks)) for ranks in found.values()]


def merged(members: Sequence[ClosedWindow]) -> ClosedWindow:
    """Return what the ranks say of their window together; ``members`` are in the order of their ranks."""
    first = members[0]
    if len(members) == 1:
        return first
    # Shards are of the same draws.
    total = max if first.scope == Scope.GLOBAL else sum
    return replace(
        first,
        first_step=min(member.first_step for member in members),
        last_step=max(member.last_step for member in members),
        first_theta=min(member.first_theta for member in members),
        last_theta=max(member.last_theta for member in members),
        declared=total(member.declared for member in members),
        recorded=total(member.recorded for member in members),
        rows=sum(member.rows for member in members),
        non_finite=total(member.non_finite for member in members),
        dropped=total(member.dropped for member in members),
    )


def together(parts: Sequence[Window]) -> Window:
    """Return one window of the parts that ranks have of it, in the order of the ranks.

    Draws of ``process`` scope come by theta, rank and draw and are numbered anew; of ``global`` scope each group is
    that rank's which recorded most of it. A group's reference is the lowest rank's that has one.
    """
    closed = merged([part.closed for part in parts])
    notes = _missing_ranks(closed, len(parts))
    first = parts[0]
    if len(parts) == 1:
        return replace(first, notes=(*first.notes, *notes))
    if closed.scope == Scope.GLOBAL:
        groups = tuple(max(same, key=lambda g: len(g.draw)) for same in zip(*(p.groups for p in parts), strict=True))
        renumbered = [_side_by_side(parts)]
    else:
        notes += _same_minibatches(parts)
        order = _Order(parts)
        groups = tuple(order.joined(same) for same in zip(*(part.groups for part in parts), strict=True))
        renumbered = [order.renumbered(rank, part.sketches) for rank, part in enumerate(parts)]
    references = [part.reference for part in parts if part.reference is not None]
    reference = {name: found for each in reversed(references) for name, found in each.items()}
    return Window(
        closed,
        missing=sum(part.missing for part in parts),
        groups=groups,
        reference=reference or None,
        sketches=tuple(sorted((s for each in renumbered for s in each), key=lambda s: s.draw)),
        notes=(*(note for part in parts for note in part.notes), *notes),
    )


def _missing_ranks(closed: ClosedWindow, present: int) -> tuple[str, ...]:
    if not _shared(closed) or closed.world_size is None or present >= closed.world_size:
        return ()
    where = "" if closed.scope == Scope.GLOBAL else " at these parameters"
    return (f"{present} of {closed.world_size} ranks of the job recorded this window{where}",)


def _same_minibatches(parts: Sequence[Window]) -> tuple[str, ...]:
    """Say so where ranks drew what another had drawn: their half-differences are zero, and no noise."""
    values = [group.values for group in max(zip(*(p.groups for p in parts), strict=True), key=lambda g: len(g[0].draw))]
    if not len(values[0]) or not values[0].any():
        return ()
    same = sum(np.array_equal(values[0], other) for other in values[1:])
    if not same:
        return ()
    return (
        f"{same + 1} ranks drew the same minibatches, and their differences are no noise: give each its own part of "
        "the data (a DistributedSampler, or another seed)",
    )


def _side_by_side(parts: Sequence[Window]) -> tuple[SketchRow, ...]:
    """Return what the shards of each draw make together; draws that a rank did not count are left out."""
    by_draw = [{sketch.draw: sketch for sketch in part.sketches} for part in parts]
    found = []
    for draw in set(by_draw[0]).intersection(*by_draw):
        same = [each[draw] for each in by_draw]
        cells, where = np.unique(np.concatenate([sketch.cells for sketch in same]), return_inverse=True)
        counts = np.zeros(len(cells), np.uint32)
        np.add.at(counts, where, np.concatenate([sketch.counts for sketch in same]))
        inexact = sum(sketch.inexact for sketch in same)
        found.append(replace(same[0], cells=cells, counts=counts, inexact=inexact))
    return tuple(found)


class _Order:
    """The order of the draws of several ranks: by theta, rank and draw."""

    def __init__(self, parts: Sequence[Window]) -> None:
        draws, thetas = [], []
        for part in parts:
            draw, first = np.unique(np.concatenate([group.draw for group in part.groups]), return_index=True)
            draws.append(draw)
            thetas.append(np.concatenate([group.theta for group in part.groups])[first])
        counts = [len(draw) for draw in draws]
        rank = np.repeat(np.arange(len(parts)), counts)
        number = np.empty(len(rank), np.int32)
        number[np.lexsort((np.concatenate(draws), rank, np.concatenate(thetas)))] = np.arange(len(rank))
        self._draws = draws
        self._numbers = np.split(number, np.cumsum(counts)[:-1])

    def joined(self, groups: Sequence[GroupDraws]) -> GroupDraws:
        """Return one group of what the ranks have of it."""
        new = [
            numbers[np.searchsorted(draws, group.draw)]
            for draws, numbers, group in zip(self._draws, self._numbers, groups, strict=True)
        ]
        number = np.concatenate(new)
        order = np.argsort(number, kind="stable")
        sizes = None
        if any(group.batch_size is not None for group in groups):
            known = [np.zeros(len(g.draw), np.int32) if g.batch_size is None else g.batch_size for g in groups]
            sizes = np.concatenate(known)[order]
        return GroupDraws(
            groups[0].name,
            groups[0].size,
            np.concatenate([group.values for group in groups])[order],
            np.concatenate([group.theta for group in groups])[order],
            number[order],
            sizes,
        )

    def renumbered(self, rank: int, sketches: Iterable[SketchRow]) -> tuple[SketchRow, ...]:
        """Return a rank's sketches with the new numbers of their draws; those of draws that are missing left out."""
        numbers: NDArray[np.int32] = self._numbers[rank]
        new = dict(zip(self._draws[rank].tolist(), numbers.tolist(), strict=True))
        return tuple(replace(sketch, draw=new[sketch.draw]) for sketch in sketches if sketch.draw in new)
