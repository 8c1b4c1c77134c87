"""Which thetas are recorded, and how long there is nothing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.collector._taps.burst import Burst

if TYPE_CHECKING:
    from gradnoise.collector._config import Sampling
    from gradnoise.collector._taps.interludes import Interludes

__all__ = ["Schedule"]


class Schedule:
    """The first ``burst`` of every ``every`` thetas are recorded, and interludes come between.

    Args:
        sampling: the plan.
        interludes: what else is due now and then.
    """

    def __init__(self, sampling: Sampling, interludes: Interludes) -> None:
        self._burst = sampling.burst
        self._every = sampling.every
        self._interludes = interludes
        self._skipped_until = 0

    def records(self, theta: int) -> bool:
        """Whether a theta belongs to a burst, and to none that is skipped."""
        return theta % self._every < self._burst and theta >= self._skipped_until

    def burst(self, theta: int) -> Burst:
        """Return what is left of the burst of a theta that it records."""
        return Burst(theta, theta, self._burst - theta % self._every)

    def skip(self, burst: Burst) -> None:
        """Record nothing of this burst."""
        self._skipped_until = burst.first_step + burst.declared

    def ends(self, theta: int) -> bool:
        """Whether an open burst is over once ``theta`` is reached."""
        phase = theta % self._every
        return phase == 0 or phase >= self._burst

    def after(self, theta: int) -> float:
        """Return the next theta, above one that is not recorded, at which a burst or an interlude comes."""
        return min(theta - theta % self._every + self._every, self._interludes.after(theta))
