"""The room on disk: to the byte, and never at the cost of what the analyzer lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gradnoise.collector._recording.spool import Spool
from gradnoise.collector._shipping.progress import Progress, ShipState
from gradnoise.wire import Dump, DumpWriter, Front, Table, fronts

from ..proto.dumps import INFO, draws_batch

if TYPE_CHECKING:
    from pathlib import Path

BATCHES = 5


def written(path: Path) -> DumpWriter:
    """A segment a batch; the last one is open."""
    writer = DumpWriter(path, INFO, segment_bytes=1)
    for number in range(BATCHES):
        writer.append(Table.DRAWS, draws_batch(range(4 * number, 4 * number + 4)))
    return writer


def on_disk(path: Path) -> int:
    return sum(segment.stat().st_size for segment in path.glob("draws-*"))


@pytest.mark.parametrize("acknowledged", range(BATCHES + 1))
def test_of_what_is_acknowledged_sealed_segments_go_and_nothing_else(tmp_path: Path, acknowledged: int) -> None:
    writer = written(tmp_path)
    Progress("there:1", ShipState.SHIPPING, tables={"draws": acknowledged}).write(tmp_path, writer.producer)
    spool = Spool(writer, 1, trim=True)
    assert spool.relieve(), "one byte is never room enough"
    gone = min(acknowledged, BATCHES - 1)
    kept = [stamped.sequence for stamped in Dump(tmp_path).batches(Table.DRAWS, writer.producer)]
    assert kept == list(range(gone, BATCHES))
    assert fronts(tmp_path, writer.producer) == ({Table.DRAWS: Front(gone, gone)} if gone else {})
    assert (spool.trimmed, spool.used) == (gone, on_disk(tmp_path))
    writer.close()


def test_there_is_room_for_what_waits_and_one_more_window_to_the_byte(tmp_path: Path) -> None:
    writer = written(tmp_path)
    spool = Spool(writer, on_disk(tmp_path) + writer.nbytes, trim=False)
    spool.end_window()
    assert spool.room(0)
    assert not spool.room(1)
    writer.close()
