"""Pages of the documentation: their text, and the code in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

__all__ = ["ROOT", "Page"]

ROOT = Path(__file__).parent.parent


class Page:
    """A page below the root of the repository.

    Attributes:
        text: all of it.
        python: its blocks of Python, but for those below a comment that says they are not run.
        shell: its blocks of shell commands.
        commands: the lines of those that begin with ``gradnoise``.
    """

    def __init__(self, path: str) -> None:
        self.text = (ROOT / path).read_text()
        self.python: list[str] = re.findall(r"(?<!not run -->\n)```python\n(.*?)```", self.text, re.DOTALL)
        self.shell: list[str] = re.findall(r"```sh\n(.*?)```", self.text, re.DOTALL)
        self.commands = [line for block in self.shell for line in block.splitlines() if line.startswith("gradnoise")]

    def block(self, containing: str) -> str:
        """Return the one block of Python that contains a text."""
        (found,) = [text for text in self.python if containing in text]
        return found

    def check_that_all_is_run(self, test: str) -> None:
        """Check that a test file, which calls :meth:`block` as ``block``, takes every block of Python."""
        named = [
            node.args[0].value
            for node in ast.walk(ast.parse(Path(test).read_text()))
            if isinstance(node, ast.Call)
            and getattr(node.func, "id", "") == "block"
            and isinstance(node.args[0], ast.Constant)
        ]
        assert {self.block(str(name)) for name in named} == set(self.python)
