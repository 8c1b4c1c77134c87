"""What a loop hands in and cannot be recorded: said once, counted always, raised never."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from gradnoise.collector._logging import Once, warn

if TYPE_CHECKING:
    from gradnoise.collector._recording.sink import Sink

__all__ = ["Refusals", "RefusedInputError", "divisor_of", "index_of", "positive_of"]


_COUNTED = 256  # kinds and groups that are counted apart
_LARGEST = 2**62  # a window's id is twice a step's number


class RefusedInputError(Exception):
    """Something handed in that cannot be recorded; the message says why, and what to do.

    Attributes:
        key: of the warning, which is given once.
        draws: that are lost with it.
        group: whose.
    """

    def __init__(self, key: str, message: str, *, draws: int = 1, group: str | None = None) -> None:
        super().__init__(message)
        self.key = key if group is None else f"{key} {group}"
        self.draws = draws
        self.group = group


class Refusals:
    """Warns of each kind of refusal once, and counts them until they are put out as events."""

    def __init__(self) -> None:
        self._once = Once()
        self._counts: dict[tuple[str, str | None], tuple[int, int, str]] = {}

    def note(self, error: RefusedInputError, step: int) -> None:
        """Take note of a refusal at a step."""
        self.say(error.key, f"{error}. Training goes on; this is counted, and not said again")
        if error.draws:
            which = error.key, error.group
            if which not in self._counts and len(self._counts) >= _COUNTED:
                which = error.key.partition(" ")[0], None
            draws, first, detail = self._counts.get(which, (0, step, str(error)))
            self._counts[which] = (draws + error.draws, first, detail)

    def say(self, key: str, message: str) -> None:
        """Warn, the first time for this key."""
        if self._once.first(key):
            warn("gradnoise %s", message)

    def put_out(self, sink: Sink) -> None:
        """Turn the counts into events."""
        counts, self._counts = self._counts, {}
        for (_, group), (draws, step, detail) in counts.items():
            sink.event("refused", detail, count=draws, step=step, group=group)


def index_of(name: str, value: Any, bound: int = _LARGEST) -> int:
    """Return a whole number from 0 on, below a bound.

    Raises:
        RefusedInputError: it is something else.
    """
    found = _whole(value)
    if found is None or not 0 <= found < bound:
        text = f"ignores {name}={value!r}: expected a whole number from 0 on, below {bound}"
        raise RefusedInputError(f"value {name}", text)
    return found


def positive_of(value: Any) -> int | None:
    """Return a positive whole number of 31 bits; None for anything else."""
    found = _whole(value)
    return found if found is not None and 0 < found < 2**31 else None


def divisor_of(value: Any) -> float | None:
    """Return a positive finite number; None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found > 0 and math.isfinite(found) else None


def _whole(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
