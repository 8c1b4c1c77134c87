"""Reading a growing dump cheaply, and to its very end."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from gradnoise.collector._shipping.source import Source, unacknowledged_bytes
from gradnoise.wire import Dump, DumpWriter, Table, _tailer

from ..proto.dumps import INFO, draws_batch

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

LONG_AGO = 1_000_000_000


def append(writer: DumpWriter) -> None:
    """Write a batch; each begins a segment of its own."""
    writer.append(Table.DRAWS, draws_batch([0]))


def everything(source: Source) -> list[int]:
    found = []
    while (stamped := source.take()) is not None:
        found.append(stamped.sequence)
    return found


def test_a_directory_that_does_not_change_is_not_listed_again_and_one_that_does_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tailer, "_TRUSTED", math.inf)
    listed: list[Any] = []
    listdir = os.listdir

    def noted(path: Any) -> list[str]:
        listed.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", noted)
    writer = DumpWriter(tmp_path, INFO, segment_bytes=1)
    append(writer)
    source = Source(tmp_path, writer.producer)
    assert everything(source) == [0]
    assert everything(source) == everything(source) == []
    assert len(listed) == 3, "a change of just now may be followed by another that the clock does not show"
    os.utime(tmp_path, (LONG_AGO, LONG_AGO))
    for _ in range(20):
        assert everything(source) == []
    assert len(listed) == 4
    append(writer)
    assert everything(source) == [1]
    source.close()
    writer.close()


def test_what_was_written_before_the_end_is_read_whatever_the_directory_seems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tailer, "_TRUSTED", math.inf)
    writer = DumpWriter(tmp_path, INFO, segment_bytes=1)
    append(writer)
    os.utime(tmp_path, (LONG_AGO, LONG_AGO))
    source = Source(tmp_path, writer.producer)
    assert everything(source) == [0]
    append(writer)
    os.utime(tmp_path, (LONG_AGO, LONG_AGO))  # as if its clock had not ticked
    assert everything(source) == []
    assert [source.exhausted] == [False]
    writer.close()
    os.utime(tmp_path, (LONG_AGO, LONG_AGO))
    assert everything(source) == [1]
    assert [source.exhausted] == [True]
    assert source.finish() == ()
    source.close()


def test_a_reading_broken_off_goes_on_where_it_was(tmp_path: Path) -> None:
    writer = DumpWriter(tmp_path, INFO, segment_bytes=1)
    for _ in range(5):
        append(writer)
    writer.close()
    source = Source(tmp_path, writer.producer)
    first = [source.take(), source.take()]
    reached = {Table.DRAWS: source.position(Table.DRAWS)}
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("draws-*"))]
    left = unacknowledged_bytes(Dump(tmp_path), writer.producer, reached)
    assert sum(sizes[2:]) < left < sum(sizes[1:]), "the three that follow, and the second's footer"
    assert [stamped.sequence for stamped in first if stamped is not None] == [0, 1]
    assert everything(source) == [2, 3, 4]
    assert source.exhausted
    source.close()
