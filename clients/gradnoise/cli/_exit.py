"""How a command ends: exit codes, and the code that every expected error means."""

from __future__ import annotations

import sys
from enum import IntEnum

__all__ = ["CommandError", "Exit", "code_of"]


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    CORRUPT = 4
    TOO_LITTLE = 5
    INTERRUPTED = 130  # what a shell reports of a command that SIGINT ended


class CommandError(Exception):
    """An error that the command itself found, with its exit code."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


# By module, so that asking imports nothing: an error's module is loaded when it is raised.
_CODES = (
    ("gradnoise.client", "UnreachableError", Exit.UNREACHABLE),
    ("gradnoise.client", "TooFewValuesError", Exit.TOO_LITTLE),
    ("gradnoise.client", "ClientError", Exit.FAILED),
    ("gradnoise.export", "ExportError", Exit.FAILED),
    ("gradnoise.collector.shipper", "UnreachableError", Exit.UNREACHABLE),
    ("gradnoise.collector.shipper", "ShipError", Exit.FAILED),
    ("gradnoise.collector", "CollectorError", Exit.FAILED),
    ("gradnoise.analyzer.stats", "TooFewValues", Exit.TOO_LITTLE),
    ("gradnoise.analyzer.stats", "StatsError", Exit.FAILED),
    ("gradnoise.analyzer.errors", "AnalyzerError", Exit.FAILED),
    ("gradnoise.wire", "RunExistsError", Exit.FAILED),
    ("gradnoise.wire", "WireError", Exit.CORRUPT),
)


def code_of(error: BaseException) -> Exit | None:
    """Return the exit code of an expected error; None for one that is a bug."""
    if isinstance(error, CommandError):
        return error.code
    for module, name, code in _CODES:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return code
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("gradnoise"):
        return Exit.FAILED
    return Exit.FAILED if isinstance(error, OSError) else None
