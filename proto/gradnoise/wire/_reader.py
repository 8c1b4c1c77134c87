"""Reading a dump: everything that is whole, and a list of what is not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from gradnoise.wire._errors import NotADumpError
from gradnoise.wire._run import RunInfo
from gradnoise.wire._schemas import Table
from gradnoise.wire._segment import Place, Segment, SegmentState, open_segment
from gradnoise.wire._trim import Front, fronts
from gradnoise.wire._writer import RUN_FILE, producer_is_alive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gradnoise.wire._stamp import Stamped

__all__ = ["Dump", "Problem", "ProblemKind", "segments_of"]


class ProblemKind(StrEnum):
    """What can be wrong with a stored dump."""

    TORN = "torn"
    CORRUPT = "corrupt"
    GAP = "gap"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a dump that could not be read, or is not there, and where."""

    kind: ProblemKind
    table: Table
    producer: str
    detail: str


def segments_of(path: Path) -> list[Segment]:
    """Return the segments in a dump's directory, by table, producer and number."""
    return sorted({segment for entry in path.iterdir() if (segment := Segment.parse(entry)) is not None})


class Dump:
    """A dump on disk, complete or still growing.

    Attributes:
        path: its directory.
        info: its run.
        problems: what the iterations so far could not read. A batch that is not yielded is always accounted for here.

    Raises:
        NotADumpError: the path holds no ``run.json``.
        UnknownSchemaVersionError: the run is of a version this gradnoise does not read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            text = (self.path / RUN_FILE).read_bytes()
        except OSError as error:
            raise NotADumpError(
                f"{self.path} is not a gradnoise dump: {RUN_FILE} cannot be read ({error.strerror or error}); "
                "give the directory that the collector wrote, which holds run.json"
            ) from error
        self.info = RunInfo.from_json(text, str(self.path / RUN_FILE))
        self.problems: list[Problem] = []

    def producers(self) -> list[str]:
        """Return the ids of the producers that have written anything."""
        return sorted({segment.producer for segment in segments_of(self.path)})

    def segments(self, table: Table, producer: str) -> list[Segment]:
        """Return the producer's segments of a table, in order."""
        return [s for s in segments_of(self.path) if s.table is table and s.producer == producer]

    def batches(self, table: Table, producer: str) -> Iterator[Stamped]:
        """Yield the producer's batches of a table in sequence, each checked against its CRC.

        They are as they were written: :func:`gradnoise.wire.completed` puts back the columns that one lacks.

        Raises:
            UnknownSchemaVersionError: a segment is of a version this gradnoise does not read.
        """
        for _, stamped in self.placed(table, producer):
            yield stamped

    def read(self, places: Iterable[Place]) -> Iterator[Stamped]:
        """Yield the batches that lie at ``places``, each checked against its CRC; damaged ones are passed over.

        Raises:
            FileNotFoundError: a segment is gone.
        """
        for place in places:
            reader = open_segment(self.path, place.segment)
            if reader is None:
                raise FileNotFoundError(f"{place.segment.path(self.path, sealed=True)} is gone from the dump")
            try:
                reader.seek(place.begin)
                yield from reader.poll(place.end)
            finally:
                reader.close()

    def placed(self, table: Table, producer: str) -> Iterator[tuple[Place, Stamped]]:
        """Yield what :meth:`batches` yields, each with the place that :meth:`read` takes.

        Raises:
            UnknownSchemaVersionError: a segment is of a version this gradnoise does not read.
        """
        segments = self.segments(table, producer)
        front = fronts(self.path, producer).get(table, Front()).sequence
        expected: int | None = None
        alive = producer_is_alive(self.path, producer)
        for segment in segments:
            reader = open_segment(self.path, segment)
            if reader is None:
                continue
            path = reader.path
            begin = reader.offset
            try:
                for stamped in reader.poll():
                    place = Place(segment, begin, reader.offset)
                    begin = reader.offset
                    if expected is None:  # what is said to be deleted may still be there
                        expected = min(front, stamped.sequence)
                    if stamped.sequence < expected:
                        self._note(ProblemKind.DUPLICATE, segment, f"batch {stamped.sequence} again in {path.name}")
                        continue
                    if stamped.sequence > expected:
                        missing = f"batches {expected} to {stamped.sequence - 1} are missing"
                        self._note(ProblemKind.GAP, segment, missing)
                    expected = stamped.sequence + 1
                    yield place, stamped
            finally:
                reader.close()
            for detail in reader.corrupt:
                self._note(ProblemKind.CORRUPT, segment, detail)
            last = segment is segments[-1]
            unfinished = reader.state is SegmentState.PENDING and reader.problem is not None and not (alive and last)
            if reader.problem is not None and (unfinished or reader.state is SegmentState.BROKEN):
                self._note(ProblemKind.TORN, segment, f"{path.name}: {reader.problem}")

    def _note(self, kind: ProblemKind, segment: Segment, detail: str) -> None:
        problem = Problem(kind, segment.table, segment.producer, detail)
        if problem not in self.problems:
            self.problems.append(problem)
