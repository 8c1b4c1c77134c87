"""Trainings in processes of their own, and how they must have ended."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.multiprocessing  # makes its pickler fit for tensors
from torch import nn

from gradnoise.collector import Sampling

if TYPE_CHECKING:
    pass


EVERY = Sampling(burst=10, every=10)

PRELUDE = """
import atexit, logging, os, signal, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.collector.loops import Data, loss_of, mlp, train
from gradnoise.collector import Limits, Recorder, Sampling, attach
from gradnoise.collector._recording import opening
from gradnoise.collector._recording import sink as _sink
path = Path(sys.argv[1])
model, data = mlp(), Data()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
every = Sampling(burst=10, every=10)
"""


def start(code: str, path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code), str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, path: Path) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = start(code, path)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


def assert_sealed(path: Path) -> None:
    assert not list(path.glob("*.open"))
    assert not list(path.glob("*.lock"))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
