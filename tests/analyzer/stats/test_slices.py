"""Tr Σ² from slices of passes: against every pass there is over a few examples, and the size of what is put right."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gradnoise.analyzer.stats._measured import Measured, Sampling
from gradnoise.analyzer.stats._moments import moments, ties
from gradnoise.analyzer.stats._slices import slice_weights


def passes(examples: int, batch: int) -> list[tuple[tuple[int, ...], ...]]:
    """Every way to cut the examples into slices, whatever their order."""

    def cut(left: tuple[int, ...]) -> list[tuple[tuple[int, ...], ...]]:
        if not left:
            return [()]
        first, *others = left
        return [
            ((first, *more), *further)
            for more in itertools.combinations(others, batch - 1)
            for further in cut(tuple(i for i in others if i not in more))
        ]

    return cut(tuple(range(examples)))


@pytest.mark.parametrize(("examples", "batch", "count"), [(6, 1, 1), (8, 2, 1), (10, 2, 1), (6, 2, 2), (6, 3, 2)])
def test_the_mean_over_all_passes_is_exact(examples: int, batch: int, count: int) -> None:
    """Examples of heavy tails: no normal law is at work."""
    gradients = np.random.default_rng(3).standard_normal((examples, 4)) ** 3
    gradients -= gradients.mean(axis=0)
    sigma = gradients.T @ gradients / examples / batch * (examples - batch) / (examples - 1)
    found = []
    for each in itertools.product(passes(examples, batch), repeat=count):
        draws = np.array([gradients[list(part)].mean(axis=0) for cut in each for part in cut])
        measured = Measured(
            dimension=4, gram=draws @ draws.T, batch_size=batch, examples=examples, sampling=Sampling.EPOCH
        )
        tied = ties(measured)
        assert tied.slices is not None
        made = moments(measured.gram, draws[:, :2], np.empty(0), tied)
        assert made.square is not None
        assert made.inner_square is not None
        assert made.inner_diagonal is not None
        found.append((made.square[0], made.inner_square[0], made.inner_diagonal[0]))
    corner = sigma[:2, :2]
    truth = ((sigma**2).sum(), (corner**2).sum(), (np.diagonal(corner) ** 2).sum())
    assert np.mean(found, axis=0) == pytest.approx(truth, rel=1e-11)


def test_single_examples_get_the_pairs_of_an_example_with_itself_back() -> None:
    weights = slice_weights(1.0, 1, 1000)
    assert weights is not None
    assert (weights.products, weights.norms, weights.fourth) == pytest.approx((0.999, 0.0, 0.001), abs=1e-12)


def test_pairs_of_different_passes_need_nothing() -> None:
    weights = slice_weights(0.0, 10, 1000)
    assert weights is not None
    assert (weights.products, weights.norms, weights.fourth) == pytest.approx((1.0, 0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize(("batch", "examples"), [(1, 3), (2, 6), (500, 1000)])
def test_what_cannot_be_solved_for_has_no_weights(batch: int, examples: int) -> None:
    """Of 3 examples no 4 are different; halves and thirds of a pass sum to 0, which leaves two equations."""
    assert slice_weights(1.0, batch, examples) is None


def test_a_few_large_examples_are_not_missed() -> None:
    """One pass of slices of 8 over 800 examples whose sizes differ by factors: by their correlation alone Tr Σ² of the
    slices reads less than two thirds of what it is."""
    rng = np.random.default_rng(4)
    gradients = rng.standard_normal((800, 100)) * np.exp(rng.standard_normal((800, 1)))
    gradients -= gradients.mean(axis=0)
    sigma = gradients.T @ gradients / 800 / 8 * 792 / 799
    truth, found, pairs = float((sigma**2).sum()), [], []
    for _ in range(60):
        draws = gradients[rng.permutation(800).reshape(100, 8)].mean(axis=1)
        gram = draws @ draws.T
        tied = ties(Measured(dimension=100, gram=gram, batch_size=8, examples=800, sampling=Sampling.EPOCH))
        made = moments(gram, np.empty((0, 0)), np.empty(0), tied)
        assert made.square is not None
        found.append(made.square[0])
        pairs.append((np.square(gram).sum() - np.square(np.diagonal(gram)).sum()) / (100 * 99))
    assert abs(np.mean(found) - truth) <= 4 * np.std(found) / np.sqrt(60)
    assert np.mean(pairs) < truth * 2 / 3
