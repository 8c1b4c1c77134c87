"""One segment: a numbered file of one table of one producer, in Arrow IPC *file* layout from its first byte.

While open (``.open``) it can be read as a stream from offset 8; sealing writes the footer and renames it to
``.arrow``, which any Arrow reader opens. Appending writes whole messages with one system call; a failed write is
cut back to the last whole message, so that a full disk leaves a readable file.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from gradnoise.wire._errors import CorruptBatchError, SyncError, UnknownSchemaVersionError, WireError
from gradnoise.wire._flatbuffer import body_length
from gradnoise.wire._schemas import SUPPORTED_VERSIONS, Table, schema, version_of
from gradnoise.wire._stamp import Stamped, check

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Place", "Segment", "SegmentReader", "SegmentState", "SegmentWriter", "open_segment"]

_NAME = re.compile(r"([a-z]+)-([0-9a-f]{32})-(\d{6,})\.(open|arrow)")
_TABLES = frozenset(table.value for table in Table)
_STREAM_START = 8  # the file layout begins with "ARROW1" and two zero bytes
_MAGIC = b"ARROW1"
_FOOTER_END = 4 + len(_MAGIC)  # the footer's length and the magic end a sealed file
_CONTINUATION = b"\xff\xff\xff\xff"
_READ = 4 << 20  # a reader holds so much: a shipper has one a stream
_LARGEST_HEADER = 16 << 20
_VERSION_KEY = b"gradnoise.schema_version"


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A segment's identity, as its file name says it: ``<table>-<producer>-<number>.<open|arrow>``."""

    table: Table
    producer: str
    number: int

    def path(self, directory: Path, *, sealed: bool) -> Path:
        """Return where the segment lies in ``directory``."""
        return directory / f"{self.table}-{self.producer}-{self.number:06d}.{'arrow' if sealed else 'open'}"

    def find(self, directory: Path) -> Path | None:
        """Return the segment's file, sealed or open, or None. Safe against a seal that happens meanwhile."""
        for sealed in (True, False, True):
            path = self.path(directory, sealed=sealed)
            if path.exists():
                return path
        return None

    @classmethod
    def parse(cls, path: Path) -> Segment | None:
        """Return the identity a file name carries; None for any other file, unknown tables included."""
        match = _NAME.fullmatch(path.name)
        if match is None or match[1] not in _TABLES:
            return None
        return cls(Table(match[1]), match[2], int(match[3]))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch, or a run of neighbouring batches, lies: bytes ``begin`` to ``end`` of a segment."""

    segment: Segment
    begin: int
    end: int


class _Sink:
    """What the Arrow writer writes into: collects one message, then puts it on disk whole."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending: list[bytes] = []
        self._pending_size = 0
        self.size = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self._pending.append(bytes(data))
        self._pending_size += len(self._pending[-1])
        return len(self._pending[-1])

    def tell(self) -> int:
        return self.size + self._pending_size

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def commit(self) -> None:
        """Write what is pending; after an error the file ends where it ended before."""
        data = memoryview(b"".join(self._pending))
        self._pending.clear()
        self._pending_size = 0
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)
            raise
        self.size += len(data)


class SegmentWriter:
    """Appends stamped batches to a new segment, which has the columns of the first of them.

    A write error (:class:`OSError`) leaves the file readable up to the last whole batch; the writer is then unusable.

    Args:
        directory: where the segment lies.
        segment: its name.
        run: the run id.

    Raises:
        FileExistsError: the segment exists already.
    """

    def __init__(self, directory: Path, segment: Segment, run: str) -> None:
        self.segment = segment
        self._run = run
        self._directory = directory
        self._path = segment.path(directory, sealed=False)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._sink = _Sink(self._fd)
        self._file = pa.PythonFile(self._sink, mode="w")
        self._schema: pa.Schema | None = None
        self._writer: pa.RecordBatchFileWriter | None = None
        self._dictionaries: list[pa.Array] | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._sink.size

    def accepts(self, batch: pa.RecordBatch) -> bool:
        """Whether the batch has this segment's schema and dictionaries: the file layout allows one set only."""
        if self._schema is not None and not batch.schema.equals(self._schema, check_metadata=False):
            return False
        return self._dictionaries is None or all(
            old.equals(new) for old, new in zip(self._dictionaries, _dictionaries(batch), strict=True)
        )

    def append(self, stamped: Stamped) -> Place:
        """Write one batch; return where it lies.

        Raises:
            WireError: its columns are not those of the segment, or not of the table; nothing was written.
        """
        writer, columns = self._begun(stamped.batch.schema)
        if not stamped.batch.schema.equals(columns, check_metadata=False):
            raise WireError(
                f"{self._path.name} has the columns {columns.names}, the batch {stamped.batch.schema.names}: "
                "begin another segment"
            )
        # What decoding needs (schema, dictionaries) belongs to the first batch's place.
        begin = _STREAM_START if self._dictionaries is None else self._sink.size
        batch = stamped.batch.replace_schema_metadata(columns.metadata)
        writer.write_batch(batch, custom_metadata=stamped.custom_metadata())
        self._sink.commit()
        if self._dictionaries is None:
            self._dictionaries = _dictionaries(batch)
        return Place(self.segment, begin, self._sink.size)

    def _begun(self, found: pa.Schema) -> tuple[pa.RecordBatchFileWriter, pa.Schema]:
        """Return the Arrow writer and its schema; the first call says which of the table's columns there are."""
        if self._writer is None or self._schema is None:
            table = self.segment.table
            version = version_of(table, found)
            if version is None:
                raise WireError(
                    f"columns {found.names} are not those of the table {table.value!r}: expected "
                    f"{schema(table).names} with their types, of which only nullable ones may be absent"
                )
            metadata = {
                _VERSION_KEY: b"%d" % version,
                b"gradnoise.run": self._run.encode(),
                b"gradnoise.table": table.encode(),
                b"gradnoise.producer": self.segment.producer.encode(),
            }
            described = schema(table, version)
            self._schema = pa.schema([described.field(name) for name in found.names], metadata)
            # Arrow writes the schema together with the first batch.
            self._writer = pa.ipc.new_file(self._file, self._schema)
        return self._writer, self._schema

    def sync(self) -> None:
        """Force what was written to the disk: fdatasync, or fsync on a system without it (macOS).

        Raises:
            SyncError: it must not be tried again.
        """
        try:
            getattr(os, "fdatasync", os.fsync)(self._fd)
        except OSError as error:
            raise SyncError(error.errno, f"{self._path}: cannot be forced to disk: {error.strerror}") from error

    def seal(self) -> Path:
        """Write the footer, sync, rename to ``.arrow`` and return the new path.

        Raises:
            OSError: the segment stays readable as an open one; the writer is closed.
        """
        try:
            writer, _ = self._begun(schema(self.segment.table))
            writer.close()
            self._sink.commit()
            self.sync()
        finally:
            os.close(self._fd)
        sealed = self.segment.path(self._directory, sealed=True)
        self._path.rename(sealed)
        return sealed

    def abandon(self) -> None:
        """Close the file as it is, unsealed, as a crash would leave it; remove it where nothing was written."""
        os.close(self._fd)
        if self._sink.size == 0:
            self._path.unlink(missing_ok=True)


def _dictionaries(batch: pa.RecordBatch) -> list[pa.Array]:
    return [column.dictionary for column in batch.columns if pa.types.is_dictionary(column.type)]


class SegmentState(Enum):
    """How far a reader has come.

    ``PENDING``: at the end of what is written; more may come. ``DONE``: at the end-of-stream mark.
    ``BROKEN``: at bytes that are no message; nothing after them can be read.
    """

    PENDING = "pending"
    DONE = "done"
    BROKEN = "broken"


class SegmentReader:
    """Reads a segment batch by batch, and again later when more has been written.

    Attributes:
        state: see :class:`SegmentState`; meaningful once :meth:`poll` is exhausted.
        problem: why the state is BROKEN, or why PENDING is not a whole message.
        corrupt: descriptions of whole messages that failed validation and were passed over.
        offset: byte offset behind the last message read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        segment = Segment.parse(path)
        if segment is None:
            raise ValueError(f"{path} is not named as a segment of a known table")
        self.segment: Segment = segment
        self.state = SegmentState.PENDING
        self.problem: str | None = None
        self.corrupt: list[str] = []
        self.offset = _STREAM_START
        self._prefix = b""  # schema and dictionary messages: what decoding a batch needs
        self._in_batches = False
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its other end
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.close()
            raise OSError(f"{path} is no regular file: take it out of the dump")

    def close(self) -> None:
        """Release the file; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def seek(self, offset: int) -> None:
        """Go to where a message begins, as :attr:`offset` or a :class:`Place` told it earlier."""
        if offset != _STREAM_START and not self._in_batches:
            next(self.poll(), None)  # reads the schema and the dictionaries
        self.state = SegmentState.PENDING
        self.offset = offset
        if offset == _STREAM_START:
            self._prefix = b""
            self._in_batches = False

    def poll(self, end: int | None = None) -> Iterator[Stamped]:
        """Yield every whole, valid batch from the current offset on, up to byte ``end`` where it is given.

        Raises:
            UnknownSchemaVersionError: the segment is of a version this gradnoise does not read.
        """
        if self.state is not SegmentState.PENDING:
            return
        self.problem = None
        chunk = os.pread(self._fd, _READ, self.offset)
        position = 0
        while end is None or self.offset < end:
            message, size = self._message(memoryview(chunk)[position:])
            if message is None:
                if size > len(chunk) - position:  # a message that goes on behind the chunk
                    chunk = os.pread(self._fd, max(_READ, size), self.offset)
                    position = 0
                    if not chunk and self._in_batches:
                        return
                    if len(chunk) < size:
                        self.problem = f"{len(chunk)} bytes of an incomplete message at byte {self.offset}"
                        return
                    continue
                return
            raw = chunk[position : position + size]
            stamped = None
            if message.type == "record batch":
                stamped = self._decode(raw)
            elif not self._take_header(message, raw):
                return
            position += size
            self.offset += size
            if stamped is not None:
                yield stamped

    def _message(self, data: memoryview) -> tuple[pa.Message | None, int]:
        """Return the message at the front of ``data`` and its size, or (None, bytes needed)."""
        if len(data) < 8:
            return None, 8
        if data[:4] != _CONTINUATION:
            # A zero-filled tail, as a power failure leaves it, would read as a clean end.
            self._broken("no message begins here (a torn or zero-filled tail)")
            return None, 0
        metadata_size = int.from_bytes(data[4:8], "little", signed=True)
        if metadata_size == 0:
            self._end()
            return None, 0
        if metadata_size < 0 or metadata_size > _LARGEST_HEADER:
            self._broken(f"a message header of {metadata_size} bytes")
            return None, 0
        if len(data) < 8 + metadata_size:
            return None, 8 + metadata_size
        try:
            size = 8 + metadata_size + body_length(data[8 : 8 + metadata_size])
            if len(data) < size:
                return None, size
            return pa.ipc.read_message(pa.py_buffer(data[:size])), size
        except (struct.error, ValueError, pa.ArrowException, OSError, EOFError) as error:
            self._broken(f"an unreadable message header ({error})")
            return None, 0

    def _end(self) -> None:
        """Believe an end-of-stream mark only where the footer follows it, or is about to."""
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, _FOOTER_END, size - _FOOTER_END)
        footer = size - _FOOTER_END - (self.offset + 8)
        if tail[4:] == _MAGIC and int.from_bytes(tail[:4], "little") == footer:
            self.state = SegmentState.DONE
        elif self.path.suffix == ".open":
            self.problem = f"the footer behind byte {self.offset} is incomplete"
        else:
            self._broken("an end-of-stream mark without a footer")

    def _broken(self, reason: str) -> None:
        self.state = SegmentState.BROKEN
        self.problem = f"{reason} at byte {self.offset}"

    def _decode(self, raw: bytes) -> Stamped | None:
        self._in_batches = True
        try:
            with pa.ipc.open_stream(pa.py_buffer(self._prefix + raw)) as reader:
                batch, metadata = reader.read_next_batch_with_custom_metadata()
            return check(self.segment.table, batch, metadata)
        except CorruptBatchError as error:
            self.corrupt.append(f"{error} (byte {self.offset} of {self.path.name})")
        except (pa.ArrowException, OSError, ValueError, EOFError, StopIteration) as error:
            self.corrupt.append(f"unreadable batch at byte {self.offset} of {self.path.name}: {error}")
        return None

    def _take_header(self, message: pa.Message, raw: bytes) -> bool:
        """Take the schema, or a dictionary before the first batch; anything else is damage."""
        expected = "dictionary" if self._prefix else "schema"
        if message.type != expected or self._in_batches:
            self.corrupt.append(f"unexpected {message.type} message at byte {self.offset} of {self.path.name}")
        elif expected == "dictionary" or self._check_schema(message):
            self._prefix += raw
        return self.state is SegmentState.PENDING

    def _check_schema(self, message: pa.Message) -> bool:
        try:
            metadata = pa.ipc.read_schema(message).metadata or {}
        except (pa.ArrowException, OSError, ValueError) as error:
            self._broken(f"an unreadable schema ({error})")
            return False
        version = metadata.get(_VERSION_KEY, b"?").decode(errors="replace")
        if not version.isdigit() or int(version) not in SUPPORTED_VERSIONS:
            raise UnknownSchemaVersionError(
                f"{self.path} is of schema version {version}; this gradnoise reads {sorted(SUPPORTED_VERSIONS)}: "
                "upgrade gradnoise"
            )
        return True


def open_segment(directory: Path, segment: Segment) -> SegmentReader | None:
    """Open a segment, sealed or not; None where there is none. Safe against a seal that happens meanwhile."""
    for sealed in (True, False, True):
        try:
            return SegmentReader(segment.path(directory, sealed=sealed))
        except FileNotFoundError:
            continue
    return None
