from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from .fake import FakeIngest, FakeServer, Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own says that the tests are part of a distributed job, or go on with a run."""
    for variable in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT", "GRADNOISE_RESUME"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, because small products gain nothing from two, and the same random numbers each time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    servers: list[FakeServer] = []

    def start(faults: Faults | None = None, **options: Any) -> FakeServer:
        servers.append(FakeServer(FakeIngest(faults), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
