"""The few fields of Arrow's message headers that its Python API does not expose."""

from __future__ import annotations

import struct

__all__ = ["body_length", "is_compressed"]

_MAX_BODY = 1 << 31
_DICTIONARY, _RECORD_BATCH = 2, 3  # Message.header_type


def _root(header: memoryview) -> int:
    return int(struct.unpack_from("<I", header)[0])


def _field(header: memoryview, table: int, index: int) -> int | None:
    """Return where a table's field lies; None where it is left out."""
    vtable = table - int(struct.unpack_from("<i", header, table)[0])
    (size,) = struct.unpack_from("<H", header, vtable)
    slot = 4 + 2 * index
    if size < slot + 2:
        return None
    (offset,) = struct.unpack_from("<H", header, vtable + slot)
    return table + int(offset) if offset else None


def _table(header: memoryview, at: int) -> int:
    return at + int(struct.unpack_from("<I", header, at)[0])


def body_length(header: memoryview) -> int:
    """Return ``Message.bodyLength`` in bytes.

    Raises:
        ValueError, struct.error: the header is damaged.
    """
    at = _field(header, _root(header), 3)
    if at is None:
        return 0
    (length,) = struct.unpack_from("<q", header, at)
    if not 0 <= length <= _MAX_BODY:
        raise ValueError(f"body of {length} bytes")
    return int(length)


def is_compressed(header: memoryview) -> bool:
    """Return whether the message is a record batch or dictionary whose buffers are compressed.

    Raises:
        struct.error: the header is damaged.
    """
    root = _root(header)
    kind, at = _field(header, root, 1), _field(header, root, 2)
    if kind is None or at is None or header[kind] not in (_DICTIONARY, _RECORD_BATCH):
        return False
    batch = _table(header, at)
    if header[kind] == _DICTIONARY:
        data = _field(header, batch, 1)
        if data is None:
            return False
        batch = _table(header, data)
    return _field(header, batch, 3) is not None
