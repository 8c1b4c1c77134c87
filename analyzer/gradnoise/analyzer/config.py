"""How a server is set up."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from gradnoise.analyzer.errors import InvalidRequestError

__all__ = ["Limits", "ServerConfig"]

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes from its clients.

    Attributes:
        payload_bytes: the largest payload of one batch.
        credit_bytes: payload bytes that a stream may have under way unacknowledged; also what the server buffers
            of it in memory.
        streams: ingest streams at one time.
        watchers: watch calls at one time.
        queries: further calls at one time.
        runs: runs in the store.
        producers: producers of one run.
        groups: parameter groups of one run.
        fit_values: numbers in one ad-hoc fit.
    """

    payload_bytes: int = 64 * _MIB
    credit_bytes: int = 16 * _MIB
    streams: int = 64
    watchers: int = 32
    queries: int = 32
    runs: int = 10_000
    producers: int = 4096
    groups: int = 32_767
    fit_values: int = 4_000_000


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A server: where its data lies and where it listens.

    Attributes:
        data: the data directory; made if missing.
        listen: ``host:port``; port 0 takes a free one.
        workers: threads that analyse windows.
        drain_seconds: how long a shutdown waits for calls and analyses under way.
        segment_bytes: size behind which the store begins a new segment.
        limits: see :class:`Limits`.

    Raises:
        InvalidRequestError: a value that cannot be used.
    """

    data: Path
    listen: str = "127.0.0.1:50051"
    workers: int = max(1, (os.cpu_count() or 2) // 2)
    drain_seconds: float = 10.0
    segment_bytes: int = 64 * _MIB
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        host, colon, port = self.listen.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise InvalidRequestError(
                f"listen address {self.listen!r} is not usable: expected HOST:PORT, such as 127.0.0.1:50051"
            )
        if self.workers < 1:
            raise InvalidRequestError(f"workers is {self.workers}: expected 1 or more")
        if not self.drain_seconds >= 0:
            raise InvalidRequestError(f"drain_seconds is {self.drain_seconds}: expected 0 or more")
