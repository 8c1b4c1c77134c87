from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from gradnoise.wire import DumpWriter, Table

from ..analyzer.conftest import serve
from ..analyzer.producing import WIDE, Producer, idle
from ..proto.dumps import draws_batch, windows_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gradnoise.analyzer.server import Server

    from ..analyzer.conftest import Serve

__all__ = ["serve"]


@pytest.fixture
def analyzer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Server]:
    """An analyzer with two windows of the run ``wide``, at ``$GRADNOISE_ENDPOINT``."""
    server, channel = serve()
    add_windows(server, channel, range(2))
    monkeypatch.setenv("GRADNOISE_ENDPOINT", server.address)
    return server.address, server


def add_windows(server: Server, channel: grpc.Channel, numbers: range) -> None:
    """Send windows of 80 draws as one producer, and wait for their analysis."""
    producer = Producer(channel, WIDE, "c" * 32)
    producer.open()
    for number in numbers:
        producer.send_window(number, number=number)
    idle(server.service.store, server.service.catalog)


@pytest.fixture
def make_dump(tmp_path: Path) -> Callable[..., Path]:
    """Write a sealed dump of the run ``wide``: 80 draws a window."""

    def make(name: str = "dump", *, windows: int = 2, draws: int = 80) -> Path:
        writer = DumpWriter(tmp_path / name, WIDE)
        for number in range(windows):
            writer.append(Table.DRAWS, draws_batch(range(draws), window=number, seed=number, info=WIDE))
            writer.append(Table.WINDOWS, windows_batch(number, draws, info=WIDE))
        writer.close()
        return tmp_path / name

    return make
