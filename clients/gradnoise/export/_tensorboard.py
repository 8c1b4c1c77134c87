"""Scalars as TensorBoard's event files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gradnoise.export._errors import ExportError, library

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from gradnoise.export._scalars import Scalars

__all__ = ["TensorBoard"]

_SUFFIX = ".gradnoise"
_FLUSH = 5  # seconds


class TensorBoard:
    """Writes event files below a directory: ``<directory>/<run>/<first 8 letters of the producer>``.

    Numbers are scalars ``gradnoise/<form>/<group>/<kind>/<number>``, of alignment
    ``gradnoise/<metric>/<part>/<kind>/<number>``, at the window's last step; the verdict is a text beside them.
    Exporting again adds only what is not there yet: the event files of earlier exports are read first.

    Args:
        directory: what ``tensorboard --logdir`` is given.

    Raises:
        ExportError: the package tensorboard is missing.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._writing = library("tensorboard.summary.writer.event_file_writer", "tensorboard")
        self._reading = library("tensorboard.backend.event_processing.event_file_loader", "tensorboard")
        self._events = library("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._summaries = library("tensorboard.compat.proto.summary_pb2", "tensorboard")
        self._tensors = library("tensorboard.compat.proto.tensor_pb2", "tensorboard")
        self._shapes = library("tensorboard.compat.proto.tensor_shape_pb2", "tensorboard")
        self._types = library("tensorboard.compat.proto.types_pb2", "tensorboard")
        self._writers: dict[Path, Any] = {}
        self._there: dict[Path, set[tuple[str, int, float]]] = {}

    def write(self, scalars: Scalars) -> int:
        """Write what is not there yet; return how many numbers were written.

        Raises:
            ExportError: the directory cannot be written.
        """
        place = self._directory / scalars.run / scalars.producer[:8]
        try:
            there = self._there.get(place)
            if there is None:
                there = self._there[place] = self._read(place)
            # Event files hold numbers in 32 bits.
            numbers = {
                (f"{scalars.name}/{name}", scalars.step, float(np.float32(number)))
                for name, number in scalars.numbers.items()
            } - there
            if not numbers:
                return 0
            values = [self._summaries.Summary.Value(tag=tag, simple_value=number) for tag, _, number in sorted(numbers)]
            values.append(self._text(f"{scalars.name}/verdict", scalars.verdict))
            event = self._events.Event(wall_time=scalars.time, step=scalars.step)
            event.summary.value.extend(values)
            self._writer(place).add_event(event)
        except OSError as error:
            raise ExportError(f"{place} cannot be written: {error.strerror or error}") from error
        there |= numbers
        return len(numbers)

    def close(self) -> None:
        """Write out what waits; idempotent."""
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            writer.close()

    def _writer(self, place: Path) -> Any:
        writer = self._writers.get(place)
        if writer is None:
            writer = self._writers[place] = self._writing.EventFileWriter(
                str(place), flush_secs=_FLUSH, filename_suffix=_SUFFIX
            )
        return writer

    def _text(self, tag: str, text: str) -> Any:
        metadata = self._summaries.SummaryMetadata(
            plugin_data=self._summaries.SummaryMetadata.PluginData(plugin_name="text")
        )
        shape = self._shapes.TensorShapeProto(dim=[self._shapes.TensorShapeProto.Dim(size=1)])
        tensor = self._tensors.TensorProto(dtype=self._types.DT_STRING, string_val=[text.encode()], tensor_shape=shape)
        return self._summaries.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)

    def _read(self, place: Path) -> set[tuple[str, int, float]]:
        """Return what earlier exports wrote: (tag, step, number)."""
        return {
            (value.tag, event.step, value.simple_value)
            for path in sorted(place.glob(f"*{_SUFFIX}"))
            for event in self._reading.LegacyEventFileLoader(str(path)).Load()
            for value in event.summary.value
            if value.HasField("simple_value")
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
