"""Commands in this process, and what they printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gradnoise.cli import main

if TYPE_CHECKING:
    from gradnoise.analyzer.server import Server


Analyzer = tuple[str, "Server"]

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *argv: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main([str(part) for part in argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def lines(out: str) -> list[dict[str, Any]]:
    """JSON lines; NaN is none of JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in out.splitlines()]
