"""Distributed jobs: two processes over gloo, against gradients that each computes by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gradnoise.analyzer.assembly import read_windows
from gradnoise.analyzer.batch import analyse_dump, count_windows
from gradnoise.cli import main
from gradnoise.client import Client
from gradnoise.collector._recording.distributed import agreed_run
from gradnoise.collector._recording.records import Origin
from gradnoise.collector._shipping.launch import starts_shipper
from gradnoise.collector._taps.origin import averages_gradients, origin_of
from gradnoise.wire import Dump, Scope, Table

from ..servers import ServerProcess, until
from . import rank_programs as programs
from .loops import counted, mlp, rows
from .rank_programs import Way
from .ranks import RankFailedError, Ranks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from gradnoise.analyzer.windows import Window


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(2) as started:
        yield started


def of_producer(path: Path, producer: str) -> dict[tuple[int, str], NDArray[np.float32]]:
    """(draw, group) -> values of a producer's one window."""
    dump = Dump(path)
    found = [row for stamped in dump.batches(Table.DRAWS, producer) for row in stamped.batch.to_pylist()]
    assert {row["window"] for row in found} <= {0}
    assert {row["batch_size"] for row in found} == {8}
    return {(row["draw"], row["group"]): np.array(row["values"], np.float32) for row in found}


WAYS = {
    "plain": Way(),
    "attached to the module inside": Way(inner=True),
    "accumulation, reduced every time": Way(microbatches=2),
    "accumulation under no_sync": Way(microbatches=3, no_sync=True),
    "accumulation, attached to the module inside": Way(inner=True, microbatches=2, no_sync=True),
    "find_unused_parameters": Way(unused=True),
    "gradient_as_bucket_view": Way(bucket_view=True, microbatches=2, no_sync=True),
    "a communication hook that rounds": Way(compressed=True),
}


@pytest.mark.parametrize("name", WAYS)
def test_each_rank_records_its_own_gradients_before_they_are_averaged(ranks: Ranks, tmp_path: Path, name: str) -> None:
    way = WAYS[name]
    found = ranks.run(programs.trained_with_and_without, way, tmp_path / "d")
    for producer, expected, unharmed in found:
        assert unharmed
        recorded = of_producer(tmp_path / "d", producer)
        wanted = {(draw, group): values for draw, each in enumerate(expected) for group, values in each.items()}
        assert recorded.keys() == wanted.keys()
        for key, values in wanted.items():
            np.testing.assert_array_equal(recorded[key], values, err_msg=str(key))
    first, second = (expected[0] for _, expected, _ in found)
    assert any(not np.array_equal(first[group], second[group]) for group in first.keys() & second.keys())
    closed = rows(tmp_path / "d", Table.WINDOWS)
    assert {row["kind"] for row in closed} == {"microbatch" if way.microbatches > 1 else "burst"}
    assert [(row["scope"], row["world_size"]) for row in closed] == [("process", 2)] * 2
    assert {row["rank"] for row in closed} == {0, 1}
    assert len({row["job"] for row in closed}) == len({row["thetas"] for row in closed}) == 1
    assert counted(tmp_path / "d") == {}


def only(path: Path) -> Window:
    (window,) = read_windows(Dump(path))
    return window


def test_ranks_at_one_theta_are_draws_of_one_window(
    ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ranks.run(programs.trained, Way(), 40, tmp_path / "d")
    window = only(tmp_path / "d")
    assert window.notes == ()
    assert (window.closed.recorded, window.missing) == (80, 0)
    for group in window.groups:
        assert group.theta.tolist() == [theta for theta in range(40) for _ in range(2)]
        for rank, (_, expected, _) in enumerate(found):
            np.testing.assert_array_equal(group.values[rank::2], [each[group.name] for each in expected])
    assert main(["show", str(tmp_path / "d"), "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert (run["producers"], run["windows"], run["draws"]) == (2, 1, 80)
    assert main(["analyze", str(tmp_path / "d"), "--out", str(tmp_path / "rows.parquet")]) == 0
    table = pq.read_table(tmp_path / "rows.parquet")
    assert set(table.column("producer").to_pylist()) == {found[0][0]}
    assert set(table.column("draws").to_pylist()) == {80}
    assert set(table.column("thetas").to_pylist()) == {40}


def test_a_job_is_one_run_live_too(ranks: Ranks, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "store") as server:
        # As a launcher numbers them: the first rank of the machine ships for all.
        environment = {"GRADNOISE_ENDPOINT": server.address, "LOCAL_RANK": "{rank}", "LOCAL_WORLD_SIZE": "2"}
        ranks.run(programs.trained, Way(), 40, tmp_path / "d", environment=environment)
        with Client(server.address) as client:
            # A rank that is very late has the window analysed again.
            both = {80}
            until(lambda: set(client.tail("job").column("draws").to_pylist()) == both, what="the ranks' window")
            run = client.run("job")
            live = client.tail("job")
    assert (run["producers"], run["windows"], run["analysed"], run["draws"]) == (2, 1, 1, 80)
    (offline,) = analyse_dump(Dump(tmp_path / "d"))
    drop = ["row", "analysed_at"]
    assert live.drop(drop).to_pylist() == offline.tail.drop(drop).to_pylist()


@pytest.mark.parametrize("inner", [False, True])
def test_each_rank_probes_minibatches_of_its_own_and_disturbs_nothing(
    ranks: Ranks, tmp_path: Path, inner: bool
) -> None:
    plain = ranks.run(programs.probed, None, inner)
    found = ranks.run(programs.probed, tmp_path / "d", inner)
    for before, after in zip(plain, found, strict=True):
        assert all(np.array_equal(before[name], after[name]) for name in before)
    windows = sorted(read_windows(Dump(tmp_path / "d")), key=lambda window: window.closed.window)
    assert [(window.closed.window, window.closed.kind, window.closed.recorded) for window in windows] == [
        (number, "probe", 4) for number in (5, 5, 9, 9)
    ]
    assert {window.notes for window in windows} == {()}
    first, second = (window.groups[0].values for window in windows[:2])
    assert not np.array_equal(first, second)


def test_trainings_of_their_own_in_one_job_stay_windows_of_their_own(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(programs.independent, tmp_path / "d", 0.1)
    windows = list(read_windows(Dump(tmp_path / "d")))
    assert len(windows) == count_windows(Dump(tmp_path / "d")) == 6
    assert {window.closed.recorded for window in windows} == {4}
    assert {window.notes for window in windows} == {
        ("1 of 2 ranks of the job recorded this window at these parameters",)
    }


def test_a_rank_that_is_killed_leaves_what_it_closed_and_does_not_stop_the_other(tmp_path: Path) -> None:
    # Frozen by a rate of 0: at the same parameters without an exchange, in which a dead rank would stop the other.
    with Ranks(2) as doomed:
        doomed.run(programs.independent, tmp_path / "d", 0.0, 6, dying=1)
    windows = {window.closed.window: window for window in read_windows(Dump(tmp_path / "d"))}
    assert {number: len(window.groups[0].draw) for number, window in windows.items()} == {0: 8, 8: 4, 16: 4}
    assert windows[0].notes == ()
    assert windows[8].notes == ("1 of 2 ranks of the job recorded this window at these parameters",)
    assert len(list(analyse_dump(Dump(tmp_path / "d")))) == 3


def test_attaching_on_one_rank_only_waits_for_nobody(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks.run(programs.on_one_rank, tmp_path / "d", timeout=60)[0] is None
    assert only(tmp_path / "d").notes == ("1 of 2 ranks of the job recorded this window at these parameters",)


def test_ranks_without_a_run_name_agree_on_one(ranks: Ranks, tmp_path: Path) -> None:
    (first, path), (second, other) = ranks.run(programs.unnamed, tmp_path)
    assert first == second
    assert path == other == tmp_path / "gradnoise" / first


def test_ranks_agree_on_the_job_and_each_attach_is_another(ranks: Ranks) -> None:
    (first, again, other, flags, run), (second, again2, other2, _, run2) = ranks.run(programs.origins)
    assert first == Origin(Scope.PROCESS, second.job, 0, 2)
    assert second == Origin(Scope.PROCESS, first.job, 1, 2)
    assert (again.job, other.job) == (again2.job, other2.job)
    assert len({first.job, again.job, other.job}) == 3
    assert all(len(origin.job) == 32 for origin in (first, again, other))
    assert flags == [True, False, True, False]
    assert run == run2 in ("run-0", "run-1")


def test_without_a_store_ranks_stand_alone(ranks: Ranks) -> None:
    assert ranks.run(programs.without_store) == [[Origin(Scope.PROCESS, None, rank, 2), "mine"] for rank in (0, 1)]


def test_outside_a_job_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert origin_of(mlp()) == Origin(Scope.PROCESS)
    assert agreed_run(None, "mine") == "mine"
    assert not averages_gradients(mlp())
    for rank, starts in (("0", True), ("1", False), ("7", False), ("", True), ("x", True)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert starts_shipper() is starts
    monkeypatch.delenv("LOCAL_RANK")
    assert starts_shipper()


@pytest.mark.parametrize(
    ("environment", "joins"),
    [
        ({}, False),
        ({"RANK": "{rank}", "WORLD_SIZE": "2"}, False),
        ({"RANK": "{rank}", "TORCHELASTIC_RESTART_COUNT": "0"}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, True),
        ({"GRADNOISE_RESUME": "1"}, True),
    ],
)
def test_a_job_does_not_merge_into_the_finished_run_of_another(
    ranks: Ranks, tmp_path: Path, environment: dict[str, str], joins: bool
) -> None:
    assert ranks.run(programs.again, tmp_path / "d") == ["joined", "joined"]
    for answer in ranks.run(programs.again, tmp_path / "d", environment=environment):
        assert (answer == "joined") == joins
        assert joins or "would merge two trainings" in answer


def test_a_rank_that_comes_when_another_has_finished_is_of_the_same_job(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(programs.one_after_the_other, tmp_path / "d")
    with pytest.raises(RankFailedError, match="would merge two trainings"):
        ranks.run(programs.one_after_the_other, tmp_path / "d")


# --- fully_shard ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("microbatches", [1, 2])
def test_sharded_gradients_are_the_reduced_shards_side_by_side(ranks: Ranks, tmp_path: Path, microbatches: int) -> None:
    plain = ranks.run(programs.sharded, None, microbatches, False)
    found = ranks.run(programs.sharded, tmp_path / "d", microbatches, True)
    for (_, before, _), (_, after, flags) in zip(plain, found, strict=True):
        assert all(np.array_equal(before[name], after[name]) for name in before)
        assert flags == [True, 2]
    closed = rows(tmp_path / "d", Table.WINDOWS)
    assert [(row["scope"], row["world_size"]) for row in closed] == [("global", 2)] * 2
    window = only(tmp_path / "d")
    assert window.notes == ()
    draws = 4 * microbatches
    assert (window.closed.recorded, window.missing) == (draws, 0)
    info = Dump(tmp_path / "d").info
    shapes = {"0.weight": (8, 6), "0.bias": (8,), "2.weight": (3, 8), "2.bias": (3,)}
    assert {group.name for group in info.groups} == {f"{name}@{shard}/2" for name in shapes for shard in range(2)}
    for group in window.groups:
        name, _, place = group.name.partition("@")
        mean = [(first[name] + second[name]) / 2 for first, second in zip(found[0][0], found[1][0], strict=True)]
        chunks = [torch.from_numpy(each.reshape(shapes[name])).chunk(2)[int(place[0])].numpy().ravel() for each in mean]
        np.testing.assert_allclose(group.values, np.stack(chunks), rtol=1e-6, atol=1e-8, err_msg=group.name)
        assert group.batch_size is not None
        assert group.batch_size.tolist() == [16] * draws
        assert group.theta.tolist() == [theta for theta in range(4) for _ in range(microbatches)]
    assert counted(tmp_path / "d") == {}
