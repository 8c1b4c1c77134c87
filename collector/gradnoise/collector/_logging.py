"""What the collector says in the training process. A user's handler that raises does not end the training."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter

__all__ = ["Once", "inform", "warn"]

_OF_A_KIND = 10  # warnings that differ in a name only: a loop may make up a name a step
_log = logging.getLogger("gradnoise")


def warn(message: str, *args: object) -> None:
    """Log a warning; whatever the user's handlers do, training goes on."""
    with contextlib.suppress(Exception):
        _log.warning(message, *args)


def inform(message: str, *args: object) -> None:
    """Log what is good to know; silent unless the user asks for it."""
    with contextlib.suppress(Exception):
        _log.info(message, *args)


class Once:
    """Which warnings were given: each once, by its key, and few of those whose keys begin with the same word."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._kinds: Counter[str] = Counter()

    def first(self, key: str) -> bool:
        """Whether to say it; from then on it is said."""
        kind = key.partition(" ")[0]
        if key in self._said or self._kinds[kind] == _OF_A_KIND:
            return False
        self._said.add(key)
        self._kinds[kind] += 1
        return True
