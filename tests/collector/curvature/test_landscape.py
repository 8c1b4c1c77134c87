"""The loss around and between parameters, against closed forms; and measurements written into dumps."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

import gradnoise.collector.curvature
from gradnoise.collector import Sampling, attach
from gradnoise.collector.curvature import (
    CurvatureError,
    expected_sharpness,
    loss_barrier,
    measure_curvature,
    record_curvature,
)
from gradnoise.wire import CurvatureKind, CurvatureRow, Dump, Mode, ProductMethod, RunExistsError, Table, WireError

from ...alignment.worlds import network, quadratic
from ..loops import Data, mlp, rows, train
from ..test_probe import assert_same, snapshot
from .test_attach_curvature import written

if TYPE_CHECKING:
    from pathlib import Path

LOSS = nn.CrossEntropyLoss()
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def batched(inputs: torch.Tensor, targets: torch.Tensor, size: int = 10) -> Batches:
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def data_of(seed: int = 1) -> Batches:
    data = Data(size=32, seed=seed)
    return batched(data.x, data.y, 8)


class Normed(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out


def warm(seed: int) -> Normed:
    """A network whose running statistics and counter have moved."""
    model = Normed(seed)
    with torch.no_grad():
        for _ in range(seed + 1):
            model(3 * torch.randn(20, 6) + seed)
    return model.eval()


def values_of(model: nn.Module) -> dict[str, Any]:
    """Everything of it but version counters, which moved parameters have moved."""
    found = snapshot(model)
    return found | {"parameters": [(number, values) for number, values, _ in found["parameters"]]}


def mean_loss(model: nn.Module, data: Batches) -> float:
    with torch.no_grad():
        return float(np.mean([float(LOSS(model(x), y)) for x, y in data]))


# --- expected sharpness ----------------------------------------------------------------------------------------------


def test_each_pair_of_a_quadratic_gives_half_its_quadratic_form() -> None:
    """(F(t + e) + F(t - e)) / 2 - F(t) = e . H e / 2 exactly, and radius^2 / 2 Tr H in expectation."""
    spectrum = np.geomspace(3.0, 0.1, 8)
    world = quadratic(spectrum, 1.0, 24, away=1.0)
    row = expected_sharpness(
        world.model, world.loss_fn, batched(world.inputs, world.targets, 12), radius=0.3, samples=200, seed=5
    )
    generator = torch.Generator().manual_seed(5)
    changes = [torch.empty(8, dtype=torch.float64).normal_(generator=generator).numpy() * 0.3 for _ in range(100)]
    wanted = np.array([e @ world.hessian @ e / 2 for e in changes])
    pairs = (row.losses[::2] + row.losses[1::2]) / 2 - row.loss
    np.testing.assert_allclose(pairs, wanted, rtol=1e-9)
    error = pairs.std(ddof=1) / 10
    assert abs(pairs.mean() - 0.09 / 2 * spectrum.sum()) < 4 * error
    assert (row.kind, row.method, row.radius, row.dimension) == (CurvatureKind.SHARPNESS, ProductMethod.LOSS, 0.3, 8)
    assert (row.part, row.products, row.minibatches, row.examples, row.mode) == ("*", 0, 2, 24, Mode.EVAL)


def test_the_loss_is_that_at_the_unmoved_parameters() -> None:
    model, inputs, targets = network()
    row = expected_sharpness(model, LOSS, batched(inputs, targets), radius=0.1, samples=2)
    assert row.loss == pytest.approx(LOSS(model(inputs), targets).item(), rel=1e-12)


def test_only_the_part_moves() -> None:
    model, inputs, targets = network()
    seen: list[list[torch.Tensor]] = []

    def losses() -> Any:
        seen.append([parameter.detach().clone() for parameter in model.parameters()])
        yield LOSS(model(inputs), targets)

    row = expected_sharpness(model, None, losses, radius=0.1, samples=2, part="0.*")
    assert row.dimension == sum(p.numel() for p in model[0].parameters())  # type: ignore[index]
    begin, *_, plus, minus = seen
    assert all(torch.equal(a, b) for a, b in zip(begin[2:], plus[2:], strict=True))
    for a, b, c in zip(begin[:2], plus[:2], minus[:2], strict=True):
        assert not torch.equal(a, b)
        torch.testing.assert_close(b - a, a - c)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_parameters_are_put_back_bit_for_bit_after_an_exception(error: type[BaseException]) -> None:
    model = mlp()
    before = snapshot(model)
    calls = iter(range(99))

    def failing() -> torch.Tensor:
        if next(calls) == 4:  # while they are moved
            assert not torch.equal(model[0].weight, before["parameters"][0][1])
            raise error
        return nn.functional.cross_entropy(model(torch.ones(2, 6)), torch.zeros(2, dtype=torch.long))

    with pytest.raises(CurvatureError if error is RuntimeError else error):
        expected_sharpness(model, None, failing, radius=0.5)
    assert_same(before, snapshot(model))


def test_a_loss_that_overflows_is_counted() -> None:
    model = nn.Linear(6, 3)
    row = expected_sharpness(model, lambda out, _: out.exp().sum(), data_of(), radius=1e3, samples=4)
    assert not np.isfinite(row.losses).all()
    assert any("of 4 losses are not finite" in note for note in row.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, r"radius=0\.0.*positive"),
        ({"radius": float("inf")}, "radius=inf"),
        ({"samples": 3}, "samples=3.*even"),
        ({"samples": 0}, "samples=0"),
        ({"mode": "test"}, "mode='test'"),
        ({"seed": -1}, "seed=-1"),
        ({"part": "head"}, "'head' has no trainable"),
    ],
)
def test_what_cannot_be_evaluated_around_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        expected_sharpness(mlp(), LOSS, data_of(), **({"radius": 0.1} | options))
    assert isinstance(caught.value, CurvatureError)


# --- barrier ---------------------------------------------------------------------------------------------------------


def test_losses_on_the_segment_are_those_of_interpolated_parameters() -> None:
    begin, end, model = mlp(), mlp(), mlp()
    before = values_of(model)
    row = loss_barrier(model, begin.state_dict(), end.state_dict(), LOSS, data_of(), points=5)
    assert_same(before, values_of(model))
    np.testing.assert_array_equal(row.positions, [0, 0.25, 0.5, 0.75, 1])
    for position, loss in zip(row.positions, row.losses, strict=True):
        between = mlp()
        with torch.no_grad():
            for here, one, other in zip(between.parameters(), begin.parameters(), end.parameters(), strict=True):
                here.copy_((1 - position) * one + position * other)
        assert loss == pytest.approx(mean_loss(between, data_of()), rel=1e-6)
    assert row.losses[0] == row.loss == pytest.approx(mean_loss(begin, data_of()), rel=1e-7)
    assert (row.kind, row.method, row.part) == (CurvatureKind.BARRIER, ProductMethod.LOSS, "*")
    assert row.dimension == sum(parameter.numel() for parameter in model.parameters())
    assert row.notes == ()


def test_the_ends_are_exact_and_may_be_the_models_own_state() -> None:
    model, end = warm(1), warm(2)
    seen: list[list[torch.Tensor]] = []

    def loss() -> torch.Tensor:
        seen.append([value.clone() for value in model.state_dict().values()])
        return nn.functional.cross_entropy(model(torch.ones(4, 6)), torch.zeros(4, dtype=torch.long))

    before = copy.deepcopy(model.state_dict())
    row = loss_barrier(model, model.state_dict(), end.state_dict(), None, loss, points=3)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], before.values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen[-1], end.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    # Running statistics between them; the counter of the begin.
    middle = dict(zip(before, seen[-2], strict=True))
    both = before["body.1.running_mean"] + end.state_dict()["body.1.running_mean"]
    torch.testing.assert_close(middle["body.1.running_mean"], both / 2)
    assert torch.equal(middle["body.1.num_batches_tracked"], before["body.1.num_batches_tracked"])
    assert any("interpolated" in note for note in row.notes)


def test_recomputed_statistics_are_those_of_the_data() -> None:
    """With one minibatch as data, eval mode by its own statistics is training mode, but for the variance's n - 1."""
    model, data = warm(1), data_of()
    whole = [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))]
    ends = warm(1).state_dict(), warm(2).state_dict()
    before = values_of(model)
    row = loss_barrier(model, *ends, LOSS, whole, points=3, buffers="recompute")
    assert_same(before, values_of(model))
    assert model.body[1].momentum == 0.1
    trained = loss_barrier(model, *ends, LOSS, whole, points=3, mode="train")
    interpolated = loss_barrier(model, *ends, LOSS, whole, points=3)
    np.testing.assert_allclose(row.losses, trained.losses, rtol=0.02)
    assert np.abs(interpolated.losses / trained.losses - 1).max() > 0.05
    assert any("recomputed" in note for note in row.notes)
    assert any("each minibatch" in note for note in trained.notes)


def test_state_dicts_that_do_not_fit_are_named() -> None:
    model = mlp()
    good = model.state_dict()
    lacking = {name: value for name, value in good.items() if name != "2.bias"}
    with pytest.raises(CurvatureError, match=r"end is not one of the model: it lacks 2\.bias and has nothing"):
        loss_barrier(model, good, lacking, LOSS, data_of())
    wrapped = {f"module.{name}": value for name, value in good.items()}
    with pytest.raises(CurvatureError, match=r"begin.*lacks 0\.bias.*has module\.0\.bias"):
        loss_barrier(model, wrapped, good, LOSS, data_of())
    with pytest.raises(CurvatureError, match=r"end has '2\.bias' in shape \(4,\).*shape \(3,\)"):
        loss_barrier(model, good, good | {"2.bias": torch.ones(4)}, LOSS, data_of())
    with pytest.raises(CurvatureError, match="begin is a Sequential; expected a state dict"):
        loss_barrier(model, model, good, LOSS, data_of())
    with pytest.raises(CurvatureError, match="points=1"):
        loss_barrier(model, good, good, LOSS, data_of(), points=1)
    with pytest.raises(CurvatureError, match=r"buffers='mean'.*interpolate, recompute"):
        loss_barrier(model, good, good, LOSS, data_of(), buffers="mean")


# --- dumps -----------------------------------------------------------------------------------------------------------


def assert_written(found: CurvatureRow, row: CurvatureRow, step: int) -> None:
    assert (found.window, found.step, found.theta) == (-1 - step, step, step)
    assert (found.part, found.kind, found.notes) == (row.part, row.kind, row.notes)
    np.testing.assert_array_equal(found.gram, row.gram)
    np.testing.assert_array_equal(found.losses, row.losses)


def test_rows_of_a_script_are_a_dump_of_their_own(tmp_path: Path) -> None:
    model = mlp()
    measured = measure_curvature(model, LOSS, data_of(), top=2, draws=4, probes=2)
    sharp = expected_sharpness(model, LOSS, data_of(), radius=0.1, samples=2)
    path = record_curvature((*measured, sharp), tmp_path / "mine", step=7, model=model)
    assert path == tmp_path / "mine"
    info = Dump(path).info
    assert (info.run, info.model, len(info.groups)) == ("mine", "Sequential", 4)
    found = written(path)
    for row, wanted in zip(found, (*measured, sharp), strict=True):
        assert_written(row, wanted, 7)
    (window,) = rows(path, Table.WINDOWS)
    assert (window["window"], window["kind"], window["first_step"], window["rows"]) == (-8, "curvature", 7, 0)


def test_several_steps_join_one_dump(tmp_path: Path) -> None:
    model = mlp()
    for step in (100, 200):
        row = expected_sharpness(model, LOSS, data_of(), radius=0.1, samples=2, seed=step)
        record_curvature(row, tmp_path, run="checkpoints", step=step, model="MLP")
    assert (Dump(tmp_path).info.run, Dump(tmp_path).info.model) == ("checkpoints", "MLP")
    assert len(Dump(tmp_path).producers()) == 2
    assert sorted(row.step for row in written(tmp_path)) == [100, 200]
    assert sorted(w["window"] for w in rows(tmp_path, Table.WINDOWS)) == [-201, -101]
    with pytest.raises(RunExistsError, match="holds run 'checkpoints'"):
        record_curvature(row, tmp_path, run="another")


def test_rows_join_the_dump_of_a_training(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, dump=tmp_path, run="trained", sampling=Sampling(burst=2, every=2)):
        train(model, optimizer, Data(), 4)
    record_curvature(expected_sharpness(model, LOSS, data_of(), radius=0.1, samples=2), tmp_path, step=4)
    assert [row.step for row in written(tmp_path)] == [4]
    assert sorted(w["kind"] for w in rows(tmp_path, Table.WINDOWS)) == ["burst", "burst", "curvature"]


def test_what_is_no_row_or_no_dump_is_refused(tmp_path: Path) -> None:
    row = expected_sharpness(mlp(), LOSS, data_of(), radius=0.1, samples=2)
    for wrong in ((), [row, 3], 3):
        with pytest.raises(CurvatureError, match="expected what measure_curvature"):
            record_curvature(wrong, tmp_path / "none")  # type: ignore[arg-type]
    with pytest.raises(CurvatureError, match="step=-1"):
        record_curvature(row, tmp_path / "none", step=-1)
    assert not (tmp_path / "none").exists()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(WireError):
        record_curvature(row, tmp_path)
    with pytest.raises(WireError, match="run id"):
        record_curvature(row, tmp_path / "new", run="no/name")


def test_the_public_names() -> None:
    assert gradnoise.collector.curvature.__all__ == [
        "CurvatureError",
        "CurvatureRow",
        "expected_sharpness",
        "loss_barrier",
        "measure_curvature",
        "record_curvature",
    ]
