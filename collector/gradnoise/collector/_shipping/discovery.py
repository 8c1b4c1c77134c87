"""What there is to ship under a directory: dumps, and the producers in them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from gradnoise.wire import producer_is_alive

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["find_dumps", "find_producers", "runs_elsewhere"]

_DEPTH = 3  # directories below the watched one
_NAME = re.compile(r"[a-z]+-([0-9a-f]{32})-\d{6,}\.(?:open|arrow)|([0-9a-f]{32})\.lock")


def find_dumps(root: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the directories with a ``run.json``: ``root`` itself, or those at most ``depth`` below it, in order.

    Dumps hold no other dumps. Hidden directories, and those that cannot be read, are passed over.
    """
    inside: list[Path] = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name == "run.json":
                    yield root
                    return
                if depth and not entry.name.startswith(".") and entry.is_dir():
                    inside.append(root / entry.name)
    except OSError:
        return
    for path in sorted(inside):
        yield from find_dumps(path, depth - 1)


def find_producers(dump: Path) -> list[str]:
    """Return the producers that have written something, or are about to.

    Raises:
        OSError: the directory cannot be read.
    """
    written: set[str] = set()
    locks: set[str] = set()
    for name in os.listdir(dump):  # noqa: PTH208 - names are all that is needed, of many files
        match = _NAME.fullmatch(name)
        if match is not None:
            (written if match[1] else locks).add(match[1] or match[2])
    return sorted(written | {producer for producer in locks - written if producer_is_alive(dump, producer)})


def runs_elsewhere(dump: Path, producer: str) -> bool:
    """Whether the producer runs on another machine, which shares the directory with this one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        host = json.loads((dump / f"{producer}.lock").read_bytes()).get("host")
        return host is not None and host != socket.gethostname()
    return False
