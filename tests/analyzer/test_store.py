from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pyarrow as pa
import pytest

from gradnoise.analyzer._ingest import Acknowledged, Incoming, ProducerLog, Refusal, Refused
from gradnoise.analyzer.config import Limits, ServerConfig
from gradnoise.analyzer.errors import (
    DataDirectoryInUseError,
    InvalidRequestError,
    LimitError,
    StoreError,
    UnknownProducerError,
    UnknownRunError,
)
from gradnoise.analyzer.store import Store
from gradnoise.wire import Dump, RunExistsError, Stamped, SyncError, Table

from ..proto.dumps import INFO, draws_batch, windows_batch, without
from .producing import (
    OTHER,
    WIDE,
    incoming,
    rank_window_batch,
    reference_batch,
    sketches_batch,
    stamped_draws,
    stamped_window,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

P, Q = "a" * 32, "b" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


def crash(store: Store) -> None:
    """Give up the directory as a killed process would: nothing sealed."""
    os.close(store._data_lock)
    store._data_lock = -1


def answers(log: ProducerLog, *items: Incoming) -> list[Acknowledged | Refused]:
    return log.take(items)[0]


def stored(data: Path, producer: str, table: Table = Table.DRAWS) -> list[tuple[int, int]]:
    dump = Dump(data / "runs" / INFO.run)
    found = [(s.sequence, s.crc32) for s in dump.batches(table, producer)]
    assert dump.problems == []
    return found


def test_batches_are_acknowledged_once_a_table_and_lie_in_a_dump(store: Store, tmp_path: Path) -> None:
    log = store.open(INFO, P)
    batches = [stamped_draws(i) for i in range(3)]
    found, closed = log.take([*map(incoming, batches), incoming(stamped_window(0, 120))])
    assert found == [Acknowledged(Table.DRAWS, 3), Acknowledged(Table.WINDOWS, 1)]
    assert [(w.run, w.producer, w.window, w.recorded) for w in closed] == [(INFO.run, P, 0, 120)]
    assert stored(tmp_path, P) == [(b.sequence, b.crc32) for b in batches]


def test_a_duplicate_is_acknowledged_and_not_stored_again(store: Store, tmp_path: Path) -> None:
    log = store.open(INFO, P)
    first = incoming(stamped_draws(0))
    assert answers(log, first) == [Acknowledged(Table.DRAWS, 1)]
    assert answers(log, first, first) == [Acknowledged(Table.DRAWS, 1)]
    assert [sequence for sequence, _ in stored(tmp_path, P)] == [0]


def test_a_number_with_other_bytes_is_refused(store: Store, tmp_path: Path) -> None:
    log = store.open(INFO, P)
    answers(log, incoming(stamped_draws(0)))
    (refused,) = answers(log, incoming(stamped_draws(0, seed=1)))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.sequence, refused.expected) == (Refusal.CONFLICT, 0, 1)
    assert "other bytes" in refused.message
    assert len(stored(tmp_path, P)) == 1


def test_a_gap_is_refused_with_the_expected_number(store: Store) -> None:
    log = store.open(INFO, P)
    answers(log, incoming(stamped_draws(0)))
    acknowledged, *refused = answers(log, *(incoming(stamped_draws(i)) for i in (1, 3, 4)))
    assert acknowledged == Acknowledged(Table.DRAWS, 2)
    assert [(r.reason, r.sequence, r.expected) for r in refused if isinstance(r, Refused)] == [
        (Refusal.GAP, 3, 2),
        (Refusal.GAP, 4, 2),
    ]


def _bad_payloads() -> dict[str, Incoming]:
    good = incoming(stamped_draws(0))
    flipped = bytearray(good.payload)
    flipped[-100] ^= 0x10
    return {
        "text": Incoming("draws", 0, b"not arrow"),
        "nothing": Incoming("draws", 0, b""),
        "a flipped bit": Incoming("draws", 0, bytes(flipped)),
        "cut short": Incoming("draws", 0, good.payload[: len(good.payload) // 2]),
        "another table": Incoming("windows", 0, good.payload),
        "no table": Incoming("secrets", 0, good.payload),
        "another number": Incoming("draws", 1, good.payload),
        "groups of another run": incoming(stamped_draws(0, info=WIDE)),
        "draws without a window": nulled(stamped_draws(0), "window"),
        "draws without a group": nulled(stamped_draws(0), "group"),
        "windows without a first step": nulled(stamped_window(0, 40), "first_step"),
        "a rank beyond its job": stamped(Table.WINDOWS, rank_window_batch(0, 40, 2)),
        "a rank below nought": stamped(Table.WINDOWS, rank_window_batch(0, 40, -1)),
        "draws without a column that must be": stamped(Table.DRAWS, without(draws_batch([0]), "norm2", "step")),
        "draws whose columns change places": stamped(Table.DRAWS, draws_batch([0]).select([1, 0, 2, 3, 4, 6])),
        "draws with a column more": stamped(Table.DRAWS, with_more(without(draws_batch([0]), "norm2"))),
        "a rank without its job's size": stamped(Table.WINDOWS, without(rank_window_batch(0, 40, 0), "world_size")),
        "no ranks without a rank": stamped(
            Table.WINDOWS, without(rank_window_batch(0, 40, 0, world_size=0), "rank", "job")
        ),
        "a rank of no ranks": stamped(Table.WINDOWS, rank_window_batch(0, 40, 0, world_size=0)),
        "a job's id of a megabyte": stamped(Table.WINDOWS, rank_window_batch(0, 40, 0, job="j" * (1 << 20))),
        "a reference of another run": stamped(Table.REFERENCE, reference_batch(0, {"b.weight": ones(48)}, info=WIDE)),
        "a reference that is too long": stamped(Table.REFERENCE, reference_batch(0, {"a.bias": ones(3)})),
        "a reference that is too short": stamped(Table.REFERENCE, reference_batch(0, {"a.bias": ones(1)})),
        "a reference of no kind": stamped(Table.REFERENCE, reference_batch(0, {"a.bias": ones(2)}, kind=None)),
        "a sketch with a count too many": stamped(Table.SKETCHES, sketches_batch(0, {1: {2: 3}}, counts=[3, 4])),
        "a sketch with a cell twice": stamped(Table.SKETCHES, sketches_batch(0, {1: {}}, cells=[2, 2], counts=[3, 4])),
        "a sketch that falls": stamped(Table.SKETCHES, sketches_batch(0, {1: {2: 3, 1: 3}})),
        "a sketch without cells": stamped(Table.SKETCHES, sketches_batch(0, {1: {2: 3}}, cells=None)),
    }


def ones(count: int) -> NDArray[np.float32]:
    return np.ones(count, np.float32)


def stamped(table: Table, batch: pa.RecordBatch) -> Incoming:
    return incoming(Stamped.of(table, 0, batch))


def with_more(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("more", pa.nulls(batch.num_rows, pa.int32()))


def nulled(good: Stamped, name: str) -> Incoming:
    """The same batch with nulls in a column."""
    columns = [
        pa.nulls(good.batch.num_rows, field.type) if field.name == name else column
        for field, column in zip(good.batch.schema, good.batch.columns, strict=True)
    ]
    return stamped(good.table, pa.RecordBatch.from_arrays(columns, schema=good.batch.schema))


def test_batches_with_absent_columns_are_stored_as_they_were_sent(store: Store, tmp_path: Path) -> None:
    log = store.open(INFO, P)
    absent = [("norm2", "batch_size"), ("norm2",), ("norm2",), ()]
    batches = [Stamped.of(Table.DRAWS, i, without(draws_batch([i]), *names)) for i, names in enumerate(absent)]
    closing = Stamped.of(Table.WINDOWS, 0, without(windows_batch(0, 4), "job", "rank", "world_size"))
    found, closed = log.take([*map(incoming, batches), incoming(closing)])
    assert found == [Acknowledged(Table.DRAWS, 4), Acknowledged(Table.WINDOWS, 1)]
    assert [(w.recorded, w.job, w.rank) for w in closed] == [(4, None, None)]
    assert answers(log, incoming(batches[1])) == [Acknowledged(Table.DRAWS, 4)], "a duplicate"
    (refused,) = answers(log, incoming(Stamped.of(Table.DRAWS, 1, draws_batch([1]))))
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.CONFLICT, "with the column it is another batch"
    crash(store)
    again = Store(tmp_path)
    again.recover()
    assert answers(again.open(INFO, P), incoming(batches[3])) == [Acknowledged(Table.DRAWS, 4)]
    again.close()
    assert stored(tmp_path, P) == [(one.sequence, one.crc32) for one in batches]
    kept = list(Dump(tmp_path / "runs" / INFO.run).batches(Table.DRAWS, P))
    assert all(one.batch.equals(sent.batch) for one, sent in zip(kept, batches, strict=True))


def test_references_and_sketches_are_stored_and_found(store: Store) -> None:
    log = store.open(INFO, P)
    batches = [
        Stamped.of(Table.REFERENCE, 0, reference_batch(4, {"a.bias": ones(2), "a.weight": ones(4)})),
        Stamped.of(Table.SKETCHES, 0, sketches_batch(4, {1: {0: 3, 65535: 1}, 3: {}, 5: {7: 2}, 7: {1: 1, 2: 1}})),
        Stamped.of(Table.SKETCHES, 1, sketches_batch(5, {1: {}})),
    ]
    assert answers(log, *map(incoming, batches)) == [Acknowledged(Table.REFERENCE, 1), Acknowledged(Table.SKETCHES, 2)]
    assert [found.batch for found in log.batches(4)] == [batches[0].batch, batches[1].batch]
    assert [found.batch for found in log.batches(5)] == [batches[2].batch]


@pytest.mark.parametrize("name", _bad_payloads())
def test_what_is_no_batch_is_refused_and_nothing_of_it_kept(store: Store, tmp_path: Path, name: str) -> None:
    log = store.open(INFO, P)
    (refused,) = answers(log, _bad_payloads()[name])
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.INVALID
    assert refused.message
    assert answers(log, incoming(stamped_draws(0))) == [Acknowledged(Table.DRAWS, 1)]
    assert len(stored(tmp_path, P)) == 1


@pytest.mark.parametrize("sealed", [True, False])
def test_recovery_learns_everything_from_the_dump(tmp_path: Path, sealed: bool) -> None:
    store = Store(tmp_path, segment_bytes=4000)
    batches = [stamped_draws(i, window=i // 2) for i in range(4)]
    for producer in (P, Q):
        log = store.open(INFO, producer)
        log.take([*map(incoming, batches), incoming(stamped_window(0, 80)), incoming(stamped_window(1, 80, window=1))])
    before = store.summaries()
    store.close() if sealed else crash(store)

    again = Store(tmp_path)
    again.recover()
    log = again.producer(INFO.run, P)
    assert log.next_sequences()[Table.DRAWS] == 4
    assert [w.window for w in log.closed()] == [0, 1]
    assert [s.batch for s in batches[2:]] == [s.batch for s in log.batches(1)]
    assert answers(log, incoming(batches[1])) == [Acknowledged(Table.DRAWS, 4)]
    (conflict,) = answers(log, incoming(stamped_draws(1, seed=5)))
    assert isinstance(conflict, Refused)
    assert conflict.reason is Refusal.CONFLICT
    assert answers(log, incoming(stamped_draws(4))) == [Acknowledged(Table.DRAWS, 5)]
    after = again.summaries()
    assert [(s.producers, s.windows, s.draws, s.problems) for s in after] == [(2, 4, 320, 0)]
    assert (before[0].windows, before[0].draws, before[0].info) == (4, 320, INFO)
    again.close()
    assert [sequence for sequence, _ in stored(tmp_path, P)] == [0, 1, 2, 3, 4]


def test_a_torn_tail_is_cut_off_and_sent_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    answers(store.open(INFO, P), *(incoming(stamped_draws(i)) for i in range(3)))
    crash(store)
    (segment,) = (tmp_path / "runs" / INFO.run).glob("draws-*.open")
    os.truncate(segment, segment.stat().st_size - 10)
    again = Store(tmp_path)
    again.recover()
    log = again.producer(INFO.run, P)
    assert log.next_sequences()[Table.DRAWS] == 2
    assert answers(log, incoming(stamped_draws(2))) == [Acknowledged(Table.DRAWS, 3)]
    again.close()
    assert [sequence for sequence, _ in stored(tmp_path, P)] == [0, 1, 2]


def test_a_batch_the_disk_lost_is_a_problem_and_its_number_stays_taken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    answers(store.open(INFO, P), *(incoming(stamped_draws(i)) for i in range(3)))
    store.close()
    (segment,) = (tmp_path / "runs" / INFO.run).glob("draws-*.arrow")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0xFF
    segment.write_bytes(content)
    again = Store(tmp_path)
    again.recover()
    assert again.summaries()[0].problems == 2  # the damage, and the gap it leaves
    log = again.producer(INFO.run, P)
    assert answers(log, incoming(stamped_draws(1))) == [Acknowledged(Table.DRAWS, 3)]
    again.close()


def test_a_run_id_with_other_groups_is_refused(store: Store) -> None:
    store.open(INFO, P)
    with pytest.raises(RunExistsError, match="choose another run name"):
        store.open(OTHER, Q)
    assert store.open(INFO, P) is store.open(INFO, P)


@pytest.mark.parametrize("producer", ["", "x" * 32, "../" + "a" * 29, "A" * 32, "a" * 31])
def test_a_producer_id_is_checked(store: Store, producer: str) -> None:
    with pytest.raises(InvalidRequestError, match="32 lower-case hexadecimal"):
        store.open(INFO, producer)


def test_limits_on_runs_producers_and_groups(tmp_path: Path) -> None:
    store = Store(tmp_path, limits=Limits(runs=1, producers=1, groups=2))
    store.open(INFO, P)
    with pytest.raises(LimitError, match="producers"):
        store.open(INFO, Q)
    with pytest.raises(LimitError, match="1 runs"):
        store.open(WIDE, Q)
    store.close()
    small = Store(tmp_path, limits=Limits(groups=1))
    with pytest.raises(InvalidRequestError, match="2 parameter groups"):
        small.open(INFO, P)
    small.close()


def test_what_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(UnknownRunError, match="no runs here yet"):
        store.info("x")
    store.open(INFO, P)
    with pytest.raises(UnknownRunError, match="the runs here are: run-1"):
        store.info("x")
    with pytest.raises(UnknownProducerError, match="open it first"):
        store.producer(INFO.run, Q)


def test_a_data_directory_has_one_server(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryInUseError, match=f'"pid": {os.getpid()}'):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "file")


def test_directories_that_are_no_dumps_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    answers(store.open(INFO, P), incoming(stamped_draws(0)))
    store.close()
    (tmp_path / "runs" / "stray").mkdir()
    (tmp_path / "runs" / "file").write_text("x")
    (tmp_path / "runs" / INFO.run).rename(tmp_path / "runs" / "renamed")
    again = Store(tmp_path)
    again.recover()
    assert again.summaries() == []
    assert len(caplog.records) == 3
    assert (tmp_path / "runs" / "stray").is_dir()
    again.close()


def test_a_full_disk_is_answered_with_try_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = store.open(INFO, P)
    answers(log, incoming(stamped_draws(0)))

    def full(fd: int, data: memoryview) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gradnoise.wire._segment.os.write", full)
        first, second = answers(log, incoming(stamped_draws(1)), incoming(stamped_draws(2)))
    assert isinstance(first, Refused)
    assert isinstance(second, Refused)
    assert (first.reason, first.expected) == (Refusal.UNAVAILABLE, 1)
    assert first.retry_after_ms > 0
    assert second.reason is Refusal.GAP
    assert "No space" in caplog.text
    assert answers(log, *(incoming(stamped_draws(i)) for i in (1, 2))) == [Acknowledged(Table.DRAWS, 3)]
    store.close()
    assert [sequence for sequence, _ in stored(tmp_path, P)] == [0, 1, 2]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Inodes, in the order in which they are forced to disk by name: a file's data when it is made, a directory."""
    found: list[int] = []
    fsync = os.fsync

    def spy(fd: int) -> None:
        fsync(fd)
        found.append(os.fstat(fd).st_ino)

    monkeypatch.setattr("gradnoise.analyzer._ingest.os.fsync", spy)
    return found


def test_a_new_run_is_on_disk_with_its_name_before_it_is_taken(store: Store, tmp_path: Path, synced: list[int]) -> None:
    store.open(INFO, P)
    run = tmp_path / "runs" / INFO.run
    assert {path.stat().st_ino for path in (run / "run.json", run, run.parent)} <= set(synced)
    synced.clear()
    store.open(INFO, Q)
    assert synced == []


def test_a_new_segment_is_on_disk_with_its_name_before_it_is_acknowledged(tmp_path: Path, synced: list[int]) -> None:
    store = Store(tmp_path, segment_bytes=4000)
    log = store.open(INFO, P)
    run = tmp_path / "runs" / INFO.run
    segments: set[Path] = set()
    kinds = set()
    for number in range(6):
        synced.clear()
        answers(log, incoming(stamped_draws(number, 10)))
        began = {path.with_suffix("") for path in run.glob("draws-*")} - segments
        segments |= began
        kinds.add(bool(began))
        assert (run.stat().st_ino in synced) == bool(began)
    assert kinds == {True, False}
    store.close()


def test_a_directory_that_cannot_be_synced_is_fatal_and_nothing_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fatal: list[OSError] = []
    store = Store(tmp_path, fatal=fatal.append)
    log = store.open(INFO, P)

    def broken(path: Path) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("gradnoise.analyzer._ingest.sync_path", broken)
    with pytest.raises(OSError, match="Input/output error"):
        answers(log, incoming(stamped_draws(0)))
    assert [error.filename for error in fatal] == [str(tmp_path / "runs" / INFO.run)]
    crash(store)


@pytest.mark.parametrize("where", ["take", "seal"])
def test_a_failed_sync_is_fatal_and_never_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    fatal: list[OSError] = []
    store = Store(tmp_path, fatal=fatal.append)
    log = store.open(INFO, P)
    answers(log, incoming(stamped_draws(0)))

    def broken(fd: int) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("gradnoise.wire._segment.os.fdatasync", broken)
        with pytest.raises(SyncError, match="cannot be forced to disk"):
            answers(log, incoming(stamped_draws(1))) if where == "take" else log.seal()
    assert [error.errno for error in fatal] == [errno.EIO]
    crash(store)


def test_bad_configurations_are_refused(tmp_path: Path) -> None:
    for listen in ("", "localhost", "localhost:", ":1", "localhost:x", "localhost:70000"):
        with pytest.raises(InvalidRequestError, match="HOST:PORT"):
            ServerConfig(tmp_path, listen)
    with pytest.raises(InvalidRequestError, match="workers"):
        ServerConfig(tmp_path, workers=0)
    with pytest.raises(InvalidRequestError, match="drain_seconds"):
        ServerConfig(tmp_path, drain_seconds=-1)
