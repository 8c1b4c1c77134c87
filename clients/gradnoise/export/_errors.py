"""Errors of the exporters, and the door to the libraries they write with."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["ExportError", "library"]


class ExportError(Exception):
    """The results cannot be written there; the message says what to do."""


def library(name: str, package: str) -> Any:
    """Import a module of a library that nothing else needs.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != name.split(".")[0]:
            raise  # it is there, but something that it needs is not
        raise ExportError(f"exporting to {package} needs it installed: pip install {package}") from error
