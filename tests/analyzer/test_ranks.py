"""Ranks and the windows they share: pure, of arrays made here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradnoise.analyzer.ranks import all_met, joined, meeting, merged, together
from gradnoise.analyzer.windows import ClosedWindow, GroupDraws, Reference, SketchRow, Window


def closed(rank: int | None = 0, *, producer: str | None = None, **changed: Any) -> ClosedWindow:
    base = ClosedWindow(
        run="r", producer=producer or f"p{rank}", window=0, kind="burst", first_step=0, last_step=3, first_theta=0,
        last_theta=3, declared=4, recorded=4, rows=8, non_finite=1, dropped=2, scope="process", job="j", rank=rank,
        world_size=2, thetas=7,
    )  # fmt: skip
    return replace(base, **changed)


def part(at: ClosedWindow, thetas: list[int], *, value: float, groups: str = "ab", **changed: Any) -> Window:
    """Draw ``d`` of a group holds the value plus d."""
    draw = np.arange(len(thetas), dtype=np.int32)
    found = []
    for name in "ab":
        n = len(thetas) if name in groups else 0
        values = np.repeat(value + draw[:n, None], 3, axis=1).astype(np.float32)
        found.append(GroupDraws(name, 5, values, np.array(thetas, np.int64)[:n], draw[:n]))
    return Window(at, missing=0, groups=tuple(found), **changed)


def test_windows_of_one_job_and_number_at_the_same_parameters_are_one() -> None:
    windows = [closed(1), closed(0), closed(0, window=2, producer="p0")]
    assert [[w.producer for w in ranks] for ranks in joined(windows)] == [["p0", "p1"], ["p0"]]


@pytest.mark.parametrize(
    "other",
    [
        {"job": "k"},
        {"window": 1},
        {"thetas": 8},
        {"thetas": None},
        {"job": None},
        {"rank": None},
        {"run": "s"},
        {"scope": "global"},
        {"rank": 0},
    ],
)
def test_whatever_else_differs_they_are_two(other: dict[str, Any]) -> None:
    assert len(joined([closed(0), replace(closed(1), **other)])) == 2


def test_windows_of_version_one_stand_alone_and_wait_for_nobody() -> None:
    old = [closed(None, producer=p, scope=None, job=None, world_size=None, thetas=None) for p in ("p", "q")]
    assert len(joined(old)) == 2
    assert len({meeting(window) for window in old}) == 2
    assert all_met(old[:1])
    (window,) = (together([part(old[0], [0, 1], value=0.0)]),)
    assert window.notes == ()


def test_shards_share_a_window_whatever_their_parameters_hash_to() -> None:
    shards = [closed(rank, scope="global", thetas=rank) for rank in (0, 1)]
    assert [len(ranks) for ranks in joined(shards)] == [2]


def test_ranks_that_train_parameters_of_their_own_meet_and_stay_apart() -> None:
    own = [closed(rank, thetas=rank) for rank in (0, 1)]
    assert not all_met(own[:1])
    assert all_met(own)
    assert [len(ranks) for ranks in joined(own)] == [1, 1]


def test_what_ranks_say_adds_up_but_shards_are_of_the_same_draws() -> None:
    found = merged([closed(0), closed(1, first_step=1, last_step=9, last_theta=9, recorded=3)])
    assert (found.producer, found.first_step, found.last_step, found.last_theta) == ("p0", 0, 9, 9)
    assert (found.declared, found.recorded, found.rows, found.non_finite, found.dropped) == (8, 7, 16, 2, 4)
    found = merged([closed(rank, scope="global") for rank in (0, 1)])
    assert (found.declared, found.recorded, found.rows, found.non_finite, found.dropped) == (4, 4, 16, 1, 2)


def test_draws_come_by_theta_rank_and_draw_numbered_anew() -> None:
    zero = part(closed(0), [0, 0, 1, 3], value=0.0)
    one = part(closed(1), [0, 1, 1, 3], value=100.0)
    window = together([zero, one])
    for group in window.groups:
        assert group.values[:, 0].tolist() == [0, 1, 100, 2, 101, 102, 3, 103]
        assert group.theta.tolist() == [0, 0, 0, 1, 1, 1, 3, 3]
        assert group.draw.tolist() == list(range(8))
        assert group.batch_size is None
    assert window.notes == ()
    assert window.closed == merged([zero.closed, one.closed])


def test_a_group_that_a_rank_lacks_keeps_the_numbers_of_the_others() -> None:
    window = together([part(closed(0), [0, 1], value=0.0, groups="a"), part(closed(1), [0, 1], value=100.0)])
    first, second = window.groups
    assert (first.draw.tolist(), first.values[:, 0].tolist()) == ([0, 1, 2, 3], [0, 100, 1, 101])
    assert (second.draw.tolist(), second.values[:, 0].tolist()) == ([1, 3], [100, 101])


@given(st.lists(st.lists(st.integers(0, 5), max_size=6).map(sorted), min_size=1, max_size=4))
def test_no_draw_is_lost_and_none_comes_twice(thetas: list[list[int]]) -> None:
    parts = [part(closed(rank), found, value=100.0 * rank) for rank, found in enumerate(thetas)]
    group = together(parts).groups[0]
    expected = [100.0 * rank + draw for rank, found in enumerate(thetas) for draw in range(len(found))]
    assert sorted(group.values[:, 0].tolist()) == expected
    assert group.theta.tolist() == sorted(t for found in thetas for t in found)
    if len(thetas) > 1:
        assert group.draw.tolist() == list(range(len(expected)))


def test_batch_sizes_follow_their_draws() -> None:
    zero, one = part(closed(0), [0, 1], value=0.0), part(closed(1), [0, 1], value=100.0)
    one = replace(one, groups=tuple(replace(g, batch_size=np.array([8, 16], np.int32)) for g in one.groups))
    sizes = together([zero, one]).groups[0].batch_size
    assert sizes is not None
    assert sizes.tolist() == [0, 8, 0, 16]


def test_shards_lie_side_by_side_and_a_replicated_group_comes_once() -> None:
    ranks = [closed(rank, scope="global") for rank in (0, 1)]
    sharded = together([part(ranks[0], [0, 1], value=0.0, groups="a"), part(ranks[1], [0, 1], value=100.0, groups="b")])
    assert [group.values[:, 0].tolist() for group in sharded.groups] == [[0, 1], [100, 101]]
    assert [group.draw.tolist() for group in sharded.groups] == [[0, 1], [0, 1]]
    replicated = together([part(ranks[0], [0, 1], value=0.0), part(ranks[1], [0, 1], value=100.0, groups="b")])
    assert [group.values[:, 0].tolist() for group in replicated.groups] == [[0, 1], [0, 1]]


def test_missing_ranks_are_told() -> None:
    (alone,) = (together([part(closed(1, world_size=4), [0], value=0.0)]),)
    assert alone.notes == ("1 of 4 ranks of the job recorded this window at these parameters",)
    two = [part(closed(rank, world_size=4), [0], value=0.0) for rank in (0, 3)]
    assert together(two).notes == ("2 of 4 ranks of the job recorded this window at these parameters",)
    shard = together([part(closed(0, scope="global"), [0], value=0.0)])
    assert shard.notes == ("1 of 2 ranks of the job recorded this window",)


def sketch(draw: int, count: int) -> SketchRow:
    return SketchRow(draw, np.array([1], np.uint16), np.array([count], np.uint32), 0, False)


def test_sketches_and_references_are_kept() -> None:
    reference = {rank: Reference("full", np.full(3, rank, np.float32)) for rank in (0, 1)}
    zero = part(closed(0), [0, 1], value=0.0, sketches=(sketch(1, 10),), reference={"a": reference[0]})
    one = part(
        closed(1), [0, 1], value=100.0, sketches=(sketch(1, 11),), reference={"a": reference[1], "b": reference[1]}
    )
    window = together([zero, one])
    assert [(found.draw, found.counts.tolist()) for found in window.sketches] == [(2, [10]), (3, [11])]
    assert window.reference == {"a": reference[0], "b": reference[1]}
    assert together([part(closed(0), [0], value=0.0), part(closed(1), [0], value=0.0)]).reference is None


def test_missing_rows_and_notes_add_up() -> None:
    zero = part(closed(0), [0], value=0.0, notes=("first",))
    window = together([replace(zero, missing=3), replace(part(closed(1), [0], value=0.0), missing=4)])
    assert (window.missing, window.notes) == (7, ("first",))


def test_sketches_of_shards_are_one_of_each_draw() -> None:
    ranks = [closed(rank, scope="global") for rank in (0, 1)]
    other = replace(sketch(1, 0), cells=np.array([1, 7], np.uint16), counts=np.array([5, 2], np.uint32), inexact=3)
    window = together(
        [
            part(ranks[0], [0, 1, 2, 3], value=0.0, groups="a", sketches=(sketch(1, 10), sketch(3, 4))),
            part(ranks[1], [0, 1], value=100.0, groups="b", sketches=(other,)),
        ]
    )
    (found,) = window.sketches
    assert (found.draw, found.cells.tolist(), found.counts.tolist(), found.inexact) == (1, [1, 7], [15, 2], 3)


def test_ranks_that_drew_the_same_minibatches_are_named() -> None:
    same = together([part(closed(rank), [0, 1], value=2.0) for rank in (0, 1)])
    assert any("2 ranks drew the same minibatches" in note for note in same.notes)
    other = together([part(closed(rank), [0, 1], value=2.0 + rank) for rank in (0, 1)])
    assert not any("same minibatches" in note for note in other.notes)
    nothing = together([part(closed(rank), [0], value=0.0) for rank in (0, 1)])
    assert not any("same minibatches" in note for note in nothing.notes)
