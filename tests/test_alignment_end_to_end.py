"""Curvature the whole way with real processes: training, dump, shipper, analyzer, client; killed on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
import torch
from torch import nn

from gradnoise.analyzer.batch import analyse_dump
from gradnoise.analyzer.report import AnalysisOptions
from gradnoise.client import Client
from gradnoise.collector import Curvature, Sampling, attach
from gradnoise.wire import Dump

from .analyzer.measuring import hessian, send_curvature
from .analyzer.producing import INFO, Producer
from .servers import ServerProcess, until

if TYPE_CHECKING:
    from pathlib import Path


def _place(row: dict[str, Any]) -> str:
    return repr([row["window"], row["part"], row["metric"], row["index"]])


def test_a_training_is_measured_shipped_analysed_and_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 5), torch.randn(64, 2)
    data = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 64, 8)]
    model = nn.Linear(5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    plan = Curvature(data, nn.functional.mse_loss, every=4, top=3, draws=8, probes=4, parts=("*", "weight"))
    with ServerProcess(tmp_path / "store") as server:
        with attach(
            model,
            optimizer,
            endpoint=server.address,
            run="measured",
            dump=tmp_path / "dump",
            sampling=Sampling(coordinates=8, burst=2, every=64),
            curvature=plan,
        ):
            for inputs, targets in data:
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), targets).backward()
                optimizer.step()
        with Client(server.address) as client:
            until(
                lambda: client.alignment("measured", metric="loss").num_rows >= 4, what="two measurements of two parts"
            )
            live = client.alignment("measured")
            assert client.run("measured")["problems"] == 0
    rows = live.to_pylist()
    steps = sorted({row["first_step"] for row in rows if row["kind"] == "hessian"})
    assert len(steps) == 2
    # The Hessian of the squared error does not depend on theta: of each output, 2 X'X / (n outputs), with the bias.
    whole = torch.cat([x, torch.ones(64, 1)], dim=1).double()
    block = whole.T @ whole / 64
    expected = torch.linalg.eigvalsh(torch.block_diag(block, block)).flip(0)[:3].tolist()
    for step in steps:
        found = [
            row["value"] for row in rows if (row["metric"], row["part"], row["first_step"]) == ("eigenvalue", "*", step)
        ]
        assert found == pytest.approx(expected, rel=1e-3)
    offline = [
        row
        for tables in analyse_dump(Dump(tmp_path / "dump"), AnalysisOptions(tail=False))
        for row in tables.alignment.to_pylist()
    ]
    for one, other in zip(sorted(offline, key=_place), sorted(rows, key=_place), strict=True):
        for name, value in one.items():
            if name not in ("row", "analysed_at"):
                # Two processes may add in another order.
                expects = pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value
                assert other[name] == expects, (name, _place(one))


def test_a_server_that_is_killed_analyses_again_what_it_had_acknowledged(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store").start()
    try:
        with grpc.insecure_channel(server.address) as channel:
            producer = Producer(channel)
            producer.open()
            for number in range(3):
                send_curvature(producer, number, number, [hessian(number, part, draws=64) for part in ("a", "b", "*")])
        server.kill()  # with the windows on disk and none, one or some of them analysed
        server.start()
        with Client(server.address) as client:

            def analysed() -> bool:
                return bool(client.run(INFO.run)["analysed"] == 3)

            until(analysed, what="the analysis of what was acknowledged")
            rows = client.alignment(INFO.run)
            again = client.alignment(INFO.run, metric="loss")
    finally:
        server.kill()
    assert sorted(zip(again["first_step"].to_pylist(), again["part"].to_pylist(), strict=True)) == sorted(
        (step, part) for step in range(3) for part in ("a", "b", "*")
    )
    keys = [tuple(row[name] for name in ("window", "part", "metric", "index")) for row in rows.to_pylist()]
    assert len(keys) == len(set(keys))
