"""Maximum likelihood of the stable law."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradnoise.analyzer.stats import (
    AllZero,
    DegenerateValues,
    InvalidInput,
    NoConvergence,
    NonFiniteValues,
    Status,
    TooFewValues,
    _jit,
    drift,
    gaussian,
    stable,
)
from gradnoise.analyzer.stats._likelihood import EVALUATED, Groups, space
from gradnoise.analyzer.stats._newton import climb

# sd · √n of an efficient estimator of α with σ unknown, from the Fisher information.
CRAMER_RAO = {1.3: 1.418, 1.5: 1.535, 1.7: 1.502, 1.9: 1.127}


@pytest.mark.parametrize("alpha", sorted(CRAMER_RAO))
def test_error_is_the_cramer_rao_bound(alpha: float) -> None:
    n, samples = 1000, 1500
    fits = stable.fit_columns(
        stable.rvs(alpha, 3.0, (n, samples), np.random.default_rng(21)), intervals=False, threads=1
    )
    error = math.sqrt(np.mean((fits.alpha.value - alpha) ** 2)) * math.sqrt(n)
    # The RMSE of 1500 samples has a standard error of 2 %.
    assert error == pytest.approx(CRAMER_RAO[alpha], rel=0.07)
    assert np.nanmedian(fits.alpha.se) * math.sqrt(n) == pytest.approx(CRAMER_RAO[alpha], rel=0.05)
    assert np.median(fits.scale.value) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize(("alpha", "n"), [(1.5, 300), (1.8, 500), (1.95, 500)])
def test_intervals_cover(alpha: float, n: int) -> None:
    fits = stable.fit_columns(stable.rvs(alpha, 1.0, (n, 1200), np.random.default_rng(22)), threads=1)
    cover = np.mean((fits.alpha.low <= alpha) & (alpha <= fits.alpha.high))
    assert 0.925 < cover < 0.975
    assert (fits.alpha.low <= fits.alpha.value).all()
    assert (fits.alpha.value <= fits.alpha.high).all()
    scale = np.mean((fits.scale.low <= 1.0) & (fits.scale.high >= 1.0))
    assert 0.925 < scale < 0.98


def test_profile_interval_is_where_the_likelihood_has_lost_1_92() -> None:
    x = stable.rvs(1.6, 1.0, 400, np.random.default_rng(23))
    fit = stable.fit(x)
    for end in (fit.alpha.low, fit.alpha.high):
        scales = fit.scale.value * np.exp(np.linspace(-0.3, 0.3, 1201))
        profile = max(float(stable.logpdf(x, end, s).sum()) for s in scales)
        assert fit.loglik - profile == pytest.approx(1.9207, abs=0.01)
    assert fit.loglik == pytest.approx(float(stable.logpdf(x, fit.alpha.value, fit.scale.value).sum()), abs=1e-6)


def test_gaussian_data_stand_at_the_boundary() -> None:
    fits = stable.fit_columns(np.random.default_rng(24).normal(0, 3, (500, 300)), threads=1)
    at = np.array([s is Status.AT_BOUNDARY for s in fits.status])
    assert 0.75 < at.mean() < 0.92
    assert (fits.alpha.value[at] == 2.0).all()
    assert (fits.alpha.high == 2.0).mean() > 0.9
    assert (fits.alpha.se[at] > 0).all()
    np.testing.assert_allclose(fits.alpha.se[at], (2 - fits.alpha.low[at]) / 1.959963984540054)
    assert np.median(fits.scale.value) == pytest.approx(3 / math.sqrt(2), rel=0.02)


@pytest.mark.parametrize(
    "kind", ["lognormal scales", "one outlier", "laplace", "uniform", "atom near zero", "fifth power"]
)
def test_no_better_likelihood_on_a_grid(kind: str) -> None:
    rng = np.random.default_rng(25)
    x = {
        "lognormal scales": rng.normal(size=200) * np.exp(2 * rng.normal(size=200)),
        "one outlier": np.concatenate([rng.normal(size=199), [1e4]]),
        "laplace": rng.laplace(size=200),
        "uniform": rng.uniform(-1, 1, 200),
        "atom near zero": rng.normal(size=60) * np.where(rng.random(60) < 0.4, 1e-6, 1.0),
        "fifth power": rng.normal(size=200) ** 5,
    }[kind]
    fit = stable.fit(x)
    for alpha in [*np.linspace(0.5, 1.95, 16), 1.98, 1.99, 1.999, 2.0]:
        for scale in fit.scale.value * np.exp(np.linspace(-3, 3, 25)):
            assert float(stable.logpdf(x, alpha, scale).sum()) <= fit.loglik + 1e-6


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    alpha=st.floats(0.6, 2.0),
    n=st.integers(30, 200),
    factor=st.floats(1e-200, 1e200),
)
def test_scale_equivariance_and_sign_symmetry(seed: int, alpha: float, n: int, factor: float) -> None:
    x = np.asarray(stable.rvs(alpha, 1.0, n, np.random.default_rng(seed)))
    one, other = stable.fit(x), stable.fit(-factor * x)
    assert other.alpha.value == pytest.approx(one.alpha.value, abs=1e-6)
    assert other.alpha.low == pytest.approx(one.alpha.low, abs=1e-4)
    assert other.scale.value == pytest.approx(factor * one.scale.value, rel=1e-6)
    assert other.loglik == pytest.approx(one.loglik - n * math.log(factor), abs=1e-6 * (1 + abs(n * math.log(factor))))
    again = stable.fit(np.random.default_rng(1).permutation(x))
    assert again.alpha.value == pytest.approx(one.alpha.value, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50), alpha=st.floats(1.0, 2.0))
def test_shift_equivariance_with_location(seed: int, shift: float, alpha: float) -> None:
    x = np.asarray(stable.rvs(alpha, 1.0, 120, np.random.default_rng(seed)))
    one, other = stable.fit(x, location=True), stable.fit(x + shift, location=True)
    assert one.location is not None
    assert other.location is not None
    assert other.alpha.value == pytest.approx(one.alpha.value, abs=1e-5)
    assert other.location.value == pytest.approx(one.location.value + shift, abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), location=st.booleans(), single=st.booleans())
def test_columns_are_the_fits_of_columns(seed: int, location: bool, single: bool) -> None:
    rng = np.random.default_rng(seed)
    u = np.column_stack([stable.rvs(a, 10.0 ** rng.integers(-5, 5), 80, rng) for a in (0.7, 1.2, 1.8, 2.0)])
    u[::7, 1] = 0
    u = u.astype(np.float32 if single else np.float64)
    fits = stable.fit_columns(u, location=location)
    assert len(fits) == 4
    for j in range(4):
        assert fits[j] == stable.fit(u[:, j], location=location)
    strided = stable.fit_columns(np.asfortranarray(np.repeat(u, 2, axis=0))[::2], location=location)
    np.testing.assert_array_equal(strided.alpha.value, fits.alpha.value)


@pytest.mark.parametrize("theta", [(0.7, 0.2, 0.1), (1.0, -0.5, 0.0), (1.5, 0.1, -0.3), (1.93, 0.0, 0.2)])
def test_derivatives_of_the_likelihood(theta: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(4)
    x = np.concatenate([stable.rvs(1.4, 1.0, 60, rng), [45.0, -300.0, 0.001]])
    weight = rng.uniform(0.5, 2, x.size)
    spread = 1e-3 * weight * x * x
    h = 1e-5
    shifts = h * np.array([[0, 0, 0], *np.eye(3), *-np.eye(3)])
    outs = np.empty((7, EVALUATED))
    groups = Groups(*(np.tile(v, (7, 1)) for v in (x, weight, spread, np.zeros_like(x))))
    counts, evaluations = np.full(7, x.size), np.empty(7, dtype=np.int64)
    climb(groups, counts, np.full(7, weight.sum()), True, 1e-7, 1, space(), theta + shifts, outs, evaluations)
    alpha, scale, place = theta[0], math.exp(theta[1]), theta[2]
    # Each group as two values, a standard deviation to either side of its mean.
    pairs = [stable.logpdf(x - place + side * np.sqrt(spread / weight), alpha, scale) for side in (-1, 1)]
    assert outs[0, 0] == pytest.approx(float(weight @ (pairs[0] + pairs[1])) / 2, abs=2e-4)
    index = {(0, 0): 4, (0, 1): 5, (1, 1): 6, (0, 2): 7, (1, 2): 8, (2, 2): 9}
    for i in range(3):
        slope = (outs[1 + i] - outs[4 + i]) / (2 * h)
        assert slope[0] == pytest.approx(outs[0, 1 + i], rel=1e-7, abs=1e-6)
        for j in range(3):
            # The Hessian leaves out what the spread of the groups adds, here about 1e-3 of it.
            assert slope[1 + j] == pytest.approx(outs[0, index[min(i, j), max(i, j)]], rel=1e-2, abs=0.1)


def test_groups_stand_for_their_values() -> None:
    rng = np.random.default_rng(33)
    for alpha, n in ((0.7, 500), (1.5, 4000), (1.97, 4000), (1.7, 10_000), (1.3, 100_000)):
        x = np.asarray(stable.rvs(alpha, 2.5, n, rng)) + 0.3
        for location in (False, True):
            fit = stable.fit(x, location=location)
            place = fit.location.value if fit.location else 0.0
            exact = float(stable.logpdf(x - place, fit.alpha.value, fit.scale.value).sum())
            assert fit.loglik == pytest.approx(exact, abs=1e-5)
            # And nothing nearby is higher.
            for step in (-1e-4, 1e-4):
                assert stable.logpdf(x - place, fit.alpha.value + step, fit.scale.value).sum() < exact
                assert stable.logpdf(x - place, fit.alpha.value, fit.scale.value * (1 + step)).sum() < exact


def test_threads_change_nothing() -> None:
    u = stable.rvs(1.7, 1.0, (300, 1500), np.random.default_rng(26))
    one, two = (stable.fit_columns(u, intervals=False, threads=t) for t in (1, 3))
    np.testing.assert_array_equal(one.alpha.value, two.alpha.value)
    assert np.isnan(one.alpha.low).all()


def test_weights_are_frequencies() -> None:
    rng = np.random.default_rng(27)
    x, w = stable.rvs(1.5, 1.0, 300, rng), rng.integers(0, 4, 300)
    for location in (False, True):
        weighted, repeated = stable.fit(x, w, location=location), stable.fit(np.repeat(x, w), location=location)
        assert weighted.n == w.sum()
        assert weighted.alpha.value == pytest.approx(repeated.alpha.value, abs=1e-8)
        assert weighted.alpha.se == pytest.approx(repeated.alpha.se, rel=1e-5)
        assert weighted.alpha.low == pytest.approx(repeated.alpha.low, abs=1e-6)
        assert weighted.loglik == pytest.approx(repeated.loglik, abs=1e-6)
    columns = stable.fit_columns(x[:, None], w)
    assert columns[0].alpha.value == pytest.approx(stable.fit(x, w).alpha.value)


def test_location_is_found_and_its_error_right() -> None:
    for alpha in (0.8, 1.5, 2.0):
        fits = stable.fit_columns(
            stable.rvs(alpha, 1.0, (300, 400), np.random.default_rng(28)) + 7.0, location=True, threads=1
        )
        assert fits.location is not None
        place = fits.location
        assert np.median(place.value) == pytest.approx(7.0, abs=0.02)
        assert np.std(place.value) == pytest.approx(float(np.median(place.se)), rel=0.15)
        assert 0.9 < np.mean((place.low <= 7.0) & (place.high >= 7.0)) < 0.98


def test_zeros_are_counted_and_left_out() -> None:
    x = stable.rvs(1.6, 1.0, 200, np.random.default_rng(29))
    padded = np.concatenate([x, np.zeros(50)])
    fit, plain = stable.fit(padded), stable.fit(x)
    assert fit.zeros == pytest.approx(0.2)
    assert fit.n == 200
    assert fit.alpha.value == pytest.approx(plain.alpha.value, abs=1e-9)
    assert any("exactly 0" in warning for warning in fit.warnings)


def test_lower_end_of_the_table() -> None:
    rng = np.random.default_rng(30)
    fit = stable.fit(np.exp(12 * rng.normal(size=400)) * rng.choice([-1, 1], 400))
    assert fit.alpha.value == 0.5
    assert fit.status is Status.AT_BOUNDARY
    assert fit.alpha.low == 0.5
    assert np.isfinite([fit.alpha.se, fit.alpha.high, fit.scale.se]).all()
    assert any("lower end" in warning for warning in fit.warnings)


@pytest.mark.parametrize("room", [stable.fit, gaussian.fit])
@pytest.mark.parametrize(
    ("values", "error", "word"),
    [
        (np.array(["a", "b"]), InvalidInput, "x: expected real numbers"),
        (["a", 1.0], InvalidInput, "x: expected real numbers"),
        ([[1.0, 2.0], [3.0]], InvalidInput, "x"),
        (np.ones((40, 2)), InvalidInput, r"shape \(40, 2\)"),
        (np.ones(40) * 1j, InvalidInput, "complex"),
        (3.0, InvalidInput, "x"),
        ([], TooFewValues, "empty"),
        (np.arange(1, 20), TooFewValues, "at least 30 non-zero values.*got 19"),
        (np.concatenate([np.zeros(500), np.arange(1, 20)]), TooFewValues, "got 19 of 519"),
        (np.zeros(100), AllZero, "all 100 values are exactly 0"),
        (np.full(100, 2.5), DegenerateValues, "equal"),
        (np.concatenate([np.ones(50), [np.nan]]), NonFiniteValues, "NaN or infinity"),
        (np.concatenate([np.arange(50), [np.inf]]), NonFiniteValues, "NaN or infinity"),
    ],
)
def test_values_that_carry_no_fit(room: Any, values: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        room(values)


@pytest.mark.parametrize("room", [stable.fit, gaussian.fit])
@pytest.mark.parametrize(
    ("weights", "word"),
    [
        (np.full(100, -1.0), "non-negative"),
        (np.full(100, np.nan), "finite"),
        (np.ones(99), "got 99"),
        (["a"] * 100, "weights"),
    ],
)
def test_bad_weights(room: Any, weights: Any, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        room(np.random.default_rng(1).normal(size=100), weights)


def test_weights_that_sum_to_one_are_too_few() -> None:
    with pytest.raises(TooFewValues, match="by weight"):
        stable.fit(np.random.default_rng(1).normal(size=100), np.full(100, 0.01))


def test_a_bad_column_has_a_status_and_spoils_nothing() -> None:
    rng = np.random.default_rng(31)
    u = rng.standard_cauchy((100, 7))
    u[:, 1] = 0
    u[3, 2] = np.nan
    u[:80, 3] = 0
    u[:, 4] = -2.0
    u[5, 5] = -np.inf
    fits = stable.fit_columns(u)
    assert fits.status[1:6] == (
        Status.ALL_ZERO,
        Status.NON_FINITE,
        Status.TOO_FEW_VALUES,
        Status.DEGENERATE,
        Status.NON_FINITE,
    )
    assert np.isnan(fits.alpha.value[1:6]).all()
    assert np.isnan(fits.loglik[1:6]).all()
    for j in (0, 6):
        assert fits[j] == stable.fit(u[:, j])
    short = stable.fit_columns(u[:10])
    assert set(short.status[::6]) == {Status.TOO_FEW_VALUES}
    empty = stable.fit_columns(np.empty((0, 3)))
    assert empty.status == (Status.TOO_FEW_VALUES,) * 3
    assert len(stable.fit_columns(np.empty((50, 0)))) == 0


def test_an_atom_is_no_silent_number() -> None:
    x = np.concatenate([np.full(200, 1.0), np.random.default_rng(2).normal(size=200)])
    fits = stable.fit_columns(x[:, None], location=True)
    if not np.isfinite(fits.alpha.value[0]):
        assert fits.status[0] is Status.NO_CONVERGENCE


def test_values_of_every_magnitude_end_in_a_status() -> None:
    rng = np.random.default_rng(34)
    x = np.array([1e-320, 5e-324, 1e308, -1e308, 1.0] * 20)
    for sample in (
        x,
        np.exp(150 * rng.normal(size=400)),
        1.7e308 * rng.uniform(-1, 1, 100),
        1e-308 * rng.normal(size=90),
    ):
        for location in (False, True):
            fits = stable.fit_columns(sample[:, None], location=location)
            fitted = fits.status[0] in (Status.OK, Status.AT_BOUNDARY)
            assert np.isfinite(fits.alpha.value[0]) == fitted


def test_values_whose_squares_leave_the_range_are_no_silent_number() -> None:
    x = np.r_[np.full(50, 1e150), np.random.default_rng(0).normal(size=50) * 1e-290]
    for sample in (x, x[::-1], np.r_[x, -x], 1e100 * x):
        for location in (False, True):
            with pytest.raises(NoConvergence):
                stable.fit(sample, location=location)
            fits = stable.fit_columns(sample[:, None], location=location, intervals=False)
            assert fits.status == (Status.NO_CONVERGENCE,)
            assert np.isnan(fits.loglik[0])


def test_row_scales_where_quotients_overflow() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(40, 6))
    tiny = 1e-310 * noise
    tiny[3, 2] = 1e308
    noise[3, 2] = 1e20
    # Numbers below 1e-308 have fewer digits.
    np.testing.assert_allclose(drift.row_log_scales(tiny), drift.row_log_scales(noise), atol=1e-9)
    relative = np.abs(noise) / np.median(np.abs(noise), axis=0)
    np.testing.assert_allclose(drift.row_log_scales(noise), np.log(np.median(relative, axis=1)), atol=1e-12)
    assert (drift.row_log_scales(np.full((4, 3), 1.7e308)) == 0).all()
    assert drift.row_log_scales(np.empty((0, 3))).shape == (0,)
    assert np.isnan(drift.row_log_scales(np.empty((3, 0)))).all()
    for function in (drift.row_log_scales, drift.row_spread, drift.scale_drift):
        with pytest.raises(InvalidInput, match="noise: expected 2 dimension"):
            function(np.ones(3))
        with pytest.raises(InvalidInput, match="noise: expected real numbers"):
            function([["a"]])


def test_inputs_are_not_changed() -> None:
    x = np.random.default_rng(3).normal(size=(60, 3))
    before = x.copy()
    stable.fit(x[:, 0])
    stable.fit_columns(x)
    stable.fit_columns(np.ascontiguousarray(x.T).T)
    np.testing.assert_array_equal(x, before)


def test_integers_and_single_precision() -> None:
    rng = np.random.default_rng(32)
    x = np.round(100 * rng.standard_cauchy(300))
    assert stable.fit(x.astype(np.int64)) == stable.fit(x)
    y = rng.normal(size=300).astype(np.float32)
    assert stable.fit(y) == stable.fit(y.astype(np.float64))


def test_kernels_work_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    real = numba.njit

    def refusing(*args: Any, **options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(*args, **options)

    monkeypatch.setattr(numba, "njit", refusing)

    def double(v: float) -> float:
        return 2 * v

    assert _jit.kernel(double)(4.0) == 8.0


def test_a_changed_callee_is_compiled_anew(tmp_path: Path) -> None:
    """Numba looks at a kernel's own file only; ``_jit`` at all that it is compiled from."""
    (tmp_path / "outer.py").write_text(
        "from gradnoise.analyzer.stats._jit import kernel\nfrom inner import FACTOR, double\n\n"
        "@kernel\ndef twice(v: float) -> float:\n    return FACTOR * double(v)\n"
    )

    def run(factor: float, body: str) -> list[str]:
        (tmp_path / "inner.py").write_text(
            f"from gradnoise.analyzer.stats._jit import part\nFACTOR = {factor}\n\n"
            f"@part\ndef double(v: float) -> float:\n    return {body}\n"
        )
        code = "import outer; print(outer.twice(3.0), len(outer.twice.stats.cache_hits))"
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert run(1.0, "2.0 * v") == ["6.0", "0"]
    assert run(1.0, "2.0 * v") == ["6.0", "1"]
    assert run(1.0, "v + v + 1.0") == ["7.0", "0"]
    assert run(10.0, "v + v + 1.0") == ["70.0", "0"]


def test_import_is_lean() -> None:
    code = (
        "import sys, gradnoise.analyzer.stats;"
        "print([m for m in ('scipy.stats', 'statsmodels', 'torch', 'pyarrow', 'grpc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
