"""Errors of the wire contract: each message says what was given, what was expected and what to do."""

from __future__ import annotations

__all__ = [
    "CorruptBatchError",
    "NotADumpError",
    "RunExistsError",
    "SyncError",
    "UnknownSchemaVersionError",
    "WireError",
]


class WireError(Exception):
    """Base of every error raised by :mod:`gradnoise.wire`."""


class NotADumpError(WireError):
    """The path is not a gradnoise dump (no readable ``run.json``)."""


class UnknownSchemaVersionError(WireError):
    """A dump or payload of a schema version this gradnoise does not read."""


class RunExistsError(WireError):
    """The run id is taken by a run with other parameter groups or other sampled coordinates."""


class CorruptBatchError(WireError):
    """A record batch that is not what its sequence number and CRC32 say, or not of its table's schema."""


class SyncError(WireError, OSError):
    """Bytes could not be forced to disk: what it holds is unknown, and another attempt would lie about it."""
