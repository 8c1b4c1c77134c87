"""One run for all ranks of a job: where every rank attaches at one place, they can agree on its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradnoise.collector._handle import Handle

__all__ = ["attach_together"]


def attach_together(
    attach_as: Callable[[str | None], Handle],
    *,
    run: str | None,
    rank: int,
    world_size: int,
    broadcast: Callable[[str | None], str | None],
) -> Handle:
    """Attach on every rank of a job, to one run.

    Without a name given, rank 0 makes one up and the others take it over. Called by all ranks or by none: it waits for
    rank 0.

    Args:
        attach_as: attaches, recording into the run of this name (None: make one up).
        run: the name given by the user; nothing is exchanged where there is one.
        rank, world_size: this process's place in the job.
        broadcast: returns, on every rank, what rank 0 handed in.

    Raises:
        CollectorError, WireError: as ``attach_as``.
    """
    if world_size == 1 or run is not None:
        return attach_as(run)
    if rank > 0:
        return attach_as(broadcast(None))
    handle = None
    try:
        handle = attach_as(None)
    finally:
        # Also where it failed: the others wait.
        broadcast(None if handle is None else handle.run)
    return handle
