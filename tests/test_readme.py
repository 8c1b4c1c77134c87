"""The README's code does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
import torch

from gradnoise.analyzer import stats
from gradnoise.cli._main import main
from gradnoise.wire import Dump, DumpWriter, Group, RunInfo, Table, schema

from .pages import Page
from .proto.dumps import draws_batch
from .servers import ServerProcess

if TYPE_CHECKING:
    import duckdb

PAGE = Page("README.md")
block = PAGE.block
STATISTICS = Page("docs/statistics.md")


def test_every_block_of_python_is_run_by_a_test_here() -> None:
    PAGE.check_that_all_is_run(__file__)


def test_the_dump_opens_in_pyarrow_polars_and_duckdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    groups = (Group("fc.weight", (4, 3), "float32", (0, 2, 5, 11)), Group("fc.bias", (3,), "float32", (0, 1, 2)))
    info = RunInfo("resnet-sgd-1", "Net", "2026-01-01T00:00:00+00:00", groups)
    writer = DumpWriter(tmp_path / "dumps" / "resnet-sgd-1", info, segment_bytes=3000)
    for draw in range(12):
        absent = {"norm2"} if draw >= 5 else {"norm2", "batch_size"}  # the segments differ in their columns
        batch = draws_batch([draw], info=info)
        writer.append(Table.DRAWS, batch.select([name for name in batch.schema.names if name not in absent]))
    writer.close()
    # The last line of a snippet is what an interactive session would show.
    *lines, by_duckdb = block("duckdb").strip().splitlines()
    by_polars = next(line for line in lines if line.startswith("pl."))
    by_arrow = next(line for line in lines if line.startswith("draws.to_table"))
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    arrow: pa.Table = eval(by_arrow, names)
    polars: pl.DataFrame = eval(by_polars, names)
    relation: duckdb.DuckDBPyRelation = eval(by_duckdb, names)
    expected = [
        value
        for stamped in Dump(tmp_path / "dumps" / "resnet-sgd-1").batches(Table.DRAWS, writer.producer)
        for value, group in zip(
            stamped.batch.column("values").to_pylist(), stamped.batch.column("group").to_pylist(), strict=True
        )
        if group == "fc.weight"
    ]
    assert arrow.column("values").to_pylist() == expected
    assert polars["values"].to_list() == expected
    sizes = [None] * 5 + [32] * 7
    assert arrow.column("batch_size").to_pylist() == polars["batch_size"].to_list() == sizes
    assert arrow.column("norm2").null_count == polars["norm2"].null_count() == 12
    (without_gradnoise,) = re.findall(r"`(pl\.concat\(.*?\))` reads segments together", PAGE.text)
    alone: pl.DataFrame = eval(without_gradnoise, names).collect()
    assert alone.filter(pl.col("group") == "fc.weight")["batch_size"].to_list() == sizes
    assert relation.fetchall() == [(0, 12)]


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in PAGE.text


def test_the_columns_of_draws_are_listed() -> None:
    for field in schema(Table.DRAWS):
        assert f"| `{field.name}`{' (nullable)' if field.nullable else ''} |" in PAGE.text


def test_the_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    names: dict[str, Any] = {"model": model, "optimizer": optimizer}
    exec(block("without one the dump stays on disk").replace("\nattach(", "\nhandle = attach("), names)
    for _ in range(3):
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    names["handle"].close()
    (path,) = (tmp_path / "gradnoise").iterdir()
    assert names["handle"].stats().recorded == 3 * 2  # draws, groups
    assert Dump(path).info.model == "Linear"


def test_the_training_loop_and_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(8, 40)
    data = [(torch.randn(16, 8), torch.randn(16, 40)) for _ in range(100)]
    loop: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "loss_fn": torch.nn.functional.mse_loss,
        "probe_batches": iter(data),
        "loader": data,
        "scaler": None,
        "accuracy": 0.5,
    }
    step = "loop_step(x, y)\n        loss = loop_loss"
    train = """
def loop_step(x, y):
    global loop_loss
    optimizer.zero_grad()
    loop_loss = loss_fn(model(x), y)
    loop_loss.backward()
    optimizer.step()
"""
    with ServerProcess(tmp_path / "store") as server:
        code = block("fresh_minibatch_loss").replace("        ...\n", f"        {step}\n")
        code = code.replace("localhost:50051", server.address)
        exec(train + code, loop)
        stats = loop["handle"].stats()
        assert stats.recorded == stats.shipped == 64 * 2
        client_code = block("client.watch").replace("localhost:50051", server.address)
        # The first row is enough of a watch that never ends.
        client_code = client_code.replace('row["alpha_high"])', 'row["alpha_high"]); break')
        exec(client_code, {"array": torch.randn(500).numpy()})


def test_the_curvature_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = [(torch.randn(8, 4), torch.randn(8, 2)) for _ in range(3)]
    names: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": data}
    names["loss_fn"] = torch.nn.functional.mse_loss
    exec(block("Curvature(loader").replace("every=5000, top=20, draws=128", "every=2, top=2, draws=3"), names)
    for x, y in data:
        optimizer.zero_grad()
        names["loss_fn"](model(x), y).backward()
        optimizer.step()
    names["handle"].close()
    assert main(["align", str(names["handle"].path), "--metric", "eigenvalue"]) == 0
    assert capsys.readouterr().out.count("\neigenvalue ") == 2


@pytest.mark.parametrize("name", sorted(set(re.findall(r"^gradnoise ([a-z]+)", PAGE.text, re.MULTILINE))))
def test_commands_of_the_readme_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"gradnoise {name}" in capsys.readouterr().out


def test_the_statistics_on_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("stable_vs_gaussian"), {})
    assert capsys.readouterr().out.startswith("stable ")


def test_the_code_of_the_statistics_page_says_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    compared, decomposed = STATISTICS.python
    exec(compared, {})
    verdict, alpha, best, *_ = capsys.readouterr().out.splitlines()
    assert verdict.startswith("stable ")
    value, low, high = map(float, alpha.split())
    assert low < 1.7 < high
    assert low < value < high
    assert best.startswith("stable ")
    exec(decomposed, {})
    together, shares, of_sketch = capsys.readouterr().out.splitlines()
    assert together.startswith("scale_mixture - ")
    scale, tail, spread = map(float, shares.split())
    assert scale == pytest.approx(1, abs=0.1)
    assert tail == pytest.approx(0, abs=0.05)
    assert spread == pytest.approx(1, abs=0.1)
    assert float(of_sketch) == pytest.approx(2, abs=0.01)


def test_every_function_that_the_statistics_page_names_is_there() -> None:
    named = set(re.findall(r"`(\w+)\.(\w+)", STATISTICS.text))
    known = {(module, name) for module, name in named if module in stats.__all__}
    assert len(known) >= 15
    for module, name in known:
        assert hasattr(getattr(stats, module), name), f"{module}.{name}"
