"""How far a shipper has come: a small file in the dump, replaced atomically."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Progress", "ShipState"]


class ShipState(StrEnum):
    """Of a shipper: on its way, all acknowledged, retrying, or ended with something left in the dump."""

    SHIPPING = "shipping"
    DONE = "done"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """The content of ``ship-<producer>.json``.

    Attributes:
        endpoint: where the producer's batches go.
        state: how it stands.
        rows: rows of the draws table that are acknowledged.
        tables: table -> first sequence number that is not acknowledged.
        error: what last went wrong; None while all is well.
        bytes: payload bytes acknowledged since the shipper began.
        retries: failed attempts since the shipper began.
        last_ack: when the analyzer last acknowledged something, in seconds since 1970; None if not yet.
        counted: batches of the draws table that ``rows`` are of: fewer than acknowledged while a shipper that began
            anew has not read them again.
    """

    endpoint: str
    state: ShipState
    rows: int = 0
    tables: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    bytes: int = 0
    retries: int = 0
    last_ack: float | None = None
    counted: int = 0

    @staticmethod
    def path(dump: Path, producer: str) -> Path:
        """Return the file's place."""
        return dump / f"ship-{producer}.json"

    def write(self, dump: Path, producer: str) -> None:
        """Replace the file.

        Raises:
            OSError: it cannot be written.
        """
        target = self.path(dump, producer)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps(asdict(self)))
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def read(cls, dump: Path, producer: str) -> Progress | None:
        """Return the file's content; None where there is none, or none that can be read."""
        try:
            data = json.loads(cls.path(dump, producer).read_bytes())
            last = data.get("last_ack")
            return cls(
                endpoint=str(data["endpoint"]),
                state=ShipState(data["state"]),
                rows=int(data["rows"]),
                tables={str(table): int(number) for table, number in data["tables"].items()},
                error=None if data["error"] is None else str(data["error"]),
                bytes=int(data.get("bytes", 0)),
                retries=int(data.get("retries", 0)),
                last_ack=None if last is None else float(last),
                counted=int(data.get("counted", 0)),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
