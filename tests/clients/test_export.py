"""Exporters: what is written is read back with each tool's own reader."""

from __future__ import annotations

import importlib
import json
import math
import os
import struct
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gradnoise.cli import Exit, main
from gradnoise.client import Client
from gradnoise.export import NUMBERS, ExportError, MLflow, TensorBoard, WandB, export
from gradnoise.export._scalars import scalars_of

from ..servers import free_port, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from gradnoise.analyzer.server import Server

PRODUCER = "c" * 32


def row(**changes: Any) -> dict[str, Any]:
    """What the exporters read of a row of results."""
    return {
        "run": "run-1",
        "producer": PRODUCER,
        "group": "*",
        "form": "per_parameter",
        "kind": "burst",
        "last_step": 63,
        "alpha": 1.5,
        "alpha_low": 1.25,
        "alpha_high": 1.75,
        "null_alpha": 1.9375,
        "scale": 0.03125,
        "verdict": "undecided",
        "status": "ok",
        "analysed_at": datetime(2026, 1, 1, tzinfo=UTC),
    } | changes


def tensorboard_scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) as TensorBoard's own reader has them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def tensorboard_texts(directory: Path) -> dict[str, list[tuple[int, str]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return {
        tag: [(e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "text"
    }


@pytest.fixture
def mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a store on disk."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return (tmp_path / "mlruns").as_uri()


def mlflow_runs(uri: str, experiment: str = "gradnoise") -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    there = client.get_experiment_by_name(experiment)
    assert there is not None
    return list(client.search_runs([there.experiment_id]))


def mlflow_history(uri: str, run: Any, metric: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, metric)
    return [(each.step, each.value) for each in history]


@pytest.fixture
def wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory into which W&B writes."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path / "wandb"


def wandb_records(path: Path) -> Iterable[Any]:
    """The records of an offline run: a file in LevelDB's log format after a header of 7 bytes."""
    internal: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        if place + 7 + size > len(data):  # being written
            return
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            record = internal.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def wandb_history(directory: Path) -> list[dict[str, Any]]:
    """The rows of history of the only offline run, W&B's own columns left out."""
    (path,) = directory.glob("offline-run-*/*.wandb")
    found = []
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.append({key: value for key, value in items.items() if not key.startswith("_")})
    return found


# --- what is exported of a row


def test_a_row_becomes_scalars_at_its_last_step() -> None:
    scalars = scalars_of(row())
    assert scalars is not None
    assert (scalars.name, scalars.step) == ("gradnoise/per_parameter/whole_model/burst", 63)
    assert scalars.numbers == {
        "alpha": 1.5,
        "alpha_low": 1.25,
        "alpha_high": 1.75,
        "null_alpha": 1.9375,
        "scale": 0.03125,
    }
    assert tuple(scalars.numbers) == NUMBERS
    assert scalars.verdict == "undecided"
    assert scalars.time == 1767225600


@pytest.mark.parametrize("status", ["too_few_draws", "not_stationary", "degenerate", "all_zero", "failed"])
def test_a_row_that_is_not_to_be_taken_as_it_is_is_not_exported(status: str) -> None:
    assert scalars_of(row(status=status)) is None


def test_at_the_boundary_the_text_says_so() -> None:
    scalars = scalars_of(row(status="at_boundary", verdict="gaussian", alpha_high=None, scale=math.nan))
    assert scalars is not None
    assert scalars.verdict == "gaussian (at_boundary)"
    assert set(scalars.numbers) == {"alpha", "alpha_low", "null_alpha"}


def test_names_hold_what_every_tool_takes() -> None:
    scalars = scalars_of(row(group="layers.0.weight@1/4"))
    assert scalars is not None
    assert scalars.name == "gradnoise/per_parameter/layers.0.weight-1/4/burst"


# --- TensorBoard


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    rows = [row(), row(last_step=127, alpha=1.625, status="at_boundary"), row(status="too_few_draws")]
    with TensorBoard(tmp_path) as target:
        report = export(rows, target)
    assert (report.rows, report.scalars, report.repeated, report.left_out) == (2, 10, 0, {"too_few_draws": 1})
    place = tmp_path / "run-1" / PRODUCER[:8]
    found = tensorboard_scalars(place)
    assert found["gradnoise/per_parameter/whole_model/burst/alpha"] == [(63, 1.5), (127, 1.625)]
    assert found["gradnoise/per_parameter/whole_model/burst/scale"] == [(63, 0.03125), (127, 0.03125)]
    assert len(found) == len(NUMBERS)
    assert tensorboard_texts(place) == {
        "gradnoise/per_parameter/whole_model/burst/verdict": [(63, "undecided"), (127, "undecided (at_boundary)")]
    }


def test_exporting_to_tensorboard_again_adds_what_is_new_only(tmp_path: Path) -> None:
    rows = [row(scale=1 / 3)]  # no number of 32 bits
    with TensorBoard(tmp_path) as target:
        export(rows, target)
    with TensorBoard(tmp_path) as target:
        assert export(rows, target).scalars == 0
    place = tmp_path / "run-1" / PRODUCER[:8]
    assert len(list(place.iterdir())) == 1
    with TensorBoard(tmp_path) as target:
        report = export([*rows, row(last_step=99)], target)
    assert (report.scalars, report.repeated) == (5, 5)
    alpha = tensorboard_scalars(place)["gradnoise/per_parameter/whole_model/burst/alpha"]
    assert alpha == [(63, 1.5), (99, 1.5)]


def test_producers_and_kinds_are_kept_apart(tmp_path: Path) -> None:
    with TensorBoard(tmp_path) as target:
        export([row(), row(kind="probe", alpha=1.75), row(producer="d" * 32, alpha=1.0)], target)
    first, second = (tensorboard_scalars(tmp_path / "run-1" / name) for name in (PRODUCER[:8], "d" * 8))
    assert first["gradnoise/per_parameter/whole_model/burst/alpha"] == [(63, 1.5)]
    assert first["gradnoise/per_parameter/whole_model/probe/alpha"] == [(63, 1.75)]
    assert second["gradnoise/per_parameter/whole_model/burst/alpha"] == [(63, 1.0)]


def test_a_directory_that_cannot_be_written_is_an_error_of_the_exporter(tmp_path: Path) -> None:
    (tmp_path / "run-1").write_text("a file stands where the directory should be")
    with TensorBoard(tmp_path) as target, pytest.raises(ExportError, match="cannot be written"):
        export([row()], target)


# --- MLflow


def test_mlflow_reads_back_what_was_written(mlflow_store: str) -> None:
    rows = [row(), row(last_step=127, alpha=1.625, verdict="gaussian")]
    with MLflow(mlflow_store) as target:
        assert export(rows, target).scalars == 10
    (run,) = mlflow_runs(mlflow_store)
    assert run.info.run_name == "run-1"
    assert run.info.status == "FINISHED"
    assert run.data.tags["gradnoise.producer"] == PRODUCER
    name = "gradnoise/per_parameter/whole_model/burst"
    assert mlflow_history(mlflow_store, run, f"{name}/alpha") == [(63, 1.5), (127, 1.625)]
    assert run.data.metrics[f"{name}/null_alpha"] == 1.9375
    assert run.data.tags[f"{name}/verdict"] == "gaussian, step 127"


def test_exporting_to_mlflow_again_finds_its_run_and_adds_what_is_new_only(mlflow_store: str) -> None:
    with MLflow(mlflow_store) as target:
        export([row()], target)
    with MLflow(mlflow_store) as target:
        report = export([row(), row(last_step=99), row(producer="d" * 32)], target)
    assert (report.scalars, report.repeated) == (10, 5)
    runs = {run.data.tags["gradnoise.producer"]: run for run in mlflow_runs(mlflow_store)}
    assert set(runs) == {PRODUCER, "d" * 32}
    alpha = mlflow_history(mlflow_store, runs[PRODUCER], "gradnoise/per_parameter/whole_model/burst/alpha")
    assert alpha == [(63, 1.5), (99, 1.5)]


def test_the_experiment_is_the_one_in_the_environment(mlflow_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "noise")
    with MLflow(mlflow_store) as target:
        export([row()], target)
    assert len(mlflow_runs(mlflow_store, "noise")) == 1


def test_what_mlflow_refuses_is_an_error_of_the_exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(ExportError, match="MLFLOW_ALLOW_FILE_STORE"):
        MLflow((tmp_path / "mlruns").as_uri())


def test_an_mlflow_server_that_is_not_there_is_said_so_soon(
    make_dump: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"BACKOFF_FACTOR": "0", "BACKOFF_JITTER": "0", "MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")  # and what is set now is forgotten after the test
    assert main(["export", str(make_dump()), "--mlflow", f"http://127.0.0.1:{free_port()}"]) == Exit.FAILED
    assert "refuses" in capsys.readouterr().err
    assert int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) <= 3


# --- Weights & Biases


def test_wandb_reads_back_what_was_written_offline(wandb_offline: Path) -> None:
    with WandB("noise") as target:
        assert export([row(), row(last_step=127, scale=None)], target).scalars == 9
    name = "gradnoise/per_parameter/whole_model/burst"
    common = {"alpha": 1.5, "alpha_low": 1.25, "alpha_high": 1.75, "null_alpha": 1.9375, "verdict": "undecided"}
    # W&B writes from a process of its own.
    until(lambda: len(wandb_history(wandb_offline)) == 2, what="the history that W&B writes")
    assert wandb_history(wandb_offline) == [
        {"gradnoise/step": 63, f"{name}/scale": 0.03125, **{f"{name}/{key}": value for key, value in common.items()}},
        {"gradnoise/step": 127, **{f"{name}/{key}": value for key, value in common.items()}},
    ]
    (path,) = wandb_offline.glob("offline-run-*/*.wandb")
    (begun, *_) = [record.run for record in wandb_records(path) if record.WhichOneof("record_type") == "run"]
    assert (begun.project, begun.display_name, begun.run_group) == ("noise", "run-1", "run-1")


# --- a library that is not there


@pytest.mark.parametrize(
    ("make", "package"), [(TensorBoard, "tensorboard"), (MLflow, "mlflow"), (WandB, "wandb")], ids=lambda x: str(x)
)
def test_a_missing_library_is_named(
    make: Callable[[str], object], package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *rest)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ExportError, match=f"pip install {package}$"):
        make(str(tmp_path))


def test_importing_the_exporters_loads_none_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    code = (
        "import sys, gradnoise.export, gradnoise.cli\n"
        "found = {'tensorboard', 'wandb', 'mlflow', 'torch', 'grpc'} & set(sys.modules)\n"
        "raise SystemExit(repr(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# --- the command


def test_export_of_a_dump(make_dump: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = make_dump(windows=1)
    argv = ["export", str(dump), "--tensorboard", str(tmp_path / "tb"), "--json"]
    assert main([*argv, "--form", "per_parameter", "--group", "*"]) == Exit.DONE
    report = json.loads(capsys.readouterr().out)
    assert report == {"rows": 1, "scalars": 5, "repeated": 0, "left_out": {}}
    (place,) = (tmp_path / "tb" / "wide").iterdir()
    found = tensorboard_scalars(place)
    assert set(found) == {f"gradnoise/per_parameter/whole_model/burst/{name}" for name in NUMBERS}
    from gradnoise.analyzer.batch import analyse_dump
    from gradnoise.wire import Dump

    expected = [
        (r["last_step"], float(np.float32(r["alpha"])))
        for tables in analyse_dump(Dump(dump))
        for r in tables.tail.to_pylist()
        if (r["form"], r["group"]) == ("per_parameter", "*")
    ]
    assert found["gradnoise/per_parameter/whole_model/burst/alpha"] == expected
    # Wider: what is there is not written a second time.
    assert main(argv) == Exit.DONE
    report = json.loads(capsys.readouterr().out)
    assert report["repeated"] == 5
    assert report["scalars"] > 0


def test_export_of_a_run_on_an_analyzer(
    analyzer: tuple[str, Server], mlflow_store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "wide", "--mlflow", mlflow_store, "--form", "per_parameter", "--steps", "0:100000"]
    assert main(argv) == Exit.DONE
    out = capsys.readouterr().out
    with Client(analyzer[0]) as client:
        rows = client.tail("wide", form="per_parameter").to_pylist()
    # The two windows of this run end at one step: what reads the same there is one number.
    offered = [(s.name, name, n) for s in map(scalars_of, rows) if s is not None for name, n in s.numbers.items()]
    written = len(set(offered))
    assert out == (f"{written} numbers of {len(rows)} rows written, {len(offered) - written} were there already\n")
    (run,) = mlflow_runs(mlflow_store)
    name = "gradnoise/per_parameter/whole_model/burst/alpha"
    assert mlflow_history(mlflow_store, run, name) == [(r["last_step"], r["alpha"]) for r in rows if r["group"] == "*"]


def test_export_follows_a_live_run_until_interrupted(
    analyzer: tuple[str, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Client.watch

    def watch(self: Client, *args: Any, **kwargs: Any) -> Any:
        rows = real(self, *args, **kwargs)
        yield next(rows)
        yield next(rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "watch", watch)
    argv = ["export", "wide", "--follow", "--tensorboard", str(tmp_path / "tb"), "--group", "*"]
    assert main([*argv, "--form", "per_parameter"]) == Exit.DONE
    assert "no longer following" in capsys.readouterr().err
    (place,) = (tmp_path / "tb" / "wide").iterdir()
    assert len(tensorboard_scalars(place)["gradnoise/per_parameter/whole_model/burst/alpha"]) == 2


def test_export_follows_a_dump_to_its_end(
    make_dump: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", str(make_dump()), "--follow", "--tensorboard", str(tmp_path / "tb"), "--json", "--group", "*"]
    assert main(argv) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["rows"] == 6
    assert len(list((tmp_path / "tb" / "wide").iterdir())) == 1


def test_export_of_rows_without_estimates_says_what_was_left_out(
    make_dump: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = make_dump(windows=1, draws=4)
    code = main(["export", str(dump), "--tensorboard", str(tmp_path / "tb"), "--form", "per_parameter"])
    out, err = capsys.readouterr()
    assert code == Exit.TOO_LITTLE
    assert out == "0 numbers of 0 rows written, 0 were there already\n"
    assert "left out: 3 rows with status too_few_draws" in err
    assert not (tmp_path / "tb").exists()


def test_export_without_a_target_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", "wide"])
    assert ended.value.code == Exit.USAGE
    assert "--tensorboard --wandb --mlflow" in capsys.readouterr().err


def test_export_to_a_missing_library_fails_with_the_remedy(
    make_dump: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(name: str, *rest: Any) -> Any:
        if name == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
        return real(name, *rest)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", without)
    assert main(["export", str(make_dump()), "--wandb", "noise"]) == Exit.FAILED
    assert capsys.readouterr().err == ("gradnoise export: exporting to wandb needs it installed: pip install wandb\n")
