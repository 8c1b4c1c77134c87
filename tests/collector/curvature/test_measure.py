"""One measurement against dense truth: closed forms, and a network's dense Hessian and gradients in float64."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradnoise.collector._curvature import scratch
from gradnoise.collector._curvature.config import Curvature, CurvatureError
from gradnoise.collector._curvature.data import Passes
from gradnoise.collector._curvature.dots import project_out
from gradnoise.collector._curvature.measure import measure
from gradnoise.collector._curvature.products import Products
from gradnoise.collector._curvature.space import Space
from gradnoise.collector._curvature.stochastic import signs
from gradnoise.collector.curvature import measure_curvature
from gradnoise.wire import CurvatureKind, CurvatureRow, Mode, Order, ProductMethod

from ...alignment.exact import Dense, Floats, dense, minibatch_noise
from ...alignment.worlds import least_squares, network, quadratic
from .storage import LiveStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

LOSS = nn.CrossEntropyLoss()
TIGHT = 1e-10  # eigenpairs so exact that what is projected on them is, too


def measured(model: nn.Module, *given: Any, **options: Any) -> CurvatureRow:
    (row,) = measure(model, Curvature(*given, **({"tolerance": TIGHT} | options)))
    return row


def batched(inputs: torch.Tensor, targets: torch.Tensor, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def rows_of(n: int, size: int) -> list[list[int]]:
    return [list(range(begin, begin + size)) for begin in range(0, n - size + 1, size)]


def close(found: Floats, wanted: Floats, scale: float | None = None, rel: float = 1e-6) -> None:
    """To 1e-6 of the largest element."""
    assert found.shape == wanted.shape
    largest = np.abs(wanted).max() if scale is None else scale
    np.testing.assert_allclose(found, wanted, rtol=0, atol=rel * largest)


def assert_true(row: CurvatureRow, truth: Dense, noise: Floats, k: int, *, magnitude: bool = False) -> None:
    """Hold every field of a row against the dense matrices, up to the signs of the eigenvectors."""
    values, vectors = truth.pairs(k, magnitude=magnitude)
    hessian, gradient = truth.hessian, truth.gradient
    assert row.dimension == len(hessian)
    assert row.loss == pytest.approx(truth.loss, rel=1e-9)
    np.testing.assert_allclose(row.eigenvalues, values, rtol=1e-6)
    assert (row.residuals <= 1e-8 * np.abs(values[0])).all()
    close(row.gram, noise @ noise.T)
    close(np.abs(row.projections), np.abs(noise @ vectors))
    # The signs: those of one vector agree over all draws, and with the gradient.
    turn = np.sign((row.projections * (noise @ vectors)).sum(0))
    close(row.projections * turn, noise @ vectors)
    close(row.gradient_projections * turn, vectors.T @ gradient)
    close(row.quadratic, np.einsum("kd,de,ke->k", noise, hessian, noise))
    assert row.gradient_norm2 == pytest.approx(gradient @ gradient, rel=1e-6)
    assert row.gradient_quadratic == pytest.approx(gradient @ hessian @ gradient, rel=1e-6)
    z = probe_vectors(len(row.trace_samples), vectors)
    close(row.trace_samples, np.einsum("md,de,me->m", z, hessian, z))
    close(row.square_samples, ((z @ hessian) ** 2).sum(1))


def probe_vectors(count: int, vectors: Floats, seed: int = 0) -> Floats:
    """The random vectors z that the measurement used, made orthogonal to the eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.tensor(vectors.T.copy())
    dimension = rows.shape[1]
    return np.stack(
        [project_out(rows, signs(torch.empty(dimension, dtype=torch.float64), generator)).numpy() for _ in range(count)]
    )


@pytest.mark.parametrize(
    ("matrix", "order", "vectors"),
    [
        ("hessian", "algebraic", 11),
        ("hessian", "magnitude", None),
        ("gauss_newton", "algebraic", None),
        ("gauss_newton", "magnitude", 11),
    ],
)
def test_every_field_agrees_with_the_dense_matrices(matrix: str, order: str, vectors: int | None) -> None:
    """In the least memory, where gradients are taken again, and in plenty, where none is."""
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets, matrix=matrix)
    noise = minibatch_noise(truth, rows_of(60, 6))
    row = measured(
        model,
        batched(inputs, targets, 6),
        LOSS,
        top=5,
        draws=10,
        order=order,
        matrix=matrix,
        probes=3,
        vectors=vectors,
        dense=10,
    )
    assert_true(row, truth, noise, 5, magnitude=order == "magnitude")
    assert row.kind == CurvatureKind(matrix)
    assert row.order == Order(order)
    assert row.method is ProductMethod.DOUBLE_BACKWARD
    assert (row.part, row.mode, row.draws, row.batch_size) == ("*", Mode.EVAL, 10, 6)
    assert (row.examples, row.minibatches, row.sampling, row.replacement) == (60, 10, "epoch", False)
    assert [note for note in row.notes if "as they lie" not in note] == []
    assert len(row.coordinates) == 10
    assert (np.diff(row.coordinates) > 0).all()
    close(row.block, truth.hessian[np.ix_(row.coordinates, row.coordinates)])
    close(row.block_noise, noise[:, row.coordinates])


def test_the_dense_block_of_a_small_part_is_all_of_it() -> None:
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets)
    names = [name for name, parameter in model.named_parameters() for _ in range(parameter.numel())]
    here = np.array([name.startswith("0.") for name in names])
    row = measured(model, batched(inputs, targets, 10), LOSS, top=3, draws=6, parts="0.*", dense=100)
    assert (row.part, row.dimension) == ("0.*", here.sum())
    np.testing.assert_array_equal(row.coordinates, np.arange(here.sum()))
    block = truth.hessian[np.ix_(here, here)]
    close(row.block, block)
    close(row.block_noise, minibatch_noise(truth, rows_of(60, 10))[:, here])
    np.testing.assert_allclose(row.eigenvalues, np.linalg.eigvalsh(block)[::-1][:3], rtol=1e-6)
    close(row.gram, row.block_noise @ row.block_noise.T)


def test_an_unequal_last_minibatch_counts_in_the_loss_and_is_no_draw() -> None:
    model, inputs, targets = network(n=50)
    truth = dense(model, LOSS, inputs, targets)
    row = measured(model, batched(inputs, targets, 8), LOSS, top=4, draws=20, probes=2)
    assert_true(row, truth, minibatch_noise(truth, rows_of(50, 8)), 4)
    assert (row.draws, row.batch_size, row.minibatches, row.examples) == (6, 8, 7, 50)
    assert any("another size" in note for note in row.notes)
    assert any("6 draws instead of 20" in note and "same 6 minibatches" in note for note in row.notes)


def test_parts_are_measured_each_on_its_own() -> None:
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets)
    names = np.array([name for name, parameter in model.named_parameters() for _ in range(parameter.numel())])
    parts: tuple[Any, ...] = ("*.weight", ("biases", lambda name, parameter: parameter.dim() == 1))
    rows = measure(
        model, Curvature(batched(inputs, targets, 10), LOSS, parts=parts, top=3, draws=6, tolerance=TIGHT), step=7
    )
    assert [row.part for row in rows] == ["*.weight", "biases"]
    assert {(row.window, row.step, row.theta) for row in rows} == {(-8, 7, 7)}
    for row, ending in zip(rows, ("weight", "bias"), strict=True):
        here = np.char.endswith(names, ending)
        inner = truth.hessian[np.ix_(here, here)]
        assert row.dimension == here.sum()
        np.testing.assert_allclose(row.eigenvalues, np.linalg.eigvalsh(inner)[::-1][:3], rtol=1e-6)
        noise = minibatch_noise(truth, rows_of(60, 10))[:, here]
        close(row.gram, noise @ noise.T)
        close(row.quadratic, np.einsum("kd,de,ke->k", noise, inner, noise))


def test_the_density_has_the_moments_of_the_matrix_beside_the_eigenvectors() -> None:
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets)
    row = measured(model, batched(inputs, targets, 20), LOSS, top=4, draws=0, probes=6, density_steps=5)
    assert row.density_nodes.shape == row.density_weights.shape == (4, 5)
    np.testing.assert_allclose(row.density_weights.sum(1), 1, rtol=1e-10)
    _, vectors = truth.pairs(4)
    z = probe_vectors(4, vectors)
    image = z
    for degree in range(10):
        moments = (z * image).sum(1) / (z * z).sum(1)
        close((row.density_weights * row.density_nodes**degree).sum(1), moments)
        image = image @ truth.hessian


def test_a_quadratic_model_has_its_closed_form() -> None:
    spectrum = np.geomspace(4.0, 0.1, 12)
    world = quadratic(spectrum, 1.5, 24, away=2.0)
    row = measured(
        world.model, batched(world.inputs, world.targets, 8), world.loss_fn, top=12, draws=3, probes=4, dense=12
    )
    np.testing.assert_allclose(row.eigenvalues, spectrum, rtol=1e-9)
    close(row.block, world.hessian)
    # The noise of single examples has covariance C exactly; here the minibatches are the draws.
    ones = measured(
        world.model, batched(world.inputs, world.targets, 1), world.loss_fn, top=12, draws=24, probes=0, dense=12
    )
    close(ones.block_noise.T @ ones.block_noise / 24, world.covariance)
    np.testing.assert_allclose((ones.projections**2).mean(0), spectrum**1.5, rtol=1e-6)
    assert ones.quadratic.mean() == pytest.approx(np.trace(world.hessian @ world.covariance), rel=1e-6)
    assert np.trace(ones.gram) / 24 == pytest.approx(np.trace(world.covariance), rel=1e-6)


def test_least_squares_at_its_minimum_have_no_gradient() -> None:
    spectrum = np.array([3.0, 1.0, 0.3])
    world = least_squares(spectrum, 0.5, 6)
    row = measured(world.model, batched(world.inputs, world.targets, 1), world.loss_fn, top=3, draws=12, probes=0)
    np.testing.assert_allclose(row.eigenvalues, spectrum, rtol=1e-9)
    np.testing.assert_allclose((row.projections**2).mean(0), 0.25 * spectrum, rtol=1e-9)
    assert row.gradient_norm2 == pytest.approx(0, abs=1e-20)


def test_fewer_dimensions_than_eigenpairs_give_all_of_them_and_leave_no_trace_to_sample() -> None:
    world = quadratic(np.array([3.0, 2.0, 1.0]), 1.0, 20)
    row = measured(
        world.model, batched(world.inputs, world.targets, 4), world.loss_fn, top=20, draws=5, probes=3, density_steps=8
    )
    np.testing.assert_allclose(row.eigenvalues, [3.0, 2.0, 1.0], rtol=1e-9)
    np.testing.assert_array_equal(row.trace_samples, [0, 0, 0])
    np.testing.assert_array_equal(row.square_samples, [0, 0, 0])
    assert row.density_nodes.size == 0
    assert row.gram.shape == (5, 5)
    assert any("3 eigenpairs instead of 20" in note for note in row.notes)


def test_without_eigenpairs_there_are_plain_traces() -> None:
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets)
    row = measured(model, batched(inputs, targets, 10), LOSS, top=0, draws=6, probes=5)
    assert row.eigenvalues.size == row.projections.size == row.gradient_projections.size == 0
    assert row.order is None
    z = probe_vectors(5, np.empty((row.dimension, 0)))
    close(row.trace_samples, np.einsum("md,de,me->m", z, truth.hessian, z))
    noise = minibatch_noise(truth, rows_of(60, 10))
    close(row.gram, noise @ noise.T)


def test_fewer_draws_than_eigenpairs_are_said() -> None:
    model, inputs, targets = network()
    row = measured(model, batched(inputs, targets, 20), LOSS, top=5, draws=3)
    assert row.draws == 3
    assert row.projections.shape == (3, 5)
    assert any("fewer draws (3) than eigenpairs (5)" in note for note in row.notes)


def test_no_draws_leave_the_curvature() -> None:
    model, inputs, targets = network()
    row = measured(model, batched(inputs, targets, 20), LOSS, top=2, draws=0)
    assert (row.draws, row.sampling, row.gram.size, row.notes) == (0, None, 0, ())
    assert row.gradient_quadratic is not None


def test_a_pass_of_one_minibatch_has_no_draws_and_says_so() -> None:
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets)
    row = measured(model, lambda: LOSS(model(inputs), targets), top=3, draws=8)
    assert row.draws == 0
    assert any("give draw=" in note for note in row.notes)
    np.testing.assert_allclose(row.eigenvalues, truth.pairs(3)[0], rtol=1e-6)


@pytest.mark.parametrize(("vectors", "file"), [(9, False), (9, True), (None, True)])
def test_draws_of_a_users_function_are_its_minibatches(
    monkeypatch: pytest.MonkeyPatch, vectors: int | None, file: bool
) -> None:
    if not file:
        monkeypatch.setattr(scratch, "_MOST", 0)
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets)
    taken: list[list[int]] = []

    def draw() -> tuple[torch.Tensor, int]:
        rows = torch.randint(0, len(inputs), (6,))
        taken.append(rows.tolist())
        return LOSS(model(inputs[rows]), targets[rows]), 6

    row = measured(model, lambda: LOSS(model(inputs), targets), draw=draw, top=3, draws=20, probes=2, vectors=vectors)
    assert_true(row, truth, minibatch_noise(truth, taken[:20]), 3)
    assert (row.sampling, row.replacement, row.batch_size, row.draws) == ("independent", None, 6, 20)
    assert (len(taken) == 20) == file  # with memory, or a file, nothing is taken twice


def test_a_function_that_owns_its_iterator_has_a_gram_matrix_where_memory_or_a_file_holds_the_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets)

    def drawing() -> Iterator[torch.Tensor]:
        rng = np.random.default_rng(0)
        while True:
            rows = rng.integers(0, len(inputs), 6)
            yield LOSS(model(inputs[rows]), targets[rows])

    whole = lambda: LOSS(model(inputs), targets)  # noqa: E731
    endless = drawing()
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "_MOST", 0)
        row = measured(model, whole, draw=lambda: next(endless), top=3, draws=20, vectors=9)
    assert row.gram.size == 0
    assert row.projections.shape == (20, 3)
    assert any("no Gram matrix" in note and "vectors=26" in note for note in row.notes)
    rng = np.random.default_rng(0)
    noise = minibatch_noise(truth, [rng.integers(0, len(inputs), 6).tolist() for _ in range(20)])
    for vectors in (9, 26):
        row = measured(model, whole, draw=drawing().__next__, top=3, draws=20, vectors=vectors)
        close(row.gram, noise @ noise.T)


@pytest.mark.parametrize("own_generator", [False, True])
def test_a_loader_that_shuffles_gives_draws_of_several_passes(own_generator: bool) -> None:
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets)
    generator = torch.Generator().manual_seed(3) if own_generator else None
    indices = torch.arange(len(inputs))
    loader = DataLoader(TensorDataset(inputs, targets, indices), batch_size=10, shuffle=True, generator=generator)
    taken: list[list[int]] = []

    class Noted(list[Any]):
        """Minibatches without the indices, which are noted."""

        sampler = loader.sampler

        def __iter__(self) -> Iterator[Any]:
            for x, y, rows in loader:
                taken.append(rows.tolist())
                yield x, y

    before = None if generator is None else generator.get_state()
    row = measured(model, Noted(), LOSS, top=3, draws=15, vectors=30)
    assert row.draws == 15
    assert row.notes == ()
    if generator is not None:
        assert before is not None
        assert torch.equal(generator.get_state(), before)
    # Each draw is one of the minibatches that were read, and they are all different ones.
    candidates = minibatch_noise(truth, taken)
    diagonal = (candidates**2).sum(1)
    found = [int(np.abs(diagonal - row.gram[i, i]).argmin()) for i in range(15)]
    noise = candidates[found]
    close(row.gram, noise @ noise.T)
    assert len({tuple(sorted(taken[index])) for index in found}) == 15


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("draws", [4, 6])
def test_draws_in_the_order_of_the_data_are_said(mode: str, draws: int) -> None:
    """Data sorted by class: each slice is of one class, and its noise twice and more that of a random minibatch."""
    model, inputs, targets = network()
    order = targets.argsort()
    data = TensorDataset(inputs[order], targets[order])
    truth = dense(model, LOSS, inputs, targets)
    plain, shuffled = (
        measured(model, DataLoader(data, batch_size=10, shuffle=shuffle), LOSS, top=2, draws=draws, mode=mode)
        for shuffle in (False, True)
    )
    assert any("slices of the data as they lie" in note for note in plain.notes)
    assert shuffled.notes == ()
    random = np.trace(truth.noise(10))
    assert np.trace(plain.gram) / draws > 1.5 * random
    assert np.trace(shuffled.gram) / draws < 1.5 * random


def test_in_the_least_memory_a_shuffled_loader_is_read_again_alike() -> None:
    model, inputs, targets = network()
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=10, shuffle=True)
    options: dict[str, Any] = {"top": 3, "draws": 20, "seed": 4}
    small, large = (measured(model, loader, LOSS, vectors=vectors, **options) for vectors in (9, 40))
    assert small.notes == large.notes == ()
    close(small.gram, large.gram)
    close(small.quadratic, large.quadratic)


def test_single_precision_agrees_to_its_own_precision() -> None:
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets)
    noise = minibatch_noise(truth, rows_of(60, 10))
    row = measured(model.float(), batched(inputs.float(), targets, 10), LOSS, top=3, draws=6, tolerance=1e-5)
    np.testing.assert_allclose(row.eigenvalues, truth.pairs(3)[0], rtol=1e-4)
    close(row.gram, noise @ noise.T, rel=1e-4)
    close(row.quadratic, np.einsum("kd,de,ke->k", noise, truth.hessian, noise), rel=1e-3)


def test_pairs_that_do_not_converge_are_given_with_their_residuals() -> None:
    model, inputs, targets = network()
    row = measured(model, batched(inputs, targets, 20), LOSS, top=4, draws=0, probes=0, max_products=6)
    assert len(row.eigenvalues) == 4
    assert row.residuals.max() > 1e-6
    assert any("max_products" in note for note in row.notes)


def test_a_part_that_matches_nothing_names_what_there_is() -> None:
    model, inputs, targets = network()
    with pytest.raises(CurvatureError, match=r"'head\.\*' has no trainable parameter of Sequential.*0\.weight"):
        measured(model, batched(inputs, targets, 20), LOSS, parts=("*", "head.*"))


def test_frozen_parameters_are_in_no_part() -> None:
    model, inputs, targets = network()
    for parameter in model[0].parameters():  # type: ignore[index]
        parameter.requires_grad_(False)
    row = measured(model, batched(inputs, targets, 20), LOSS, top=2, draws=0)
    assert row.dimension == sum(p.numel() for p in model.parameters() if p.requires_grad)
    with pytest.raises(CurvatureError, match="no trainable parameter"):
        measured(model, batched(inputs, targets, 20), LOSS, parts="0.*")


@pytest.mark.parametrize("own_generator", [False, True])
def test_in_training_mode_the_draws_are_those_of_which_f_is_the_mean(own_generator: bool) -> None:
    """With the same dropout masks, and so the noise of a pass sums up to zero."""
    _, inputs, targets = network()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    generator = torch.Generator().manual_seed(3) if own_generator else None
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=10, shuffle=True, generator=generator)
    row = measured(model, loader, LOSS, mode="train", top=2, draws=9, probes=0)
    assert (row.draws, row.mode) == (6, Mode.TRAIN)
    assert any("6 draws instead of 9: in training mode" in note for note in row.notes)
    np.testing.assert_allclose(row.gram.sum(1), 0, atol=1e-12 * row.gram.max())
    # In eval mode it is another function.
    assert measured(model, loader, LOSS, top=2, draws=6).loss != pytest.approx(row.loss, rel=1e-3)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_it_takes_k_and_six_vectors_beside_the_models_own_double_backward(minibatches: int) -> None:
    """And the copy of the parameters, which is the host's, and pieces of a vector in double precision."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 200), nn.Tanh(), nn.Linear(200, 10))
    data = [(torch.randn(8, 400), torch.randint(0, 10, (8,))) for _ in range(minibatches)]
    space = Space(list(model.parameters()))
    passes = Passes(model, LOSS, data)
    passes.check()
    vector, out = torch.randn(space.dimension), torch.empty(space.dimension)
    with LiveStorage() as own:
        products = Products(space, passes)
        products(vector, out)
        products(vector, out)
    vectors = out.nbytes

    def draw() -> torch.Tensor:
        x, y = data[0]
        rows = torch.randint(0, 8, (4,))
        return nn.functional.cross_entropy(model(x[rows]), y[rows])

    top = 4
    options: dict[str, Any] = {"draws": 12, "probes": 2, "density_steps": 3, "dense": 2, "max_products": 15}
    plan = Curvature(data, LOSS, draw=draw, top=top, vectors=top + 6, **options)
    with LiveStorage() as whole:
        (row,) = measure(model, plan)
    assert row.gram.shape == (12, 12)
    beside = (whole.peak - own.peak) / vectors
    assert top + 6 < beside <= top + 6 + 1 + 0.6


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_cuda_device_every_field_agrees_with_the_dense_matrices() -> None:
    model, inputs, targets = network()
    truth = dense(model, LOSS, inputs, targets)
    noise = minibatch_noise(truth, rows_of(60, 4))
    where = [parameter.detach().clone() for parameter in model.parameters()]
    row = measured(
        model.cuda(), batched(inputs, targets, 4), LOSS, top=5, draws=15, probes=3, density_steps=3, dense=10
    )
    values, _ = truth.pairs(5)
    np.testing.assert_allclose(row.eigenvalues, values, rtol=1e-6)
    close(row.gram, noise @ noise.T)
    close(row.quadratic, np.einsum("kd,de,ke->k", noise, truth.hessian, noise))
    close(row.block, truth.hessian[np.ix_(row.coordinates, row.coordinates)])
    np.testing.assert_allclose(row.density_weights.sum(1), 1, rtol=1e-9)
    assert all(torch.equal(here.cpu(), before) for here, before in zip(model.parameters(), where, strict=True))


def test_the_function_has_the_arguments_and_the_defaults_of_the_configuration() -> None:
    plan = {each.name: each.default for each in dataclasses.fields(Curvature)}
    taken = inspect.signature(measure_curvature).parameters
    assert taken.keys() - plan.keys() == {"model"}
    assert plan.keys() - taken.keys() == {"every"}  # a script has no steps
    assert {name: taken[name].default for name in taken if name not in ("model", "loss_fn", "data")} == {
        name: plan[name] for name in taken if name not in ("model", "loss_fn", "data")
    }
