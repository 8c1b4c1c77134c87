"""How long to wait before trying again."""

from __future__ import annotations

import random

__all__ = ["Backoff"]

_FIRST, _MOST = 0.1, 15.0


class Backoff:
    """Exponential, capped, with full jitter: each wait is drawn from zero to the ceiling, so that the ranks of a job
    that lost the analyzer at one moment do not return to it at one moment.

    (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)

    Args:
        rng: where the jitter comes from; by default seeded by the operating system, differently in each process.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._attempts = 0

    def next(self, least: float = 0.0) -> float:
        """Return the seconds to wait after another failure: ``least``, which was asked for, and the jitter."""
        ceiling = min(_MOST, _FIRST * 2.0 ** min(self._attempts, 20))
        self._attempts += 1
        return least + self._rng.uniform(0.0, ceiling)

    def reset(self) -> None:
        """Begin anew: something succeeded."""
        self._attempts = 0
