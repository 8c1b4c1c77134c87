"""Traces and density from random vectors, against matrices whose spectrum is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradnoise.collector._curvature.dots import dots, project_out
from gradnoise.collector._curvature.stochastic import WORK, sample, signs

if TYPE_CHECKING:
    from gradnoise.collector._curvature.stochastic import Multiply, Samples


class Matrix:
    """An explicit symmetric matrix that counts its products."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        self.count = 0

    def __call__(self, vector: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        self.count += 1
        assert out.data_ptr() != vector.data_ptr()
        torch.mv(self.matrix, vector, out=out)
        return out


def symmetric(dimension: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return ((matrix + matrix.T) / 2).to(dtype)


def orthonormal(rows: int, dimension: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    given = torch.randn(dimension, rows, generator=generator, dtype=torch.float64)
    frame: torch.Tensor = torch.linalg.qr(given).Q.T.contiguous()
    return frame


def sampled(multiply: Multiply, vectors: torch.Tensor, probes: int, densities: int = 0, steps: int = 0) -> Samples:
    work = torch.full((WORK, vectors.shape[1]), torch.nan, dtype=vectors.dtype)
    return sample(
        multiply,
        vectors,
        work,
        probes=probes,
        densities=densities,
        steps=steps,
        generator=torch.Generator().manual_seed(5),
    )


@pytest.mark.parametrize("rows", [0, 4])
def test_each_sample_is_that_of_its_projected_signs(rows: int) -> None:
    matrix, vectors = symmetric(30), orthonormal(rows, 30)
    found = sampled(Matrix(matrix), vectors, 6, densities=2, steps=5)
    generator = torch.Generator().manual_seed(5)
    for index in range(6):
        z = signs(torch.empty(30, dtype=torch.float64), generator)
        assert set(z.tolist()) == {-1.0, 1.0}
        z = z - vectors.T @ (vectors @ z)
        assert found.traces[index] == pytest.approx(float(z @ matrix @ z), rel=1e-12)
        assert found.squares[index] == pytest.approx(float((matrix @ z).square().sum()), rel=1e-12)


@pytest.mark.parametrize("exact", [True, False])
def test_traces_are_exact_in_expectation_whatever_the_vectors(exact: bool) -> None:
    """Over all signs, and so without an error: of eigenvectors, and of any orthonormal rows."""
    dimension, rows = 10, 3
    matrix = symmetric(dimension)
    vectors = torch.linalg.eigh(matrix).eigenvectors.T[-rows:].contiguous() if exact else orthonormal(rows, dimension)
    known = torch.einsum("id,de,ie->i", vectors, matrix, vectors)
    residual2 = (vectors @ matrix - known[:, None] * vectors).square().sum(1)
    traces, squares = [], []
    for code in range(2**dimension):
        z = torch.tensor([1.0 if code >> bit & 1 else -1.0 for bit in range(dimension)], dtype=torch.float64)
        z = project_out(vectors, z)
        traces.append(float(z @ matrix @ z))
        squares.append(float((matrix @ z).square().sum()))
    assert float(known.sum()) + np.mean(traces) == pytest.approx(float(matrix.trace()), rel=1e-11)
    total = float((known**2 + residual2).sum()) + np.mean(squares)
    assert total == pytest.approx(float(matrix.square().sum()), rel=1e-11)


def test_the_mean_of_the_samples_is_the_trace_within_four_standard_errors() -> None:
    dimension, probes = 200, 400
    matrix, vectors = symmetric(dimension), orthonormal(3, dimension)
    found = sampled(Matrix(matrix), vectors, probes)
    known = float(torch.einsum("id,de,ie->", vectors, matrix, vectors))
    error = found.traces.std(ddof=1) / np.sqrt(probes)
    assert error > 0
    assert abs(known + found.traces.mean() - float(matrix.trace())) < 4 * error
    images = float((vectors @ matrix).square().sum())
    error = found.squares.std(ddof=1) / np.sqrt(probes)
    assert abs(images + found.squares.mean() - float(matrix.square().sum())) < 4 * error


def test_the_quadrature_is_exact_for_polynomials_of_twice_its_nodes() -> None:
    """Gauss quadrature with m nodes integrates degree 2m - 1: q . (PHP)^j q from nodes and weights."""
    dimension, steps = 40, 6
    matrix, vectors = symmetric(dimension) / 5, orthonormal(3, dimension)
    inner = torch.eye(dimension, dtype=torch.float64) - vectors.T @ vectors
    inner = inner @ matrix @ inner
    multiply = Matrix(matrix)
    found = sampled(multiply, vectors, 3, densities=2, steps=steps)
    assert multiply.count == 3 + 2 * (steps - 1)
    generator = torch.Generator().manual_seed(5)
    for index in range(2):
        q = project_out(vectors, signs(torch.empty(dimension, dtype=torch.float64), generator))
        q = q / q.norm()
        image = q
        for degree in range(2 * steps):
            moment = float(found.weights[index] @ found.nodes[index] ** degree)
            assert moment == pytest.approx(float(q @ image), rel=1e-9, abs=1e-12), degree
            image = inner @ image
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-12)


def test_an_exhausted_space_ends_the_quadrature_with_nodes_of_no_weight() -> None:
    """A matrix of two distinct eigenvalues has Krylov spaces of dimension two."""
    matrix = torch.diag(torch.tensor([2.0] * 5 + [-1.0] * 5, dtype=torch.float64))
    found = sampled(Matrix(matrix), torch.empty(0, 10, dtype=torch.float64), 1, densities=1, steps=4)
    assert found.nodes.shape == (1, 4)
    np.testing.assert_allclose(found.nodes[0, :2], [-1.0, 2.0], atol=1e-12)
    np.testing.assert_allclose(found.weights[0], [0.5, 0.5, 0.0, 0.0], atol=1e-12)


def test_ghosts_leave_the_density_right() -> None:
    """An outlier converges and comes back; in single precision, the weight near it stays its own."""
    dimension = 400
    values = torch.linspace(0, 1, dimension)
    values[-1] = 10.0
    none = torch.empty(0, dimension)
    found = sampled(Matrix(torch.diag(values)), none, 1, densities=1, steps=60)
    near = found.nodes[0] > 5
    assert near.sum() > 1  # the ghosts
    assert found.weights[0][near].sum() == pytest.approx(1 / dimension, rel=1e-3)
    assert found.weights[0].sum() == pytest.approx(1)


def test_the_zero_matrix_has_one_node() -> None:
    found = sampled(
        Matrix(torch.zeros(6, 6, dtype=torch.float64)), torch.empty(0, 6, dtype=torch.float64), 2, densities=1, steps=3
    )
    np.testing.assert_array_equal(found.traces, 0)
    np.testing.assert_array_equal(found.squares, 0)
    np.testing.assert_array_equal(found.nodes, 0)
    np.testing.assert_array_equal(found.weights, [[1, 0, 0]])


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-3, 3))
def test_samples_follow_scale_and_shift(scale: float, shift: float) -> None:
    dimension, rows = 12, 2
    matrix, vectors = symmetric(dimension), orthonormal(rows, dimension)
    one = sampled(Matrix(matrix), vectors, 3, densities=1, steps=4)
    other = sampled(
        Matrix(scale * matrix + shift * torch.eye(dimension, dtype=torch.float64)), vectors, 3, densities=1, steps=4
    )
    generator = torch.Generator().manual_seed(5)
    lengths = [
        float(project_out(vectors, signs(torch.empty(dimension, dtype=torch.float64), generator)).square().sum())
        for _ in range(3)
    ]
    np.testing.assert_allclose(other.traces, scale * one.traces + shift * np.array(lengths), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other.nodes, scale * one.nodes + shift, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(other.weights, one.weights, rtol=1e-6, atol=1e-9)


def test_single_precision_is_summed_up_in_double() -> None:
    """A million products of about one, which single-precision sums get wrong in the fourth digit or so."""
    generator = torch.Generator().manual_seed(0)
    rows = 1 + torch.rand(3, 1_000_003, generator=generator) * 1e-3
    vector = 1 + torch.rand(1_000_003, generator=generator) * 1e-3
    found = dots(rows, vector)
    assert found.dtype is torch.float64
    np.testing.assert_allclose(found.numpy(), rows.double().numpy() @ vector.double().numpy(), rtol=1e-14)


def test_projecting_out_leaves_nothing_of_the_framein_single_precision() -> None:
    rows = orthonormal(5, 2000).float()
    vector = project_out(rows, rows.sum(0) * 1e4 + torch.randn(2000))
    assert float(dots(rows, vector).abs().max()) < 1e-4
