"""What a distributed job is to a process of it: how many ranks, what they agree on.

Nothing here is a collective or waits for another rank: attach may be called on some ranks only. torch is looked at only
where it is loaded, so that asking costs a process without it nothing.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

__all__ = ["agreed_run", "first_of", "store", "world_size"]


def agreed_run(job: str | None, run: str) -> str:
    """Return the id of a run on which the ranks of a job agree, that of the first to ask; outside a job ``run``."""
    if job is not None:
        with contextlib.suppress(Exception):
            return first_of(f"gradnoise/run/{job}", run)
    return run


def first_of(key: str, value: str) -> str:
    """Set a value in the job's store where there is none, and return what is there then: the first rank's.

    Like :func:`store` it raises whatever torch does.
    """
    answer: bytes = store().compare_set(key, "", value)
    return answer.decode()


def store() -> Any:
    """Return the job's key-value store; raises where there is none."""
    return sys.modules["torch.distributed.distributed_c10d"]._get_default_store()


def world_size() -> int:
    """Return the number of ranks of the job that this process is in; 1 outside one."""
    distributed = sys.modules.get("torch.distributed")
    with contextlib.suppress(Exception):
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            return int(distributed.get_world_size())
    return 1
