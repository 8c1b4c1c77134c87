from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from gradnoise.analyzer.config import Limits, ServerConfig
from gradnoise.analyzer.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Serve = Callable[..., tuple[Server, grpc.Channel]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers on loopback, with a channel each; both are closed at the end."""
    servers: list[Server] = []
    channels: list[grpc.Channel] = []

    def start(data: Path | None = None, *, limits: Limits | None = None) -> tuple[Server, grpc.Channel]:
        config = ServerConfig(data or tmp_path / "data", "127.0.0.1:0", drain_seconds=5, limits=limits or Limits())
        server = Server(config)
        servers.append(server)
        address = server.start()
        channels.append(grpc.insecure_channel(address))
        return server, channels[-1]

    yield start
    for channel in channels:
        channel.close()
    for server in servers:
        server.stop()
