"""``gradnoise measure``: from a script's factory and a checkpoint to the table of alignment."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from gradnoise.cli import Exit, _measure
from gradnoise.collector.curvature import measure_curvature
from gradnoise.wire import CurvatureKind, Dump, DumpWriter, Mode, Order, ProductMethod, RunInfo

from .commands import Capture, lines, run

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = """
import torch
from torch import nn

torch.manual_seed(0)
X, Y = torch.randn(24, 4), torch.randint(0, 2, (24,))

def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()

def batches():
    return [(X[i : i + 8].double(), Y[i : i + 8]) for i in range(0, 24, 8)]

def factory():
    return model(), nn.functional.cross_entropy, batches()

def mapping():
    return {"model": model(), "loss_fn": nn.functional.cross_entropy, "data": batches(), "top": 2, "draws": 3,
            "probes": 2, "parts": ("0.*", "2.*")}

def unknown():
    return mapping() | {"colour": "red"}

def number():
    return 3

def pair():
    return model(), batches()

def no_model():
    return {"model": "net", "data": batches()}

def no_data():
    raise ValueError("the data are gone\\nand more")

def leaves():
    raise SystemExit(7)

def bad_loss():
    return model(), lambda outputs, targets: 1 / 0, batches()

def no_scalar():
    return model(), lambda outputs, targets: outputs, batches()

constant = 3
"""
QUICK = ("--top", "2", "--draws", "3", "--probes", "2")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = tmp_path / "training_of_ours.py"
    path.write_text(SCRIPT)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield str(path)
    for name in ("training_of_ours", "_gradnoise_training_of_ours"):
        sys.modules.pop(name, None)


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def expected_loss(net: nn.Module) -> float:
    torch.manual_seed(0)
    x, y = torch.randn(24, 4), torch.randint(0, 2, (24,))
    with torch.no_grad():
        return float(nn.functional.cross_entropy(net(x.double()), y))


def values(rows: list[dict[str, Any]], metric: str) -> list[Any]:
    return [row["value"] for row in rows if row["metric"] == metric]


def test_names_that_help_writes_out_are_those_of_the_measurement() -> None:
    assert list(_measure._ORDERS) == list(Order)
    assert list(_measure._MODES) == list(Mode)
    assert list(_measure._MATRICES) == [CurvatureKind.HESSIAN, CurvatureKind.GAUSS_NEWTON]
    assert list(_measure._METHODS) == ["auto", ProductMethod.DOUBLE_BACKWARD, ProductMethod.FINITE_DIFFERENCES]


def test_defaults_that_help_writes_out_are_those_of_the_measurement(capsys: Capture) -> None:
    taken = inspect.signature(measure_curvature).parameters
    assert {*_measure._OPTIONS, "parts"} <= taken.keys()
    with pytest.raises(SystemExit):
        run(capsys, "measure", "--help")
    out = capsys.readouterr().out
    said = dict(re.findall(r"--(\w+) [^-]*?default: (\w+)", " ".join(out.split())))
    said = {name: said[name] for name in _measure._OPTIONS}
    said["dense"] = said["dense"].replace("none", "0")
    assert said == {name: str(taken[name].default) for name in _measure._OPTIONS}


def test_what_a_factory_returns_is_measured_and_printed(capsys: Capture, script: str) -> None:
    code, out, err = run(capsys, "measure", f"{script}:factory", *QUICK)
    assert code == Exit.DONE
    assert out.startswith("hessian of * (23 parameters) at step 0, 3 draws\n")
    assert "\ntrace_h " in out
    assert "*: " in err
    assert " products in " in err


def test_the_numbers_are_those_of_the_functions(capsys: Capture, script: str) -> None:
    rows = lines(run(capsys, "measure", f"{script}:mapping", "--part", "*", "--seed", 5, "--json")[1])
    assert {row["part"] for row in rows} == {"*"}  # what the command line says comes before the mapping
    assert values(rows, "loss") == [pytest.approx(expected_loss(model()))]
    torch.manual_seed(0)
    x, y = torch.randn(24, 4).double(), torch.randint(0, 2, (24,))
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 24, 8)]
    (row,) = measure_curvature(model(), nn.functional.cross_entropy, batches, top=2, draws=3, probes=2, seed=5)
    assert values(rows, "eigenvalue") == pytest.approx(row.eigenvalues.tolist())
    assert values(rows, "gradient_norm2") == [pytest.approx(row.gradient_norm2)]


def test_a_mapping_says_what_the_command_line_does_not(capsys: Capture, script: str) -> None:
    rows = lines(run(capsys, "measure", f"{script}:mapping", "--json")[1])
    assert {row["part"] for row in rows} == {"0.*", "2.*"}
    assert {row["dimension"] for row in rows} == {15, 8}


def test_a_module_is_found_from_where_the_command_runs(
    capsys: Capture, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(script).parent)
    assert run(capsys, "measure", "training_of_ours:factory", *QUICK)[0] == Exit.DONE


@pytest.mark.parametrize("key", [None, "network"])
def test_a_checkpoint_is_loaded_into_the_model(capsys: Capture, script: str, tmp_path: Path, key: str | None) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    torch.save(net.state_dict() if key is None else {"network": net.state_dict(), "epoch": 3}, tmp_path / "c.pt")
    options = [] if key is None else ["--key", key]
    argv = ["measure", f"{script}:factory", *QUICK, "--checkpoint", tmp_path / "c.pt", "--json"]
    rows = lines(run(capsys, *argv, *options)[1])
    assert values(rows, "loss") == [pytest.approx(expected_loss(net))]
    assert expected_loss(net) != pytest.approx(expected_loss(model()))


def _checkpoints(tmp_path: Path) -> dict[str, tuple[list[str], Exit, str]]:
    def saved(name: str, content: Any) -> str:
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    (tmp_path / "junk.pt").write_bytes(b"junk")
    whole = saved("whole.pt", {"network": model().state_dict(), "epoch": 3})
    return {
        "gone": (["--checkpoint", str(tmp_path / "no.pt")], Exit.FAILED, "there is no file"),
        "junk": (["--checkpoint", str(tmp_path / "junk.pt")], Exit.CORRUPT, "cannot be read"),
        "code": (["--checkpoint", saved("code.pt", model())], Exit.CORRUPT, "cannot be read"),
        "entries": (["--checkpoint", whole], Exit.FAILED, "its entries are: network, epoch: say with --key"),
        "no entry": (["--checkpoint", whole, "--key", "x"], Exit.FAILED, "its entries are: network, epoch"),
        "tensor": (["--checkpoint", saved("t.pt", torch.ones(3))], Exit.FAILED, "it holds a Tensor"),
        "other": (["--checkpoint", saved("o.pt", nn.Linear(2, 2).state_dict())], Exit.FAILED, "does not fit the model"),
        "key alone": (["--key", "x"], Exit.USAGE, "give --checkpoint too"),
        "run alone": (["--run", "x"], Exit.USAGE, "give --dump too"),
    }


@pytest.mark.parametrize("name", [
    "gone", "junk", "code", "entries", "no entry", "tensor", "other", "key alone", "run alone",
])  # fmt: skip
def test_what_cannot_be_loaded_says_why(capsys: Capture, script: str, tmp_path: Path, name: str) -> None:
    options, expected, text = _checkpoints(tmp_path)[name]
    code, out, err = run(capsys, "measure", f"{script}:factory", *QUICK, *options)
    assert (code, out) == (expected, "")
    assert text in err
    assert len(err.splitlines()) == 1


def test_measurements_are_kept_beside_each_other_and_only_the_new_one_is_printed(
    capsys: Capture, script: str, tmp_path: Path
) -> None:
    argv = ["measure", f"{script}:factory", *QUICK, "--dump", tmp_path / "d", "--json"]
    first = lines(run(capsys, *argv, "--run", "mine", "--step", 10)[1])
    assert {(row["run"], row["first_step"], row["window"]) for row in first} == {("mine", 10, -11)}
    second = lines(run(capsys, *argv, "--step", 20)[1])
    assert {(row["run"], row["first_step"]) for row in second} == {("mine", 20)}
    again = lines(run(capsys, *argv, "--step", 20)[1])
    assert {row["producer"] for row in again}.isdisjoint({row["producer"] for row in second})
    assert len(Dump(tmp_path / "d").producers()) == 3
    everything = lines(run(capsys, "align", tmp_path / "d", "--json")[1])
    assert len(everything) == len(first) + len(second) + len(again)
    code, _, err = run(capsys, *argv, "--run", "other")
    assert (code, "gradnoise measure: " in err) == (Exit.FAILED, True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unknown", "colour"),
        ("number", "returned int: expected (model, loss_fn, data)"),
        ("pair", "returned tuple: expected (model, loss_fn, data)"),
        ("no_model", "as its model a str: expected a torch.nn.Module"),
        ("no_data", "failed: ValueError: the data are gone (training_of_ours.py, line "),
        ("leaves", "failed: SystemExit: 7 (training_of_ours.py, line "),
        ("bad_loss", "ZeroDivisionError"),
        ("no_scalar", "scalar"),
        ("nowhere", "has no function 'nowhere'"),
        ("constant", "has no function 'constant'"),
    ],
)
def test_a_factory_that_fails_is_one_line_and_1(capsys: Capture, script: str, name: str, text: str) -> None:
    code, out, err = run(capsys, "measure", f"{script}:{name}", *QUICK)
    assert (code, out) == (Exit.FAILED, "")
    assert text in err
    assert len(err.splitlines()) == 1
    assert err.startswith("gradnoise measure: ")


def test_a_script_that_is_none_says_so(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "broken.py").write_text("def factory(:\n")
    (tmp_path / "needs.py").write_text("import a_module_that_is_not_there\n")
    for argv, expected, text in (
        ("train.py", Exit.USAGE, "expected SCRIPT:FACTORY"),
        (":factory", Exit.USAGE, "expected SCRIPT:FACTORY"),
        ("train.py:", Exit.USAGE, "expected SCRIPT:FACTORY"),
        (f"{tmp_path}/no.py:factory", Exit.FAILED, "there is no script"),
        ("no_such_module_at_all:factory", Exit.FAILED, "ModuleNotFoundError"),
        (f"{tmp_path}/broken.py:factory", Exit.FAILED, "SyntaxError"),
        (f"{tmp_path}/needs.py:factory", Exit.FAILED, "ModuleNotFoundError: No module named 'a_module_that_is_not_th"),
    ):
        code, out, err = run(capsys, "measure", argv)
        assert (code, out) == (expected, "")
        assert text in err
        assert "pip install" not in err


@pytest.mark.parametrize("missing", ["torch", "scipy", "numba"])
def test_it_says_at_once_what_to_install(
    capsys: Capture, script: str, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("gradnoise.cli._measure.find_spec", lambda name: None if name == missing else find(name))
    code, out, err = run(capsys, "measure", f"{script}:factory")
    assert (code, out) == (Exit.FAILED, "")
    assert err == (
        f"gradnoise measure: this command needs {missing}, which is not installed: "
        "pip install 'gradnoise[torch,analyzer]'\n"
    )


@pytest.mark.parametrize(
    ("options", "expected", "text"),
    [
        (("--dump", "kept", "--run", "other"), Exit.FAILED, "holds run 'mine'"),
        (("--dump", "file/new"), Exit.FAILED, "Not a directory"),
        (("--dump", "new", "--run", "a/b"), Exit.CORRUPT, "a/b"),
        (("--step", "-3"), Exit.USAGE, "at least 0"),
    ],
)
def test_what_could_not_be_kept_is_not_measured(
    capsys: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    expected: Exit,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    DumpWriter(tmp_path / "kept", RunInfo("mine", "Net", "2026-01-01T00:00:00+00:00", ())).close()
    (tmp_path / "never.py").write_text("def factory():\n    raise AssertionError('called')\n")
    code, out, err = run(capsys, "measure", "never.py:factory", *options)
    assert (code, out) == (expected, "")
    assert text in err
    assert "called" not in err
