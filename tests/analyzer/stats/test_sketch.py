"""The bfloat16 sketch: a merge law, exact counts, and the fit of what was counted."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradnoise.analyzer.stats import (
    AllZero,
    DegenerateValues,
    InvalidInput,
    NonFiniteValues,
    Status,
    TooFewValues,
    sketch,
    stable,
)
from gradnoise.analyzer.stats.sketch import Sketch, finalize, merge, update, zero

SINGLES = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))


def of(x: Any) -> Sketch:
    return update(zero(), x)


def plain(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same counts by numpy."""
    return np.bincount(np.asarray(x, dtype=np.float32).ravel().view(np.uint32) >> 16, minlength=65536)


@settings(max_examples=60, deadline=None)
@given(x=SINGLES, y=SINGLES, z=SINGLES)
def test_merge_law(x: Any, y: Any, z: Any) -> None:
    a, b, c = of(x), of(y), of(z)
    kept = [s.counts.copy() for s in (a, b, c)]
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, b) == merge(b, a)
    assert merge(a, zero()) == a == merge(zero(), a)
    assert merge(update(a, y), update(b, z)) == update(update(update(a, y), y), z)
    assert update(update(zero(), x), y) == merge(a, b) == of(np.concatenate([y, x])) == of(np.concatenate([x, y])[::-1])
    for s, counts in zip((a, b, c), kept, strict=True):
        np.testing.assert_array_equal(s.counts, counts)


@settings(max_examples=60, deadline=None)
@given(x=SINGLES)
def test_counts_are_of_truncated_patterns(x: Any) -> None:
    s = of(x)
    np.testing.assert_array_equal(s.counts, plain(x))
    assert s.n == x.size
    assert s.non_finite == np.count_nonzero(~np.isfinite(x))
    assert s.zeros == np.count_nonzero(np.abs(x) < np.float32(2.0**-133))
    values, weights = sketch.values(s)
    assert weights.sum() == s.n - s.non_finite
    assert (np.diff(values) >= 0).all()
    finite = np.sort(x[np.isfinite(x)]).astype(np.float64)
    near = np.repeat(values, weights.astype(int))
    np.testing.assert_allclose(near, finite, rtol=2**-7, atol=2.0**-132)
    assert s.inexact == np.count_nonzero(x.view(np.uint32) & 0xFFFF)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.bool_])
def test_every_kind_of_array_is_counted(dtype: Any) -> None:
    rng = np.random.default_rng(40)
    x = (100 * rng.normal(size=(300, 700))).astype(dtype)
    for view in (x, x.T, x[::3, 5:], x[:, ::-2], np.asfortranarray(x), x[:0]):
        np.testing.assert_array_equal(of(view).counts, plain(view))
    fixed = x.copy()
    fixed.flags.writeable = False
    assert of(fixed) == of(x)
    assert of(3.0).n == 1
    assert of([1, 2, 2]) == of(np.array([1.0, 2.0, 2.0]))


def test_a_stream_is_counted_in_place() -> None:
    x = np.random.default_rng(41).normal(size=(50, 1000)).astype(np.float32)
    s = zero()
    for chunk in x:
        assert update(s, chunk, out=s) is s
    assert s == of(x)
    other = of(np.ones(5))
    assert update(s, x[0], out=other) is other
    assert other == of(np.concatenate([x.ravel(), x[0]]))
    assert s == of(x)


def test_double_precision_beyond_single() -> None:
    s = of(np.array([1e300, -1e39, 1e-300, 1.0]))
    assert (s.n, s.non_finite, s.zeros) == (4, 2, 1)


@pytest.mark.parametrize("alpha", [1.2, 1.7, 1.95, 2.0])
def test_fit_is_that_of_the_values(alpha: float) -> None:
    x = np.asarray(stable.rvs(alpha, 1e-3, 200_000, np.random.default_rng(42))).astype(np.float32)
    x[:1000] = 0
    fit, exact = finalize(of(x)), stable.fit(x)
    assert fit.alpha.value == pytest.approx(exact.alpha.value, abs=1e-4)
    assert fit.alpha.low == pytest.approx(exact.alpha.low, abs=1e-4)
    assert fit.scale.value == pytest.approx(exact.scale.value, rel=1e-4)
    assert fit.n == exact.n == 199_000
    assert fit.zeros == pytest.approx(exact.zeros)
    assert fit.status is exact.status
    assert "sketch" in fit.alpha.method
    values, weights = sketch.values(of(x))
    assert stable.fit(values, weights).alpha.value == pytest.approx(fit.alpha.value, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_bfloat16_numbers_stay_what_they_are(share: float) -> None:
    rng = np.random.default_rng(46)
    x = np.asarray(stable.rvs(1.7, 1.0, 200_000, rng)).astype(np.float32)
    coarse = rng.random(x.size) >= share
    x[coarse] = (x.view(np.uint32)[coarse] & 0xFFFF0000).view(np.float32)
    x[:5000] = 0
    fit, exact = finalize(of(x)), stable.fit(x)
    assert fit.alpha.value == pytest.approx(exact.alpha.value, abs=1e-4)
    assert fit.scale.value == pytest.approx(exact.scale.value, rel=1e-7 if share == 0 else 1e-4)
    if share == 0:
        whole = np.arange(-100.0, 101.0)
        np.testing.assert_array_equal(sketch.values(of(whole))[0], whole)


def test_a_thousand_million_values() -> None:
    rng = np.random.default_rng(43)
    s = of(np.asarray(stable.rvs(1.6, 1.0, 1_000_000, rng)))
    many = Sketch(1000 * s.counts, 1000 * s.inexact)
    fit, one = finalize(many), finalize(s)
    assert fit.n == 1e9
    assert fit.status is Status.OK
    assert fit.alpha.value == pytest.approx(one.alpha.value, abs=1e-6)
    assert fit.alpha.se == pytest.approx(one.alpha.se / np.sqrt(1000), rel=1e-3)
    assert fit.alpha.high - fit.alpha.low == pytest.approx(2 * 1.96 * fit.alpha.se, rel=0.02)
    values, weights = sketch.values(many)
    assert stable.fit(values, weights).alpha.value == pytest.approx(fit.alpha.value, abs=1e-6)


def test_memory_is_that_of_the_counts() -> None:
    x = np.random.default_rng(44).normal(size=4_000_000)
    s = of(x[:10])
    tracemalloc.start()
    update(s, x, out=s)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("x", "error", "word"),
    [
        ([], TooFewValues, "got 0 of 0"),
        (np.arange(1, 20), TooFewValues, "got 19 of 19"),
        (np.zeros(100), AllZero, "all 100"),
        (np.full(100, 2.5), DegenerateValues, "one cell"),
        (np.concatenate([np.full(50, 2.5), np.zeros(50)]), DegenerateValues, "all 50"),
        ([*range(50), np.nan], NonFiniteValues, "1 NaN"),
        ([*range(50), 1e300, -np.inf], NonFiniteValues, "2 NaN"),
    ],
)
def test_what_carries_no_fit(x: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        finalize(of(x))


@pytest.mark.parametrize("x", [["a"], np.ones(3) * 1j, np.array([object()])])
def test_what_is_no_number(x: Any) -> None:
    with pytest.raises(InvalidInput, match="x: expected real numbers"):
        of(x)


@pytest.mark.parametrize("counts", [np.zeros(10, dtype=np.int64), np.zeros(65536), [0] * 65536])
def test_counts_of_the_wrong_shape(counts: Any) -> None:
    with pytest.raises(InvalidInput, match=r"counts: expected an int64 array of shape \(65536,\)"):
        Sketch(counts, np.zeros(1, dtype=np.int64))


def test_inexact_of_the_wrong_shape() -> None:
    with pytest.raises(InvalidInput, match=r"inexact: expected an int64 array of shape \(1,\)"):
        Sketch(zero().counts, np.zeros(2, dtype=np.int64))
