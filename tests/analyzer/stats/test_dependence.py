"""Serial dependence: closed forms of AR(1), coverage of the block bootstrap, epochs drawn without replacement."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from gradnoise.analyzer.stats import (
    AllZero,
    DegenerateValues,
    InvalidInput,
    NonFiniteValues,
    TooFewValues,
    dependence,
    stable,
)


def _autoregressive(phi: float, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Stationary AR(1) of variance 1 along the first axis."""
    burn = 200
    x = lfilter([1.0], [1.0, -phi], rng.normal(size=(shape[0] + burn, *shape[1:])), axis=0)[burn:]
    return x * math.sqrt(1 - phi**2)


def test_autocorrelation_is_statsmodels_and_its_bands_are_bartletts() -> None:
    from statsmodels.tsa.stattools import acf

    rng = np.random.default_rng(1)
    x = _autoregressive(0.5, (5000,), rng)
    found = dependence.autocorrelation(x, 6)
    r = acf(x, nlags=6)
    assert found.value == pytest.approx(r[1:])
    assert found.lag.tolist() == [1, 2, 3, 4, 5, 6]
    bartlett = np.sqrt((1 + 2 * np.concatenate([[0], np.cumsum(r[1:-1] ** 2)])) / 5000)
    # Bartlett's formula takes the variance of a product as that of independent values; here it is measured.
    white = dependence.autocorrelation(rng.normal(size=5000), 3)
    assert white.se == pytest.approx(np.full(3, 1 / math.sqrt(5000)), rel=0.06)
    assert (found.se > 0.95 * bartlett).all()
    u = rng.normal(size=(300, 4))
    assert dependence.autocorrelation(u, 3).value == pytest.approx(np.mean([acf(c, nlags=3)[1:] for c in u.T], axis=0))


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_errors_of_an_average_over_columns_know_what_columns_share(shared: float) -> None:
    rng = np.random.default_rng(2)
    found = [
        dependence.autocorrelation(rng.normal(size=(200, 10)) + shared * rng.normal(size=(200, 1)), 3)
        for _ in range(150)
    ]
    z = np.array([(f.value - f.expected) / f.se for f in found])
    assert z.std() == pytest.approx(1.0, abs=0.13)
    assert z.mean() == pytest.approx(0.0, abs=0.2)
    assert np.mean([f.notable.any() for f in found]) < 0.03


@pytest.mark.parametrize(("draws", "columns"), [(32, 1), (64, 3)])
def test_errors_of_short_series_hold_at_every_lag(draws: int, columns: int) -> None:
    rng = np.random.default_rng(15)
    found = [dependence.autocorrelation(rng.normal(size=(draws, columns)), 10) for _ in range(600)]
    z = np.array([(f.value - f.expected) / f.se for f in found])
    assert z.std(axis=0) == pytest.approx(np.ones(10), abs=0.12)  # 600 series give it to 3 %
    assert z.mean(axis=0) == pytest.approx(np.zeros(10), abs=0.17)
    # Exactly, of any exchangeable draws: standardised, two different ones have E z_s z_t = −1/(K − 1).
    assert found[0].expected == pytest.approx(-(draws - found[0].lag) / draws / (draws - 1))


@pytest.mark.parametrize("draws", [64, 2000])
def test_draws_worth_more_than_their_number_have_a_one_sided_interval(draws: int) -> None:
    rng = np.random.default_rng(16)
    for _ in range(50):
        e = rng.normal(size=draws + 1)
        found = dependence.effective_sample_size(e[1:] - 0.9 * e[:-1])
        truth = draws * (1 + 0.9**2) / (1 - 0.9) ** 2
        assert found.value > draws
        assert found.low <= draws < truth
        assert found.high == math.inf
        assert "only a lower bound" in found.warnings[0]
    values = [dependence.effective_sample_size(rng.normal(size=draws)) for _ in range(50)]
    assert np.mean([v.low <= draws <= v.high for v in values]) > 0.9
    assert all(bool(v.warnings) == (v.value > draws) for v in values)


@pytest.mark.parametrize("phi", [-0.4, 0.0, 0.5, 0.8])
def test_effective_sample_size_of_autoregression(phi: float) -> None:
    rng = np.random.default_rng(3)
    truth = 2000 * (1 - phi) / (1 + phi)
    assert dependence.effective_sample_size(_autoregressive(phi, (2000, 50), rng)).value == pytest.approx(
        truth, rel=0.1
    )
    found = [dependence.effective_sample_size(_autoregressive(phi, (2000,), rng)) for _ in range(100)]
    assert np.mean([f.value for f in found]) == pytest.approx(truth, rel=0.06)
    assert np.mean([f.low <= truth <= f.high for f in found]) > 0.85


def test_block_length_grows_with_dependence_of_values_and_of_scale() -> None:
    rng = np.random.default_rng(4)
    lengths = [dependence.block_length(_autoregressive(phi, (1000, 8), rng)) for phi in (0.0, 0.5, 0.8)]
    assert lengths[0] < 3
    # (2 G²/(2 g²))^{1/3} K^{1/3} with G = 2φ/(1−φ)², g = (1+φ)/(1−φ)
    for found, phi in ((lengths[1], 0.5), (lengths[2], 0.8)):
        ratio = 2 * phi / (1 - phi) ** 2 / ((1 + phi) / (1 - phi))
        assert found == pytest.approx((ratio**2 * 1000) ** (1 / 3), rel=0.35)
    volatile = rng.normal(size=(1000, 8)) * np.exp(_autoregressive(0.95, (1000, 1), rng))
    assert dependence.block_length(volatile) > 10  # white, but not independent


@pytest.mark.parametrize(("phi", "least"), [(0.0, 0.9), (0.6, 0.85)])
def test_block_bootstrap_covers_where_resampling_draws_does_not(phi: float, least: float) -> None:
    rng = np.random.default_rng(5)
    columns = 60  # independent: each is a sample of its own
    truth = math.sqrt((1 + phi) / (1 - phi) / 400)
    blocks, single, errors = [], [], []
    for _ in range(3):
        u = _autoregressive(phi, (400, columns), rng)
        found = dependence.block_bootstrap(lambda v: v.mean(axis=0), u, replicates=200, rng=rng)
        plain = dependence.block_bootstrap(lambda v: v.mean(axis=0), u, block=1, replicates=200, rng=rng)
        assert found.value.shape == found.low.shape == found.se.shape == (columns,)
        blocks.append(np.mean((found.low <= 0) & (found.high >= 0)))
        single.append(np.mean((plain.low <= 0) & (plain.high >= 0)))
        errors.append(found.se.mean())
    assert np.mean(blocks) > least
    assert np.mean(errors) == pytest.approx(truth, rel=0.15)
    if phi > 0:
        assert np.mean(single) < 0.8


def test_block_bootstrap_of_alpha_keeps_rows_whole() -> None:
    rng = np.random.default_rng(6)
    u = stable.rvs(1.5, 1.0, (200, 1), rng) * np.array([1.0, 2.0, 3.0])

    def alpha(v: Any) -> float:
        assert v[:, 1] == pytest.approx(2 * v[:, 0])
        return float(stable.fit(v[:, 0]).alpha.value)

    found = dependence.block_bootstrap(alpha, u, block=4.0, replicates=100, rng=rng)
    fit = stable.fit(u[:, 0])
    assert found.value == fit.alpha.value
    assert found.se == pytest.approx(fit.alpha.se, rel=0.4)
    again = [
        dependence.block_bootstrap(alpha, u, block=4.0, replicates=100, rng=np.random.default_rng(7)) for _ in range(2)
    ]
    assert again[0] == again[1]


@given(seed=st.integers(0, 10**6), n=st.integers(30, 100), block=st.floats(1, 30))
@settings(max_examples=25, deadline=None)
def test_replicates_are_runs_of_rows(seed: int, n: int, block: float) -> None:
    from gradnoise.analyzer.stats._block_bootstrap import _stationary_rows

    rows = _stationary_rows(n, block, np.random.default_rng(seed))
    assert rows.shape == (n,)
    assert ((rows >= 0) & (rows < n)).all()
    if block == 1:
        return
    many = np.concatenate([_stationary_rows(n, block, np.random.default_rng(seed + i)) for i in range(200)])
    joined = np.mean((np.diff(many) % n) == 1)
    assert joined == pytest.approx(1 - 1 / block + 1 / block / n, abs=0.06)


def test_statistics_without_a_value() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=50)
    with pytest.raises(DegenerateValues, match="statistic"):
        dependence.block_bootstrap(lambda v: math.nan, x, rng=rng)
    calls = iter(range(1000))
    found = dependence.block_bootstrap(lambda v: math.nan if next(calls) == 7 else v.mean(), x, rng=rng)
    assert any("1 of 500 replicates" in warning for warning in found.warnings)


def test_report_in_words() -> None:
    rng = np.random.default_rng(9)
    quiet = dependence.serial_dependence(rng.normal(size=(400, 20)))
    assert quiet.warnings == ()
    assert quiet.block < 3
    loud = dependence.serial_dependence(_autoregressive(0.6, (400, 20), rng))
    assert any("draws correlate with later ones, most at lag 1: 0.5" in warning for warning in loud.warnings)
    assert loud.effective.value == pytest.approx(100, rel=0.3)
    scale = dependence.serial_dependence(rng.normal(size=(400, 20)) * np.exp(_autoregressive(0.9, (400, 1), rng)))
    assert [w.startswith("magnitudes") for w in scale.warnings] == [True]
    assert scale.effective_log.value < 100 < scale.effective.value
    zeros = rng.normal(size=(400, 20))
    zeros[rng.random((400, 20)) < 0.1] = 0
    assert any("exactly 0" in w for w in dependence.serial_dependence(zeros).warnings)
    assert not dependence.serial_dependence(zeros).log_magnitude.notable.any()
    with pytest.raises(DegenerateValues, match="magnitudes"):
        dependence.serial_dependence(rng.choice([-1.0, 1.0], (400, 3)))


def _epochs(
    rng: np.random.Generator, *, batches: int, size: int, columns: int, epochs: int, taken: int, replace: bool
) -> tuple[Any, Any]:
    data = rng.standard_t(4, (batches * size, columns)) + 3.0
    draws = []
    for _ in range(epochs):
        order = rng.integers(len(data), size=len(data)) if replace else rng.permutation(len(data))
        draws.append(data[order].reshape(batches, size, columns).mean(axis=1)[:taken])
    return np.concatenate(draws), np.repeat(np.arange(epochs), taken)


@pytest.mark.parametrize(("batches", "taken"), [(10, 10), (10, 5), (20, 10)])
def test_draws_of_one_epoch_are_anticorrelated(batches: int, taken: int) -> None:
    rng = np.random.default_rng(10)
    for replace, truth in ((False, -1 / (batches - 1)), (True, 0.0)):
        found = [
            dependence.epoch_anticorrelation(
                *_epochs(rng, batches=batches, size=8, columns=30, epochs=20, taken=taken, replace=replace),
                batches=batches,
            )
            for _ in range(60)
        ]
        value = np.array([f.correlation.value for f in found])
        assert value.mean() == pytest.approx(truth, abs=4 * value.std() / math.sqrt(60) + 1e-12)
        assert np.mean([f.correlation.low - 1e-9 <= truth <= f.correlation.high + 1e-9 for f in found]) > 0.85
        assert np.mean([f.without_replacement is replace for f in found]) < 0.05  # hardly ever the wrong answer
        assert (
            np.mean([f.without_replacement is not replace and f.without_replacement is not None for f in found]) > 0.6
        )
        assert found[0].expected == pytest.approx(-1 / (batches - 1))
    told = dependence.epoch_anticorrelation(
        *_epochs(rng, batches=10, size=8, columns=30, epochs=20, taken=10, replace=False), batches=10
    )
    assert "drawn without replacement" in told.warnings[0]


def _short_last(rng: np.random.Generator, epochs: int = 6) -> tuple[Any, Any, Any]:
    """650 samples in batches of 32: twenty and one of 10."""
    data = rng.normal(size=(650, 50))
    parts = [np.split(rng.permutation(650), range(32, 650, 32)) for _ in range(epochs)]
    draws = np.array([data[rows].mean(axis=0) for epoch in parts for rows in epoch])
    sizes = np.array([len(rows) for epoch in parts for rows in epoch])
    return draws, np.repeat(np.arange(epochs), 21), sizes


def test_a_short_last_batch_is_no_drift() -> None:
    rng = np.random.default_rng(17)
    for _ in range(20):
        draws, epoch, sizes = _short_last(rng)
        without = dependence.epoch_anticorrelation(draws, epoch, batches=650 / 32)
        told = dependence.epoch_anticorrelation(draws, epoch, batches=650 / 32, batch_size=sizes)
        assert without.correlation == told.correlation
        assert without.without_replacement is True
        assert without.correlation.value == pytest.approx(-1 / (650 / 32 - 1), rel=0.02)
        assert "6 of 126 draws left out: the last draw of epochs" in without.warnings[0]
        assert "6 of 126 draws left out: batches of another size than 32" in told.warnings[0]
        assert not any("drift" in warning for warning in without.warnings + told.warnings)
    # The order of draws does not matter where their sizes are known; rounding of n/B does not either.
    mixed = rng.permutation(126)
    again = dependence.epoch_anticorrelation(draws[mixed], epoch[mixed], batches=20.3, batch_size=sizes[mixed])
    assert again.correlation.value == pytest.approx(told.correlation.value)
    assert again.without_replacement is True


def test_batches_rounded_up_are_refused_or_named() -> None:
    draws, epoch, sizes = _short_last(np.random.default_rng(18))
    found = dependence.epoch_anticorrelation(draws, epoch, batches=21)
    assert found.without_replacement is None
    assert "short one (batches = n/B" in found.warnings[0]
    with pytest.raises(InvalidInput, match=r"batches: .* 20\.3125 by the sizes of a complete epoch, got 21"):
        dependence.epoch_anticorrelation(draws, epoch, batches=21, batch_size=sizes)
    dropped = sizes == 32
    assert dependence.epoch_anticorrelation(draws[dropped], epoch[dropped], batches=650 / 32).without_replacement
    for bad in (sizes[:5], np.where(sizes == 10, 0, sizes), np.where(sizes == 10, np.nan, sizes)):
        with pytest.raises(InvalidInput, match="batch_size"):
            dependence.epoch_anticorrelation(draws, epoch, batches=650 / 32, batch_size=bad)


def test_covariance_of_complete_epochs() -> None:
    # Pairs within an epoch: E‖g_a − g_b‖²/2 = (1 − ρ) Σ₁ with Σ₁ = C/B (n − B)/(n − 1), that is C/B · n/(n − 1).
    rng = np.random.default_rng(11)
    batches, size = 6, 5
    n = batches * size
    data = rng.normal(size=(n, 1))
    c = data.var()
    half = []
    for _ in range(20_000):
        means = data[rng.permutation(n)[: 2 * size]].reshape(2, size).mean(axis=1)
        half.append((means[0] - means[1]) ** 2 / 2)
    assert np.mean(half) == pytest.approx(c / size * n / (n - 1), rel=0.04)


def test_drift_is_told_from_sampling() -> None:
    rng = np.random.default_rng(12)
    draws, epoch = _epochs(rng, batches=10, size=8, columns=30, epochs=20, taken=5, replace=True)
    found = dependence.epoch_anticorrelation(draws + 0.5 * rng.normal(size=(20, 30))[epoch], epoch, batches=10)
    assert found.without_replacement is None
    assert any("drift" in warning for warning in found.warnings)


def test_bad_input() -> None:
    good = np.random.default_rng(13).normal(size=(60, 3))
    for function in (dependence.autocorrelation, dependence.effective_sample_size, dependence.serial_dependence):
        for values, error in (
            (["a"] * 40, InvalidInput),
            (np.ones((40, 2, 2)), InvalidInput),
            (good[:29], TooFewValues),
            (np.zeros((60, 3)), AllZero),
            (np.ones((60, 3)), DegenerateValues),
            (np.where(np.arange(60) == 3, np.nan, 1.0), NonFiniteValues),
        ):
            with pytest.raises(error, match=r"x:|noise:"):
                function(values)
    for lags in (0, 31, 1.5):
        with pytest.raises(InvalidInput, match="lags"):
            dependence.autocorrelation(good, lags)  # type: ignore[arg-type]
    rng = np.random.default_rng(14)
    for block in (0.5, 61, math.nan):
        with pytest.raises(InvalidInput, match="block"):
            dependence.block_bootstrap(np.mean, good, block=block, rng=rng)
    with pytest.raises(InvalidInput, match="replicates"):
        dependence.block_bootstrap(np.mean, good, replicates=10, rng=rng)
    with pytest.raises(TooFewValues, match="U:"):
        dependence.block_length(good[:10])
    epoch = np.arange(60) // 10
    for labels, batches, error, name in (
        (epoch[:5], 10, InvalidInput, "epoch:"),
        (epoch, 1, InvalidInput, "batches"),
        (epoch, 5, InvalidInput, "at most 5"),
        (np.arange(60) // 30, 100, TooFewValues, "3 epochs"),
        (np.arange(60), 100, TooFewValues, "two draws"),
    ):
        with pytest.raises(error, match=name):
            dependence.epoch_anticorrelation(good, labels, batches=batches)
