"""Errors of the analyzer: each message says what was given, what was expected and what to do."""

from __future__ import annotations

__all__ = [
    "AnalyzerError",
    "DataDirectoryInUseError",
    "InvalidRequestError",
    "LimitError",
    "NotReadyError",
    "StoreError",
    "UnknownGroupError",
    "UnknownPartError",
    "UnknownProducerError",
    "UnknownRunError",
    "UnsupportedVersionError",
]


class AnalyzerError(Exception):
    """Base of every error of the analyzer's service and batch engine."""


class InvalidRequestError(AnalyzerError):
    """A request that is not usable as it stands."""


class UnsupportedVersionError(AnalyzerError):
    """A producer that sends tables of a version this analyzer does not store."""


class UnknownRunError(AnalyzerError):
    """The store holds no run of that id."""


class UnknownGroupError(AnalyzerError):
    """The run has no parameter group of that name."""


class UnknownPartError(AnalyzerError):
    """No curvature was measured of the part of that name, and no parameter group has it."""


class UnknownProducerError(AnalyzerError):
    """The producer has not been opened on this server."""


class LimitError(AnalyzerError):
    """A limit of the server is reached."""


class NotReadyError(AnalyzerError):
    """The server is starting or shutting down; try again later."""


class StoreError(AnalyzerError):
    """The data directory cannot be used."""


class DataDirectoryInUseError(StoreError):
    """Another server works on the data directory."""
