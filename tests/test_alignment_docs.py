"""The page on covariance and Hessian: its recipes run, its messages are those of the source, its numbers have names."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradnoise.analyzer.stats.alignment import Name
from gradnoise.cli._main import _parser, main
from gradnoise.wire import Dump, Table, curvature_rows

from .pages import ROOT, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Page("docs/alignment.md")
block = PAGE.block


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty directory; on one thread, for so small a model."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def names() -> dict[str, Any]:
    """What the recipes take for granted."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    inputs, targets = torch.randn(64, 6), torch.randint(0, 3, (64,))
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss_fn": nn.functional.cross_entropy,
        "inputs": inputs,
        "targets": targets,
        "loader": DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True),
    }


def rows(dump: Path) -> list[Any]:
    read = Dump(dump)
    stamped = [each for producer in read.producers() for each in read.batches(Table.CURVATURE, producer)]
    return [row for each in stamped for row in curvature_rows(each.batch)]


def test_every_block_of_python_is_run_by_a_test_here() -> None:
    PAGE.check_that_all_is_run(__file__)


def test_in_a_training() -> None:
    code = block("curvature=Curvature(").replace("every=5000, top=20, draws=128", "every=5, top=3, draws=16")
    exec(code, names())
    (row,) = rows(Path("dumps/mine"))
    assert (row.part, row.draws, len(row.eigenvalues), row.step) == ("*", 16, 3, 5)


def test_in_a_script_and_read_by_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    given = names()
    code = block("measure_curvature(model").replace("draws=128", "draws=32")
    exec(code, given)
    (row,) = rows(Path("dumps/checkpoints"))
    assert (row.step, row.draws, row.sampling, row.examples) == (1000, 32, "epoch", 64)
    begin = {name: tensor.clone() for name, tensor in given["model"].state_dict().items()}
    end = {name: tensor + 0.1 for name, tensor in begin.items()}
    exec(block("expected_sharpness(model"), given | {"begin": begin, "end": end})
    assert {each.kind for each in rows(Path("dumps/checkpoints"))} == {"hessian", "sharpness", "barrier"}
    for command in PAGE.shell[1].splitlines()[:2]:
        assert main(shlex.split(command)[1:]) == 0
    printed = capsys.readouterr().out
    for metric in ("gamma", "anisotropy_gain", "b_simple", "sharpness", "barrier", "variance"):
        assert metric in printed, metric


def test_from_a_factory(capsys: pytest.CaptureFixture[str]) -> None:
    head = """import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
loss_fn = nn.functional.cross_entropy
loader = DataLoader(TensorDataset(torch.randn(64, 6), torch.randint(0, 3, (64,))), batch_size=8, shuffle=True)
"""
    Path("train.py").write_text(head + block("def factory()"))
    torch.save(names()["model"].state_dict(), "epoch-3.pt")
    (command,) = PAGE.shell[0].splitlines()
    assert main([*shlex.split(command)[1:], "--draws", "16", "--top", "3"]) == 0
    assert "gamma" in capsys.readouterr().out
    (row,) = rows(Path("dumps/checkpoints"))
    assert (row.step, row.draws) == (3000, 16)


def test_studies(capsys: pytest.CaptureFixture[str]) -> None:
    code = block("hessian_covariance(model").replace("draws=256", "draws=32").replace("top=10)", "top=10, draws=32)")
    exec(code, names())
    first, second = capsys.readouterr().out.splitlines()
    gamma, low, high = map(float, first.split())
    assert low <= gamma <= high
    assert float(second) > 1.0


@pytest.mark.parametrize("line", PAGE.commands)
def test_commands_are_as_the_page_writes_them(line: str) -> None:
    assert callable(_parser().parse_args(shlex.split(line)[1:]).run)


def test_every_metric_is_explained() -> None:
    (section,) = re.findall(r"## What each number is\n(.*?)\n## How to read it", PAGE.text, re.DOTALL)
    missing = [str(name) for name in Name if f"`{name}`" not in section]
    assert missing == []


def test_the_messages_of_the_page_are_those_of_the_source() -> None:
    (section,) = re.findall(r"## When something is wrong\n(.*?)\n## ", PAGE.text, re.DOTALL)
    said = [text for line in section.splitlines() if line.startswith("| ") for text in _quoted(line)]
    assert len(said) > 15
    source = [
        node.value
        for folder in ("collector/gradnoise/collector/_curvature", "analyzer/gradnoise/analyzer/stats")
        for path in (ROOT / folder).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [text for text in said if not any(text in constant for constant in source)] == []


def _quoted(line: str) -> list[str]:
    """What the right cell of a row quotes of a message; a name or an argument is none."""
    return [text for text in re.findall(r"`([^`]+)`", line.split("|")[2]) if text != "draw="]


def test_pictures_are_there_and_small() -> None:
    named = re.findall(r"\]\((images/[^)]+)\)", PAGE.text)
    assert len(named) >= 2
    for name in named:
        assert 1000 < (ROOT / "docs" / name).stat().st_size < 150_000, name


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in PAGE.text
