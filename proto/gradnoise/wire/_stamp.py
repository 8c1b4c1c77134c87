"""A record batch with its sequence number and CRC32, and its way into and out of bytes.

The CRC covers the *logical* content (sequence, row count, validity, offsets and values of every column in
schema order, dictionaries included), not the padding, so that it is the same whichever Arrow version wrote the
batch. Where columns are absent it covers the names of the others too: nothing else tells one from its neighbour. It
lives with the sequence number in the message's ``custom_metadata``.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import pyarrow as pa

from gradnoise.wire._errors import CorruptBatchError
from gradnoise.wire._flatbuffer import body_length, is_compressed
from gradnoise.wire._schemas import SUPPORTED_VERSIONS, Table, schema, version_of

__all__ = ["Stamped", "content_crc", "pack", "unpack"]

_SEQUENCE = b"gradnoise.sequence"
_CRC = b"gradnoise.crc32"


@dataclass(frozen=True, slots=True)
class Stamped:
    """A batch of ``table`` with its sequence number (from 0, per producer and table) and content CRC32."""

    table: Table
    sequence: int
    crc32: int
    batch: pa.RecordBatch

    @classmethod
    def of(cls, table: Table, sequence: int, batch: pa.RecordBatch) -> Stamped:
        """Stamp a batch that has the table's schema."""
        return cls(table, sequence, content_crc(table, sequence, batch), batch)

    def custom_metadata(self) -> dict[bytes, bytes]:
        """Return the message metadata that carries the stamp."""
        return {_SEQUENCE: b"%d" % self.sequence, _CRC: b"%d" % self.crc32}


def _buffer(array: pa.Array, index: int, start: int, length: int) -> memoryview:
    buffer = array.buffers()[index]
    if buffer is None or length == 0:
        return memoryview(b"")
    return memoryview(buffer)[start : start + length]


def _flags_crc(flags: pa.BooleanArray, crc: int) -> int:
    return zlib.crc32(_buffer(flags.cast(pa.uint8()), 1, 0, len(flags)), crc)


def _array_crc(array: pa.Array, crc: int) -> int:
    crc = zlib.crc32(struct.pack("<qq", len(array), array.null_count), crc)
    if array.null_count:
        crc = _flags_crc(array.is_valid(), crc)
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _array_crc(array.dictionary, _array_crc(array.indices, crc))
    if pa.types.is_boolean(kind):
        return _flags_crc(array.fill_null(False), crc)
    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            crc = _array_crc(array.field(index), crc)
        return crc
    if pa.types.is_string(kind) or pa.types.is_list(kind) or pa.types.is_map(kind):
        offsets = _buffer(array, 1, array.offset * 4, (len(array) + 1) * 4).cast("i") if len(array) else [0]
        first, last = offsets[0], offsets[-1]
        # Offsets relative to the first: a slice and its copy are the same content.
        lengths = pa.array(offsets, pa.int32()) if first == 0 else pa.array([n - first for n in offsets], pa.int32())
        crc = zlib.crc32(memoryview(lengths.buffers()[1])[: 4 * len(lengths)], crc)
        if pa.types.is_string(kind):
            return zlib.crc32(_buffer(array, 2, first, last - first), crc)
        if pa.types.is_map(kind):
            keys, items = array.keys, array.items
            crc = _array_crc(keys.slice(first, last - first), crc)
            return _array_crc(items.slice(first, last - first), crc)
        return _array_crc(array.values.slice(first, last - first), crc)
    width = kind.bit_width // 8
    return zlib.crc32(_buffer(array, 1, array.offset * width, len(array) * width), crc)


def content_crc(table: Table, sequence: int, batch: pa.RecordBatch) -> int:
    """Return the CRC32 that binds ``sequence`` to the content of ``batch``, a batch of ``table``."""
    crc = zlib.crc32(struct.pack("<qq", sequence, batch.num_rows))
    names = batch.schema.names
    if all(names != schema(table, version).names for version in SUPPORTED_VERSIONS):
        crc = zlib.crc32("\0".join(names).encode(), crc)
    for column in batch.columns:
        crc = _array_crc(column, crc)
    return crc


def check(table: Table, batch: pa.RecordBatch, metadata: pa.KeyValueMetadata | None) -> Stamped:
    """Validate a batch read from bytes: schema, full Arrow validity, sequence and CRC.

    Raises:
        CorruptBatchError: naming which of them failed.
    """
    _check_schema(table, batch.schema, "batch of")
    try:
        batch.validate(full=True)
        for index, kind in enumerate(batch.schema.types):
            if pa.types.is_dictionary(kind):
                batch.column(index).dictionary.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise CorruptBatchError(f"batch of table {table.value!r} is not valid Arrow data: {error}") from error
    try:
        stamp = dict(metadata) if metadata is not None else {}
        sequence, crc = int(stamp[_SEQUENCE]), int(stamp[_CRC])
    except (KeyError, ValueError) as error:
        raise CorruptBatchError(
            f"batch of table {table.value!r} carries no readable {_SEQUENCE.decode()} and {_CRC.decode()}: "
            "it was not written by gradnoise, or its message metadata is damaged"
        ) from error
    actual = content_crc(table, sequence, batch)
    if actual != crc:
        raise CorruptBatchError(
            f"batch {sequence} of table {table.value!r} has CRC32 {actual:08x}, its message says {crc:08x}: "
            "the bytes were changed after they were written"
        )
    return Stamped(table, sequence, crc, batch)


def _check_schema(table: Table, found: pa.Schema, what: str) -> None:
    if version_of(table, found) is None:
        fields = [f"{field.name}?" if field.nullable else field.name for field in schema(table)]
        raise CorruptBatchError(
            f"{what} table {table.value!r} has another schema: columns {found.names[:20]}; expected {fields} with "
            "their types, in this order (only those with ? may be absent)"
        )


def pack(stamped: Stamped) -> bytes:
    """Return a self-contained Arrow IPC stream (schema, dictionaries, one batch) of a stamped batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, stamped.batch.schema) as writer:
        writer.write_batch(stamped.batch, custom_metadata=stamped.custom_metadata())
    return bytes(sink.getvalue())


def unpack(table: Table, payload: bytes) -> Stamped:
    """Read back what :func:`pack` wrote, checking everything.

    Raises:
        CorruptBatchError: the payload is not exactly one valid, stamped batch of ``table``.
    """
    _refuse_compression(table, payload)
    try:
        with pa.ipc.open_stream(pa.py_buffer(payload)) as reader:
            # The schema is held against the allowed one before any batch is decoded.
            _check_schema(table, reader.schema, "payload for")
            batch, metadata = reader.read_next_batch_with_custom_metadata()
            try:
                reader.read_next_batch()
            except StopIteration:
                pass
            else:
                raise CorruptBatchError(f"payload for table {table.value!r} holds more than one batch: send one each")
    except StopIteration as error:
        raise CorruptBatchError(f"payload for table {table.value!r} holds no batch") from error
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        raise CorruptBatchError(f"payload for table {table.value!r} is not an Arrow IPC stream: {error}") from error
    return check(table, batch, metadata)


def _refuse_compression(table: Table, payload: bytes) -> None:
    """Refuse compressed buffers before anything is decoded: a few kilobytes can hold gigabytes."""
    data, at = memoryview(payload), 0
    try:
        while at < len(data):
            mark, size = struct.unpack_from("<Ii", data, at)
            if mark != 0xFFFFFFFF or size < 0:
                raise ValueError(f"no message begins at byte {at}")
            if size == 0:
                return
            header = data[at + 8 : at + 8 + size]
            if is_compressed(header):
                raise ValueError("its buffers are compressed: send them uncompressed")
            at += 8 + size + body_length(header)
    except (struct.error, ValueError, IndexError) as error:
        raise CorruptBatchError(f"payload for table {table.value!r} is not taken: {error}") from error
