"""Estimators of α: the published block sums with their pitfalls in closed form, and the ones that mend them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradnoise.analyzer.stats import (
    AllZero,
    DegenerateValues,
    InvalidInput,
    NonFiniteValues,
    TooFewValues,
    estimators,
    stable,
)
from gradnoise.analyzer.stats.estimators import AlphaEstimate

# sd · √n of an efficient estimator of α with σ unknown, from the Fisher information.
CRAMER_RAO = {1.3: 1.418, 1.7: 1.502, 1.9: 1.127}


def _block_sum(x: Any) -> AlphaEstimate:
    return estimators.block_sum(x, rng=np.random.default_rng(0))


ALL: dict[str, Callable[[Any], AlphaEstimate]] = {
    "block_sum": _block_sum,
    "ecf": estimators.ecf,
    "log_moment": estimators.log_moment,
    "mmo": estimators.mmo,
    "quantile": estimators.quantile,
}
SCALED = ("ecf", "log_moment", "quantile")


def _ideal(alpha: float, scale: float = 1.0, n: int = 100_000) -> Any:
    """The quantiles of SαS(σ) at (i − ½)/n: a sample without chance."""
    return stable.ppf((np.arange(n) + 0.5) / n, alpha, scale)


def _published(x: Any) -> float:
    """The formula (Mohammadi et al. 2015, cor. 2.4) with the published choices of m and ε, value by value."""
    n = len(x)
    m = [i for i in range(1, 1 + int(math.sqrt(n))) if n % i == 0][-1]
    y = [math.fsum(x[i * m : (i + 1) * m]) for i in range(n // m)]
    mean_y = math.fsum(math.log(abs(v) + 2.220446049250313e-16) for v in y) / len(y)
    mean_x = math.fsum(math.log(abs(v) + 2.220446049250313e-16) for v in x) / n
    return 1 / ((mean_y - mean_x) / math.log(m))


@pytest.mark.parametrize("n", [30, 36, 100, 997 * 2, 5040])
def test_is_the_published_formula(n: int) -> None:
    x = stable.rvs(1.4, 0.1, n, np.random.default_rng(n))
    x[:2] = 0
    assert estimators.mmo(x).value == pytest.approx(_published(x), rel=1e-12)
    if n % 6 == 0:
        assert estimators.mmo(x.reshape(6, -1)).value == estimators.mmo(x).value


def test_is_right_for_stable_values() -> None:
    rng = np.random.default_rng(1)
    for alpha in (1.1, 1.5, 1.9):
        estimates = [estimators.mmo(stable.rvs(alpha, 1.0, 10_000, rng)) for _ in range(200)]
        inverse = np.array([1 / e.value for e in estimates])
        assert inverse.mean() == pytest.approx(1 / alpha, abs=4 * inverse.std() / math.sqrt(200))
        assert np.mean([e.se for e in estimates]) == pytest.approx(np.std([e.value for e in estimates]), rel=0.2)
        assert np.mean([e.low <= alpha <= e.high for e in estimates]) > 0.88


def test_spread_of_scales_reads_as_tail() -> None:
    # 1/α̂ = ½ + E ln(mean_m s²)/(2 ln m): Gaussian values with lognormal(0, 1) scales read 1.55 at m = 1000.
    rng = np.random.default_rng(2)
    x = rng.normal(size=1_000_000) * np.exp(rng.normal(size=1_000_000))
    assert estimators.mmo(x).value == pytest.approx(1.55, abs=0.06)


def test_order_decides() -> None:
    rng = np.random.default_rng(3)
    scales = np.repeat([1, 0.25, 0.06, 0.016, 0.004, 0.001], 166_666)
    x = rng.normal(size=999_996) * scales
    x = x[:998_001]  # 999²
    assert estimators.mmo(x).value == pytest.approx(2.0, abs=0.06)
    assert estimators.mmo(rng.permutation(x)).value == pytest.approx(1.14, abs=0.06)


def test_correlated_neighbours_read_as_tail() -> None:
    phi, m = 0.9, 1000
    rng = np.random.default_rng(4)
    from scipy.signal import lfilter

    x = lfilter([1.0], [1.0, -phi], rng.normal(size=1_010_000))[10_000:]
    inside = (1 + phi) / (1 - phi) - 2 * phi * (1 - phi**m) / (m * (1 - phi) ** 2)
    assert estimators.mmo(x).value == pytest.approx(1 / (0.5 + math.log(inside) / (2 * math.log(m))), abs=0.05)


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1.82), (0.05, 1.33), (0.2, 0.66)])
def test_zeros_drive_the_estimate_down(share: float, expected: float) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=1_000_000) * (rng.random(1_000_000) >= share)
    estimate = estimators.mmo(x)
    assert estimate.value == pytest.approx(expected, abs=0.05)
    assert any("exactly 0" in warning for warning in estimate.warnings)


def test_prime_length_has_no_value_and_says_so() -> None:
    estimate = estimators.mmo(np.random.default_rng(6).normal(size=1009))
    assert math.isnan(estimate.value)
    assert any("prime" in warning for warning in estimate.warnings)
    short = estimators.mmo(np.random.default_rng(6).normal(size=2 * 1009))
    assert any("short" in warning for warning in short.warnings)


def test_rows_that_sum_to_zero_give_nonsense_with_a_warning() -> None:
    x = np.random.default_rng(7).normal(size=(100, 100))
    x -= x.mean(axis=1, keepdims=True)
    estimate = estimators.mmo(x)
    assert not 0 < estimate.value <= 2
    assert any("not the index" in warning for warning in estimate.warnings)


def test_float32_values_are_computed_in_float64() -> None:
    x = stable.rvs(1.5, 1e-4, 3600, np.random.default_rng(8)).astype(np.float32)
    assert estimators.mmo(x) == estimators.mmo(x.astype(np.float64))


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize(("alpha", "scale"), [(0.8, 1e-4), (1.0, 3.0), (1.3, 1.0), (1.7, 1e5), (1.9, 1.0)])
def test_ideal_samples_give_the_law_back(name: str, alpha: float, scale: float) -> None:
    found = ALL[name](_ideal(alpha, scale))
    assert found.value == pytest.approx(alpha, abs=4e-3)
    assert found.scale is not None
    assert found.scale.value == pytest.approx(scale, rel=5e-3)
    assert found.low < alpha < found.high
    assert found.scale.low < scale < found.scale.high


def test_log_moment_is_its_closed_form() -> None:
    # Gaussian: Var ln|X| = π²/8 whatever the scale; Cauchy: π²/4.
    x = stable.rvs(1.2, 1.0, 5000, np.random.default_rng(9))
    logs = np.log(np.abs(x))
    found = estimators.log_moment(x)
    assert math.pi**2 / 6 * (1 / found.value**2 + 0.5) == pytest.approx(logs.var(ddof=1))
    assert found.scale is not None
    assert logs.mean() == pytest.approx(
        0.5772156649015329 * (1 / found.value - 1) + math.log(found.scale.value), rel=1e-9, abs=1e-12
    )


def test_log_moment_says_where_it_has_no_answer() -> None:
    rng = np.random.default_rng(10)
    narrow = rng.choice([-1.0, 1.0], 500) * (1 + 0.01 * rng.random(500))
    found = estimators.log_moment(narrow)
    assert found.value == math.inf
    assert any("not the index" in warning for warning in found.warnings)
    assert found.scale is not None
    assert math.isfinite(found.scale.value)


# McCulloch, Commun. Statist. Simul. 15 (1986): table III, column β = 0 (α by ν_α), and table V, column β = 0
# (ν_c by α), as scipy.stats carries them.
NU_ALPHA = [2.439, 2.5, 2.6, 2.7, 2.8, 3.0, 3.2, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 25.0]
ALPHA = [2.000, 1.916, 1.808, 1.729, 1.664, 1.563, 1.484, 1.391, 1.279, 1.128, 1.029, 0.896, 0.818, 0.698, 0.593]
NU_C = {2.0: 1.908, 1.9: 1.914, 1.8: 1.921, 1.7: 1.927, 1.6: 1.933, 1.5: 1.939, 1.4: 1.946, 1.3: 1.955, 1.2: 1.965,
        1.1: 1.980, 1.0: 2.000, 0.9: 2.040, 0.8: 2.098, 0.7: 2.189, 0.6: 2.337, 0.5: 2.588}  # fmt: skip


@pytest.mark.parametrize(("nu", "alpha"), list(zip(NU_ALPHA, ALPHA, strict=True)))
def test_quantile_agrees_with_mccullochs_table(nu: float, alpha: float) -> None:
    # 2000 values of which a quarter lies at ±1 and a tenth beyond ±ν: quantile differences 2 and 2ν.
    inner = np.concatenate([np.full(200, 0.5), np.full(600, 1.0), np.full(200, nu)])
    found = estimators.quantile(np.concatenate([inner, -inner]))
    assert found.value == pytest.approx(alpha, abs=0.005)  # his table, interpolated, is good to that
    assert found.scale is not None
    assert found.scale.value == pytest.approx(
        2.0 / np.interp(alpha, sorted(NU_C), [NU_C[a] for a in sorted(NU_C)]), rel=0.008
    )


def test_quantile_is_cut_at_two() -> None:
    found = estimators.quantile(np.random.default_rng(11).uniform(-1, 1, 500))
    assert found.value == found.high == 2.0
    assert any("at or beyond" in warning for warning in found.warnings)
    assert found.low <= 2.0


def test_quantile_needs_no_location() -> None:
    x = stable.rvs(1.5, 1.0, 800, np.random.default_rng(12))
    shifted = estimators.quantile(x + 50)
    assert shifted.value == pytest.approx(estimators.quantile(x).value)


@pytest.mark.parametrize("alpha", [1.3, 1.7])
@pytest.mark.parametrize("name", sorted(ALL))
def test_standard_errors_are_the_spread(name: str, alpha: float) -> None:
    samples = stable.rvs(alpha, 1.0, (700, 1000), np.random.default_rng(13))
    found = [ALL[name](x) for x in samples]
    value, se = np.array([e.value for e in found]), np.array([e.se for e in found])
    # 700 samples give the spread to 3 %.
    assert 0.9 < se.mean() / value.std() < 1.15
    assert np.mean([e.low <= alpha <= e.high for e in found]) > 0.91
    if name in SCALED:
        scales = [e.scale for e in found if e.scale is not None]
        assert 0.9 < np.mean([s.se / s.value for s in scales]) / np.std([math.log(s.value) for s in scales]) < 1.1
        assert np.mean([s.low <= 1 <= s.high for s in scales]) > 0.92


@pytest.mark.parametrize(("name", "alpha", "enough"), [("log_moment", 1.5, 200), ("quantile", 0.55, 100)])
def test_intervals_of_few_values_are_said_to_be_short(name: str, alpha: float, enough: int) -> None:
    rng = np.random.default_rng(27)
    for n, least in ((30, 0.74), (enough, 0.87)):
        found = [ALL[name](x) for x in stable.rvs(alpha, 1.0, (400, n), rng)]
        covers = np.mean([e.low <= alpha <= e.high for e in found])
        assert covers > least
        assert all(any("too short" in w for w in e.warnings) is (n < enough) for e in found)
        if n == 30:
            assert covers < 0.9


def test_characteristic_function_near_two_says_that_its_interval_is_short() -> None:
    rng = np.random.default_rng(28)

    def said(alpha: float, n: int) -> float:
        found = [estimators.ecf(x) for x in stable.rvs(alpha, 1.0, (100, n), rng)]
        return float(np.mean([any("too short" in w for w in e.warnings) for e in found]))

    assert said(1.9, 100) > 0.8
    assert said(1.4, 300) < 0.05
    assert said(1.9, 1000) == 0


def test_log_moment_has_the_efficiency_of_its_closed_form() -> None:
    # Fourth cumulant of ln|X| as its generating function gives it: π⁴ (1/(15 α⁴) + 7/120).
    alpha = 1.7
    variance, fourth = math.pi**2 / 6 * (1 / alpha**2 + 0.5), math.pi**4 * (1 / (15 * alpha**4) + 7 / 120)
    sd = 3 * alpha**3 / math.pi**2 * math.sqrt(fourth + 2 * variance**2)
    assert (CRAMER_RAO[alpha] / sd) ** 2 == pytest.approx(0.1, abs=0.005)
    found = estimators.log_moment(_ideal(alpha))
    assert found.se * math.sqrt(found.n) == pytest.approx(sd, rel=0.02)


@pytest.mark.parametrize("alpha", sorted(CRAMER_RAO))
def test_characteristic_function_is_nearly_efficient(alpha: float) -> None:
    samples = stable.rvs(alpha, 1.0, (600, 1000), np.random.default_rng(14))
    error = np.array([estimators.ecf(x).value for x in samples]) - alpha
    assert math.sqrt(np.mean(error**2) * 1000) < 1.15 * CRAMER_RAO[alpha]


def test_characteristic_function_of_a_histogram() -> None:
    rng = np.random.default_rng(15)
    x, w = stable.rvs(1.4, 1.0, 300, rng), rng.integers(0, 4, 300)
    weighted, repeated = estimators.ecf(x, w), estimators.ecf(np.repeat(x, w))
    assert weighted.value == pytest.approx(repeated.value, rel=0.01)  # two medians, one step of the iteration apart
    assert weighted.se == pytest.approx(repeated.se, rel=0.02)
    assert weighted.n == repeated.n == w.sum()
    counts, edges = np.histogram(stable.rvs(1.6, 1.0, 200_000, rng), bins=np.linspace(-500, 500, 50_001))
    found = estimators.ecf((edges[1:] + edges[:-1]) / 2, counts)
    assert found.value == pytest.approx(1.6, abs=0.015)
    with pytest.raises(InvalidInput, match="weights"):
        estimators.ecf(x, -w)


@pytest.mark.parametrize("name", ["block_sum", *SCALED])
def test_zeros_are_left_out_and_said(name: str) -> None:
    rng = np.random.default_rng(16)
    x = stable.rvs(1.5, 1.0, 4000, rng)
    with_zeros = rng.permutation(np.concatenate([x, np.zeros(1000)]))
    found = ALL[name](with_zeros)
    assert found.zeros == pytest.approx(0.2)
    assert any("20.0% of the values are exactly 0" in warning for warning in found.warnings)
    assert found.n == 4000
    if name == "block_sum":
        assert found.value == pytest.approx(1.5, abs=4 * found.se)
    else:
        assert found.value == pytest.approx(ALL[name](x).value, rel=1e-9)


@pytest.mark.parametrize("name", sorted(ALL))
@given(
    seed=st.integers(0, 10**6),
    alpha=st.floats(0.7, 2.0),
    n=st.integers(64, 300),
    power=st.integers(-120, 120),
    sign=st.sampled_from([-1.0, 1.0]),
)
@settings(max_examples=25, deadline=None)
def test_scale_and_sign_do_not_matter(name: str, seed: int, alpha: float, n: int, power: int, sign: float) -> None:
    if name == "mmo":  # its ε is in units of the values, and a prime n has no value
        power, n = power % 8, n // 8 * 8
    x = stable.rvs(alpha, 1.0, n, np.random.default_rng(seed))
    one, other = ALL[name](x), ALL[name](sign * 2.0**power * x)
    for field in ("value", "se", "low", "high"):
        assert getattr(other, field) == pytest.approx(getattr(one, field), rel=1e-6), field
    if one.scale is not None and other.scale is not None:
        assert other.scale.value == pytest.approx(2.0**power * one.scale.value, rel=1e-6)
        assert other.scale.se == pytest.approx(2.0**power * one.scale.se, rel=1e-6)


@pytest.mark.parametrize("name", SCALED)
@given(seed=st.integers(0, 10**6), n=st.integers(64, 300))
@settings(max_examples=15, deadline=None)
def test_order_does_not_matter(name: str, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x = stable.rvs(1.6, 1.0, n, rng)
    assert ALL[name](rng.permutation(x)).value == pytest.approx(ALL[name](x).value, rel=1e-9)


def test_order_matters_to_the_published_estimator_alone() -> None:
    rng = np.random.default_rng(17)
    x = np.sort(np.abs(rng.normal(size=10_000))) * rng.choice([-1.0, 1.0], 10_000)
    assert estimators.mmo(x).value != pytest.approx(estimators.mmo(rng.permutation(x)).value, rel=1e-3)


@pytest.mark.parametrize("m", [10, 30, 100])
def test_block_sums_of_a_scale_mixture_have_their_closed_form(m: int) -> None:
    # 1/α̂ = ½ + E ln(mean_m s²)/(2 ln m), → ½ + s²/ln m for e^{4s²} ≪ m; here at finite m.
    rng = np.random.default_rng(18)
    x = rng.normal(size=400_000) * np.exp(rng.normal(size=400_000))
    means = np.exp(2 * rng.normal(size=(400_000 // m, m))).mean(axis=1)
    found = estimators.block_sum(x, m, rng=rng)
    expected = 0.5 + np.log(means).mean() / (2 * math.log(m))
    error = math.hypot(found.se / found.value**2, np.log(means).std() / math.sqrt(len(means)) / (2 * math.log(m)))
    assert 1 / found.value == pytest.approx(expected, abs=4 * error)
    narrow = rng.normal(size=400_000) * np.exp(0.2 * rng.normal(size=400_000))
    found = estimators.block_sum(narrow, m, rng=rng)
    assert 1 / found.value == pytest.approx(0.5 + 0.04 / math.log(m), abs=4 * found.se / found.value**2 + 0.002)


def test_block_sums_are_immune_to_order_and_length() -> None:
    rng = np.random.default_rng(19)
    from scipy.signal import lfilter

    x = lfilter([1.0], [1.0, -0.9], rng.normal(size=100_003))  # a prime number
    found = estimators.block_sum(x, rng=rng)
    assert found.value == pytest.approx(2.0, abs=4 * found.se)
    assert found.se < 0.1
    assert "316 block sums of 316" in found.method


def test_block_sums_of_correlated_coordinates() -> None:
    # One common part of variance ρ in all values: 1/α̂ = ½ + ln(1 + (m−1)ρ)/(2 ln m).
    rng = np.random.default_rng(20)
    m, rho = 20, 0.3
    inverse = []
    for _ in range(400):
        x = math.sqrt(rho) * rng.normal() + math.sqrt(1 - rho) * rng.normal(size=1000)
        inverse.append(1 / estimators.block_sum(x, m, rng=rng).value)
    expected = 0.5 + math.log(1 + (m - 1) * rho) / (2 * math.log(m))
    assert np.mean(inverse) == pytest.approx(expected, abs=4 * np.std(inverse) / 20)


def test_finite_variance_reads_below_two_and_gaussians_exceed_it_half_the_time() -> None:
    rng = np.random.default_rng(21)
    for m in (10, 100, 1000):
        assert 1.65 < estimators.block_sum(rng.standard_t(3, 1_000_000), m, rng=rng).value < 1.95
    above = [estimators.block_sum(rng.normal(size=2500), rng=rng).value > 2 for _ in range(400)]
    assert np.mean(above) == pytest.approx(0.5, abs=0.1)


def test_sums_of_vectors_hardly_see_a_spread_of_scales() -> None:
    rng = np.random.default_rng(22)
    scales = np.exp(rng.normal(size=200))
    u = rng.normal(size=(3000, 200)) * scales
    vectors = estimators.block_sum(u, rng=rng)
    assert vectors.value == pytest.approx(2.0, abs=4 * vectors.se)
    assert vectors.se < 0.03
    assert estimators.block_sum(u.ravel(), rng=rng).value < 1.7
    # Heavy tails are seen: independent SαS coordinates, one vector a row.
    heavy = stable.rvs(1.4, 1.0, (3000, 20), rng) * scales[:20]
    found = estimators.block_sum(heavy, rng=rng)
    assert found.value == pytest.approx(1.4, abs=4 * found.se)
    heavy[::10] = 0
    assert estimators.block_sum(heavy, rng=rng).zeros == pytest.approx(0.1)
    one = estimators.block_sum(heavy[:, :1], rng=np.random.default_rng(1))
    assert one.value == pytest.approx(estimators.block_sum(heavy[:, 0], rng=np.random.default_rng(1)).value)


def test_block_sums_that_cancel() -> None:
    x = np.repeat([-1.0, 1.0], 500)
    found = estimators.block_sum(x, 2, rng=np.random.default_rng(23))
    assert any("block sums are exactly 0" in warning for warning in found.warnings)
    with pytest.raises(DegenerateValues, match="cancel"):
        estimators.block_sum(np.repeat([-1.0, 1.0], 15), 6, rng=np.random.default_rng(23))


@pytest.mark.parametrize("m", [1, 0, -3, 2.5, 21])
def test_block_length_is_checked(m: Any) -> None:
    with pytest.raises(InvalidInput, match="m:"):
        estimators.block_sum(np.random.default_rng(24).normal(size=100), m, rng=np.random.default_rng(24))


def test_no_stable_law() -> None:
    rng = np.random.default_rng(25)
    found = estimators.ecf(np.repeat([-1.0, 1.0], 50))  # cos ω: falls faster than any stable law
    assert any("not the index" in warning for warning in found.warnings)
    for seed, reason in ((6, "falls with exponent"), (10, "look at them for atoms")):
        atoms = np.random.default_rng(seed)
        share = atoms.dirichlet([1, 0.3, 1])
        x = atoms.choice([1e-9, 1.0, 1e9], 60, p=share) * atoms.choice([-1, 1], 60) * (1 + 0.001 * atoms.random(60))
        with pytest.raises(DegenerateValues, match=reason):
            estimators.ecf(x)
    with pytest.raises(DegenerateValues, match="middle half"):
        estimators.quantile(np.concatenate([np.ones(90), rng.normal(size=10)]))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (["a"] * 40, InvalidInput),
        ([[1.0], [2.0, 3.0]], InvalidInput),
        (np.ones(10), TooFewValues),
        ([], TooFewValues),
        (np.zeros(100), AllZero),
        (np.append(np.ones(50), np.nan), NonFiniteValues),
        (np.append(np.ones(50), -np.inf), NonFiniteValues),
    ],
)
@pytest.mark.parametrize("name", sorted(ALL))
def test_bad_input(name: str, values: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="x:"):
        ALL[name](values)


@pytest.mark.parametrize("name", ["block_sum", *SCALED])
def test_bad_samples(name: str) -> None:
    mostly_zero = np.append(np.zeros(100), np.arange(1.0, 20))
    with pytest.raises(TooFewValues, match="19 of 119"):
        ALL[name](mostly_zero)
    with pytest.raises(InvalidInput, match="x:"):
        ALL[name](np.ones((10, 10, 10)))
    if name != "block_sum":
        with pytest.raises(DegenerateValues, match="equal"):
            ALL[name](np.full(50, 3.0))
    integers = np.random.default_rng(26).integers(-50, 50, 400)
    assert math.isfinite(ALL[name](integers).value)
    assert ALL[name](np.repeat(integers, 2)[::2]).value == ALL[name](integers).value  # not contiguous
