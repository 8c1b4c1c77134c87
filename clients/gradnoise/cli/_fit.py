"""``gradnoise fit``: the laws for a column of numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradnoise.cli._exit import CommandError, Exit
from gradnoise.cli._output import aligned, emit, emit_json, note, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["add"]

_KINDS = (".npy", ".arrow", ".parquet", ".csv")
_COLUMNS = ("law", "parameter", "value", "se", "low", "high", "n", "loglik", "aic", "status")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "fit",
        parents=[common],
        help="fit the stable law, the Gaussian and finite-variance rivals to numbers in a file",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a .npy, .arrow, .parquet or .csv file")
    parser.add_argument("--column", metavar="NAME", help="the column; needed where there are several")
    parser.add_argument("--symmetric", action="store_true", help="fix the location to 0 instead of estimating it")
    parser.add_argument("--endpoint", metavar="HOST:PORT", help="fit on that analyzer (default: here)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    values = _read(args.file, args.column)
    if values.size == 0:
        raise CommandError(Exit.TOO_LITTLE, f"{args.file} holds no numbers: expected 30 or more")
    if args.endpoint:
        from gradnoise.client import Client

        with Client(args.endpoint) as client:
            rows = client.fit(values, location=not args.symmetric).to_pylist()
    else:
        from gradnoise.analyzer.analysis import fit_vector
        from gradnoise.analyzer.tables import fit_table

        rows = fit_table(fit_vector(values, location=not args.symmetric)).to_pylist()
    if args.json:
        for row in rows:
            emit_json(row)
        return Exit.DONE
    emit(aligned(_COLUMNS, [_cells(row) for row in rows], right=_COLUMNS[2:9]))
    emit(f"verdict: {rows[0]['verdict']}: {rows[0]['reason']}")
    for warning in dict.fromkeys(text for row in rows for text in row["warnings"]):
        note(warning)
    return Exit.DONE


def _cells(row: dict[str, Any]) -> list[str]:
    cells = {name: str(row[name]) for name in ("law", "parameter", "n", "status")}
    cells |= {name: "-" if row[name] is None else f"{row[name]:.5g}" for name in ("value", "se", "low", "high")}
    cells |= {name: number(row[name]) for name in ("loglik", "aic")}
    return [cells[name] for name in _COLUMNS]


def _read(file: Path, column: str | None) -> NDArray[Any]:
    import numpy as np
    import pyarrow as pa

    if file.suffix not in _KINDS:
        raise CommandError(Exit.USAGE, f"{file} is of a kind that is not read: expected one of {', '.join(_KINDS)}")
    if not file.is_file():
        raise CommandError(Exit.FAILED, f"there is no file {file}")
    try:
        if file.suffix == ".npy":
            if column is not None:
                raise CommandError(Exit.USAGE, f"{file} has no columns: leave out --column")
            values: NDArray[Any] = np.load(file, allow_pickle=False)
        else:
            values = _column(_table(file), file, column)
    except (ValueError, pa.ArrowException, EOFError) as error:
        raise CommandError(Exit.CORRUPT, f"{file} cannot be read: {error}") from error
    if values.dtype.kind not in "biuf":
        raise CommandError(Exit.CORRUPT, f"{file} holds {values.dtype} values: expected numbers")
    if values.ndim != 1:
        raise CommandError(Exit.CORRUPT, f"{file} holds an array of shape {values.shape}: expected one dimension")
    result: NDArray[Any] = values.astype(np.float64)
    return result


def _table(file: Path) -> Any:
    import pyarrow as pa

    if file.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(file)
    if file.suffix == ".csv":
        from pyarrow import csv

        with file.open(encoding="utf-8", errors="replace") as lines:
            bare = _are_numbers(lines.readline().strip().split(","))
        return csv.read_csv(file, read_options=csv.ReadOptions(autogenerate_column_names=bare))
    try:
        with pa.OSFile(str(file)) as source:
            return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        with pa.OSFile(str(file)) as source:
            return pa.ipc.open_stream(source).read_all()


def _are_numbers(cells: list[str]) -> bool:
    try:
        return bool([float(cell) for cell in cells])
    except ValueError:
        return False


def _column(table: Any, file: Path, column: str | None) -> NDArray[Any]:
    import pyarrow as pa

    names = table.column_names
    if column is None:
        if len(names) != 1:
            raise CommandError(Exit.USAGE, f"{file} has the columns {', '.join(names)}: choose one with --column")
        column = names[0]
    if column not in names:
        raise CommandError(Exit.USAGE, f"{file} has no column {column!r}; its columns are: {', '.join(names)}")
    found = table.column(column).combine_chunks()
    while pa.types.is_list(found.type) or pa.types.is_large_list(found.type) or pa.types.is_fixed_size_list(found.type):
        found = found.flatten()  # a column of vectors, as a dump's draws have, is all their numbers
    numeric = pa.types.is_integer(found.type) or pa.types.is_floating(found.type)
    if not numeric and len(found) > found.null_count:
        raise CommandError(Exit.CORRUPT, f"column {column!r} of {file} holds {found.type} values: expected numbers")
    if found.null_count:
        note(f"{found.null_count} of {len(found)} values of column {column!r} are null and left out")
    values: NDArray[Any] = found.drop_null().cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values
