from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.data import Passes
from gradnoise.collector._curvature.lanczos import Eigenpairs, eigenpairs
from gradnoise.collector._curvature.products import Products
from gradnoise.collector._curvature.space import Space

from .models import CASES, dense_gauss_newton, dense_hessian, three_layers
from .storage import LiveStorage

Reals = NDArray[np.float64]


class Matrix:
    """A dense matrix, or a diagonal one, as products; counts them."""

    def __init__(self, entries: Any, dtype: torch.dtype = torch.float64) -> None:
        self.entries = torch.as_tensor(np.asarray(entries)).to(dtype)
        self.count = 0

    def __call__(self, vector: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        self.count += 1
        if self.entries.dim() == 1:
            return torch.mul(self.entries, vector, out=out)
        return torch.mv(self.entries, vector, out=out)


def _pairs(matrix: Matrix, k: int, *, basis: int = 0, order: str = "algebraic", **options: Any) -> Eigenpairs:
    options = {"tolerance": 1e-3, "max_products": None} | options
    return eigenpairs(
        matrix,
        len(matrix.entries),
        k,
        order=order,
        basis=basis or k + 5,
        generator=torch.Generator().manual_seed(options.pop("seed", 0)),
        dtype=matrix.entries.dtype,
        device=torch.device("cpu"),
        **options,
    )


def _leading(values: Reals, k: int, order: str = "algebraic") -> Reals:
    return values[np.argsort(-values if order == "algebraic" else -np.abs(values), kind="stable")][:k]


def _true_residuals(matrix: Matrix, pairs: Eigenpairs) -> Reals:
    products = torch.stack([matrix(vector, torch.empty_like(vector)) for vector in pairs.vectors])
    found: Reals = (products - pairs.vectors * torch.from_numpy(pairs.values).to(products)[:, None]).norm(dim=1).numpy()
    return found


def _orthonormal(vectors: torch.Tensor, error: float) -> bool:
    return bool((vectors @ vectors.T - torch.eye(len(vectors), dtype=vectors.dtype)).abs().max() < error)


def _network_like(n: int) -> Reals:
    """Nine outliers and a bulk that falls off on both sides, as the spectra of networks."""
    rng = np.random.default_rng(0)
    bulk = [3 * np.arange(1, 3001) ** -0.8, -0.8 * np.arange(1, 2001) ** -0.9]
    return np.concatenate([np.geomspace(50, 5, 9), *bulk, rng.normal(0, 1e-3, n - 5009)])


@pytest.mark.parametrize("order", ["algebraic", "magnitude"])
@pytest.mark.parametrize("tolerance", [1e-6, 1e-12])
def test_pairs_are_those_of_arpack(order: str, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    dense = rng.normal(size=(300, 300))
    matrix = Matrix((dense + dense.T) / 2)
    pairs = _pairs(matrix, 6, basis=20, order=order, tolerance=tolerance)
    assert pairs.converged
    which: Literal["LA", "LM"] = "LA" if order == "algebraic" else "LM"
    values, vectors = scipy.sparse.linalg.eigsh(matrix.entries.numpy(), 6, which=which)
    ranks = np.argsort(-values if order == "algebraic" else -np.abs(values))
    # An eigenvalue of a symmetric matrix is wrong by the square of the residual, where it stands alone.
    np.testing.assert_allclose(pairs.values, values[ranks], rtol=tolerance**2 * 100 + 1e-13)
    np.testing.assert_allclose(np.abs((pairs.vectors.numpy() @ vectors[:, ranks]).diagonal()), 1, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ["algebraic", "magnitude"])
def test_residuals_are_the_true_ones_and_within_the_tolerance(dtype: torch.dtype, order: str) -> None:
    matrix = Matrix(_network_like(20_000), dtype)
    pairs = _pairs(matrix, 20, order=order)
    assert pairs.converged
    assert pairs.products == matrix.count
    np.testing.assert_allclose(pairs.values, _leading(_network_like(20_000), 20, order), rtol=1e-5)
    np.testing.assert_allclose(_true_residuals(matrix, pairs), pairs.residuals, rtol=1e-2, atol=1e-4)
    assert (pairs.residuals <= 1e-3 * np.abs(pairs.values)).all()
    assert pairs.asymmetry < 1e-5
    assert _orthonormal(pairs.vectors, 1e-5)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
def test_arpack_takes_no_fewer_products_with_as_many_vectors(tolerance: float) -> None:
    d, k = 20_000, 20
    spectrum = _network_like(d)
    pairs = _pairs(Matrix(spectrum), k, tolerance=tolerance)
    counted = Matrix(spectrum)
    operator = scipy.sparse.linalg.LinearOperator(
        (d, d), lambda v: counted(torch.from_numpy(v.ravel()), torch.empty(d).double()).numpy(), dtype=float
    )
    start = np.random.default_rng(0).normal(size=d)
    scipy.sparse.linalg.eigsh(operator, k, which="LA", tol=tolerance, v0=start, ncv=k + 6)
    assert pairs.products <= counted.count


@settings(deadline=None, max_examples=200)
@given(
    spectrum=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    k=st.integers(1, 6),
    order=st.sampled_from(["algebraic", "magnitude"]),
    seed=st.integers(0, 100),
)
def test_matrices_within_the_basis_come_exactly_with_their_multiple_eigenvalues(
    spectrum: list[int], k: int, order: str, seed: int
) -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum), len(spectrum))))
    values = np.array(spectrum, float)
    matrix = Matrix(rotation * values @ rotation.T)
    pairs = _pairs(matrix, k, basis=12, order=order, seed=seed)
    expected = _leading(values, k, order)
    assert pairs.converged
    assert len(pairs.values) == min(k, len(spectrum))
    # Of equal magnitudes, of which not all are asked for, any will do.
    found = pairs.values if order == "algebraic" else np.abs(pairs.values)
    np.testing.assert_allclose(found, expected if order == "algebraic" else np.abs(expected), atol=1e-9)
    assert _orthonormal(pairs.vectors, 1e-10)
    assert _true_residuals(matrix, pairs).max() < 1e-9


@pytest.mark.parametrize(
    ("spectrum", "k"),
    [
        (np.zeros(100), 5),
        (np.ones(100), 5),
        (np.r_[np.ones(50), np.zeros(50)], 5),
        (np.r_[3, 3, 3, 2, 2, -5.0, -5, np.zeros(93)], 5),
        (np.r_[4, 3, 2, np.zeros(497)], 20),
        (np.r_[5, 5, 5, 4, 4, np.linspace(0, 1, 995)], 5),
    ],
    ids=["zero", "identity", "projection", "few values", "low rank", "outliers"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_copy_of_a_multiple_eigenvalue_is_found(spectrum: Reals, k: int, dtype: torch.dtype) -> None:
    matrix = Matrix(spectrum, dtype)
    pairs = _pairs(matrix, k)
    assert pairs.converged
    np.testing.assert_allclose(pairs.values, _leading(spectrum, k), atol=1e-5)
    assert _true_residuals(matrix, pairs).max() < 5e-3
    assert _orthonormal(pairs.vectors, 1e-5)


def test_a_dimension_within_the_basis_takes_as_many_products_and_is_exact() -> None:
    rng = np.random.default_rng(2)
    dense = rng.normal(size=(22, 22))
    matrix = Matrix(dense + dense.T)
    pairs = _pairs(matrix, 20, tolerance=1e-15)
    assert (pairs.products, pairs.converged) == (22, True)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(dense + dense.T)[::-1][:20], rtol=1e-12)
    assert _true_residuals(matrix, pairs).max() < 1e-12


def test_more_pairs_than_dimensions_are_all_there_are() -> None:
    pairs = _pairs(Matrix(np.arange(7.0)), 20)
    np.testing.assert_allclose(pairs.values, np.arange(7.0)[::-1], atol=1e-14)
    assert pairs.vectors.shape == (7, 7)
    assert pairs.converged


def test_what_is_not_reached_comes_with_its_residual() -> None:
    matrix = Matrix(_network_like(20_000))
    for limit in (30, 25, 7):  # 25 is where it restarts
        pairs = _pairs(matrix, 20, max_products=limit)
        assert not pairs.converged
        assert pairs.products == limit
        assert len(pairs.values) == min(20, limit)
        np.testing.assert_allclose(_true_residuals(matrix, pairs), pairs.residuals, rtol=1e-6, atol=1e-9)
        assert pairs.residuals.max() > 1e-3 * np.abs(pairs.values).min()


def _dense_bulk(n: int) -> Reals:
    """Nine outliers, and the last of twenty in a bulk so dense that its neighbours are 0.3 % away."""
    rng = np.random.default_rng(0)
    bulk = [5 * np.exp(-np.arange(1, 6001) / 400), -2 * np.exp(-np.arange(1, 4001) / 300)]
    return np.concatenate([np.geomspace(50, 8, 9), *bulk, rng.normal(0, 1e-3, n - 10_009)])


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
def test_a_short_basis_takes_hardly_more_products_than_a_long_one(tolerance: float) -> None:
    matrix = Matrix(_dense_bulk(20_000))
    short, long = (_pairs(matrix, 20, basis=basis, tolerance=tolerance) for basis in (25, 60))
    assert short.converged
    assert short.products <= 1.2 * long.products
    # With thick restarts alone it is 1.5 to 2 times.
    np.testing.assert_allclose(_true_residuals(matrix, short), short.residuals, rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(short.values, _leading(_dense_bulk(20_000), 20), rtol=5 * tolerance)


def test_it_keeps_up_with_arpack_and_its_longer_basis_in_a_dense_bulk() -> None:
    d, k = 20_000, 20
    pairs, counted = _pairs(Matrix(_dense_bulk(d)), k), Matrix(_dense_bulk(d))
    operator = scipy.sparse.linalg.LinearOperator(
        (d, d), lambda v: counted(torch.from_numpy(v.ravel()), torch.empty(d).double()).numpy(), dtype=float
    )
    start = np.random.default_rng(0).normal(size=d)
    scipy.sparse.linalg.eigsh(operator, k, which="LA", tol=1e-3, v0=start)  # 2 k + 1 vectors
    assert pairs.products <= counted.count


def test_memory_is_the_basis_the_next_vector_and_less_than_another() -> None:
    d, k = 20_000, 20
    matrix = Matrix(_network_like(d), torch.float32)
    with LiveStorage() as memory:
        pairs = _pairs(matrix, k, tolerance=1e-5)
    assert pairs.products > 60  # with restarts
    assert memory.peak <= (k + 6 + 1) * d * 4
    assert pairs.vectors.data_ptr() + pairs.vectors.nbytes == pairs.spare.data_ptr()
    assert pairs.spare.shape == (6, d)


def test_of_a_models_hessian_one_vector_is_held_besides_basis_and_double_backward() -> None:
    case = three_layers()
    space = Space(case.parameters)
    products = Products(space, Passes(case.model, case.loss_fn, case.data))
    out = space.zeros()
    with LiveStorage() as memory:
        products(out.clone().fill_(1), out)
    own = memory.peak
    memory = LiveStorage()
    with memory:
        pairs = eigenpairs(
            products,
            space.dimension,
            4,
            order="algebraic",
            basis=9,
            tolerance=1e-6,
            max_products=None,
            generator=torch.Generator().manual_seed(0),
            dtype=space.dtype,
            device=space.device,
        )
    assert pairs.converged
    assert memory.peak <= own + 10 * space.dimension * 8 + 4096


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("order", ["algebraic", "magnitude"])
def test_pairs_of_a_three_layer_network_are_the_dense_ones(matrix: str, order: str) -> None:
    case = three_layers()
    dense = {"hessian": dense_hessian, "gauss_newton": dense_gauss_newton}[matrix](case).numpy()
    space = Space(case.parameters)
    passes = Passes(case.model, case.loss_fn, case.data)
    pairs = eigenpairs(
        Products(space, passes, matrix=matrix),
        space.dimension,
        10,
        order=order,
        basis=15,
        tolerance=1e-9,
        max_products=None,
        generator=torch.Generator().manual_seed(0),
        dtype=space.dtype,
        device=space.device,
    )
    values, vectors = np.linalg.eigh(dense)
    ranks = np.argsort(-values if order == "algebraic" else -np.abs(values))[:10]
    np.testing.assert_allclose(pairs.values, values[ranks], rtol=1e-8)
    np.testing.assert_allclose(np.abs((pairs.vectors.numpy() @ vectors[:, ranks]).diagonal()), 1, atol=1e-8)


def test_measured_residuals_tell_what_products_by_differences_are_worth() -> None:
    case = CASES["attention"]()
    case.model.float()
    space = Space(case.parameters)
    found = {}
    for method in ("double_backward", "finite_differences"):
        products = Products(space, Passes(case.model, case.loss_fn, case.data), method=method)
        pairs = eigenpairs(
            products,
            space.dimension,
            5,
            order="algebraic",
            basis=10,
            tolerance=1e-4,
            max_products=60,
            generator=torch.Generator().manual_seed(0),
            dtype=space.dtype,
            device=space.device,
        )
        assert pairs.measured is (method == "finite_differences")
        assert pairs.products == products.count
        exact = Products(space, Passes(case.model, case.loss_fn, case.data))
        for value, vector, residual in zip(pairs.values, pairs.vectors, pairs.residuals, strict=True):
            true = float((exact(vector) - value * vector).norm())
            assert true == pytest.approx(residual, rel=1, abs=1e-4 * pairs.values[0])
        found[method] = pairs
    exact_pairs, near = found["double_backward"], found["finite_differences"]
    np.testing.assert_allclose(near.values, exact_pairs.values, rtol=1e-3)
    assert exact_pairs.asymmetry < 1e-5 < near.asymmetry


def test_residuals_are_measured_on_request() -> None:
    matrix = Matrix(_network_like(6_000))
    known, measured = (_pairs(matrix, 5, measure=choice) for choice in (None, True))
    assert (known.measured, measured.measured) == (False, True)
    assert measured.products == known.products + 5
    np.testing.assert_allclose(measured.residuals, known.residuals, rtol=1e-6, atol=1e-12)


def test_what_is_not_symmetric_shows() -> None:
    rng = np.random.default_rng(3)
    dense = rng.normal(size=(50, 50))
    assert _pairs(Matrix(dense + dense.T), 5, max_products=30).asymmetry < 1e-12
    assert _pairs(Matrix(dense + dense.T + 0.1 * (dense - dense.T)), 5, max_products=30).asymmetry > 0.01


def test_single_precision_is_summed_up_in_double() -> None:
    d = 1_000_000
    spectrum = np.r_[np.full(1, 8.0), np.full(d - 1, 2.0)]
    pairs = _pairs(Matrix(spectrum, torch.float32), 1, basis=3)
    np.testing.assert_allclose(pairs.values, [8.0], rtol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_any_start_the_same_pairs() -> None:
    matrix = Matrix(_network_like(6_000))
    one, again, other = (_pairs(matrix, 5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.vectors, again.vectors)
    assert not torch.equal(one.vectors, other.vectors)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-5)


def test_a_product_that_is_a_new_vector_is_taken_too() -> None:
    spectrum = torch.arange(50.0)
    pairs = eigenpairs(
        lambda vector, out: spectrum * vector,
        50,
        3,
        order="algebraic",
        basis=10,
        tolerance=1e-4,
        max_products=None,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    np.testing.assert_allclose(pairs.values, [49, 48, 47], rtol=1e-5)


def test_a_product_that_is_not_finite_is_named() -> None:
    spectrum = np.arange(50.0)
    spectrum[7] = np.nan
    with pytest.raises(CurvatureError, match="product 1 with the matrix is not finite"):
        _pairs(Matrix(spectrum), 3)


@pytest.mark.parametrize(("k", "basis", "limit"), [(5, 6, 100), (5, 10, 0), (0, 10, 100)])
def test_too_small_a_basis_and_limits_are_refused_with_all_numbers(k: int, basis: int, limit: int) -> None:
    with pytest.raises(ValueError, match=rf"{k} eigenpairs of dimension 50 from a basis of {basis} and {limit} prod"):
        _pairs(Matrix(np.arange(50.0)), k, basis=basis, max_products=limit)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_pairs_are_those_of_the_spectrum() -> None:
    spectrum = _network_like(20_000)
    device = torch.device("cuda")
    entries = torch.from_numpy(spectrum).float().to(device)
    pairs = eigenpairs(
        lambda vector, out: torch.mul(entries, vector, out=out),
        len(spectrum),
        20,
        order="algebraic",
        basis=25,
        tolerance=1e-3,
        max_products=None,
        generator=torch.Generator(device).manual_seed(0),
        dtype=torch.float32,
        device=device,
    )
    assert pairs.converged
    assert pairs.vectors.is_cuda
    np.testing.assert_allclose(pairs.values, _leading(spectrum, 20), rtol=1e-5)
