from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Before NumPy is loaded: on a busy machine threads that share one small matrix wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def quiet_environment() -> Iterator[None]:
    """No settings from the shell, neither here nor in the processes that tests and their fixtures start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GRADNOISE_")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True, scope="session")
def heard_interrupts() -> None:
    """Ctrl-C reaches the tests and their processes also in the background of a shell, where it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def unchanged_environment(quiet_environment: None) -> Iterator[None]:
    """What a library sets in the environment (Lightning its ranks) ends with the test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
