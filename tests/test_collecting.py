"""The page on collecting: its recipes run and record, and what it names is there."""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradnoise.cli._main import _parser
from gradnoise.collector import attach
from gradnoise.wire import Dump, Table, completed

from .analyzer.conftest import serve
from .clients.conftest import analyzer
from .pages import ROOT, Page
from .servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradnoise.analyzer.server import Server

__all__ = ["analyzer", "serve"]  # fixtures

PAGE = Page("docs/collecting.md")
block = PAGE.block
COLLECTOR = sorted((ROOT / "collector/gradnoise/collector").rglob("*.py"))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty directory, and part of no job."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for variable in ("RANK", "WORLD_SIZE", "GRADNOISE_DUMP", "GRADNOISE_ENDPOINT", "GRADNOISE_DISABLED"):
        monkeypatch.delenv(variable, raising=False)


def loop() -> dict[str, Any]:
    """What the recipes take for granted."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    data = TensorDataset(torch.randn(128, 8), torch.randint(0, 3, (128,)))
    return {
        "torch": torch,
        "attach": attach,
        "device": "cpu",
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss_fn": nn.functional.cross_entropy,
        "loader": DataLoader(data, batch_size=8),
    }


def only_dump() -> Dump:
    (path,) = Path("gradnoise").iterdir()
    return Dump(path)


def table(dump: Dump, which: Table) -> list[dict[str, Any]]:
    batches = [completed(which, each.batch) for p in dump.producers() for each in dump.batches(which, p)]
    return [row for batch in batches for row in batch.to_pylist()]


def draws(dump: Dump) -> int:
    return sum(window["recorded"] for window in table(dump, Table.WINDOWS))


def test_every_block_of_python_is_run_by_a_test_here() -> None:
    PAGE.check_that_all_is_run(__file__)


def test_the_one_line() -> None:
    exec(block("handle.close()"), loop())
    dump = only_dump()
    assert draws(dump) == 16
    assert all(row["loss"] > 0 for row in table(dump, Table.STEPS))


def test_gradient_accumulation() -> None:
    exec(block("handle.log(loss=4 * loss, divisor=4)"), loop())
    dump = only_dump()
    (window,) = table(dump, Table.WINDOWS)
    assert (window["kind"], window["recorded"]) == ("microbatch", 16)
    assert [(row["divisor"], row["batch_size"]) for row in table(dump, Table.STEPS)] == [(4.0, 32)] * 4


def test_mixed_precision() -> None:
    exec(block("scaler = torch.amp.GradScaler(device)"), loop())
    steps = table(only_dump(), Table.STEPS)
    assert any(row["loss_scale"] == 65536.0 for row in steps)
    assert any(row["clip_factor"] is not None for row in steps)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torchrun tells the only process of a job."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ddp(job: None) -> None:
    exec(block("DistributedDataParallel(model)"), loop())
    dump = only_dump()
    assert draws(dump) == 16
    assert {group.name for group in dump.info.groups} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert {window["scope"] for window in table(dump, Table.WINDOWS)} == {"process"}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_fsdp2(job: None) -> None:
    exec(block("fully_shard(model)"), loop())
    dump = only_dump()
    assert draws(dump) == 16
    assert {window["scope"] for window in table(dump, Table.WINDOWS)} == {"global"}


@pytest.mark.filterwarnings("ignore")  # what Lightning says of a training as small as this
def test_lightning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self, names: dict[str, Any]) -> None:
            super().__init__()
            self.net, self.loss_fn = names["model"], names["loss_fn"]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss_fn(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    names = loop()

    def quiet(**options: Any) -> Any:
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)

    exec(block("callbacks=[GradNoise("), names | {"Trainer": quiet, "module": Module(names)})
    assert draws(only_dump()) == 16


@pytest.mark.filterwarnings("ignore")  # what transformers says of a training as small as this
def test_transformers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": nn.functional.cross_entropy(self.net(x), labels)}

    arguments = TrainingArguments(output_dir="out", use_cpu=True, report_to=[], save_strategy="no", num_train_epochs=1)
    dataset = [{"x": torch.randn(8), "labels": torch.tensor(i % 3)} for i in range(32)]
    exec(
        block("GradNoiseCallback(trainer)"),
        {"Trainer": Trainer, "arguments": arguments, "model": Model(), "dataset": dataset},
    )
    assert draws(only_dump()) == 4


@pytest.mark.filterwarnings("ignore")  # what Accelerate says where there is no GPU
def test_accelerate() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

    try:
        exec(
            block("accelerator.prepare"),
            loop() | {"Accelerator": lambda **options: Accelerator(cpu=True, **options)},
        )
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    dump = only_dump()
    assert draws(dump) == 16
    assert {row["divisor"] for row in table(dump, Table.STEPS)} == {4.0}


def test_the_recorder() -> None:
    rng = np.random.default_rng(0)

    def minibatch() -> tuple[Any, Any]:
        x = rng.standard_normal((32, 40))
        return x, x @ np.ones(40) + rng.standard_normal(32)

    def gradient(weights: Any, x: Any, y: Any) -> Any:
        return x.T @ (x @ weights - y) / len(y)

    exec(block("Recorder(run="), {"weights": np.zeros(40), "minibatch": minibatch, "gradient": gradient})
    dump = only_dump()
    assert dump.info.run == "regression-1"
    assert draws(dump) == 64 * 8


def test_probes() -> None:
    names = loop()
    names["probe_batches"] = iter(list(names["loader"]) * 10)
    exec(block("pass_over_the_data"), names)
    dump = only_dump()
    probes = [window for window in table(dump, Table.WINDOWS) if window["kind"] == "probe"]
    assert [window["recorded"] for window in probes] == [8, 8, 8]
    assert {row["kind"] for row in table(dump, Table.REFERENCE)} == {"full"}
    assert {row["dataset_size"] for row in table(dump, Table.REFERENCE)} == {128}
    assert len(table(dump, Table.SKETCHES)) > 0
    assert all(row["norm2"] > 0 for row in table(dump, Table.DRAWS))


def test_a_cell_that_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)  # an interactive session
    names = loop()
    exec(block('run="try"'), names)
    assert names["handle"].run == "try-2"
    names["handle"].close()
    assert sorted(path.name for path in Path("gradnoise").iterdir()) == ["try", "try-2"]


def test_limits() -> None:
    names = loop()
    exec(block("limits=Limits("), names)
    assert names["handle"].stats().state == "closed"


def test_exporting_from_python(analyzer: tuple[str, Server], capsys: pytest.CaptureFixture[str]) -> None:
    code = block("import TensorBoard, export").replace("resnet-sgd-1", "wide")
    exec(code, {"analyzer": analyzer[0]})
    rows, scalars, left_out = capsys.readouterr().out.split(maxsplit=2)
    assert int(rows) > 0
    assert int(scalars) > 0
    assert left_out == "{}\n"
    assert len(list(Path("runs/wide").rglob("*.gradnoise"))) == 1


@pytest.mark.parametrize("line", PAGE.commands)
def test_commands_are_as_the_page_writes_them(line: str) -> None:
    args = _parser().parse_args(shlex.split(line)[1:])
    assert callable(args.run)


def test_the_tests_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.text))
    assert len(named) > 40
    there = {
        (path.name, node.name)
        for folder in ("collector", "clients", "analyzer")
        for path in (ROOT / "tests" / folder).glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert named <= there, sorted(named - there)


def messages() -> set[str]:
    """The warnings that the collector's source holds, as they are before anything is put into them."""
    found = set()
    for path in COLLECTOR:
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in ("warn", "warn_once"):
                    words = [
                        constants.get(a.id) if isinstance(a, ast.Name) else getattr(a, "value", None) for a in node.args
                    ]
                    found |= {word for word in words if isinstance(word, str) and " " in word}
    # The rest are keys, and frames that others fill.
    return {text for text in found if (text.startswith("gradnoise") and len(text) > 12) or len(text) > 60}


def test_the_page_explains_every_warning_and_no_other() -> None:
    (section,) = re.findall(r"### What a warning means\n(.*?)\n## ", PAGE.text, re.DOTALL)
    explained = re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)
    source = "\n".join(
        node.value
        for path in COLLECTOR
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    assert [text for text in explained if text not in source] == []
    assert [text for text in sorted(messages()) if not any(each in text for each in explained)] == []


def test_the_page_names_every_environment_variable() -> None:
    of_source = {name for path in COLLECTOR for name in re.findall(r'"(GRADNOISE_[A-Z_]+)"', path.read_text())}
    of_page = set(re.findall(r"`(GRADNOISE_[A-Z_]+)`", PAGE.text))
    assert of_page == of_source


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in PAGE.text
