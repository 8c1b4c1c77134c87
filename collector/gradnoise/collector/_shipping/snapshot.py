"""How a watch stands, in numbers: for its summary line and its metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradnoise.collector._shipping.shipment import Shipment, Tally

__all__ = ["ProducerNumbers", "Snapshot", "Totals"]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all producers: batches and payload bytes acknowledged, failed attempts, lost streams."""

    batches: int = 0
    bytes: int = 0
    retries: int = 0
    reconnects: int = 0

    def plus(self, tally: Tally) -> Totals:
        """Return the sums with another producer."""
        return Totals(
            self.batches + tally.batches,
            self.bytes + tally.bytes,
            self.retries + tally.retries,
            self.reconnects + tally.reconnects,
        )


@dataclass(frozen=True, slots=True)
class ProducerNumbers:
    """One producer: its tally, bytes on disk that are not acknowledged, seconds since the last acknowledgement."""

    tally: Tally
    unacknowledged: int
    silence: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it.

    Attributes:
        totals: of all producers, those that are over too.
        producers: those on their way first, then those that ended last; a bounded number.
        live, waiting: producers on their way that run, and that have ended.
        done, failed: producers that are over.
        unacknowledged: bytes on disk that are not acknowledged, of the producers shown.
    """

    totals: Totals
    producers: tuple[ProducerNumbers, ...]
    live: int
    waiting: int
    done: int
    failed: int
    unacknowledged: int

    @classmethod
    def of(
        cls, active: Sequence[Shipment], recent: Sequence[Shipment], past: Totals, done: int, failed: int, *, shown: int
    ) -> Self:
        """Take a snapshot of shipments on their way and of those that ended last."""
        now = time.monotonic()
        totals = past
        live = 0
        for shipment in active:
            totals = totals.plus(shipment.tally())
            live += shipment.live
        producers = tuple(
            ProducerNumbers(tally := shipment.tally(), shipment.unacknowledged(), now - tally.last_ack)
            for shipment in [*active, *recent][:shown]
        )
        left = sum(each.unacknowledged for each in producers[: len(active)])
        return cls(totals, producers, live, len(active) - live, done, failed, left)

    @property
    def line(self) -> str:
        """One line for a person."""
        totals = self.totals
        return (
            f"{self.live} live, {self.waiting} waiting, {self.done} done, {self.failed} failed; "
            f"{totals.batches} batches, {totals.bytes / 1e6:.1f} MB acknowledged, "
            f"{self.unacknowledged / 1e6:.1f} MB to go, {totals.retries} retries"
        )
