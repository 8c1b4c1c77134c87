"""What a producer has deleted from the front of its part of a dump, after an analyzer had acknowledged it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from gradnoise.wire._schemas import Table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Front", "fronts", "write_fronts"]


@dataclass(frozen=True, slots=True)
class Front:
    """Where a table begins: its first segment that is kept, and the first batch in it."""

    segment: int = 0
    sequence: int = 0


def _path(directory: Path, producer: str) -> Path:
    return directory / f"trim-{producer}.json"


def fronts(directory: Path, producer: str) -> dict[Table, Front]:
    """Return where the producer's tables begin; a table that is whole is left out."""
    try:
        data = json.loads(_path(directory, producer).read_bytes())
        return {Table(name): Front(int(front["segment"]), int(front["sequence"])) for name, front in data.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # what is missing then shows as missing


def write_fronts(directory: Path, producer: str, found: Mapping[Table, Front]) -> None:
    """Say where the producer's tables begin; to be called before anything is deleted.

    Raises:
        OSError: it cannot be written.
    """
    target = _path(directory, producer)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps({table.value: asdict(front) for table, front in found.items()}))
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
