"""Errors of the collector. They are raised by :func:`attach` only, never inside a training step."""

from __future__ import annotations

__all__ = ["CollectorError"]


class CollectorError(Exception):
    """What :func:`gradnoise.collector.attach` was given cannot be recorded."""
