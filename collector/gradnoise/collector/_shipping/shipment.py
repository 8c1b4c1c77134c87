"""Shipping one producer's part of a dump, over as many streams and turns as it takes."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradnoise.collector._errors import GoneError, RefusedError, ShipError, UnreachableError
from gradnoise.collector._shipping.backoff import Backoff
from gradnoise.collector._shipping.lease import Lease
from gradnoise.collector._shipping.progress import Progress, ShipState
from gradnoise.collector._shipping.session import CutError, Known, run_session
from gradnoise.collector._shipping.source import unacknowledged_bytes
from gradnoise.wire import WireError, producer_is_alive

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradnoise.collector._shipping.flight import Flight
    from gradnoise.collector._shipping.session import Link
    from gradnoise.collector._shipping.source import Position, Source
    from gradnoise.wire import Dump, Table

__all__ = ["ProducerReport", "Shipment", "Tally"]

_PROGRESS_EVERY = 0.2
_STALL = 30.0  # seconds without an answer, while batches are under way, after which a stream is dead
_STAND_BY = 1.0  # seconds between two looks whether another shipper of the producer is gone
_SAY_AGAIN = 300.0  # seconds after which the log hears again that the analyzer is still out of reach
_log = logging.getLogger("gradnoise.shipper")


@dataclass(frozen=True, slots=True)
class ProducerReport:
    """One producer's shipment.

    Attributes:
        producer: its id.
        batches: batches acknowledged in this shipment.
        rows: rows of the draws table that the analyzer has, earlier shipments included.
        tables: table -> batches that the analyzer has.
        problems: what the dump holds and could not be shipped, because batches before it are damaged or missing.
    """

    producer: str
    batches: int
    rows: int
    tables: dict[str, int]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """How a shipment stands, in numbers.

    Attributes:
        run, producer: whose it is.
        state: how it stands; None before its first turn.
        batches, bytes: acknowledged in this shipment, bytes of payloads.
        rows: rows of the draws table that the analyzer has.
        retries: attempts that failed.
        reconnects: streams that took over from a lost one.
        last_ack: monotonic time of the last acknowledgement; of the shipment's beginning where there was none.
    """

    run: str
    producer: str
    state: ShipState | None
    batches: int
    bytes: int
    rows: int
    retries: int
    reconnects: int
    last_ack: float


class Shipment:
    """One producer's part of a dump on its way.

    Args:
        dump: the dump.
        producer: the producer's id.
        endpoint: the analyzer's name.
        grace: seconds for which the analyzer may take nothing before this gives up.
        patient: never give up while the producer runs; ``grace`` then counts from its end.
        on_progress: called now and then with how far it has come.

    Attributes:
        report: what was done, once all that can be shipped is acknowledged.
        failure: why it ended without that.
        live: whether the producer was alive when last asked.
    """

    def __init__(
        self,
        dump: Dump,
        producer: str,
        endpoint: str,
        *,
        grace: float,
        patient: bool,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.dump = dump
        self.producer = producer
        self.report: ProducerReport | None = None
        self.failure: Exception | None = None
        self.live = producer_is_alive(dump.path, producer)
        self._endpoint = endpoint
        self._grace = grace
        self._stall = min(_STALL, max(1.0, grace / 3))
        self._patient = patient
        self._on_progress = on_progress
        self._lease = Lease(dump.path, producer)
        self._holding = self._standing_by = False
        self._backoff = Backoff()
        self._source: Source | None = None
        self._before: Progress | None = None
        self._state: ShipState | None = None
        self._tables: dict[str, int] = {}
        self._reached: dict[Table, Position] = {}
        self._rows = self._counted = self._batches = self._bytes = self._retries = self._reconnects = 0
        self._lost = False
        self._last_ack: float | None = None
        self._last_good = self._begun = time.monotonic()
        self._said = 0.0
        self._logged: tuple[str, float] = ("", 0.0)
        self._progress_failed = False
        self._unsaid = False
        self._saying = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done."""
        return self.report is not None or self.failure is not None

    def tally(self) -> Tally:
        """Return how it stands."""
        return Tally(
            run=self.dump.info.run,
            producer=self.producer,
            state=self._state,
            batches=self._batches,
            bytes=self._bytes,
            rows=self._rows,
            retries=self._retries,
            reconnects=self._reconnects,
            last_ack=self._begun if self._last_ack is None else self._last_ack,
        )

    def unacknowledged(self) -> int:
        """Return the bytes in the dump that the analyzer is not known to have; 0 for a dump that is gone."""
        if self.report is not None:
            return 0
        try:
            return unacknowledged_bytes(self.dump, self.producer, self._reached)
        except OSError:
            return 0

    def step(self, link: Link, give_way: Callable[[bool], bool], stopping: threading.Event) -> float | None:
        """Ship until the end, a failure, or another's turn.

        Args:
            link: the analyzer.
            give_way: see :func:`~gradnoise.collector._shipping.session.run_session`.
            stopping: set before the channel is closed: what happens then is no failure.

        Returns:
            The monotonic time from which to call again; None when it is over, or stopped.
        """
        try:
            again = self._turn(link, give_way)
        except Exception as error:
            if stopping.is_set():
                again = None
            elif isinstance(error, CutError):
                again = self._after(error, link)
            else:
                self._fail(error)
                again = None
        self.live = again is not None and producer_is_alive(self.dump.path, self.producer)
        if again is None or not self.live:
            # What waits for its turn holds no descriptors, of however many finished dumps; a living producer's lease
            # is kept, so that its own shipper sees that it is taken care of.
            self._release()
        return again

    def close(self) -> None:
        """Let go of the dump: of a shipment that will have no other turn."""
        self._release()
        if self._source is not None:
            self._source.close()
            self._source = None

    def _turn(self, link: Link, give_way: Callable[[bool], bool]) -> float | None:
        if not self._hold():
            return time.monotonic() + _STAND_BY
        if self._standing_by and self._done_by_another():
            return None
        self._standing_by = False
        if self._state is None:
            self._last_good = time.monotonic()  # the wait for the first turn is not the analyzer's
        self._say(ShipState.SHIPPING)
        source, self._source = self._source, None
        advance = self._advance(link, self._batches, self._bytes)
        known = Known(dict(self._tables), self._rows, self._counted, source, self._before)
        outcome = run_session(
            link,
            self.dump,
            self.producer,
            known,
            advance,
            stall=self._stall,
            give_way=lambda caught_up: self._caught_up(caught_up) or give_way(caught_up),
        )
        advance(outcome.flight)
        if outcome.source is not None:
            self._source = outcome.source
            self._say(ShipState.SHIPPING)
            return time.monotonic()
        if not (self.dump.path / "run.json").exists():
            raise self._gone()
        problem = "; ".join(outcome.problems) or None
        self._say(ShipState.DONE if problem is None else ShipState.FAILED, problem)
        self.report = ProducerReport(self.producer, self._batches, self._rows, dict(self._tables), outcome.problems)
        return None

    def _hold(self) -> bool:
        """Take the lease, and learn what was shipped while others had it; False while another shipper has it."""
        if self._holding:
            return True
        if not self._lease.take():
            if not self._standing_by:
                self._standing_by = True
                _log.info("%s: another shipper has producer %s; standing by", self.dump.path, self.producer[:8])
            return False
        self._holding = True
        before = Progress.read(self.dump.path, self.producer)
        if before is not None:
            self._before = self._before or before
            if before.endpoint == self._endpoint and before.counted >= self._counted:
                self._tables, self._rows, self._counted = dict(before.tables), before.rows, before.counted
        return True

    def _release(self) -> None:
        self._holding = False
        self._lease.release()

    def _done_by_another(self) -> bool:
        done = Progress.read(self.dump.path, self.producer)
        if done is None or done.state is not ShipState.DONE or done.endpoint != self._endpoint:
            return False
        if producer_is_alive(self.dump.path, self.producer):
            return False
        self._state = ShipState.DONE
        self.report = ProducerReport(self.producer, self._batches, done.rows, dict(done.tables))
        return True

    def _advance(self, link: Link, batches: int, nbytes: int) -> Callable[[Flight], None]:
        def advance(flight: Flight) -> None:
            self._reconnects += self._lost
            self._lost = False
            if flight.batches:
                self._last_good = self._last_ack = link.contact.last = time.monotonic()
                self._backoff.reset()
            self._batches, self._bytes = batches + flight.batches, nbytes + flight.bytes
            tables = flight.tables
            if any(tables.get(table, 0) < number for table, number in self._tables.items()):
                self._reached.clear()  # the analyzer has lost what it had
            self._tables = tables
            self._rows, self._counted = flight.counted
            for table, position in list(flight.reached.items()):
                self._reached[table] = max(position, self._reached.get(table, (0, 0)))
            self._unsaid = True
            self._say_now_and_then()

        return advance

    def _caught_up(self, caught_up: bool) -> bool:
        """Say what the last acknowledgement came too soon for; never a reason to give way."""
        if caught_up:
            self._say_now_and_then()
        return False

    def _say_now_and_then(self) -> None:
        if self._unsaid and time.monotonic() - self._said >= _PROGRESS_EVERY:
            self._say(ShipState.SHIPPING)

    def _after(self, cut: CutError, link: Link) -> float | None:
        """Return when to try again after a cut; None if the time is over, which is then the failure."""
        now = time.monotonic()
        self._retries += 1
        self._lost = True
        if self._patient and producer_is_alive(self.dump.path, self.producer):
            self._last_good = now
        if now - max(self._last_good, link.contact.last) >= self._grace:
            message = (
                f"{self._endpoint} took nothing for {self._grace:g} s ({cut}); the dump {self.dump.path} holds what "
                "is left: start the analyzer there, or give another endpoint, and ship again"
            )
            self._say(ShipState.UNREACHABLE, message)
            self.failure = UnreachableError(message)
            return None
        delay = min(self._backoff.next(cut.after), max(0.05, self._grace))
        self._say(ShipState.UNREACHABLE, f"{self._endpoint}: {cut}")
        said, at = self._logged
        if str(cut) != said or now - at >= _SAY_AGAIN:
            self._logged = (str(cut), now)
            _log.info("%s: %s; trying again", self._endpoint, cut)
        return now + delay

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OSError) and not (self.dump.path / "run.json").exists():
            error = self._gone()
        elif isinstance(error, OSError):
            error = ShipError(f"the dump {self.dump.path} cannot be read: {error}")
        elif not isinstance(error, ShipError | WireError):
            _log.error("shipping %s failed unexpectedly", self.dump.path, exc_info=error)
        self.failure = error
        self._say(ShipState.REFUSED if isinstance(error, RefusedError) else ShipState.FAILED, str(error))

    def _gone(self) -> GoneError:
        return GoneError(f"the dump {self.dump.path} is gone: it was deleted while it was shipped")

    def _say(self, state: ShipState, error: str | None = None) -> None:
        with self._saying:  # the stream's two threads
            self._said = time.monotonic()
            self._unsaid = False
            self._state = state
            progress = Progress(
                self._endpoint,
                state,
                self._rows,
                dict(self._tables),
                error,
                bytes=self._bytes,
                retries=self._retries,
                last_ack=None if self._last_ack is None else time.time() - (self._said - self._last_ack),
                counted=self._counted,
            )
            try:
                progress.write(self.dump.path, self.producer)
            except OSError as failure:  # a full or read-only disk does not stop the shipment
                if not self._progress_failed:
                    self._progress_failed = True
                    _log.warning("progress cannot be written to %s: %s", self.dump.path, failure)
            if self._on_progress is not None:
                self._on_progress(progress)
