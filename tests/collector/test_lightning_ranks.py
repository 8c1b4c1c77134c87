"""The Lightning callback in a job of two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import torch

from gradnoise.wire import Dump, Table

from ..servers import free_port
from .loops import rows

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import copy, sys, torch, warnings
from pathlib import Path
import lightning.pytorch as pl
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.data import DataLoader, TensorDataset
from gradnoise.collector import Sampling
from gradnoise.collector._batch import batch_size_of
from gradnoise.collector.lightning import GradNoise

place = Path(sys.argv[1])

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.expected = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        x, y = batch
        twin = copy.deepcopy(self.net)
        twin.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        self.expected.append({f"net.{name}": p.grad for name, p in twin.named_parameters()})
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

torch.manual_seed(0)
rng = torch.Generator().manual_seed(1)
data = TensorDataset(torch.randn(48, 6, generator=rng), torch.randint(0, 3, (48,), generator=rng))
model = Module()
callback = GradNoise(sampling=Sampling(burst=4, every=4))
trainer = pl.Trainer(
    strategy="ddp", devices=2, accelerator="cpu", callbacks=[callback], accumulate_grad_batches=2, max_epochs=1,
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(model, DataLoader(data, batch_size=4))
torch.save((callback.handle.run, model.expected), place / f"rank-{trainer.global_rank}.pt")
"""


def test_two_ranks_record_their_own_gradients_into_one_run(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "several backward passes" not in done.stderr
    (path,) = (tmp_path / "gradnoise").iterdir()
    dump = Dump(path)
    assert len(dump.producers()) == 2
    windows = rows(path, Table.WINDOWS)
    assert {window["rank"] for window in windows} == {0, 1}
    assert {(window["world_size"], window["recorded"], window["kind"]) for window in windows} == {(2, 6, "microbatch")}
    assert len({window["job"] for window in windows}) == 1
    for producer in dump.producers():
        (window,) = [row for each in dump.batches(Table.WINDOWS, producer) for row in each.batch.to_pylist()]
        run, expected = torch.load(tmp_path / f"rank-{window['rank']}.pt")
        assert run == path.name == dump.info.run
        found = {
            (row["draw"], row["group"]): row["values"]
            for each in dump.batches(Table.DRAWS, producer)
            for row in each.batch.to_pylist()
        }
        assert len(expected) == 6
        assert found == {
            (draw, name): gradient.ravel().tolist()
            for draw, gradients in enumerate(expected)
            for name, gradient in gradients.items()
        }
