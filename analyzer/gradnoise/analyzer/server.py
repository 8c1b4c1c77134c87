"""The service put together: one gRPC port over one data directory."""

from __future__ import annotations

import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gradnoise.analyzer._rpc import AnalysisServicer, ErrorInterceptor, IngestServicer
from gradnoise.analyzer.analysis import analyse, fit_vector
from gradnoise.analyzer.analyst import Analyst
from gradnoise.analyzer.catalog import Catalog
from gradnoise.analyzer.errors import AnalyzerError
from gradnoise.analyzer.handlers import Service
from gradnoise.analyzer.store import Store
from gradnoise.analyzer.windows import ClosedWindow, GroupDraws, Window
from gradnoise.v1 import analysis_pb2_grpc, ingest_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from gradnoise.analyzer.config import ServerConfig

__all__ = ["Server", "serve"]

_log = logging.getLogger(__name__)
_HEADROOM = 1 << 20
_SERVICES = ("", "gradnoise.v1.Ingest", "gradnoise.v1.Analysis")


class Server:
    """A server over a data directory, which it holds locked from its creation to :meth:`stop`.

    Args:
        config: see :class:`~gradnoise.analyzer.config.ServerConfig`.

    Attributes:
        address: ``host:port`` listened on, once :meth:`start` has returned.

    Raises:
        DataDirectoryInUseError, StoreError: the data directory cannot be used.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.address = ""
        limits = config.limits
        self._state: str | None = "the analyzer is starting: try again in a moment"
        self._store = Store(config.data, limits=limits, segment_bytes=config.segment_bytes)
        stored = any((config.data / "runs").iterdir())
        catalog = Catalog(config.data / "catalog.sqlite", rebuilding=stored)
        analyst = Analyst(self._store, catalog, workers=config.workers)
        self._service = Service(self._store, catalog, analyst, limits)
        threads = limits.streams + limits.watchers + limits.queries
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gradnoise-rpc")
        self._health_pool = ThreadPoolExecutor(1, thread_name_prefix="gradnoise-health")
        self._grpc = grpc.server(
            self._pool,
            interceptors=[ErrorInterceptor(lambda: self._state)],
            maximum_concurrent_rpcs=threads,
            options=[
                ("grpc.max_receive_message_length", limits.payload_bytes + _HEADROOM),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a lottery
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        self._ingest = IngestServicer(self._service)
        # The generated functions are untyped.
        ingest_pb2_grpc.add_IngestServicer_to_server(self._ingest, self._grpc)  # type: ignore[no-untyped-call]
        analysis = AnalysisServicer(self._service)
        analysis_pb2_grpc.add_AnalysisServicer_to_server(analysis, self._grpc)  # type: ignore[no-untyped-call]
        self._health = health.HealthServicer(experimental_non_blocking=True, experimental_thread_pool=self._health_pool)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self._set_health(serving=False)

    @property
    def service(self) -> Service:
        """What the handlers work on."""
        return self._service

    def start(self) -> str:
        """Listen, recover the store, warm the kernels, then serve; return the address listened on.

        Raises:
            AnalyzerError: the address cannot be listened on.
        """
        host, _, port = self.config.listen.rpartition(":")
        try:
            bound = self._grpc.add_insecure_port(self.config.listen)
        except RuntimeError as error:
            self.stop(0)
            raise AnalyzerError(
                f"cannot listen on {self.config.listen}: is the port {port} taken, or the host not of this machine? "
                "port 0 takes a free one"
            ) from error
        if host not in ("localhost", "127.0.0.1", "[::1]"):
            _log.warning("listening on %s without encryption or tokens: keep it within a trusted network", host)
        self._grpc.start()
        begun = time.monotonic()
        self._store.recover()
        warm()
        self._service.analyst.start()
        self._state = None
        self._set_health(serving=True)
        self.address = f"{host}:{bound}"
        _log.info("serving %s on %s after %.1f s", self.config.data, self.address, time.monotonic() - begun)
        return self.address

    def stop(self, seconds: float | None = None) -> bool:
        """Take no more calls, finish those and the analyses under way, seal, unlock; return whether all ended in time.

        ``seconds`` is how long to wait; by default what the configuration says.
        """
        seconds = self.config.drain_seconds if seconds is None else seconds
        deadline = time.monotonic() + seconds
        self._state = "the analyzer is shutting down: connect again later"
        self._set_health(serving=False)
        self._service.draining.set()
        self._ingest.wake()
        self._service.catalog.wake()
        ended = self._grpc.stop(seconds)
        done = self._service.analyst.stop(max(0.0, deadline - time.monotonic()))
        ended.wait()
        self._pool.shutdown(wait=done)
        self._health_pool.shutdown(wait=True)
        self._store.close()
        if done:
            self._service.catalog.close()
        return done

    def _set_health(self, *, serving: bool) -> None:
        answers = health_pb2.HealthCheckResponse
        for name in _SERVICES:
            self._health.set(name, answers.SERVING if serving else answers.NOT_SERVING)


def warm() -> None:
    """Run every kernel once, so that the first window does not wait for their compilation."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((64, 32)).astype(np.float32)
    draws = np.arange(64)
    group = GroupDraws("warm", 32, values, np.zeros(64, np.int64), draws.astype(np.int32))
    closed = ClosedWindow(
        run="warm", producer="", window=0, kind="probe", first_step=0, last_step=0, first_theta=0, last_theta=0,
        declared=64, recorded=64, rows=64, non_finite=0, dropped=0,
    )  # fmt: skip
    analyse(Window(closed, missing=0, groups=(group,)))
    for location in (True, False):
        fit_vector(rng.standard_t(3, 500), location=location)


def serve(config: ServerConfig, *, ready: Callable[[str], None] = lambda address: None) -> bool:
    """Serve until SIGTERM or SIGINT, then drain; return whether everything under way ended in time.

    Args:
        config: see :class:`~gradnoise.analyzer.config.ServerConfig`.
        ready: called with the address once calls are served.

    Raises:
        AnalyzerError: it cannot be served. ValueError: called outside the main thread.
    """
    stopping = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stopping.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server = Server(config)
        address = server.start()
        try:
            ready(address)
            stopping.wait()
        finally:
            done = server.stop()
        _log.info("drained" if done else "shut down before everything was finished; it is taken up at the next start")
        return done
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
