"""The curvature probe inside a training: what it records, and that the training does not notice."""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradnoise.collector import CollectorError, Curvature, Limits, Probe, Sampling, attach
from gradnoise.collector._curvature.at_rest import refuse_sharded
from gradnoise.collector._curvature.measure import measure
from gradnoise.collector.curvature import CurvatureError, measure_curvature
from gradnoise.wire import CurvatureRow, Dump, Table, curvature_rows

from ..loops import Data, counted, hooks_left, loss_of, messages, mlp, rows, train
from ..test_probe import assert_same, counting, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NO_BURSTS = Sampling(burst=0)
LOSS = nn.CrossEntropyLoss()
SMALL: dict[str, Any] = {"top": 2, "draws": 4, "probes": 2}


def fixed() -> list[tuple[torch.Tensor, torch.Tensor]]:
    data = Data(size=32)
    return list(zip(data.x.split(8), data.y.split(8), strict=True))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def written(path: Path) -> list[CurvatureRow]:
    dump = Dump(path)
    found = [
        row
        for producer in dump.producers()
        for stamped in dump.batches(Table.CURVATURE, producer)
        for row in curvature_rows(stamped.batch)
    ]
    assert dump.problems == []
    return found


def test_it_records_what_is_measured_at_the_parameters_of_its_steps(tmp_path: Path) -> None:
    model = mlp()
    optimizer = sgd(model)
    plan = Curvature(fixed(), LOSS, every=3, parts=("*", "0.*"), **SMALL)
    there: dict[int, nn.Module] = {}
    with attach(model, optimizer, dump=tmp_path, sampling=NO_BURSTS, curvature=plan) as handle:
        for step in range(1, 8):
            train(model, optimizer, Data(seed=step), 1)
            if step % 3 == 0:
                there[step] = copy.deepcopy(model)
        assert handle.stats().theta == 7
    found = written(tmp_path)
    assert [(row.window, row.step, row.theta, row.part) for row in found] == [
        (-4, 3, 3, "*"),
        (-4, 3, 3, "0.*"),
        (-7, 6, 6, "*"),
        (-7, 6, 6, "0.*"),
    ]
    for row in found[::2]:
        again = measure(there[row.step], plan)[0]
        np.testing.assert_allclose(row.eigenvalues, again.eigenvalues, rtol=1e-5)
        np.testing.assert_allclose(row.gram, again.gram, rtol=1e-4, atol=1e-6)
        assert row.loss == pytest.approx(again.loss, rel=1e-6)
    windows = [
        (w["window"], w["kind"], w["first_step"], w["last_step"], w["first_theta"], w["declared"], w["recorded"])
        for w in rows(tmp_path, Table.WINDOWS)
    ]
    assert windows == [(-4, "curvature", 3, 3, 3, 0, 0), (-7, "curvature", 6, 6, 6, 0, 0)]
    assert Dump(tmp_path).info.plan["curvature_every"] == 3


class Net(nn.Module):
    """What a measurement could disturb: BatchNorm, Dropout, a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.fixed = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fixed(self.body(x))
        return out


def trained(data: Callable[[DataLoader[Any], nn.Module], Any] | None, path: Path, mode: str = "eval") -> Any:
    """Train with or without a probe of curvature that reads the training's own loader, and burst taps beside it."""
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    examples = Data(size=48)
    loader = DataLoader(
        TensorDataset(examples.x, examples.y), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1)
    )
    handle = None
    if data is not None:
        plan = Curvature(data(loader, model), LOSS, every=4, mode=mode, **SMALL)
        handle = attach(model, optimizer, dump=path, sampling=Sampling(burst=3, every=5), curvature=plan)
    losses = []
    for _ in range(2):
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_of(model, (x, y)) + 0.0 * random.random() + 0.0 * np.random.rand()  # noqa: NPY002
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    if handle is not None:
        handle.close()
    return {
        "losses": losses,
        "model": snapshot(model)["parameters"],
        "state": list(model.state_dict().values()),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
    }


def without_ids(found: Any) -> Any:
    return found | {"model": [values for _, values, _ in found["model"]]}


@pytest.mark.parametrize("mode", ["eval", "train", "as_is"])
def test_the_training_is_bit_equal_with_and_without_it(tmp_path: Path, mode: str) -> None:
    with_it = trained(lambda loader, model: loader, tmp_path, mode)
    assert_same(without_ids(with_it), without_ids(trained(None, tmp_path)))
    assert [(row.step, row.mode) for row in written(tmp_path)] == [(4, mode), (8, mode), (12, mode)]
    # 4 draws a minibatch each, in training mode too.
    assert {row.draws for row in written(tmp_path)} == {4}


def failing(loader: DataLoader[Any], model: nn.Module) -> Any:
    def losses() -> Any:
        model.train()
        yield LOSS(model(torch.randn(4, 6)), torch.zeros(4, dtype=torch.long))
        random.random()
        raise RuntimeError("no more" + " and no more" * 1000)

    return losses


def changing(loader: DataLoader[Any], model: nn.Module) -> Any:
    calls = iter(range(1000))
    return lambda: LOSS(model(torch.ones(4, 6)), torch.zeros(4, dtype=torch.long)) * next(calls)


@pytest.mark.parametrize(("data", "reason"), [(failing, "no more"), (changing, "mean loss of a pass")])
def test_a_failure_is_one_warning_and_an_event_and_the_training_bit_equal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: Any, reason: str
) -> None:
    with_it = trained(data, tmp_path)
    assert_same(without_ids(with_it), without_ids(trained(None, tmp_path)))
    (said,) = messages(caplog)
    assert "step 4" in said
    assert reason in said
    assert len(said) < 1000, "what the user's function raised is cut"
    assert counted(tmp_path) == {"curvature_failed": 1}
    assert written(tmp_path) == []
    (event,) = rows(tmp_path, Table.EVENTS)
    assert event["step"] == 4
    assert reason in event["detail"]
    # The bursts go on.
    assert {w["first_step"] for w in rows(tmp_path, Table.WINDOWS)} == {0, 5, 10}


def test_bursts_and_probes_beside_it_are_what_they_are_without_it(tmp_path: Path) -> None:
    found = []
    for name, curvature in (("with", Curvature(fixed(), LOSS, every=2, **SMALL)), ("without", None)):
        torch.manual_seed(0)
        model, fresh = mlp(), Data(seed=2)
        optimizer = sgd(model)
        probe = Probe(lambda model=model, fresh=fresh: loss_of(model, fresh()), draws=3, every=2)  # type: ignore[misc]
        sampling = Sampling(burst=2, every=3)
        with attach(model, optimizer, dump=tmp_path / name, sampling=sampling, probe=probe, curvature=curvature):
            train(model, optimizer, Data(), 6)
        assert hooks_left(model) == 0
        found.append([(r["window"], r["draw"], r["group"], r["values"]) for r in rows(tmp_path / name)])
    assert found[0] == found[1]
    assert [row.step for row in written(tmp_path / "with")] == [2, 4, 6]


def test_a_loss_scaler_is_not_seen_by_it(tmp_path: Path) -> None:
    """The losses of the measurement are unscaled: so are its gradients."""
    model = mlp()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    plan = Curvature(fixed(), LOSS, every=2, **SMALL)
    with attach(model, optimizer, dump=tmp_path, sampling=NO_BURSTS, scaler=scaler, curvature=plan):
        data = Data()
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, data())).backward()
            scaler.step(optimizer)
            scaler.update()
    (row,) = written(tmp_path)
    (again,) = measure(model, plan)
    assert row.gradient_norm2 == pytest.approx(again.gradient_norm2, rel=1e-4)


def test_an_interrupt_reaches_the_user_and_leaves_everything_in_place() -> None:
    model = Net()
    model(torch.randn(4, 6)).sum().backward()
    before = snapshot(model)
    calls = iter(range(9))

    def interrupted() -> torch.Tensor:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return loss_of(model, (torch.ones(4, 6), torch.zeros(4, dtype=torch.long)))

    with pytest.raises(KeyboardInterrupt):
        measure_curvature(model, None, interrupted, **SMALL)
    assert_same(before, snapshot(model))


def test_a_script_finds_everything_as_it_was() -> None:
    model = Net()
    model(torch.randn(4, 6)).sum().backward()
    weight = next(model.body.parameters())
    (unhooked,) = measure_curvature(model, LOSS, fixed(), **SMALL)
    weight.register_hook(lambda gradient: 2 * gradient)
    hooks = dict(weight._backward_hooks or {})
    before = snapshot(model)
    data = Data(size=32)
    loader = DataLoader(TensorDataset(data.x, data.y), batch_size=8, shuffle=True)
    (row,) = measure_curvature(model, LOSS, loader, **SMALL)
    assert row.draws == 4
    assert_same(before, snapshot(model))
    assert dict(weight._backward_hooks or {}) == hooks
    (hooked,) = measure_curvature(model, LOSS, fixed(), **SMALL)
    np.testing.assert_array_equal(hooked.eigenvalues, unhooked.eigenvalues)
    np.testing.assert_array_equal(hooked.gram, unhooked.gram)


def test_a_training_too_short_for_it_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = mlp()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=NO_BURSTS, curvature=Curvature(fixed(), LOSS)):
        train(model, optimizer, Data(), 2)
    (said,) = messages(caplog)
    assert "update 5000; 2 updates were seen" in said


def test_where_the_dump_has_no_room_it_is_skipped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlp()
    optimizer = sgd(model)
    plan = Curvature(fixed(), LOSS, every=2, **SMALL)
    with attach(
        model, optimizer, dump=tmp_path, sampling=NO_BURSTS, limits=Limits(spool=1 << 20), curvature=plan
    ) as handle:
        monkeypatch.setattr("gradnoise.collector._recording.spool.Spool.room", lambda *_: False)
        train(model, optimizer, Data(), 2)
    assert handle.stats().skipped_bursts == 1
    assert written(tmp_path) == []
    assert counted(tmp_path)["burst_skipped"] == 0
    assert [w["kind"] for w in rows(tmp_path, Table.WINDOWS)] == ["curvature"]
    assert any("spool" in said for said in messages(caplog))


def test_a_measurement_that_the_memory_does_not_let_wait_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradnoise.collector._recording.records.CurvatureAt.nbytes", 1 << 30)
    model = mlp()
    optimizer = sgd(model)
    with attach(
        model, optimizer, dump=tmp_path, sampling=NO_BURSTS, curvature=Curvature(fixed(), LOSS, every=2, **SMALL)
    ):
        train(model, optimizer, Data(), 4)
    (said,) = messages(caplog)
    assert "1024.0 MB" in said
    assert "Limits(memory=...)" in said
    assert counted(tmp_path)["dropped"] == 2
    assert written(tmp_path) == []


@pytest.mark.parametrize("given", [5000, True, {"every": 3}])
def test_something_else_than_a_plan_is_refused(tmp_path: Path, given: Any) -> None:
    model = mlp()
    with pytest.raises(CollectorError, match="expected a Curvature"):
        attach(model, sgd(model), dump=tmp_path, curvature=given)


def test_a_sharded_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradnoise.collector._curvature.at_rest.is_sharded", lambda _: True)
    with pytest.raises(CurvatureError, match=r"sharded.*full state dict"):
        refuse_sharded(mlp())
    with pytest.raises(CurvatureError, match="sharded"):
        measure_curvature(mlp(), LOSS, fixed())


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A job of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'job'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def _noting(to: list[tuple[int, bool]], reduced: list[int], inside: nn.Module) -> Callable[[], None]:
    return lambda: to.append((len(reduced), inside.training))


def _observe(what: Any, name: str, see: Callable[[], None]) -> None:
    """Call ``see`` before each call of a method."""
    method = getattr(what, name)

    def observed() -> None:
        see()
        method()

    setattr(what, name, observed)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("by_function", [False, True])
def test_of_a_data_parallel_model_the_module_of_this_rank_is_measured_and_nothing_sent(
    tmp_path: Path, by_function: bool
) -> None:
    ends, sent, synced = [], [], []
    for measuring in (False, True):
        torch.manual_seed(0)
        inside = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        model = nn.parallel.DistributedDataParallel(inside)
        optimizer = sgd(model)
        reduced: list[int] = []
        model.register_comm_hook(reduced, lambda seen, bucket: counting(seen, bucket.buffer()))
        buffers: list[tuple[int, bool]] = []  # when they were sent, and whether by the training
        _observe(model, "_sync_buffers", _noting(buffers, reduced, inside))
        data: Any = (lambda m=model: (LOSS(m(x), y) for x, y in fixed())) if by_function else fixed()
        plan = Curvature(data, None if by_function else LOSS, every=2, **SMALL)
        path = tmp_path / str(measuring)
        with attach(
            model, optimizer, dump=path, sampling=Sampling(burst=1, every=8), curvature=plan if measuring else None
        ):
            train(model, optimizer, Data(), 5)
        ends.append([value.clone() for value in model.state_dict().values()])
        sent.append(len(reduced))
        synced.append(buffers)
    assert sent[0] == sent[1] == 5
    assert synced[0] == synced[1] == [(step, True) for step in range(5)]
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert [(row.step, row.draws, row.dimension) for row in written(path)] == [(2, 4, 99), (4, 4, 99)]
