"""What a stream has sent and nobody has worked on yet: read by a thread of its own, bounded in bytes."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """Takes items from a blocking iterable while their receiver is busy, so that it finds several at once.

    Args:
        source: the items; an exception from it ends them too.
        size: bytes of an item.
        limit: bytes to hold; the source is not read further beyond it (one item is always taken).
    """

    def __init__(self, source: Iterable[T], size: Callable[[T], int], limit: int) -> None:
        self._size = size
        self._limit = limit
        self._items: deque[T] = deque()
        self._bytes = 0
        self._ended = False
        self._interrupted = False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(source,), name="gradnoise-inbox", daemon=True).start()

    def take(self) -> list[T]:
        """Return everything that has arrived, waiting for something; nothing means that no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended or self._interrupted)
            items = [] if self._interrupted else list(self._items)
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()
            return items

    def interrupt(self) -> None:
        """Let :meth:`take` return nothing from now on."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what has arrived and read no further."""
        with self._changed:
            self._ended = self._interrupted = True
            self._items.clear()
            self._changed.notify_all()

    def _read(self, source: Iterable[T]) -> None:
        # grpc raises where the client is gone; what it is does not matter.
        with contextlib.suppress(Exception):
            for item in source:
                size = self._size(item)
                with self._changed:
                    while not self._ended and self._items and self._bytes + size > self._limit:
                        self._changed.wait()
                    if self._ended:
                        break
                    self._items.append(item)
                    self._bytes += size
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
