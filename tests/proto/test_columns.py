from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradnoise.wire import (
    CorruptBatchError,
    Dump,
    DumpWriter,
    Stamped,
    Table,
    Tailer,
    WireError,
    completed,
    pack,
    recover,
    schema,
    unpack,
    version_of,
)
from gradnoise.wire._stamp import content_crc

from .dumps import INFO, STEP, draws_batch, windows_batch, without

if TYPE_CHECKING:
    from pathlib import Path

EVENT = {"step": 3, "wall_time": 5, "kind": "non_finite", "group": "a.bias", "count": 2, "detail": "why"}


def steps_batch(**changed: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([STEP | changed], schema=schema(Table.STEPS))


def nullable(table: Table) -> list[str]:
    return [field.name for field in schema(table) if field.nullable]


BATCHES = {
    Table.DRAWS: draws_batch(range(3)),
    Table.STEPS: steps_batch(),
    Table.EVENTS: pa.RecordBatch.from_pylist([EVENT], schema=schema(Table.EVENTS)),
    Table.WINDOWS: windows_batch(0, 3),
}


@given(data=st.data(), table=st.sampled_from(sorted(BATCHES)), sequence=st.integers(0, 2**40))
def test_any_nullable_column_may_be_absent_and_reads_as_null(data: st.DataObject, table: Table, sequence: int) -> None:
    absent = data.draw(st.sets(st.sampled_from(nullable(table))))
    whole, batch = BATCHES[table], without(BATCHES[table], *absent)
    assert version_of(table, batch.schema) == (1 if absent and batch.schema.equals(schema(table, 1)) else 2)
    back = unpack(table, pack(Stamped.of(table, sequence, batch)))
    assert back.sequence == sequence
    assert back.batch.equals(batch), "what is stamped is the batch as it was sent"
    found = completed(table, back.batch)
    assert found.schema.equals(schema(table))
    found.validate(full=True)
    assert found.to_pylist() == [row | dict.fromkeys(absent) for row in whole.to_pylist()]


def test_completing_copies_nothing() -> None:
    batch = without(draws_batch(range(3)), "batch_size")
    values = completed(Table.DRAWS, batch).column("values").values
    assert values.buffers()[1].address == batch.column("values").values.buffers()[1].address
    whole = draws_batch(range(3))
    assert completed(Table.DRAWS, whole) is whole


def hostile() -> dict[str, pa.RecordBatch]:
    batch = draws_batch(range(2))
    names = batch.schema.names
    draw = names.index("draw")
    wide = batch.set_column(draw, pa.field("draw", pa.int64(), nullable=False), batch.column("draw").cast(pa.int64()))
    loose = batch.set_column(draw, pa.field("draw", pa.int32()), batch.column("draw"))
    return {
        **{f"no {name}": without(batch, name) for name in set(names) - set(nullable(Table.DRAWS))},
        "no column at all": batch.select([]),
        "an unknown column": batch.append_column("more", pa.nulls(batch.num_rows, pa.int8())),
        "an unknown column for an absent one": without(batch, "norm2").append_column(
            "norm3", pa.nulls(batch.num_rows, pa.float64())
        ),
        "another order": batch.select([names[1], names[0], *names[2:]]),
        "another order of the nullable ones": batch.select([*without(batch, "batch_size").schema.names, "batch_size"]),
        "a column twice": batch.select([*names, "norm2"]),
        "a nullable column twice and one absent": batch.select([*without(batch, "batch_size").schema.names, "norm2"]),
        "another type": without(wide, "norm2"),
        "nulls where none may be": without(loose, "norm2"),
    }


@pytest.mark.parametrize("case", sorted(hostile()))
def test_other_columns_are_refused(case: str, tmp_path: Path) -> None:
    batch = hostile()[case]
    assert version_of(Table.DRAWS, batch.schema) is None
    stamped = Stamped.of(Table.DRAWS, 0, batch)
    with pytest.raises(CorruptBatchError, match=r"another schema: columns .*expected .*'batch_size\?'"):
        unpack(Table.DRAWS, pack(stamped))
    writer = DumpWriter(tmp_path, INFO)
    with pytest.raises(WireError, match="are not those of the table 'draws'"):
        writer.append(Table.DRAWS, batch)
    assert writer.append(Table.DRAWS, draws_batch([0])) == 0, "nothing of it was written"
    writer.close()
    dump = Dump(tmp_path)
    assert [one.batch.num_rows for one in dump.batches(Table.DRAWS, writer.producer)] == [2]
    assert dump.problems == []


def test_the_crc_of_whole_batches_is_what_it_was_before_columns_could_be_absent() -> None:
    row = {"step": 3, "theta": 3, "wall_time": 5, "loss": 0.5, "metrics": [("a", 1.0)]}
    steps = [pa.RecordBatch.from_pylist([row], schema=schema(Table.STEPS, version)) for version in (1, 2)]
    assert content_crc(Table.DRAWS, 3, draws_batch([0, 1])) == 3978160333
    assert [content_crc(Table.STEPS, 7, batch) for batch in steps] == [3759536382, 2744288548]
    assert content_crc(Table.WINDOWS, 0, windows_batch(0, 5)) == 1196397960


def test_a_column_that_became_its_absent_neighbour_is_noticed() -> None:
    batch = without(steps_batch(), "beta2")
    names = ["beta2" if name == "beta1" else name for name in batch.schema.names]
    taken = pa.RecordBatch.from_arrays(batch.columns, schema=pa.schema([schema(Table.STEPS).field(n) for n in names]))
    assert version_of(Table.STEPS, taken.schema) == 2
    damaged = replace(Stamped.of(Table.STEPS, 0, batch), batch=taken)
    with pytest.raises(CorruptBatchError, match="CRC32"):
        unpack(Table.STEPS, pack(damaged))


def growing(path: Path) -> DumpWriter:
    """Steps, of which ever more columns hold something; the last segment is open."""
    writer = DumpWriter(path, INFO)
    bare = without(steps_batch(), *nullable(Table.STEPS))
    for batch in (bare, bare, without(steps_batch(), "metrics", "beta2"), steps_batch(), steps_batch()):
        writer.append(Table.STEPS, batch)
    return writer


def test_a_segment_has_the_columns_of_its_first_batch_with_their_descriptions(tmp_path: Path) -> None:
    writer = growing(tmp_path)
    tailer = Tailer(tmp_path, writer.producer)
    assert [one.sequence for one in tailer.poll()] == [0, 1, 2, 3, 4]
    writer.close()
    assert tailer.problems == []
    files = sorted(tmp_path.glob("steps-*.arrow"))
    found = [pa.ipc.open_file(file) for file in files]
    assert [file.num_record_batches for file in found] == [2, 1, 2]
    assert [len(file.schema) for file in found] == [3, 10, 12]
    for file in found:
        assert file.schema.metadata[b"gradnoise.schema_version"] == b"2"
        for field in file.schema:
            assert field.equals(schema(Table.STEPS).field(field.name), check_metadata=True)
    dump = Dump(tmp_path)
    batches = [completed(Table.STEPS, one.batch) for one in dump.batches(Table.STEPS, writer.producer)]
    assert dump.problems == []
    assert [batch.to_pylist()[0]["beta2"] for batch in batches] == [None, None, None, 0.99, 0.99]
    together = ds.dataset(list(map(str, files)), format="arrow", schema=schema(Table.STEPS)).to_table()
    assert together.equals(pa.Table.from_batches(batches))


def left_open(writer: DumpWriter) -> None:
    """End as a killed process would."""
    writer.disown()


def test_recovery_keeps_the_columns(tmp_path: Path) -> None:
    writer = growing(tmp_path)
    before = list(Dump(tmp_path).batches(Table.STEPS, writer.producer))
    left_open(writer)
    recovery = recover(tmp_path)
    assert (recovery.sealed, recovery.batches, recovery.torn_bytes) == (1, 2, 0)
    dump = Dump(tmp_path)
    after = list(dump.batches(Table.STEPS, writer.producer))
    assert dump.problems == []
    assert [one.crc32 for one in after] == [one.crc32 for one in before]
    assert all(a.batch.equals(b.batch) for a, b in zip(after, before, strict=True))


def test_recovery_of_a_segment_of_version_one_and_of_one_without_a_batch(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, INFO)
    writer.append(Table.STEPS, steps_batch().select(schema(Table.STEPS, 1).names))
    writer.append(Table.DRAWS, draws_batch([0]))
    (torn,) = tmp_path.glob("draws-*.open")
    torn.write_bytes(torn.read_bytes()[:100])
    left_open(writer)
    assert recover(tmp_path).batches == 1
    (steps,) = tmp_path.glob("steps-*.arrow")
    assert pa.ipc.open_file(steps).schema.metadata[b"gradnoise.schema_version"] == b"1"
    (draws,) = tmp_path.glob("draws-*.arrow")
    assert pa.ipc.open_file(draws).schema.equals(schema(Table.DRAWS))
    assert pa.ipc.open_file(draws).num_record_batches == 0
