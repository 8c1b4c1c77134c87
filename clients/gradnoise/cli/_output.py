"""What commands print: rows as JSON, and tables of aligned columns."""

from __future__ import annotations

import json
import math
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["aligned", "emit", "emit_json", "note", "number", "one_line_of"]

# Names and notes come from whoever made the dump; a terminal would obey what is in them. JSON has the same escapes.
_SEEN = {code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_SEEN_IN_A_LINE = _SEEN | {ord("\n"): "\\n", ord("\t"): "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def aligned(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[str] = (),
    least: Sequence[int] = (),
    show_header: bool = True,
) -> str:
    """Return text in columns two blanks apart, as wide as their widest cell; nothing is cut off.

    Args:
        header: the columns' names.
        rows: the cells.
        right: names of columns that are aligned to the right.
        least: widths that the columns have at least: rows that come one by one then stand under each other.
        show_header: begin with the names.
    """
    lines = [tuple(header), *(tuple(map(one_line_of, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if least:
        widths = [max(pair) for pair in zip(widths, least, strict=True)]
    to_right = [name in set(right) for name in header]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, to_right, strict=True)
        ).rstrip()
        for line in (lines if show_header else lines[1:])
    )


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimals, or ``-`` where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def one_line_of(text: str) -> str:
    """Return text with its control characters, the ends of lines among them, as escapes."""
    return text.translate(_SEEN_IN_A_LINE)


def emit(text: str) -> None:
    """Print to standard output, control characters as escapes."""
    sys.stdout.write(text.translate(_SEEN) + "\n")
    sys.stdout.flush()


def emit_json(value: Any) -> None:
    """Print one JSON document on one line; NaN and infinities become null, times ISO 8601."""
    emit(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False))


def note(text: str) -> None:
    """Print to standard error, control characters as escapes."""
    sys.stderr.write(text.translate(_SEEN) + "\n")


def _plain(value: Mapping[str, Any] | Iterable[Any] | Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, datetime) else value
