"""Reading single batches back from where they were written."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from gradnoise.wire import Dump, DumpWriter, Segment, Stamped, Table, TableLog, create_dump
from gradnoise.wire._segment import SegmentWriter

from .dumps import INFO, draws_batch

if TYPE_CHECKING:
    from pathlib import Path

PRODUCER = "0" * 32


def test_every_batch_reads_back_from_its_place_open_and_sealed(tmp_path: Path) -> None:
    create_dump(tmp_path, INFO)
    log = TableLog(tmp_path, Table.DRAWS, PRODUCER, INFO.run, segment_bytes=3000)
    stamped = [Stamped.of(Table.DRAWS, index, draws_batch([index])) for index in range(20)]
    places = [log.append(one) for one in stamped]
    dump = Dump(tmp_path)
    assert len({place.segment for place in places}) > 2
    for _ in range(2):
        for one, place in zip(stamped, places, strict=True):
            (back,) = dump.read([place])
            assert (back.sequence, back.crc32) == (one.sequence, one.crc32)
        assert [place for place, _ in dump.placed(Table.DRAWS, PRODUCER)] == places
        log.seal()


def test_places_survive_a_corrupt_neighbour(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, INFO)
    for index in range(3):
        writer.append(Table.DRAWS, draws_batch([index]))
    writer.close()
    places = [place for place, _ in Dump(tmp_path).placed(Table.DRAWS, writer.producer)]
    path = places[0].segment.path(tmp_path, sealed=True)
    content = bytearray(path.read_bytes())
    content[places[1].begin - 40] ^= 0xFF
    path.write_bytes(content)
    dump = Dump(tmp_path)
    assert [one.sequence for one in dump.read(places)] == [1, 2]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="gone from the dump"):
        list(dump.read(places[:1]))


def test_a_full_disk_leaves_the_log_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_dump(tmp_path, INFO)
    log = TableLog(tmp_path, Table.DRAWS, PRODUCER, INFO.run)
    batches = [Stamped.of(Table.DRAWS, index, draws_batch([index])) for index in range(3)]

    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            log.append(batches[0])
    log.append(batches[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            log.append(batches[1])
    log.append(batches[1])
    log.append(batches[2])
    log.seal()
    dump = Dump(tmp_path)
    assert [one.sequence for one in dump.batches(Table.DRAWS, PRODUCER)] == [0, 1, 2]
    assert dump.problems == []


@pytest.mark.parametrize("kept", [0, 2], ids=["first", "later"])
def test_a_half_written_batch_is_cut_off_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    create_dump(tmp_path, INFO)
    segment = Segment(Table.DRAWS, PRODUCER, 0)
    path = segment.path(tmp_path, sealed=False)
    writer = SegmentWriter(tmp_path, segment, INFO.run)
    for index in range(kept):
        writer.append(Stamped.of(Table.DRAWS, index, draws_batch([index])))
    whole = path.read_bytes()
    sizes: list[int] = []
    write = os.write

    def half_then_full(fd: int, data: memoryview) -> int:
        if sizes:
            sizes.append(path.stat().st_size)
            raise OSError(errno.ENOSPC, "No space left on device")
        sizes.append(len(whole))
        return write(fd, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_full)
        with pytest.raises(OSError, match="No space"):
            writer.append(Stamped.of(Table.DRAWS, kept, draws_batch([kept])))
    assert len(sizes) == 2
    assert sizes[1] > sizes[0], "half of the batch was in the file"
    assert path.read_bytes() == whole
    writer.abandon()
    dump = Dump(tmp_path)
    assert [one.sequence for one in dump.batches(Table.DRAWS, PRODUCER)] == list(range(kept))
    assert dump.problems == []
    log = TableLog(tmp_path, Table.DRAWS, PRODUCER, INFO.run, first_segment=1)
    log.append(Stamped.of(Table.DRAWS, kept, draws_batch([kept])))
    log.seal()
    dump = Dump(tmp_path)
    assert [one.sequence for one in dump.batches(Table.DRAWS, PRODUCER)] == list(range(kept + 1))
    assert dump.problems == []
    assert path.exists() == (kept > 0)


@pytest.mark.parametrize("lacking", [False, True], ids=["as-here", "without-fdatasync"])
def test_a_batch_can_be_forced_to_disk_with_and_without_fdatasync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: bool
) -> None:
    if lacking:
        monkeypatch.delattr(os, "fdatasync", raising=False)
    forced: list[int] = []
    name = "fdatasync" if hasattr(os, "fdatasync") else "fsync"
    monkeypatch.setattr(os, name, forced.append)
    create_dump(tmp_path, INFO)
    log = TableLog(tmp_path, Table.DRAWS, PRODUCER, INFO.run)
    log.append(Stamped.of(Table.DRAWS, 0, draws_batch([0])))
    log.sync()
    log.seal()
    assert len(forced) == 2
    assert [one.sequence for one in Dump(tmp_path).batches(Table.DRAWS, PRODUCER)] == [0]


def test_a_segment_sealed_between_looking_and_opening_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_dump(tmp_path, INFO)
    log = TableLog(tmp_path, Table.DRAWS, PRODUCER, INFO.run)
    place = log.append(Stamped.of(Table.DRAWS, 0, draws_batch([0])))
    opening = os.open

    def seal_first(path: Path, flags: int) -> int:
        if str(path).endswith(".open"):
            log.seal()
        return opening(path, flags)

    monkeypatch.setattr("gradnoise.wire._segment.os.open", seal_first)
    (back,) = Dump(tmp_path).read([place])
    assert back.sequence == 0
