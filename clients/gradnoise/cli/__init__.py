"""The command line: ``gradnoise`` and ``python -m gradnoise.cli``."""

from gradnoise.cli._exit import Exit
from gradnoise.cli._main import main

__all__ = ["Exit", "main"]
