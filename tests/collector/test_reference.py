"""Full references: a pass over the data, streamed, as what the noise of a probe is measured against."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.analyzer.analysis import analyse
from gradnoise.analyzer.assembly import read_windows
from gradnoise.analyzer.stats import contrasts, forms
from gradnoise.collector import CollectorError, Probe, Sampling, attach
from gradnoise.collector._taps.reference import WholeGradient
from gradnoise.wire import Dump, Table

from .loops import Data, assert_recorded, by_hand, counted, loss_of, messages, mlp, rows, sampled, train
from .test_bursts import sgd
from .test_sketch_taps import counted as counted_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray


class Pass:
    """The data of a pass in minibatches, the last one smaller, and the gradients by hand of what was taken."""

    def __init__(self, model: nn.Module, *, size: int = 20, batch: int = 8, sized: bool = True) -> None:
        data = Data(size=size, seed=7)
        self.model, self.sized = model, sized
        self.batches = [(data.x[i : i + batch], data.y[i : i + batch]) for i in range(0, size, batch)]
        self.data = data
        self.taken: list[dict[str, NDArray[np.float32]]] = []
        self.whole: list[dict[str, NDArray[np.float64]]] = []

    def __call__(self) -> Iterator[Any]:
        # Gradients of the mean loss over all examples, in double precision, at the parameters of the probe.
        exact = {n: p.detach().double().requires_grad_() for n, p in self.model.named_parameters()}
        out = torch.func.functional_call(self.model, exact, (self.data.x.double(),))
        loss = nn.functional.cross_entropy(out, self.data.y)
        gradients = torch.autograd.grad(loss, list(exact.values()))
        self.whole.append({n: g.numpy().ravel() for n, g in zip(exact, gradients, strict=True)})
        for batch in self.batches:
            loss = loss_of(self.model, batch)
            self.taken.append(by_hand(self.model, loss))
            yield (loss, len(batch[0])) if self.sized else loss


def references(path: Path) -> list[dict[str, Any]]:
    return rows(path, Table.REFERENCE)


def test_a_pass_gives_the_gradient_of_the_mean_loss_over_all_examples(tmp_path: Path) -> None:
    model, fresh = mlp(), Data(seed=2)
    optimizer, full = sgd(model), Pass(model)
    probe = Probe(lambda: loss_of(model, fresh()), draws=3, every=2, full=full)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=0, coordinates=10), probe=probe):
        train(model, optimizer, Data(), 4)
    found = references(tmp_path)
    assert [(row["window"], row["theta"]) for row in found[::4]] == [(5, 2), (9, 4)]
    for index, exact in enumerate(full.whole):
        expected = sampled(tmp_path, exact)  # type: ignore[arg-type]
        mine = found[4 * index : 4 * index + 4]
        assert {row["group"] for row in mine} == expected.keys()
        for row in mine:
            np.testing.assert_allclose(row["values"], expected[row["group"]], rtol=1e-5, atol=1e-7)
            assert (row["kind"], row["minibatches"], row["dataset_size"]) == ("full", 3, 20)
            assert row["replacement"] is None  # how the closure draws is not known
            assert row["norm2"] is None
    assert [(w["declared"], w["recorded"], w["dropped"]) for w in rows(tmp_path, Table.WINDOWS)] == [(3, 3, 0)] * 2


def test_minibatches_of_the_pass_are_the_draws_where_there_is_no_closure(tmp_path: Path) -> None:
    model = mlp()
    optimizer, full = sgd(model), Pass(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=0), probe=Probe(every=1, full=full)):
        train(model, optimizer, Data(), 1)
    assert_recorded(tmp_path, {(3, draw): gradients for draw, gradients in enumerate(full.taken)})
    assert [row["batch_size"] for row in rows(tmp_path)[::4]] == [8, 8, 4]
    for row in references(tmp_path):
        mean = sum(
            weight * gradients[row["group"]].astype(np.float64)
            for weight, gradients in zip((8, 8, 4), full.taken, strict=True)
        )
        np.testing.assert_allclose(row["values"], np.asarray(mean) / 20, rtol=1e-6, atol=1e-9)
        assert (row["minibatches"], row["dataset_size"], row["replacement"]) == (3, 20, False)
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["declared"], window["recorded"]) == (3, 3)


def test_no_more_draws_than_asked_for_are_recorded_of_a_pass(tmp_path: Path) -> None:
    model = mlp()
    optimizer, full = sgd(model), Pass(model, size=64)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=0), probe=Probe(draws=5, every=1, full=full)):
        train(model, optimizer, Data(), 1)
    assert_recorded(tmp_path, {(3, draw): full.taken[draw] for draw in range(5)})
    assert {row["minibatches"] for row in references(tmp_path)} == {8}
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["declared"], window["recorded"]) == (5, 5)


def test_minibatches_of_unknown_size_weigh_the_same(tmp_path: Path) -> None:
    model = mlp()
    optimizer, full = sgd(model), Pass(model, sized=False)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=0), probe=Probe(every=1, full=full)):
        train(model, optimizer, Data(), 1)
    for row in references(tmp_path):
        mean = np.mean([gradients[row["group"]].astype(np.float64) for gradients in full.taken], axis=0)
        np.testing.assert_allclose(row["values"], mean, rtol=1e-6, atol=1e-9)
        assert (row["minibatches"], row["dataset_size"]) == (3, None)
    assert {row["batch_size"] for row in rows(tmp_path)} == {None}


def test_norms_are_those_of_whole_gradients(tmp_path: Path) -> None:
    model = mlp()
    optimizer, full = sgd(model), Pass(model)
    plan = Sampling(burst=0, coordinates=3, norms=True)
    with attach(model, optimizer, dump=tmp_path, sampling=plan, probe=Probe(every=1, full=full)):
        train(model, optimizer, Data(), 1)
    for row in rows(tmp_path):
        expected = np.square(full.taken[row["draw"]][row["group"]].astype(np.float64)).sum()
        assert row["norm2"] == pytest.approx(expected, rel=1e-6)
    for row in references(tmp_path):
        assert row["norm2"] == pytest.approx(np.square(full.whole[0][row["group"]]).sum(), rel=1e-4)


def test_losses_are_scaled_and_gradients_unscaled_as_the_trainings_are(tmp_path: Path) -> None:
    model = mlp()
    optimizer, full, fresh = sgd(model), Pass(model), Data(seed=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    taken, seen = [], []
    model[0].weight.register_hook(lambda gradient: seen.append(gradient.abs().max().item()))

    def closure() -> torch.Tensor:
        loss = loss_of(model, fresh())
        taken.append(by_hand(model, loss))
        return loss

    plan = Sampling(burst=0, norms=True, sketch=True)
    probe = Probe(closure, draws=2, every=1, full=full)
    with attach(model, optimizer, dump=tmp_path, sampling=plan, probe=probe, scaler=scaler):
        scaler.scale(loss_of(model, Data()())).backward()
        scaler.step(optimizer)
        scaler.update()
    assert_recorded(tmp_path, {(3, draw): gradients for draw, gradients in enumerate(taken)})
    assert max(seen) > 50 * max(np.abs(gradients["0.weight"]).max() for gradients in taken)
    for row in rows(tmp_path):
        expected = np.square(taken[row["draw"]][row["group"]].astype(np.float64)).sum()
        assert row["norm2"] == pytest.approx(expected, rel=1e-6)
    for row in references(tmp_path):
        np.testing.assert_allclose(row["values"], full.whole[0][row["group"]], rtol=1e-5, atol=1e-7)
        assert row["norm2"] == pytest.approx(np.square(full.whole[0][row["group"]]).sum(), rel=1e-4)
    (found,) = rows(tmp_path, Table.SKETCHES)
    expected_cells = counted_cells(*(taken[0][name] * 0.5 - taken[1][name] * 0.5 for name in taken[0]))
    np.testing.assert_array_equal(expected_cells[found["cells"]], found["counts"])


def test_the_pairs_of_a_probe_are_sketched_whole(tmp_path: Path) -> None:
    model = mlp()
    optimizer, full = sgd(model), Pass(model, size=40)
    plan = Sampling(burst=0, coordinates=3, sketch=True)
    with attach(model, optimizer, dump=tmp_path, sampling=plan, probe=Probe(every=1, full=full)):
        train(model, optimizer, Data(), 1)
    found = rows(tmp_path, Table.SKETCHES)
    assert [(row["window"], row["theta"], row["draw"], row["same_theta"]) for row in found] == [
        (3, 1, 1, True),
        (3, 1, 3, True),
    ]
    for row in found:
        a, b = full.taken[row["draw"] - 1], full.taken[row["draw"]]
        expected = counted_cells(*(a[name] * 0.5 - b[name] * 0.5 for name in a))
        np.testing.assert_array_equal(np.flatnonzero(expected[:-1]), row["cells"])
        np.testing.assert_array_equal(expected[row["cells"]], row["counts"])
        assert row["inexact"] == expected[-1]
        assert sum(row["counts"]) == 83


def test_a_group_without_a_gradient_in_some_minibatches_counts_as_zero_there(tmp_path: Path) -> None:
    model = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])
    optimizer, data = torch.optim.SGD(model.parameters(), lr=0.1), Data(size=16)

    def full() -> Iterator[Any]:
        for index in range(4):
            yield nn.functional.cross_entropy(model[index % 2](data.x), data.y)

    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=0), probe=Probe(every=1, full=full)):
        nn.functional.cross_entropy(model[0](data.x), data.y).backward()
        optimizer.step()
    whole = {r["group"]: np.array(r["values"]) for r in references(tmp_path)}
    for row in rows(tmp_path):
        np.testing.assert_allclose(whole[row["group"]], np.array(row["values"]) / 2, rtol=1e-6)


def test_one_gradient_at_a_time_is_in_memory(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 501), nn.Linear(501, 3))
    optimizer, data = torch.optim.SGD(model.parameters(), lr=0.1), Data(size=8)
    alive = []

    def full() -> Iterator[Any]:
        for _ in range(3):
            there = [t for t in gc.get_objects() if type(t) in (torch.Tensor, nn.Parameter) and t.numel() == 3006]
            alive.append(len({t.untyped_storage().data_ptr() for t in there}))  # a view is no memory
            del there
            loss = loss_of(model, (data.x, data.y))
            yield loss, 8

    for norms in (False, True):
        alive.clear()
        plan = Sampling(burst=0, coordinates=4, norms=norms)
        probe = Probe(every=1, full=full, draws=2)
        with attach(model, optimizer, dump=tmp_path / str(norms), sampling=plan, probe=probe):
            optimizer.zero_grad()
            loss_of(model, (data.x, data.y)).backward()
            optimizer.step()
        # The parameter, its gradient put aside and its copy; from the second minibatch on the running mean, if asked.
        assert alive == [3, 3 + norms, 3 + norms]


def test_what_a_generator_holds_open_ends_with_the_pass(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    closed = []

    def full() -> Iterator[Any]:
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                yield loss_of(model, data()), 8
                yield loss_of(model, data()), "eight"
        finally:
            closed.append(torch.is_grad_enabled())

    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=0), probe=Probe(every=1, full=full)):
        train(model, optimizer, data, 3)
        assert not torch.is_autocast_enabled("cpu")
    assert len(closed) == 1
    (message,) = messages(caplog)
    assert "full returned the batch size 'eight'" in message
    assert references(tmp_path) == []  # half a pass is no reference
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert window["recorded"] == 1


def uneven(model: nn.Module, data: Data) -> Iterator[Any]:
    yield loss_of(model, data()), 8
    yield loss_of(model, data())


def single(model: nn.Module, data: Data) -> Iterator[Any]:
    yield loss_of(model, data())


def failing(model: nn.Module, data: Data) -> Iterator[Any]:
    yield loss_of(model, data())
    raise OSError("no such file")


def no_iterator(model: nn.Module, data: Data) -> Any:
    return 3


def no_losses(model: nn.Module, data: Data) -> Any:
    return iter([1.0, 2.0])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (uneven, "batch size of some minibatches and not of others"),
        (single, "full gave 1 minibatches"),
        (failing, "full raised OSError: no such file"),
        (no_iterator, "full raised TypeError: 'int' object is not iterable"),
        (no_losses, "full returned float"),
    ],
)
def test_a_failing_pass_ends_the_probes_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: Callable[..., Any], text: str
) -> None:
    trained = []
    for probing in (False, True):
        torch.manual_seed(0)
        model, data = mlp(), Data()
        optimizer = sgd(model)
        other = Data(seed=5)
        probe = Probe(every=2, full=partial(body, model, other)) if probing else None
        plan = Sampling(burst=6, every=6)
        with attach(model, optimizer, dump=tmp_path / str(probing), sampling=plan, probe=probe):
            train(model, optimizer, data, 6)
        trained.append([p.detach().clone() for p in model.parameters()])
    (message,) = messages(caplog)
    assert text in message
    assert counted(tmp_path / "True") == {"probe_failed": 1}
    assert references(tmp_path / "True") == []
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


def test_an_iterator_that_ends_for_good_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    once = (loss_of(model, data()) for _ in range(3))
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=0), probe=Probe(every=1, full=lambda: once)):
        train(model, optimizer, data, 2)
    assert len(references(tmp_path)) == 4
    (message,) = messages(caplog)
    assert "full gave 0 minibatches" in message


def test_training_with_passes_is_bit_equal_to_training_without(tmp_path: Path) -> None:
    trained = []
    for probing in (False, True):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        held = torch.utils.data.TensorDataset(Data(size=40).x, Data(size=40).y)

        def full(model: nn.Module = model, held: Any = held) -> Iterator[Any]:
            loader = torch.utils.data.DataLoader(held, batch_size=8, shuffle=True)
            return ((loss_of(model, batch), len(batch[0])) for batch in loader)

        plan = Sampling(burst=3, every=4, norms=probing, sketch=probing)
        probe = Probe(every=3, full=full) if probing else None
        with attach(model, optimizer, dump=tmp_path / str(probing), sampling=plan, probe=probe):
            for batch in torch.utils.data.DataLoader(held, batch_size=5, shuffle=True):
                optimizer.zero_grad()
                loss_of(model, batch).backward()
                optimizer.step()
        trained.append({name: value.clone() for name, value in model.state_dict().items()})
    assert len({row["window"] for row in references(tmp_path / "True")}) == 2
    for name, value in trained[0].items():
        assert torch.equal(value, trained[1][name]), name


def test_the_analysis_measures_against_the_full_gradient_and_reads_the_sketches(tmp_path: Path) -> None:
    model = nn.Linear(40, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rng = torch.Generator().manual_seed(3)
    x, y = torch.randn(800, 40, generator=rng), torch.randint(0, 4, (800,), generator=rng)
    taken: list[NDArray[np.float32]] = []

    def full() -> Iterator[Any]:
        for part in torch.randperm(800).split(10):
            loss = nn.functional.cross_entropy(model(x[part]), y[part])
            taken.append(by_hand(model, loss)["weight"])
            yield loss, 10

    plan = Sampling(burst=0, coordinates=64, sketch=True)
    with attach(model, optimizer, dump=tmp_path, sampling=plan, probe=Probe(every=1, full=full)):
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    (window,) = read_windows(Dump(tmp_path))
    assert window.reference is not None
    (group, _) = window.groups
    noise = window.reference["weight"].values - group.values
    by_pass = np.mean(taken, axis=0) - np.array(taken)
    np.testing.assert_allclose(noise, by_pass[:, list(Dump(tmp_path).info.group("weight").indices)], atol=1e-6)
    report = {(row.group, row.form): row for row in analyse(window).rows}
    assert {row.reference for (_, form), row in report.items() if form != "pooled"} == {"full"}
    found = report["weight", "per_parameter"]
    assert found.alpha == pytest.approx(
        forms.per_parameter(contrasts.full(group.values, window.reference["weight"].values)).alpha.value
    )
    assert (found.draws, found.verdict) == (80, "gaussian")
    pooled = report["*", "pooled"]
    assert (pooled.draws, pooled.coordinates, pooled.reference, pooled.status) == (80, 164, "pair", "ok")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "give one of them"),
        ({"closure": 3}, "returns the loss"),
        ({"full": [1, 2]}, "returns an iterator"),
        ({"full": iter, "draws": 1}, "at least 2"),
    ],
)
def test_a_probe_of_nothing_is_refused_at_once(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(CollectorError, match=text):
        Probe(**arguments)


def test_a_pass_is_summed_up_in_double_precision() -> None:
    mean = WholeGradient()
    for value in (2.0**24, 1.0, -(2.0**24)):  # in single precision the one is lost
        mean.add({0: torch.tensor([value])}, {}, None)
    assert mean.reference(0, 0, replacement=None).values[0].tolist() == [np.float32(1 / 3)]
