from __future__ import annotations

import zlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradnoise.wire import CorruptBatchError, Stamped, Table, pack, schema, unpack
from gradnoise.wire._stamp import content_crc

from .dumps import STEP, draws_batch, without

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def steps_batch(rows: list[dict[str, object]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=schema(Table.STEPS))


@given(
    losses=st.lists(st.none() | finite, min_size=1, max_size=5),
    metrics=st.none() | st.dictionaries(st.text(max_size=8), finite, max_size=3),
    sequence=st.integers(0, 2**40),
)
def test_pack_and_unpack_round_trip(
    losses: list[float | None], metrics: dict[str, float] | None, sequence: int
) -> None:
    items = None if metrics is None else list(metrics.items())
    rows: list[dict[str, object]] = [
        {"step": i, "theta": i, "loss": loss, "wall_time": i, "metrics": items} for i, loss in enumerate(losses)
    ]
    stamped = Stamped.of(Table.STEPS, sequence, steps_batch(rows))
    back = unpack(Table.STEPS, pack(stamped))
    assert (back.sequence, back.crc32) == (sequence, stamped.crc32)
    assert back.batch.equals(stamped.batch)


@given(start=st.integers(0, 9), length=st.integers(1, 10))
def test_crc_of_a_slice_is_the_crc_of_its_copy(start: int, length: int) -> None:
    batch = draws_batch(range(5))
    part = batch.slice(start, length)
    rows = part.to_pylist()
    codes = pa.array([["a.weight", "a.bias"].index(row["group"]) for row in rows], pa.int16())
    columns = [
        pa.DictionaryArray.from_arrays(codes, pa.array(["a.weight", "a.bias"]))
        if field.name == "group"
        else pa.array([row[field.name] for row in rows], field.type)
        for field in batch.schema
    ]
    copy = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
    assert content_crc(Table.DRAWS, 7, part) == content_crc(Table.DRAWS, 7, copy)
    stamped = Stamped.of(Table.DRAWS, 7, part)
    assert unpack(Table.DRAWS, pack(stamped)).batch.equals(copy)


def test_crc_depends_on_sequence_values_and_group_names() -> None:
    batch = draws_batch([0])
    renamed = batch.set_column(
        4,
        batch.schema.field("group"),
        pa.DictionaryArray.from_arrays(batch.column("group").indices, pa.array(["a.weight", "b.bias"])),
    )
    crcs = {
        content_crc(Table.DRAWS, 0, batch),
        content_crc(Table.DRAWS, 1, batch),
        content_crc(Table.DRAWS, 0, draws_batch([0], seed=1)),
        content_crc(Table.DRAWS, 0, renamed),
    }
    assert len(crcs) == 4


@pytest.mark.parametrize(
    ("stamped", "least"),
    [
        (Stamped.of(Table.DRAWS, 3, draws_batch([0, 1])), 1 / 3),
        (Stamped.of(Table.STEPS, 3, without(steps_batch([STEP]), "loss", "beta1", "clip_factor")), 1 / 5),
    ],
    ids=["every column", "absent columns"],
)
def test_every_flipped_bit_of_the_payload_is_noticed_or_harmless(stamped: Stamped, least: float) -> None:
    payload = pack(stamped)
    noticed = 0
    for position in range(len(payload)):
        damaged = bytearray(payload)
        damaged[position] ^= 1 << (zlib.crc32(bytes([position % 256])) % 8)
        try:
            back = unpack(stamped.table, bytes(damaged))
        except CorruptBatchError:
            noticed += 1
        else:  # padding, or a part of the header that carries no content
            assert (back.sequence, back.crc32) == (3, stamped.crc32)
            assert back.batch.equals(stamped.batch)
    assert noticed > least * len(payload)


@pytest.mark.parametrize("payload", [b"", b"no arrow", b"\xff\xff\xff\xff" + b"\0" * 4, bytes(64)])
def test_unpack_refuses_what_is_no_stream(payload: bytes) -> None:
    with pytest.raises(CorruptBatchError, match="draws"):
        unpack(Table.DRAWS, payload)


def test_unpack_refuses_another_schema_unstamped_batches_and_several_batches() -> None:
    stamped = Stamped.of(Table.DRAWS, 0, draws_batch([0]))
    with pytest.raises(CorruptBatchError, match="has another schema"):
        unpack(Table.WINDOWS, pack(stamped))
    for copies, metadata, message in [
        (1, None, "carries no readable"),
        (2, stamped.custom_metadata(), "more than one"),
    ]:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, stamped.batch.schema) as writer:
            for _ in range(copies):
                writer.write_batch(stamped.batch, custom_metadata=metadata)
        with pytest.raises(CorruptBatchError, match=message):
            unpack(Table.DRAWS, sink.getvalue().to_pybytes())


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_buffers_are_refused_before_they_are_decoded(codec: str) -> None:
    stamped = Stamped.of(Table.DRAWS, 0, draws_batch(range(50)))
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, stamped.batch.schema, options=options) as writer:
        writer.write_batch(stamped.batch, custom_metadata=stamped.custom_metadata())
    with pytest.raises(CorruptBatchError, match="compressed"):
        unpack(Table.DRAWS, sink.getvalue().to_pybytes())
