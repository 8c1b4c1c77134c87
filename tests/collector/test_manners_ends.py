"""A guest's manners at the end: however a process ends, what was recorded is readable."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from gradnoise.collector import attach
from gradnoise.wire import Dump, Table, recover

from .fake import FakeServer
from .guests import EVERY, assert_same, assert_sealed, run, start, weights
from .loops import Data, assert_recorded, mlp, rows, train
from .test_bursts import sgd

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("steps", [3, 15])
def test_the_interpreter_ends_inside_and_outside_of_a_burst(tmp_path: Path, steps: int) -> None:
    code = f"""
    attach(model, optimizer, dump=path, run="r", sampling=Sampling(burst=5, every=20))
    train(model, optimizer, data, {steps})
    """
    assert run(code, tmp_path) == (0, "", "")
    assert_sealed(tmp_path)
    assert len(rows(tmp_path)) == 4 * min(steps, 5)
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["declared"], window["recorded"]) == (5, min(steps, 5))


@pytest.mark.parametrize("block", [True, False])
def test_an_exception_in_the_loop_ends_the_recording_and_stays_the_users(tmp_path: Path, block: bool) -> None:
    code = f"""
    handle = attach(model, optimizer, dump=path, run="r", sampling=every)
    def fail(step):
        if step == 4:
            raise ValueError("mine")
    if {block}:
        with handle:
            train(model, optimizer, data, 10, fail)
    else:
        train(model, optimizer, data, 10, fail)
    """
    status, out, err = run(code, tmp_path)
    assert (status, out) == (1, "")
    assert err.rstrip().endswith("ValueError: mine")
    assert "gradnoise:" not in err
    assert_sealed(tmp_path)
    assert len(rows(tmp_path)) == 4 * 5


TERMINATED = """
handle = attach(model, optimizer, dump=path, run="r", sampling=every)
train(model, optimizer, data, 25)
handle.flush()
print("flushed", flush=True)
while True:
    train(model, optimizer, data, 1)
"""


def test_a_process_that_is_terminated_leaves_a_readable_dump(tmp_path: Path) -> None:
    process = start(TERMINATED, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "flushed\n"
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert err == ""
    before = rows(tmp_path)
    assert len(before) >= 4 * 25
    assert len(rows(tmp_path, Table.WINDOWS)) >= 2
    assert recover(tmp_path).sealed > 0, "the lock is free"
    assert rows(tmp_path) == before


def test_the_shipper_of_a_terminated_process_goes_on(tmp_path: Path, serve: Callable[..., FakeServer]) -> None:
    server = serve()
    code = TERMINATED.replace("dump=path", "dump=path, endpoint=sys.argv[2]")
    server.stop()  # so that all is left to be shipped
    process = start(code, tmp_path, server.endpoint)
    assert process.stdout is not None
    assert process.stdout.readline() == "flushed\n"
    process.terminate()
    process.communicate(timeout=60)
    server.ingest.stopped.clear()
    server.start()
    dump = Dump(tmp_path)
    (producer,) = dump.producers()
    wanted = {table: [s.crc32 for s in dump.batches(table, producer)] for table in Table}
    assert server.ingest.wait_for(sum(map(len, wanted.values())))
    for table in Table:
        assert [s.crc32 for s in server.ingest.stored.get((producer, table), [])] == wanted[table]


@pytest.mark.parametrize("handler", ["sys.exit(3)", "(handle.close(), sys.exit(3))"])
def test_a_handler_that_exits_leaves_a_sealed_dump(tmp_path: Path, handler: str) -> None:
    code = f"signal.signal(signal.SIGTERM, lambda *_: {handler})\n{TERMINATED}"
    process = start(code, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "flushed\n"
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (3, "")
    assert_sealed(tmp_path)
    windows = rows(tmp_path, Table.WINDOWS)
    assert sum(window["rows"] for window in windows) == len(rows(tmp_path)) >= 4 * 25


class Interrupting(torch.autograd.Function):
    """Raises SIGINT in the middle of the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return gradients[0]


def test_an_interrupt_inside_backward_reaches_the_user_and_the_draw_is_left_out(tmp_path: Path) -> None:
    def loop(path: Path | None) -> tuple[dict[str, torch.Tensor], list[Any]]:
        torch.manual_seed(0)
        model, data = mlp(), Data()
        optimizer = sgd(model)
        handle = None if path is None else attach(model, optimizer, dump=path, sampling=EVERY)
        taken = train(model, optimizer, data, 2)
        optimizer.zero_grad()
        x, y = data()
        hidden = Interrupting.apply(model[1](model[0](x)))  # type: ignore[no-untyped-call]
        with pytest.raises(KeyboardInterrupt):
            nn.functional.cross_entropy(model[2](hidden), y).backward()
        taken += train(model, optimizer, data, 3)
        if handle is not None:
            handle.close()
            assert handle.stats().state == "closed"
        return weights(model), taken

    without, _ = loop(None)
    with_hook, taken = loop(tmp_path)
    assert_same(without, with_hook)
    assert_recorded(tmp_path, {(0, step): gradients for step, gradients in enumerate(taken)})
