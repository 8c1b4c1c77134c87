"""Many shipments at once over one channel, so many streams at a time, each in its turn."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import TYPE_CHECKING, Self

import grpc

from gradnoise.collector._shipping.session import CHANNEL_OPTIONS, Link
from gradnoise.collector.channel import open_channel
from gradnoise.collector.credentials import Credentials
from gradnoise.v1 import ingest_pb2_grpc

if TYPE_CHECKING:
    from types import TracebackType

    from gradnoise.collector._shipping.shipment import Shipment

__all__ = ["Fleet"]

_TURN = 5.0  # seconds of shipping after which a stream ends where others wait
_LEAST_TURN = 0.5  # seconds after which one that has caught up does
_UNDER_WAY = 32 << 20  # payload bytes of all streams together that may be unacknowledged
_LEAST_UNDER_WAY = 2 << 20  # of one stream
_GOODBYE = 5.0  # seconds that stopped streams have to end


class Fleet:
    """Ships what is added, at most ``streams`` at a time; a context manager that stops it.

    Shipments of living producers and of finished ones wait in two queues. Where both wait the streams are shared by
    halves, so that neither a backlog of old dumps nor endless trainings keep the others away; within a queue it is
    first come, first served, and a stream is left after some seconds to those who wait.

    Args:
        endpoint: ``HOST:PORT`` of the analyzer.
        streams: streams at a time.

    Raises:
        CredentialsError: the environment's certificates or token cannot be used.
    """

    def __init__(self, endpoint: str, streams: int) -> None:
        credentials = Credentials.of_environment(endpoint)
        self._channel: grpc.Channel = open_channel(endpoint, CHANNEL_OPTIONS, credentials=credentials)
        stub = ingest_pb2_grpc.IngestStub(self._channel)  # type: ignore[no-untyped-call]
        most = max(_LEAST_UNDER_WAY, _UNDER_WAY // streams)
        self._link = Link(stub, endpoint, credentials.hide, most)
        self._streams = streams
        self._waiting: dict[bool, list[tuple[float, int, Shipment]]] = {True: [], False: []}  # by "it lives"
        self._under_way: dict[bool, int] = {True: 0, False: 0}
        self._order = itertools.count()
        self._last = False
        self._ended: list[Shipment] = []
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    def add(self, shipment: Shipment) -> None:
        """Ship it when it is its turn."""
        with self._changed:
            self._queue(shipment, time.monotonic())
            if len(self._threads) < self._streams:
                name = f"gradnoise-stream-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._threads[-1].start()
            self._changed.notify_all()

    def ended(self) -> list[Shipment]:
        """Return the shipments that are over since the last call."""
        with self._changed:
            ended, self._ended = self._ended, []
            return ended

    @property
    def idle(self) -> bool:
        """Whether every shipment is over."""
        with self._changed:
            return not (any(self._waiting.values()) or any(self._under_way.values()))

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until every shipment is over; False if that took longer."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while any(self._waiting.values()) or any(self._under_way.values()):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def stop(self) -> None:
        """Break off what is under way; what is acknowledged stays so."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._channel.close()
        deadline = time.monotonic() + _GOODBYE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            for _, _, shipment in itertools.chain(*self._waiting.values()):
                shipment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _queue(self, shipment: Shipment, ready: float) -> None:
        heapq.heappush(self._waiting[shipment.live], (ready, next(self._order), shipment))

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            shipment, kind = taken
            begun = time.monotonic()

            def give_way(caught_up: bool, begun: float = begun, kind: bool = kind) -> bool:
                lasted = time.monotonic() - begun
                return lasted > (_LEAST_TURN if caught_up else _TURN) and self._crowded(kind)

            try:
                ready = shipment.step(self._link, give_way, self._stopping)
            except Exception as error:  # a caller's on_progress
                ready, shipment.failure = None, error
            with self._changed:
                self._under_way[kind] -= 1
                if ready is not None:
                    self._queue(shipment, ready)
                elif shipment.over:
                    self._ended.append(shipment)
                self._changed.notify_all()

    def _next(self) -> tuple[Shipment, bool] | None:
        """Wait for the next turn, and take it; None when it is over."""
        with self._changed:
            while not self._stopping.is_set():
                now = time.monotonic()
                ready = [kind for kind, queue in self._waiting.items() if queue and queue[0][0] <= now]
                if ready:
                    kind = min(ready, key=lambda each: (self._under_way[each], each is self._last))
                    self._last = kind
                    self._under_way[kind] += 1
                    return heapq.heappop(self._waiting[kind])[2], kind
                first = min((queue[0][0] for queue in self._waiting.values() if queue), default=None)
                self._changed.wait(None if first is None else max(0.0, first - now))
        return None

    def _crowded(self, kind: bool) -> bool:
        """Whether a stream of this kind is to be left to another: one of its kind, or of one with less than half."""
        with self._changed:
            now = time.monotonic()
            if sum(self._under_way.values()) < self._streams:
                return False  # a thread is free for whoever is ready
            same, other = self._waiting[kind], self._waiting[not kind]
            if same and same[0][0] <= now:
                return True
            fewer = self._under_way[not kind] < min(self._streams // 2 or 1, self._under_way[kind])
            return fewer and bool(other) and other[0][0] <= now
