"""The whole way with real processes: hook, dump, shipper, analyzer, client."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from gradnoise.analyzer.stats import stable
from gradnoise.client import Client
from gradnoise.collector.shipper import ship
from gradnoise.wire import Dump, DumpWriter, Group, RunInfo, Table, schema

from .servers import ServerProcess, free_port, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMS = ("per_parameter", "across_parameter", "standardized")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("store") / "data") as running:
        yield running


def content(dump: Dump) -> dict[tuple[str, Table], list[tuple[int, int]]]:
    """(sequence, CRC32) of every batch; reading checks each against its CRC."""
    return {
        (producer, table): [(stamped.sequence, stamped.crc32) for stamped in dump.batches(table, producer)]
        for producer in dump.producers()
        for table in Table
    }


def write_probes(path: Path, run: str, probes: list[np.ndarray]) -> None:
    """A dump of probes, at updates 100, 200, ...; the draws of one are the rows of its gradients."""
    width = probes[0].shape[1]
    info = RunInfo(run, "Known", "2026-01-01T00:00:00+00:00", (Group("w", (width,), "float32", tuple(range(width))),))
    writer = DumpWriter(path, info)
    for number, gradients in enumerate(probes, start=1):
        theta, draws = 100 * number, len(gradients)
        for first in range(0, draws, 100):
            writer.append(Table.DRAWS, draws_rows(theta, first, gradients[first : first + 100].astype(np.float32)))
        closing = dict.fromkeys(schema(Table.WINDOWS, 1).names, 0) | {
            "window": 2 * theta + 1, "kind": "probe", "first_step": theta, "last_step": theta, "first_theta": theta,
            "last_theta": theta, "declared": draws, "recorded": draws, "rows": draws,
        }  # fmt: skip
        writer.append(Table.WINDOWS, pa.RecordBatch.from_pylist([closing], schema=schema(Table.WINDOWS)))
    writer.close()


def draws_rows(theta: int, first: int, values: np.ndarray) -> pa.RecordBatch:
    where = schema(Table.DRAWS)
    n, width = values.shape
    thetas = pa.array(np.full(n, theta, np.int64))
    columns = [
        pa.array(np.full(n, 2 * theta + 1, np.int64)),
        thetas,
        pa.array(np.arange(first, first + n, dtype=np.int32)),
        thetas,
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int16)), pa.array(["w"])),
        pa.nulls(n, pa.int32()),
        pa.ListArray.from_arrays(
            pa.array(np.arange(n + 1, dtype=np.int32) * width),
            pa.array(values.ravel()),
            type=where.field("values").type,
        ),
        pa.nulls(n, pa.float64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=where)


def shipped_tail(server: ServerProcess, path: Path, run: str, windows: int) -> dict[str, list[dict[str, Any]]]:
    """Ship a dump, wait for its analysis, return the rows of its group by form."""
    ship(path, server.address)
    with Client(server.address) as client:
        until(lambda: client.run(run)["analysed"] == windows, what=f"the analysis of {run}")
        return {form: client.tail(run, form=form, group="w").to_pylist() for form in FORMS}


def test_gaussian_noise_of_lognormal_scales_is_heavy_only_across_parameters(
    server: ServerProcess, tmp_path: Path
) -> None:
    rng = np.random.default_rng(10)
    scales = rng.lognormal(0, 1, 512)
    write_probes(tmp_path / "d", "lognormal", [rng.standard_normal((512, 512)) * scales + rng.standard_normal(512)])
    rows = shipped_tail(server, tmp_path / "d", "lognormal", 1)
    for form in ("per_parameter", "standardized"):
        (row,) = rows[form]
        assert row["alpha"] == pytest.approx(row["null_alpha"], abs=0.02)
        assert row["alpha"] > 1.95
        assert row["verdict"] == "gaussian"
    (row,) = rows["across_parameter"]
    assert row["alpha_high"] < 1.6
    assert row["verdict"] == "scale_mixture"


def test_stable_noise_reads_its_index_in_all_forms(server: ServerProcess, tmp_path: Path) -> None:
    # Five probes: one in twenty 95 % intervals misses, so one of five may.
    rng = np.random.default_rng(11)
    gradient = rng.standard_normal(400)
    write_probes(tmp_path / "d", "stable", [stable.rvs(1.7, 0.01, (512, 400), rng) + gradient for _ in range(5)])
    tails = shipped_tail(server, tmp_path / "d", "stable", 5)
    for form, rows in tails.items():
        assert len(rows) == 5
        assert sum(row["alpha_low"] <= 1.7 <= row["alpha_high"] for row in rows) >= 4, form
        assert np.mean([row["alpha"] for row in rows]) == pytest.approx(1.7, abs=0.01), form
        for row in rows:
            assert row["gaussian_rejected"]
            assert row["verdict"] in ("stable", "undecided")
            assert row["alpha_sum4"] == pytest.approx(1.7, abs=0.05)
            assert form == "standardized" or row["scale"] == pytest.approx(0.01, rel=0.03)


TRAINING = """
import sys, torch
from gradnoise.cli._digits import job
from gradnoise.collector import Probe, Sampling, attach
torch.set_num_threads(1)
endpoint, dump, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
work = job("sgd", 32)
with attach(work.model, work.optimizer, endpoint=endpoint or None, run="killed", dump=dump,
            sampling=Sampling(coordinates=256, burst=32, every=64),
            probe=Probe(work.probe, draws=64, every=50)) as handle:
    for step in range(steps):
        handle.log(loss=work.step())
        if step % 16 == 0:
            handle.flush()
            print(step, flush=True)
    handle.close(timeout=60)
    print(handle.stats(), flush=True)
"""


@contextlib.contextmanager
def training(endpoint: str, dump: Path, steps: int) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A training process and what it prints; killed at the end if it still runs."""
    command = [sys.executable, "-c", TRAINING, endpoint, str(dump), str(steps)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def test_an_analyzer_killed_in_mid_run_holds_every_batch_exactly_once(tmp_path: Path) -> None:
    dump, store = tmp_path / "dump", tmp_path / "store" / "runs" / "killed"
    after_kills: list[dict[tuple[str, Table], list[tuple[int, int]]]] = []
    with ServerProcess(tmp_path / "store", free_port()) as server, training(server.address, dump, 400) as (job, lines):
        for line in lines:
            if line.strip() in ("96", "224"):
                until(
                    lambda: (store / "run.json").exists() and bool(content(Dump(store))), what="something in the store"
                )
                server.kill()
                after_kills.append(content(Dump(store)))
                server.start()
        assert job.wait(120) == 0
        local, stored = content(Dump(dump)), Dump(store)
        until(lambda: content(stored) == local, what="everything in the store")
        assert stored.problems == []
        (producer,) = stored.producers()
        draws = [sequence for sequence, _ in local[producer, Table.DRAWS]]
        assert draws == list(range(len(draws)))
        assert len(after_kills) == 2
        for earlier in after_kills:
            for key, batches in earlier.items():
                assert local[key][: len(batches)] == batches
        with Client(server.address) as client:
            until(lambda: client.run("killed")["analysed"] == client.run("killed")["windows"] > 0, what="the analysis")
            rows = client.tail("killed").to_pylist()
        analysed = {(row["producer"], row["window"], row["group"], row["form"]) for row in rows}
        assert len(analysed) == len(rows), "a window analysed twice"
        assert server.stop() == 0


def test_what_a_killed_training_process_flushed_is_readable_and_shipped(server: ServerProcess, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    with training(server.address, dump, 1_000_000) as (job, lines):
        for line in lines:
            if int(line) >= 112:
                break
        job.send_signal(signal.SIGKILL)
    read = Dump(dump)
    (producer,) = read.producers()
    draws = list(read.batches(Table.DRAWS, producer))
    steps = {step for stamped in draws for step in stamped.batch.column("step").to_pylist()}
    recorded = {step for step in range(112) if step % 64 < 32}  # flushed before 112 was printed
    assert recorded <= steps
    stored = server.data / "runs" / "killed"
    whole = content(Dump(dump))
    until(lambda: (stored / "run.json").exists() and content(Dump(stored)) == whole, what="shipping")


def test_the_demo_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gradnoise.cli", "demo", "--json", "--out", str(tmp_path / "demo")]
    command += ["--steps", "80", "--every", "40", "--draws", "96"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)["runs"]
    assert sorted(runs) == ["adam-128", "adam-32", "sgd-128", "sgd-32"]
    for rows in runs.values():
        groups = [f"{layer}.{kind}" for layer in (0, 2, 4, 6) for kind in ("weight", "bias")]
        assert {(row["group"], row["form"]) for row in rows} == {(g, form) for g in [*groups, "*"] for form in FORMS}
        for row in rows:
            assert (row["kind"], row["draws"], row["thetas"], row["reference"]) == ("probe", 96, 1, "pair")
            assert (row["alpha"] is None) == bool(row["reason"] and row["status"] not in ("ok", "at_boundary"))
        whole = {row["form"]: row for row in rows if row["group"] == "*"}
        assert whole["per_parameter"]["size"] == 3 * (64 * 64 + 64) + 64 * 10 + 10
        assert whole["across_parameter"]["alpha"] < whole["per_parameter"]["alpha"]
    for dump in (tmp_path / "demo" / "dumps").iterdir():
        assert content(Dump(dump)) == content(Dump(tmp_path / "demo" / "store" / "runs" / dump.name))
