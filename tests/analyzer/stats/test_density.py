"""The tabulated density against values computed elsewhere."""

import importlib.util
import math
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from gradnoise.analyzer.stats import InvalidInput, stable
from gradnoise.analyzer.stats._law import _points
from gradnoise.analyzer.stats._table import X_TAIL
from tests.analyzer.stats import zolotarev

ROOT = Path(__file__).resolve().parents[3]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_stable_table", ROOT / "tools" / "make_stable_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_density_agrees_with_reference_file() -> None:
    alpha, x, expected = zolotarev.reference().T
    assert len(alpha) > 1000
    got = stable.logpdf(x, alpha)
    assert np.abs(np.expm1(got - expected)).max() < 1e-9
    np.testing.assert_array_equal(stable.logpdf(-x, alpha), got)


@pytest.mark.parametrize(
    ("x", "alpha"), [(0.3, 1.3), (2.0, 1.73), (5.0, 1.9), (7.7, 1.62), (20.0, 1.45), (0.8, 0.77), (3.0, 0.55)]
)
def test_density_agrees_with_zolotarev_integral(x: float, alpha: float) -> None:
    assert stable.pdf(x, alpha) == pytest.approx(zolotarev.density(x, alpha), rel=1e-9)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="the generator needs 80-bit floating point")
def test_table_agrees_with_its_generator_between_nodes() -> None:
    density = _generator().density
    rng = np.random.default_rng(11)
    for alpha in [*rng.uniform(0.5, 2.0, 24), 1.99, 1.999, 1.9999, 1.99999]:
        x = np.concatenate([rng.uniform(0, 3, 30), rng.uniform(0, X_TAIL, 40)])
        expected = np.asarray(density(x, float(alpha)), dtype=float)
        assert np.abs(stable.pdf(x, alpha) / expected - 1).max() < 1e-9, alpha


def test_tail_series_joins_the_table() -> None:
    for alpha in np.linspace(0.5, 1.999, 40):
        below, above = stable.logpdf([np.nextafter(X_TAIL, 0), X_TAIL], alpha)
        assert below == pytest.approx(above, abs=1e-9)


def test_far_tail_is_the_power_law() -> None:
    for alpha in (0.5, 1.0, 1.5, 1.9):
        c = math.gamma(alpha) * math.sin(math.pi * alpha / 2) / math.pi
        for x in (1e30, 1e100, 1e300):
            expected = math.log(alpha * c) - (1 + alpha) * math.log(x)
            assert stable.logpdf(x, alpha) == pytest.approx(expected, rel=1e-9)


def test_gaussian_and_cauchy_are_exact() -> None:
    x = np.linspace(-60, 60, 1001)
    np.testing.assert_allclose(
        stable.logpdf(x, 2.0, 1.5), scipy_stats.norm.logpdf(x, scale=1.5 * math.sqrt(2)), rtol=1e-13
    )
    np.testing.assert_allclose(stable.logpdf(x, 1.0, 0.4), scipy_stats.cauchy.logpdf(x, scale=0.4), rtol=1e-13)


def test_continuous_into_gaussian_and_through_cauchy() -> None:
    x = np.linspace(0, 8, 200)
    gauss = stable.pdf(x, 2.0)
    for delta in (1e-6, 1e-9, 1e-12, 4.5e-16):
        assert np.abs(stable.pdf(x, 2.0 - delta) - gauss).max() < 2 * delta + 1e-15
    for delta in (1e-3, 1e-6, 1e-9):
        for side in (-1, 1):
            assert np.abs(stable.logpdf(x, 1 + side * delta) - stable.logpdf(x, 1.0)).max() < 3 * delta + 2e-9


def test_density_integrates_to_one() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.concatenate([np.linspace(0, 2, 60), np.geomspace(2, 1e6, 300)[1:]])
    mid, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    x = mid[:, None] + half[:, None] * nodes
    for alpha in (0.6, 0.95, 1.25, 1.75, 1.98):
        body = 2 * float((stable.pdf(x, alpha) @ weights * half).sum())
        tail = 2 * math.gamma(alpha) * math.sin(math.pi * alpha / 2) / math.pi * 1e6**-alpha
        assert body + tail == pytest.approx(1.0, abs=2e-4 if alpha < 0.9 else 1e-8)


def test_arguments_broadcast_and_shapes_are_kept() -> None:
    x, alpha = np.linspace(-3, 3, 7)[:, None], np.array([1.2, 1.8, 2.0])
    out = stable.logpdf(x, alpha, [1.0, 2.0, 3.0])
    assert out.shape == (7, 3)
    assert out[2, 1] == stable.logpdf(float(x[2, 0]), 1.8, 2.0)
    assert isinstance(stable.logpdf(0, 1.5), float)
    assert isinstance(stable.pdf(0, 1.5), float)
    np.testing.assert_array_equal(stable.logpdf(np.arange(6)[::2], 1.5), stable.logpdf([0.0, 2.0, 4.0], 1.5))
    assert stable.logpdf(np.empty((0, 2)), 1.5).shape == (0, 2)


def test_values_that_are_not_finite() -> None:
    out = stable.logpdf([np.nan, np.inf, -np.inf, 1e308], 1.5)
    assert np.isnan(out[0])
    assert (out[1:3] == -np.inf).all()
    assert np.isfinite(out[3])


@pytest.mark.parametrize(
    ("x", "alpha", "scale", "word"),
    [
        (1.0, 0.4, 1.0, "alpha"),
        (1.0, 2.1, 1.0, "alpha"),
        (1.0, math.nan, 1.0, "alpha"),
        (1.0, 1.5, 0.0, "scale"),
        (1.0, 1.5, -1.0, "scale"),
        (1.0, 1.5, math.inf, "scale"),
        ("text", 1.5, 1.0, "x:"),
    ],
)
def test_bad_arguments_are_named(x: Any, alpha: float, scale: float, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        stable.logpdf(x, alpha, scale)


def test_rvs_follow_the_characteristic_function() -> None:
    rng = np.random.default_rng(5)
    for alpha in (0.6, 1.0, 1.4, 1.9, 2.0):
        x = stable.rvs(alpha, 2.0, (400, 250), rng)
        assert x.shape == (400, 250)
        for w in (0.2, 0.7):
            assert np.cos(w * x).mean() == pytest.approx(math.exp(-((2.0 * w) ** alpha)), abs=0.012)
    assert isinstance(stable.rvs(1.5, 1.0, None, rng), float)
    with pytest.raises(InvalidInput, match="rng"):
        stable.rvs(1.5, 1.0, 3)


def test_tables_are_small() -> None:
    folder = resources.files("gradnoise.analyzer.stats").joinpath("_data")
    sizes = {name: len(folder.joinpath(name).read_bytes()) for name in ("stable.npz", "null.npz")}
    assert sum(sizes.values()) < 1_000_000, sizes


def test_one_compilation_for_arrays_of_every_kind() -> None:
    x = np.linspace(-3, 3, 10)
    kinds = set()
    for values in (x, x[::2], x.reshape(2, 5).T, np.broadcast_to(1.0, (4,)), 0.3):
        for alpha in (1.5, np.full(np.shape(values), 1.5)):
            points = _points(values, "x", alpha, alpha)
            arrays = (points.x, points.alpha, points.scale)
            kinds.add(tuple((v.dtype, v.ndim, v.flags.c_contiguous, v.flags.writeable) for v in arrays))
    assert len(kinds) == 1
    assert x.flags.writeable
