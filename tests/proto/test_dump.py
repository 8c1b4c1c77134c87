from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from gradnoise.wire import (
    Dump,
    DumpWriter,
    Group,
    NotADumpError,
    ProblemKind,
    RunExistsError,
    RunInfo,
    Table,
    Tailer,
    UnknownSchemaVersionError,
    WindowKind,
    WireError,
    producer_is_alive,
    recover,
    schema,
    version_of,
)
from gradnoise.wire._segment import SegmentWriter

from .dumps import INFO, draws_batch, windows_batch

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, batches: int, *, segment_bytes: int = 1 << 20) -> DumpWriter:
    writer = DumpWriter(path, INFO, segment_bytes=segment_bytes)
    for index in range(batches):
        assert writer.append(Table.DRAWS, draws_batch([index])) == index
    return writer


def sequences(dump: Dump, producer: str) -> list[int]:
    return [stamped.sequence for stamped in dump.batches(Table.DRAWS, producer)]


def only(path: Path, pattern: str) -> Path:
    (found,) = path.glob(pattern)
    return found


def test_a_sealed_dump_reads_back_in_order_over_several_segments(tmp_path: Path) -> None:
    writer = write(tmp_path, 20, segment_bytes=3000)
    writer.close()
    dump = Dump(tmp_path)
    assert dump.info == INFO
    assert dump.producers() == [writer.producer]
    read = list(dump.batches(Table.DRAWS, writer.producer))
    assert [stamped.sequence for stamped in read] == list(range(20))
    assert all(stamped.batch.equals(draws_batch([i])) for i, stamped in enumerate(read))
    assert dump.problems == []
    assert len(list(tmp_path.glob("draws-*.arrow"))) > 2
    assert not list(tmp_path.glob("*.open"))


def test_pyarrow_dataset_polars_and_duckdb_read_the_same_numbers(tmp_path: Path) -> None:
    write(tmp_path, 12, segment_bytes=3000).close()
    files = sorted(str(path) for path in tmp_path.glob("draws-*.arrow"))
    expected = pa.Table.from_batches([draws_batch([i]) for i in range(12)]).sort_by([("draw", "ascending")])
    dataset = ds.dataset(files, format="arrow")
    arrow = dataset.to_table(filter=ds.field("group") == "a.bias").sort_by([("draw", "ascending")])
    wanted = [row for row in expected.to_pylist() if row["group"] == "a.bias"]
    assert arrow.to_pylist() == wanted
    polars = pl.scan_ipc(files).filter(pl.col("group") == "a.bias").sort("draw").collect()
    assert polars["values"].to_list() == [row["values"] for row in wanted]
    assert polars["batch_size"].to_list() == [32] * 12
    with duckdb.connect() as connection:
        connection.register("draws", dataset)
        rows = connection.sql("""select draw, "values" from draws where "group" = 'a.bias' order by draw""").fetchall()
    assert [list(row[1]) for row in rows] == [row["values"] for row in wanted]


def test_truncation_at_every_byte_keeps_every_whole_batch(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, INFO)
    path = tmp_path / f"draws-{writer.producer}-000000.open"
    ends = []
    for index in range(3):
        writer.append(Table.DRAWS, draws_batch([index]))
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    writer.close()
    path = only(tmp_path, "draws-*.arrow").rename(path)
    for size in range(9, len(whole)):
        path.write_bytes(whole[:size])
        dump = Dump(tmp_path)
        assert sequences(dump, writer.producer) == list(range(sum(end <= size for end in ends))), size
        at_edge = size in ends
        assert all(problem.kind is ProblemKind.TORN for problem in dump.problems)
        assert at_edge or size < ends[0] or dump.problems


def test_every_damaged_byte_loses_only_what_is_reported(tmp_path: Path) -> None:
    write(tmp_path, 3).close()
    path = only(tmp_path, "draws-*.arrow")
    whole = path.read_bytes()
    producer = Dump(tmp_path).producers()[0]
    good = {i: draws_batch([i]) for i in range(3)}
    for position in range(8, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        dump = Dump(tmp_path)
        try:
            read = list(dump.batches(Table.DRAWS, producer))
        except UnknownSchemaVersionError:
            continue  # the damage hit the version: named, nothing read wrongly
        assert all(stamped.batch.equals(good[stamped.sequence]) for stamped in read)
        assert len(read) == 3 or dump.problems, position


def test_a_zero_filled_tail_is_torn_not_a_clean_end(tmp_path: Path) -> None:
    writer = write(tmp_path, 2)
    path = only(tmp_path, "draws-*.open")
    writer.close()
    sealed = only(tmp_path, "draws-*.arrow")
    data = sealed.read_bytes()
    sealed.unlink()
    end = data.index(b"\xff\xff\xff\xff\x00\x00\x00\x00")
    path.write_bytes(data[:end] + bytes(4096))
    dump = Dump(tmp_path)
    assert sequences(dump, writer.producer) == [0, 1]
    assert [problem.kind for problem in dump.problems] == [ProblemKind.TORN]


def test_recover_seals_what_a_crash_left_and_counts_the_torn_tail(tmp_path: Path) -> None:
    writer = write(tmp_path, 3)
    path = only(tmp_path, "draws-*.open")
    data = path.read_bytes()
    assert recover(tmp_path).sealed == 0, "a running producer is left alone"
    writer.close()
    only(tmp_path, "draws-*.arrow").unlink()
    path.write_bytes(data + data[-100:-40])
    recovery = recover(tmp_path)
    assert (recovery.sealed, recovery.batches, recovery.torn_bytes) == (1, 3, 60)
    dump = Dump(tmp_path)
    assert sequences(dump, writer.producer) == [0, 1, 2]
    assert dump.problems == []
    assert ds.dataset(only(tmp_path, "draws-*.arrow"), format="arrow").count_rows() == 6


def test_a_missing_segment_is_reported_as_a_gap(tmp_path: Path) -> None:
    writer = write(tmp_path, 20, segment_bytes=3000)
    writer.close()
    (tmp_path / f"draws-{writer.producer}-000001.arrow").unlink()
    dump = Dump(tmp_path)
    read = sequences(dump, writer.producer)
    assert 0 < len(read) < 20
    assert [problem.kind for problem in dump.problems] == [ProblemKind.GAP]
    missing = sorted(set(range(20)) - set(read))
    assert f"batches {missing[0]} to {missing[-1]} are missing" in dump.problems[0].detail


def test_the_tailer_follows_rotation_and_gives_windows_last(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, INFO, segment_bytes=3000)
    tailer = Tailer(tmp_path, writer.producer)
    assert list(tailer.poll()) == []
    seen = []
    for index in range(30):
        writer.append(Table.DRAWS, draws_batch([index]))
        if index == 7:
            writer.append(Table.WINDOWS, windows_batch(0, 8))
        if index % 4 == 3:
            seen += [(stamped.table, stamped.sequence) for stamped in tailer.poll()]
    assert producer_is_alive(tmp_path, writer.producer)
    writer.close()
    assert not producer_is_alive(tmp_path, writer.producer)
    seen += [(stamped.table, stamped.sequence) for stamped in tailer.poll()]
    tailer.close()
    assert [number for table, number in seen if table is Table.DRAWS] == list(range(30))
    assert seen.index((Table.WINDOWS, 0)) == 8
    assert tailer.problems == []


KILLED_WRITER = """
import sys
from pathlib import Path
from tests.proto.dumps import INFO, draws_batch
from gradnoise.wire import DumpWriter, Table
writer = DumpWriter(Path(sys.argv[1]), INFO, segment_bytes=200_000)
index = 0
while True:
    writer.append(Table.DRAWS, draws_batch(range(index, index + 50)))
    print(index // 50, flush=True)
    index += 50
"""


def test_what_a_killed_process_appended_is_readable(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 40:
            process.kill()
            break
    confirmed = max(40, *(int(line) for line in process.stdout.read().split()), 0)
    process.stdout.close()
    process.wait()
    dump = Dump(tmp_path)
    (producer,) = dump.producers()
    assert not producer_is_alive(tmp_path, producer)
    read = list(dump.batches(Table.DRAWS, producer))
    assert [stamped.sequence for stamped in read] == list(range(len(read)))
    assert len(read) >= confirmed + 1
    assert all(s.batch.equals(draws_batch(range(50 * s.sequence, 50 * s.sequence + 50))) for s in read)
    recover(tmp_path)
    again = Dump(tmp_path)
    assert sequences(again, producer) == [stamped.sequence for stamped in read]
    assert again.problems == []


def test_a_full_disk_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from tests.proto.dumps import INFO, draws_batch
        from gradnoise.wire import DumpWriter, Table
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        writer = DumpWriter(Path(sys.argv[1]), INFO)
        count = 0
        try:
            while True:
                writer.append(Table.DRAWS, draws_batch([count]))
                count += 1
        except OSError as error:
            print(count, error.errno)
        try:
            writer.close()
        except OSError:
            pass
        """
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    count, number = (int(word) for word in done.stdout.split())
    assert number == 27  # EFBIG, the limit's ENOSPC
    assert count > 5
    dump = Dump(tmp_path)
    assert sequences(dump, dump.producers()[0]) == list(range(count))


def test_a_second_producer_joins_a_run_with_the_same_groups_only(tmp_path: Path) -> None:
    first, second = DumpWriter(tmp_path, INFO), DumpWriter(tmp_path, INFO)
    for writer in (first, second):
        writer.append(Table.DRAWS, draws_batch([0]))
        writer.close()
    assert Dump(tmp_path).producers() == sorted([first.producer, second.producer])
    other = RunInfo(INFO.run, "Net", INFO.created, (Group("c", (1,), "float32", (0,)),))
    with pytest.raises(RunExistsError, match="holds run 'run-1' of Net with 2 groups"):
        DumpWriter(tmp_path, other)
    assert Dump(tmp_path).info == INFO


def test_unknown_versions_are_refused_by_name(tmp_path: Path) -> None:
    writer = write(tmp_path, 1)
    writer.close()
    path = only(tmp_path, "draws-*.arrow")
    data = path.read_bytes()
    key = b"gradnoise.schema_version"
    where = data.index(b"2", data.index(key) + len(key) - 60)
    position = next(i for i in range(where - 80, where + 80) if data[i - 4 : i + 1] == b"\x01\x00\x00\x002")
    path.write_bytes(data[:position] + b"9" + data[position + 1 :])
    with pytest.raises(UnknownSchemaVersionError, match=r"schema version 9; this gradnoise reads \[1, 2\]"):
        list(Dump(tmp_path).batches(Table.DRAWS, writer.producer))
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**run, "schema_version": 3}))
    with pytest.raises(UnknownSchemaVersionError, match="schema version 3"):
        Dump(tmp_path)


def test_batches_of_the_first_version_are_written_and_read_as_they_are(tmp_path: Path) -> None:
    row = {"step": 3, "theta": 3, "wall_time": 5, "loss": 0.5}
    old = pa.RecordBatch.from_pylist([row], schema=schema(Table.STEPS, 1))
    new = pa.RecordBatch.from_pylist([{**row, "divisor": 4.0}], schema=schema(Table.STEPS))
    writer = DumpWriter(tmp_path, INFO)
    for batch in (old, new):
        writer.append(Table.STEPS, batch)
    writer.close()
    dump = Dump(tmp_path)
    found = [stamped.batch for stamped in dump.batches(Table.STEPS, writer.producer)]
    assert dump.problems == []
    assert [version_of(Table.STEPS, batch.schema) for batch in found] == [1, 2]
    assert [batch.to_pylist()[0]["loss"] for batch in found] == [0.5, 0.5]
    assert len(list(tmp_path.glob("steps-*.arrow"))) == 2  # a segment has one schema


def test_a_pipe_among_the_segments_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    writer = write(tmp_path, 1)
    writer.close()
    os.mkfifo(tmp_path / f"steps-{writer.producer}-000000.arrow")
    with pytest.raises(OSError, match="no regular file"):
        list(Dump(tmp_path).batches(Table.STEPS, writer.producer))


def test_what_is_no_dump_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotADumpError, match=r"holds run\.json"):
        Dump(tmp_path)
    for text in ("{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "groups": [{}]}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(NotADumpError, match=r"run\.json"):
            Dump(tmp_path)


@pytest.mark.parametrize("run", ["", ".", "..", "../x", "a/b", "a b", "-x", "x" * 129, "é"])
def test_run_ids_that_could_leave_their_directory_are_refused(run: str) -> None:
    text = json.dumps({**json.loads(INFO.to_json()), "run": run})
    with pytest.raises(WireError, match="run id"):
        RunInfo.from_json(text)


def test_appending_after_close_is_an_error_and_closing_twice_is_not(tmp_path: Path) -> None:
    writer = write(tmp_path, 1)
    writer.close()
    writer.close()
    with pytest.raises(WireError, match="closed"):
        writer.append(Table.DRAWS, draws_batch([1]))


@pytest.mark.parametrize("error", [OSError(5, "EIO"), pa.ArrowInvalid("odd"), KeyboardInterrupt()], ids=repr)
def test_a_writer_that_cannot_seal_gives_up_its_lock_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    writer = write(tmp_path, 1)
    writer.append(Table.WINDOWS, windows_batch(0, 1))
    seal = SegmentWriter.seal

    def failing(segment_writer: SegmentWriter) -> Path:
        if segment_writer.segment.table is Table.DRAWS:
            segment_writer.abandon()
            raise error
        return seal(segment_writer)

    monkeypatch.setattr(SegmentWriter, "seal", failing)
    assert producer_is_alive(tmp_path, writer.producer)
    with pytest.raises(type(error)):
        writer.close()
    assert not producer_is_alive(tmp_path, writer.producer)
    assert not list(tmp_path.glob("*.lock"))
    assert len(list(tmp_path.glob("windows-*.arrow"))) == isinstance(error, Exception), "an error spares the others"
    monkeypatch.undo()
    assert recover(tmp_path).batches >= 1
    assert sequences(Dump(tmp_path), writer.producer) == [0]


def test_a_lock_file_that_cannot_be_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = write(tmp_path, 1)

    def refused(path: Path, *, missing_ok: bool) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", refused)
        writer.close()
    assert len(list(tmp_path.glob("*.lock"))) == 1
    assert not producer_is_alive(tmp_path, writer.producer)


def test_window_kinds_are_named_in_the_schema_as_they_are_stored() -> None:
    assert [str(kind) for kind in WindowKind] == ["burst", "probe", "microbatch", "curvature"]
    described = schema(Table.WINDOWS).field("kind").metadata[b"description"].decode()
    assert all(kind in described for kind in WindowKind)


def test_unknown_tables_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    writer = write(tmp_path, 1)
    writer.close()
    (tmp_path / f"novelty-{writer.producer}-000000.arrow").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("mine")
    assert Dump(tmp_path).producers() == [writer.producer]


def test_the_tailer_passes_a_missing_segment_and_says_so(tmp_path: Path) -> None:
    writer = write(tmp_path, 20, segment_bytes=3000)
    writer.close()
    for number in (0, 2):
        (tmp_path / f"draws-{writer.producer}-{number:06d}.arrow").unlink()
    tailer = Tailer(tmp_path, writer.producer)
    read = [stamped.sequence for stamped in tailer.poll()]
    tailer.finish()
    assert read == sequences(Dump(tmp_path), writer.producer)
    assert 0 not in read
    assert read[-1] == 19
    assert [problem.split(" of ")[0] for problem in tailer.problems] == ["draws segment 0", "draws segment 2"]


def test_a_tail_that_stays_torn_is_a_problem_when_the_producer_ended(tmp_path: Path) -> None:
    writer = write(tmp_path, 3)
    writer.close()
    sealed = only(tmp_path, "draws-*.arrow")
    sealed.write_bytes(sealed.read_bytes()[: sealed.stat().st_size // 2])
    tailer = Tailer(tmp_path, writer.producer)
    assert len(list(tailer.poll())) < 3
    assert tailer.problems == []
    tailer.finish()
    assert len(tailer.problems) == 1
    assert "incomplete message" in tailer.problems[0]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**63]},
        {"shape": [-1, 3]},
        {"shape": [float("inf")]},
        {"indices": []},
        {"indices": [2, 1]},
        {"indices": [0, 12]},
        {"indices": [-1]},
        {"name": "*"},
        {"name": ""},
        {"name": "a\x1b[2J"},
        {"name": "a.bias"},
    ],
)
def test_groups_that_no_model_has_are_refused(change: dict[str, object]) -> None:
    described = json.loads(INFO.to_json())
    described["groups"][0] |= change
    with pytest.raises(NotADumpError, match="malformed"):
        RunInfo.from_json(json.dumps(described))
