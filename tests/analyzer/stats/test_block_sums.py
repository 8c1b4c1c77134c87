"""The block-sum estimator of a stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradnoise.analyzer.stats import (
    AllZero,
    InvalidInput,
    NonFiniteValues,
    TooFewValues,
    block_sums,
    estimators,
    stable,
)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(30, 3000),
    cuts=st.lists(st.floats(0, 1), max_size=8),
    zeros=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_stream_in_any_pieces_reads_as_the_whole(n: int, cuts: list[float], zeros: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = stable.rvs(1.5, 1.0, n, rng)
    if zeros:
        values[rng.random(n) < 0.2] = 0.0
        values[0] = 1.0
    state = block_sums.zero(n)
    for piece in np.split(values, sorted(int(c * n) for c in cuts)):
        state = block_sums.update(state, piece)
    one, other = estimators.mmo(values), block_sums.finalize(state)
    for name in ("value", "se", "low", "high", "n", "zeros"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9, abs=1e-12, nan_ok=True), name
    assert (other.method, other.reference, other.warnings) == (one.method, one.reference, one.warnings)


def test_sums_made_elsewhere_are_taken() -> None:
    values = np.random.default_rng(1).normal(size=60)  # blocks of 6
    state = block_sums.update(block_sums.zero(60), values[:4])
    assert block_sums.cut(state, 23) == (2, 3, 3)
    edges = [4, 6, 12, 18, 24]
    sums = np.add.reduceat(values[:27], edges)
    logs = np.add.reduceat(np.log(np.abs(values[:27]) + block_sums.EPS), edges)
    state = block_sums.extend(state, 23, sums, logs, 0)
    found = block_sums.finalize(block_sums.update(state, values[27:]))
    assert found.value == pytest.approx(estimators.mmo(values).value, rel=1e-12)
    with pytest.raises(InvalidInput, match="each of 3 pieces"):
        block_sums.extend(state, 12, sums, logs, 0)


def test_what_no_estimate_can_be_made_of() -> None:
    with pytest.raises(TooFewValues):
        block_sums.zero(29)
    state = block_sums.zero(40)
    with pytest.raises(NonFiniteValues):
        block_sums.update(state, [1.0, np.nan])
    with pytest.raises(NonFiniteValues):
        block_sums.extend(state, 5, np.array([np.inf]), np.array([0.0]), 0)
    with pytest.raises(InvalidInput, match="50 values where 40"):
        block_sums.update(state, np.ones(50))
    with pytest.raises(TooFewValues, match="39 of 40"):
        block_sums.finalize(block_sums.update(state, np.ones(39)))
    with pytest.raises(AllZero):
        block_sums.finalize(block_sums.update(state, np.zeros(40)))
    assert state == block_sums.zero(40)


def test_a_sample_of_blocks_estimates_the_whole() -> None:
    rng = np.random.default_rng(2)
    values = stable.rvs(1.4, 1.0, 1_000_000, rng)
    values[::50] = 0.0
    blocks = values.reshape(1000, 1000)
    sums, logs = blocks.sum(axis=1), np.log(np.abs(blocks) + block_sums.EPS).sum(axis=1)
    whole = estimators.mmo(values)
    same = block_sums.of_sample(10**6, 1000, sums, logs, 20_000)
    assert (same.value, same.se) == pytest.approx((whole.value, whole.se), rel=1e-9)
    errors = []
    for _ in range(200):
        chosen = rng.choice(1000, 50, replace=False)
        found = block_sums.of_sample(10**6, 1000, sums[chosen], logs[chosen], 1000)
        errors.append((1 / found.value - 1 / whole.value) / (found.se / found.value**2))
    assert np.mean(errors) == pytest.approx(0.0, abs=0.3)
    assert np.std(errors) == pytest.approx(0.97, abs=0.15)
    assert found.n == 50_000
    assert "50 of 1000 blocks" in found.method
    assert any("2.0% of the values are exactly 0" in warning for warning in found.warnings)
    for wrong in ([1.0], [np.nan, 1.0]):
        with pytest.raises((TooFewValues, NonFiniteValues)):
            block_sums.of_sample(100, 10, wrong, wrong, 0)
    with pytest.raises(InvalidInput, match="each of 2 sums"):
        block_sums.of_sample(100, 10, [1.0, 2.0], [1.0], 0)
    with pytest.raises(AllZero):
        block_sums.of_sample(100, 10, [0.0, 0.0], [-36.0, -36.0], 20)
