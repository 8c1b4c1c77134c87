"""A network of three layers in float64: what is measured and read of it, against dense matrices to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from .exact import Dense, dense
from .readings import Measurement, each_once
from .worlds import network

K = 12
CROSS_ENTROPY = nn.functional.cross_entropy


@pytest.fixture(scope="module", params=["hessian", "gauss_newton"])
def both(request: pytest.FixtureRequest) -> tuple[Dense, Measurement]:
    model, x, y = network()
    truth = dense(model, CROSS_ENTROPY, x, y, matrix=request.param)
    found = each_once(model, CROSS_ENTROPY, x, y, top=K, matrix=request.param, tolerance=1e-8, probes=64)
    return truth, found


def test_eigenpairs(both: tuple[Dense, Measurement]) -> None:
    truth, found = both
    values, _ = truth.pairs(K)
    assert found.row.dimension == 79
    np.testing.assert_allclose(found.row.eigenvalues, values, rtol=1e-6, atol=1e-9)
    assert found.row.loss == pytest.approx(truth.loss, rel=1e-12)


def test_draws(both: tuple[Dense, Measurement]) -> None:
    truth, found = both
    noise = truth.gradient - truth.gradients
    _, vectors = truth.pairs(K)
    scale = np.abs(noise @ noise.T).max()
    np.testing.assert_allclose(found.row.gram, noise @ noise.T, rtol=1e-6, atol=1e-12 * scale)
    np.testing.assert_allclose(found.row.quadratic, np.einsum("ki,ij,kj->k", noise, truth.hessian, noise), rtol=1e-6)
    # An eigenvector's sign is nobody's.
    mine = noise @ vectors
    signs = np.sign((mine * found.row.projections).sum(0))
    np.testing.assert_allclose(found.row.projections, mine * signs, rtol=1e-6, atol=1e-6 * np.abs(mine).max())


def test_gradient(both: tuple[Dense, Measurement]) -> None:
    truth, found = both
    g = truth.gradient
    assert found.row.gradient_norm2 == pytest.approx(g @ g, rel=1e-9)
    assert found.row.gradient_quadratic == pytest.approx(g @ truth.hessian @ g, rel=1e-6)
    np.testing.assert_allclose(found.row.gradient_projections**2, (truth.pairs(K)[1].T @ g) ** 2, rtol=1e-5, atol=1e-12)


def test_traces_within_their_errors(both: tuple[Dense, Measurement]) -> None:
    truth, found = both
    for metric, exact in (("trace_h", np.trace(truth.hessian)), ("frobenius_h", np.linalg.norm(truth.hessian))):
        reading = found[metric]
        assert abs(reading.value - exact) <= 4 * reading.se + 1e-9, (metric, reading.value, exact, reading.se)


def test_numbers_of_second_order_are_those_of_the_dense_matrices(both: tuple[Dense, Measurement]) -> None:
    truth, found = both
    h, c, (values, vectors) = truth.hessian, truth.covariance, truth.pairs(K)
    g = truth.gradient
    inside = np.diag(vectors.T @ c @ vectors)
    exact = {
        "trace_sigma": np.trace(c),
        "trace_h_sigma": np.trace(h @ c),
        "subspace_energy": inside.sum() / np.trace(c),
        "b_simple": np.trace(c) / (g @ g),
        "b_noise": np.trace(h @ c) / (g @ h @ g),
        "gradient_norm2": g @ g,
    }
    assert {name: found[name].value for name in exact} == pytest.approx(exact, rel=1e-6)
    assert [reading.value for reading in found.each("variance")] == pytest.approx(inside, rel=1e-6)
    above = values > 0
    if above.all():
        plain = np.polyfit(np.log(values), np.log(inside), 1)[0]
        assert found["gamma_plain"].value == pytest.approx(plain, rel=1e-6)


def test_all_eigenpairs_make_every_ratio_exact() -> None:
    """With k = d nothing is sampled: traces of H are sums of eigenvalues."""
    model, x, y = network()
    truth = dense(model, CROSS_ENTROPY, x, y)
    found = each_once(model, CROSS_ENTROPY, x, y, top=79)
    h, c, (values, vectors) = truth.hessian, truth.covariance, truth.pairs(79)
    np.testing.assert_allclose(found.row.eigenvalues, values, atol=1e-10)
    exact = {
        "trace_h": np.trace(h),
        "frobenius_h": np.linalg.norm(h),
        "anisotropy_gain": 79 * np.trace(h @ c) / np.trace(h) / np.trace(c),
        "projection_coefficient": vectors[:, 0] @ c @ vectors[:, 0] * np.trace(h) / values[0] / np.trace(c),
        "tic_trace": np.trace(c) / np.trace(h),
        "subspace_energy": 1.0,
    }
    assert {name: found[name].value for name in exact} == pytest.approx(exact, rel=1e-6)
    # One change of the weights and bias of all classes alike changes nothing: 5 eigenvalues are 0, rounded to any side.
    assert (np.abs(values) < 1e-14).sum() == 5
    share = found["negative_share"]
    assert share.low <= (values <= 0).mean() <= share.high
    assert (share.high - share.low) * 79 == pytest.approx(5.0)


def test_dense_blocks_are_parts_of_the_dense_matrices() -> None:
    model, x, y = network()
    truth = dense(model, CROSS_ENTROPY, x, y, matrix="gauss_newton")
    found = each_once(model, CROSS_ENTROPY, x, y, top=3, dense=20, matrix="gauss_newton")
    there = found.row.coordinates
    assert len(there) == 20
    h, c = truth.hessian[np.ix_(there, there)], truth.covariance[np.ix_(there, there)]
    np.testing.assert_allclose(found.row.block, h, atol=1e-12)
    np.testing.assert_allclose(found.row.block_noise, (truth.gradient - truth.gradients)[:, there], atol=1e-12)
    largest = np.linalg.eigvalsh(h).max()
    readings = found.each("tic_damped")
    assert len(readings) >= 3
    for reading in readings:
        assert reading.index is not None
        exact = np.trace(c @ np.linalg.inv(h + 10.0**-reading.index * largest * np.eye(20)))
        assert reading.value == pytest.approx(exact, rel=1e-6)


def test_the_model_is_as_it_was() -> None:
    model, x, y = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    each_once(model, CROSS_ENTROPY, x, y, top=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
