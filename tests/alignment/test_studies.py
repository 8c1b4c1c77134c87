"""The studies of alignment against dense matrices."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.studies import StudyError, anisotropic_noise, hessian_covariance
from gradnoise.studies._measured import Arguments, Examples

from .exact import dense
from .worlds import logistic, network

CROSS_ENTROPY = nn.functional.cross_entropy


def test_covariance_against_hessian_at_several_batch_sizes() -> None:
    model, x, y = network()
    before = copy.deepcopy(model.state_dict())
    found = hessian_covariance(model, CROSS_ENTROPY, x, y, batch_sizes=(1, 4), top=5, draws=200)
    assert list(found) == [1, 4]
    truth = dense(model, CROSS_ENTROPY, x, y)
    values, vectors = truth.pairs(5)
    for size, measured in found.items():
        assert (measured.row.batch_size, measured.row.replacement, measured.row.draws) == (size, True, 200)
        np.testing.assert_allclose(measured.row.eigenvalues, values, rtol=1e-5)
        sigma = truth.noise(size, replacement=True)
        for reading, exact in zip(measured.each("variance"), np.diag(vectors.T @ sigma @ vectors), strict=True):
            assert abs(reading.value - exact) < 4 * reading.se
        assert abs(measured["trace_sigma"].value - np.trace(sigma)) < 4 * measured["trace_sigma"].se
        # How the minibatches were drawn is known, and single examples may come again.
        assert not [text for text in measured["slope"].warnings if "replacement" in text or "repeat" in text]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_labels_of_the_model_itself_give_a_slope_of_1_at_every_batch_size() -> None:
    world = logistic(6, 2000)
    found = hessian_covariance(
        world.model, world.loss_fn, world.inputs, world.targets, batch_sizes=(2, 16), top=6, draws=200
    )
    for measured in found.values():
        assert measured["slope"].low <= 1.0 <= measured["slope"].high
        assert measured["gamma"].low <= 1.0 <= measured["gamma"].high


def test_anisotropic_noise_along_a_training_is_that_of_the_dense_matrices_at_each_step() -> None:
    model, x, y = network()
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    found = anisotropic_noise(model, CROSS_ENTROPY, x, y, optimizer, steps=(0, 20), batch_size=8, top=4, draws=200)
    assert list(found) == [0, 20]
    losses = []
    for step, theta in ((0, twin), (20, model)):
        truth, measured = dense(theta, CROSS_ENTROPY, x, y), found[step]
        assert measured.row.step == step
        losses.append(measured.row.loss)
        assert measured.row.loss == pytest.approx(truth.loss, rel=1e-9)
        h, sigma = truth.hessian, truth.noise(8, replacement=True)
        exact = {
            "trace_h_sigma": np.trace(h @ sigma),
            "anisotropy_gain": 79 * np.trace(h @ sigma) / np.trace(h) / np.trace(sigma),
        }
        for metric, value in exact.items():
            assert abs(measured[metric].value - value) < 4 * measured[metric].se, (step, metric)
    assert losses[1] < losses[0]


def test_what_cannot_be_studied_is_refused_by_name() -> None:
    model, x, y = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(StudyError, match="got 60 inputs and 3 targets"):
        hessian_covariance(model, CROSS_ENTROPY, x, y[:3])
    with pytest.raises(StudyError, match="batch_sizes: expected different whole numbers"):
        hessian_covariance(model, CROSS_ENTROPY, x, y, batch_sizes=(2, 2))
    with pytest.raises(StudyError, match="batch size: expected a whole number of at least 1, got 0"):
        hessian_covariance(model, CROSS_ENTROPY, x, y, batch_sizes=(0,))
    with pytest.raises(StudyError, match="steps: expected ascending"):
        anisotropic_noise(model, CROSS_ENTROPY, x, y, optimizer, steps=(3, 1))
    with pytest.raises(StudyError, match=r"the curvature cannot be measured: .*loss"):
        hessian_covariance(model, lambda out, _: out.sum(1), x, y, batch_sizes=(4,))


def test_a_measurement_names_its_readings() -> None:
    model, x, y = network()
    found = hessian_covariance(model, CROSS_ENTROPY, x, y, batch_sizes=(4,), top=2, draws=16)[4]
    assert found["gamma"].metric == "gamma"
    with pytest.raises(KeyError, match=r"no metric 'gama'; there are .*gamma"):
        found["gama"]


def test_all_draws_are_held_where_they_are_small_and_as_few_vectors_as_can_be_where_not() -> None:
    model, x, y = network()
    small = Examples(model, CROSS_ENTROPY, x, y)
    assert small._vectors(Arguments(top=20, draws=512)) == 538
    wide = Examples(nn.Linear(5, 100_000), CROSS_ENTROPY, x, y)  # 600 000 numbers of 4 bytes, 538 times: 1.3 GB
    assert wide._vectors(Arguments(top=20, draws=512)) is None
    assert wide._vectors(Arguments(top=3, draws=16)) == 25
