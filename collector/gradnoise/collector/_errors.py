"""Errors of the collector. None of them is raised inside a training step."""

from __future__ import annotations

__all__ = ["CollectorError", "EndpointError", "GoneError", "RefusedError", "ShipError", "UnreachableError"]


class CollectorError(Exception):
    """Base: what :func:`gradnoise.collector.attach` was given cannot be recorded, or a dump cannot be shipped."""


class ShipError(CollectorError):
    """A dump could not be shipped; what was not acknowledged is still in it."""


class UnreachableError(ShipError):
    """The analyzer does not answer, or takes nothing."""


class RefusedError(ShipError):
    """The analyzer refuses the run or one of its batches for good; sending again does not help."""


class EndpointError(RefusedError):
    """The endpoint refuses us, or is no analyzer: no run can be shipped there."""


class GoneError(ShipError):
    """The dump was deleted while it was shipped."""
