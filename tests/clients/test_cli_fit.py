"""``gradnoise fit``: every kind of file, and what cannot be fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from gradnoise.cli import Exit

from .commands import Analyzer, Capture, lines, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def values() -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(1).standard_normal(200) + 5


@pytest.mark.parametrize("kind", ["npy", "arrow", "stream.arrow", "parquet", "csv", "bare.csv"])
def test_fit_reads_every_kind_of_file(
    capsys: Capture, tmp_path: Path, values: np.ndarray[Any, np.dtype[np.float64]], kind: str
) -> None:
    file = tmp_path / f"x.{kind}"
    table = pa.table({"x": values})
    if kind == "npy":
        np.save(file, values)
    elif kind == "arrow":
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    elif kind == "stream.arrow":
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    elif kind == "parquet":
        parquet.write_table(table, file)
    elif kind == "csv":
        csv.write_csv(table, file)
    else:
        np.savetxt(file, values)
    code, out, _ = run(capsys, "fit", file, "--json")
    assert code == Exit.DONE
    found = {(row["law"], row["parameter"]): row for row in lines(out)}
    assert found["gaussian", "mean"]["value"] == pytest.approx(values.mean(), rel=1e-6)
    assert found["stable", "alpha"]["n"] == 200
    code, out, _ = run(capsys, "fit", file)
    assert (code, out.split()[:3]) == (Exit.DONE, ["law", "parameter", "value"])


def test_fit_chooses_a_column_and_a_symmetric_law(
    capsys: Capture, tmp_path: Path, values: np.ndarray[Any, np.dtype[np.float64]]
) -> None:
    file = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"a": values, "b": values - 5, "v": [[v, -v] for v in values]}), file)
    rows = lines(run(capsys, "fit", file, "--column", "b", "--symmetric", "--json")[1])
    assert "location" not in {row["parameter"] for row in rows}
    assert {row["verdict"] for row in rows} <= {"gaussian", "undecided"}
    assert lines(run(capsys, "fit", file, "--column", "v", "--json")[1])[0]["n"] == 400
    code, _, err = run(capsys, "fit", file)
    assert (code, "choose one with --column" in err) == (Exit.USAGE, True)
    code, _, err = run(capsys, "fit", file, "--column", "z")
    assert (code, "its columns are: a, b, v" in err) == (Exit.USAGE, True)


def test_fit_on_an_analyzer(
    capsys: Capture, tmp_path: Path, analyzer: Analyzer, values: np.ndarray[Any, np.dtype[np.float64]]
) -> None:
    np.save(tmp_path / "x.npy", values)
    here = lines(run(capsys, "fit", tmp_path / "x.npy", "--json")[1])
    there = lines(run(capsys, "fit", tmp_path / "x.npy", "--json", "--endpoint", analyzer[0])[1])
    assert here == there
    np.save(tmp_path / "few.npy", values[:10])
    assert run(capsys, "fit", tmp_path / "few.npy", "--endpoint", analyzer[0])[0] == Exit.TOO_LITTLE


def _bad_files(tmp_path: Path) -> dict[str, tuple[Path, Exit]]:
    def saved(name: str, array: Any) -> Path:
        np.save(tmp_path / name, np.asarray(array))
        return tmp_path / name

    def written(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return {
        "no file": (tmp_path / "none.npy", Exit.FAILED),
        "another kind": (written("x.txt", "1"), Exit.USAGE),
        "text": (saved("text.npy", ["a"] * 40), Exit.CORRUPT),
        "text in a column": (written("text.csv", "x\n" + "a\n" * 40), Exit.CORRUPT),
        "objects": (written("objects.npy", "not numpy"), Exit.CORRUPT),
        "not parquet": (written("x.parquet", "junk"), Exit.CORRUPT),
        "not arrow": (written("x.arrow", "junk"), Exit.CORRUPT),
        "a matrix": (saved("matrix.npy", np.ones((40, 2))), Exit.CORRUPT),
        "empty": (saved("empty.npy", []), Exit.TOO_LITTLE),
        "an empty column": (written("empty.csv", "x\n"), Exit.TOO_LITTLE),
        "an empty file": (written("nothing.csv", ""), Exit.CORRUPT),
        "constant": (saved("constant.npy", np.ones(40)), Exit.FAILED),
        "too few": (saved("few.npy", np.arange(29.0)), Exit.TOO_LITTLE),
        "not finite": (saved("nan.npy", np.full(40, np.nan)), Exit.FAILED),
    }


@pytest.mark.parametrize("name", [
    "no file", "another kind", "text", "text in a column", "objects", "not parquet", "not arrow", "a matrix", "empty",
    "an empty column", "an empty file", "constant", "too few", "not finite",
])  # fmt: skip
def test_what_cannot_be_fitted_says_why(capsys: Capture, tmp_path: Path, name: str) -> None:
    file, expected = _bad_files(tmp_path)[name]
    code, out, err = run(capsys, "fit", file)
    assert (code, out) == (expected, "")
    assert err.startswith("gradnoise fit: ")
    assert len(err) > 30
