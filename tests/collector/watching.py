"""A watch beside the test, dumps for it, and whether all of them arrived."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradnoise.collector.shipper import watch
from gradnoise.wire import Dump, DumpWriter, Table

from ..proto.dumps import INFO
from .fake import FakeIngest
from .test_shipper import DRAWS, WINDOWS, fill

if TYPE_CHECKING:
    from gradnoise.collector._shipping.watch import WatchReport


__all__ = ["BATCHES", "ROOT", "Watching", "run_of", "stored"]

BATCHES = WINDOWS * (DRAWS + 1)
ROOT = Path(__file__).parents[2]


class Watching(threading.Thread):
    """A watch on a thread of its own."""

    def __init__(self, directory: Path, endpoint: str, **options: Any) -> None:
        super().__init__(daemon=True)
        self.end = threading.Event()
        self.report: WatchReport | None = None
        self._call = (directory, endpoint, options)
        self.start()

    def run(self) -> None:
        directory, endpoint, options = self._call
        self.report = watch(directory, endpoint, stop=self.end, **options)

    def stop(self) -> WatchReport:
        self.end.set()
        self.join(30)
        assert self.report is not None
        return self.report


def run_of(path: Path, name: str, *, windows: int = WINDOWS) -> str:
    """A finished dump of a run of that name; returns its producer."""
    writer = DumpWriter(path, replace(INFO, run=name), segment_bytes=4000)
    fill(writer, windows=windows)
    writer.close()
    return writer.producer


def stored(ingest: FakeIngest, *paths: Path) -> bool:
    """Whether exactly what the dumps hold is stored, each batch once, in order."""
    wanted = {
        (producer, table.value): [(s.sequence, s.crc32) for s in batches]
        for path in paths
        for producer in Dump(path).producers()
        for table in Table
        if (batches := list(Dump(path).batches(table, producer)))
    }
    return {key: [(s.sequence, s.crc32) for s in found] for key, found in ingest.stored.items()} == wanted
