from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True, scope="session")
def quiet_environment() -> Iterator[None]:
    """No settings from the shell, neither here nor in the processes that tests and their fixtures start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GRADNOISE_")]:
            patch.delenv(name)
        yield
