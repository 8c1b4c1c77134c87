"""After a crash: rewriting the segments that were left open, up to their last whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradnoise.wire._reader import Dump, segments_of
from gradnoise.wire._segment import SegmentReader, SegmentState, SegmentWriter
from gradnoise.wire._writer import producer_is_alive

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Recovery", "recover"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What :func:`recover` did: segments sealed, whole batches kept, bytes of torn tail cut off."""

    sealed: int = 0
    batches: int = 0
    torn_bytes: int = 0


def recover(path: Path) -> Recovery:
    """Seal the open segments of producers that no longer run; a torn tail is dropped and counted.

    Raises:
        NotADumpError, UnknownSchemaVersionError: the directory is not a dump this gradnoise reads.
        OSError: a segment could not be rewritten; the open one stays as it was.
    """
    run = Dump(path).info.run
    sealed = batches = torn = 0
    for segment in segments_of(path):
        opened = segment.path(path, sealed=False)
        if not opened.exists() or producer_is_alive(path, segment.producer):
            continue
        scratch = path / ".recovery"
        scratch.mkdir(exist_ok=True)
        segment.path(scratch, sealed=False).unlink(missing_ok=True)
        reader = SegmentReader(opened)
        try:
            writer = SegmentWriter(scratch, segment, run)
            try:
                for stamped in reader.poll():
                    writer.append(stamped)
                    batches += 1
                rewritten = writer.seal()
            except BaseException:
                writer.abandon()
                raise
        finally:
            reader.close()
        if reader.state is not SegmentState.DONE:
            torn += opened.stat().st_size - reader.offset
        rewritten.rename(segment.path(path, sealed=True))
        opened.unlink()
        scratch.rmdir()
        sealed += 1
    return Recovery(sealed, batches, torn)
