"""Tests of a Gaussian with unknown mean and variance, those that papers on gradient noise have used and better ones.

All five fit mean and standard deviation and do not depend on location or scale. Exact zeros are **kept**: a Gaussian
produces none, so that an atom at 0 is evidence against it (``compare``, which asks about the rest of the values,
leaves them out); their share is said. Columns of a matrix may be tested at once; what a column cannot carry is a
status, not an error. Correct p-values over many columns for multiplicity.

A rejection says "not Gaussian", never "stable". Rejections of Gaussian samples, in %, where p says 5 % and 1 % (8000
samples each, tests/calibration/cal_normality.py):

    n                    50           200          1000
    Anderson–Darling     5.0, 1.0     5.0, 0.9     4.8, 1.2
    Jarque–Bera          3.7, 1.8     4.6, 1.7     5.2, 1.6
    D'Agostino           5.7, 1.9     5.3, 1.3     5.4, 1.4
    Lilliefors           5.1, 0.9     4.9, 0.9     4.5, 0.8
    χ²                   4.9, 0.9     5.2, 1.1     5.1, 1.2
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._estimate import MIN_VALUES, InvalidInput, Status, as_real
from gradnoise.analyzer.stats._stable_fit import raise_unfit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

__all__ = [
    "NormalityMethod",
    "NormalityTest",
    "NormalityTests",
    "anderson_darling",
    "chi_square",
    "dagostino",
    "jarque_bera",
    "lilliefors",
    "tests",
    "tests_columns",
]


class NormalityMethod(enum.StrEnum):
    """Which test."""

    ANDERSON_DARLING = "anderson_darling"
    JARQUE_BERA = "jarque_bera"
    DAGOSTINO = "dagostino"
    LILLIEFORS = "lilliefors"
    CHI_SQUARE = "chi_square"


@dataclass(frozen=True, slots=True)
class NormalityTest:
    """One test of one sample."""

    statistic: float
    p_value: float
    """Probability, under some Gaussian, of a statistic at least as large."""
    method: NormalityMethod
    n: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NormalityTests:
    """One test of the columns of a matrix: float64 arrays over columns, NaN where ``status`` is not ``ok``."""

    statistic: Floats
    p_value: Floats
    method: NormalityMethod
    n: int
    """Values in each column."""
    status: tuple[Status, ...]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.status)


def _anderson_darling(z: Floats) -> tuple[Floats, Floats]:
    """A² = −n − (1/n) Σ (2i − 1) [ln Φ(z_(i)) + ln Φ(−z_(n+1−i))], p by D'Agostino & Stephens 1986, table 4.9.

    Not by statsmodels: its ln Φ is −∞ beyond 38 standard deviations, and its p-value rises again above A² = 153. The
    published formula ends at A* = 13, p = 5e-31; larger statistics get that.
    """
    from scipy import special  # scipy takes up to a second to import: only where it is used

    n = len(z)
    w = np.sort(z, axis=0) * math.sqrt((n - 1) / n)  # this formula's deviation divides by n − 1
    terms = special.log_ndtr(w) + special.log_ndtr(-w[::-1])
    a2 = -n - (2 * np.arange(1, n + 1) - 1) @ terms / n
    a = np.minimum(a2 * (1 + 0.75 / n + 2.25 / n**2), 13.0)
    p = np.select(
        [a < 0.2, a < 0.34, a < 0.6],
        [
            1 - np.exp(-13.436 + 101.14 * a - 223.73 * a**2),
            1 - np.exp(-8.318 + 42.796 * a - 59.938 * a**2),
            np.exp(0.9177 - 4.279 * a - 1.38 * a**2),
        ],
        np.exp(1.2937 - 5.709 * a + 0.0186 * a**2),
    )
    return a2, p


def _jarque_bera(z: Floats) -> tuple[Floats, Floats]:
    from scipy import stats

    result: Any = stats.jarque_bera(z, axis=0)
    return np.asarray(result.statistic), np.asarray(result.pvalue)


def _dagostino(z: Floats) -> tuple[Floats, Floats]:
    from scipy import stats

    result: Any = stats.normaltest(z, axis=0)
    return np.asarray(result.statistic), np.asarray(result.pvalue)


def _lilliefors(z: Floats) -> tuple[Floats, Floats]:
    """Below p = 0.1 the formula of Dallal & Wilkinson 1986, above it statsmodels' table.

    The table alone ends at p = 0.001 and is interpolated linearly in n, which rejects 3.4 % at n = 1000 where it says
    5 %.
    """
    from statsmodels.stats.diagnostic import lilliefors as kolmogorov  # 2 s to import

    found = np.array([kolmogorov(column, pvalmethod="approx") for column in z.T], dtype=np.float64)
    return found[:, 0], found[:, 1]


def _information_lost(cells: int) -> tuple[float, float]:
    """Fisher information on mean and standard deviation, each in units of its own, that equiprobable cells lose.

    These are the two λ of Chernoff & Lehmann 1954: with parameters fitted to the values rather than to the cells, X² is
    χ²_{c−3} + λ₁ χ²₁ + λ₂ χ²₁. With cell edges q_j a cell's share of the information is c (φ(q_j) − φ(q_{j+1}))² on the
    mean, and c (q_j φ(q_j) − q_{j+1} φ(q_{j+1}))²/2 on the standard deviation.
    """
    from scipy import special

    edges = special.ndtri(np.arange(1, cells) / cells)
    density = np.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi)
    mean = np.diff(np.concatenate([[0.0], density, [0.0]]))
    spread = np.diff(np.concatenate([[0.0], edges * density, [0.0]]))
    return 1.0 - cells * float(np.sum(mean**2)), 1.0 - cells * float(np.sum(spread**2)) / 2


def _cells(n: int) -> int:
    """2 n^{2/5} cells (Mann & Wald 1942, halved by Moore 1986), never fewer than 5 values expected in one."""
    return int(max(4, min(2 * n**0.4, n // 5)))


def _chi_square(z: Floats, cells: int) -> tuple[Floats, Floats]:
    from scipy import special

    n, columns = z.shape
    cell = np.minimum((special.ndtr(z) * cells).astype(np.int64), cells - 1)
    counts = np.bincount((cell + cells * np.arange(columns)).ravel(), minlength=cells * columns)
    statistic = np.sum((counts.reshape(columns, cells) - n / cells) ** 2, axis=1) / (n / cells)
    lost = _information_lost(cells)
    # The limit has mean c − 3 + Σ λ and variance 2 (c − 3 + Σ λ²); a multiple of one χ² is given both.
    mean = cells - 3 + sum(lost)
    unit = (cells - 3 + sum(v**2 for v in lost)) / mean
    return statistic, np.asarray(special.chdtrc(mean / unit, statistic / unit))


def _standardised(values: np.ndarray[Any, np.dtype[Any]]) -> tuple[Floats, list[Status], float]:
    """(x − mean)/sd (the maximum-likelihood sd) of the columns that have one, the columns' states, share of zeros."""
    u = values.astype(np.float64)
    n = len(u)
    finite = np.isfinite(u).all(axis=0)
    unit = np.abs(np.where(finite, u, 0.0)).max(axis=0, initial=0.0)
    with np.errstate(invalid="ignore"):
        scaled = u / np.where(unit > 0, unit, 1.0)
    constant = (u == u[:1]).all(axis=0) if n else np.zeros(u.shape[1], bool)
    status = []
    for j in range(u.shape[1]):
        if not finite[j]:
            status.append(Status.NON_FINITE)
        elif n > 0 and unit[j] == 0:
            status.append(Status.ALL_ZERO)
        elif n < MIN_VALUES:
            status.append(Status.TOO_FEW_VALUES)
        elif constant[j]:
            status.append(Status.DEGENERATE)
        else:
            status.append(Status.OK)
    good = scaled[:, [s is Status.OK for s in status]]
    if good.size:
        good = good - good.mean(axis=0)
        good /= np.sqrt(np.mean(good**2, axis=0))
    return good, status, float(np.mean(u == 0)) if u.size else 0.0


def _zeros(share: float) -> tuple[str, ...]:
    return (f"{share:.1%} of the values are exactly 0; they are kept, as evidence",) if share > 0 else ()


def _columns(
    U: ArrayLike, methods: dict[NormalityMethod, Callable[[Floats], tuple[Floats, Floats]]]
) -> tuple[NormalityTests, ...]:
    values = as_real(U, "U", 2)
    z, status, zeros = _standardised(values)
    good = np.array([s is Status.OK for s in status], dtype=bool)
    results = []
    for method, function in methods.items():
        statistic, p = np.full(len(status), np.nan), np.full(len(status), np.nan)
        if good.any():
            statistic[good], p[good] = function(z)
        results.append(NormalityTests(statistic, p, method, len(values), tuple(status), _zeros(zeros)))
    return tuple(results)


def _vector(
    x: ArrayLike, methods: dict[NormalityMethod, Callable[[Floats], tuple[Floats, Floats]]]
) -> tuple[NormalityTest, ...]:
    values = as_real(x, "x", 1)
    if values.size == 0:
        raise_unfit(Status.TOO_FEW_VALUES, "x", 0, 0)
    columns = _columns(values[:, None], methods)
    raise_unfit(columns[0].status[0], "x", float(np.count_nonzero(values)), values.size)
    return tuple(NormalityTest(float(c.statistic[0]), float(c.p_value[0]), c.method, c.n, c.warnings) for c in columns)


def _all(n: int) -> dict[NormalityMethod, Callable[[Floats], tuple[Floats, Floats]]]:
    return {
        NormalityMethod.ANDERSON_DARLING: _anderson_darling,
        NormalityMethod.JARQUE_BERA: _jarque_bera,
        NormalityMethod.DAGOSTINO: _dagostino,
        NormalityMethod.LILLIEFORS: _lilliefors,
        NormalityMethod.CHI_SQUARE: lambda z: _chi_square(z, _cells(n)),
    }


def anderson_darling(x: ArrayLike) -> NormalityTest:
    """Anderson–Darling's A² on the whole distribution, tails weighted up: the one to use if only one is used.

    ``x``: one dimension, at least 30 values. p-value: D'Agostino & Stephens 1986, table 4.9. Raises ``InvalidInput``,
    ``NonFiniteValues``, ``TooFewValues``, ``AllZero`` and ``DegenerateValues`` (constant).
    """
    return _vector(x, {NormalityMethod.ANDERSON_DARLING: _anderson_darling})[0]


def jarque_bera(x: ArrayLike) -> NormalityTest:
    """Jarque & Bera 1980: skewness and kurtosis, χ²₂ in the limit that it reaches slowly. As ``anderson_darling``."""
    return _vector(x, {NormalityMethod.JARQUE_BERA: _jarque_bera})[0]


def dagostino(x: ArrayLike) -> NormalityTest:
    """D'Agostino & Pearson's K² 1973: skewness and kurtosis, each made normal first. As ``anderson_darling``."""
    return _vector(x, {NormalityMethod.DAGOSTINO: _dagostino})[0]


def lilliefors(x: ArrayLike) -> NormalityTest:
    """Lilliefors 1967: Kolmogorov–Smirnov's distance with mean and variance fitted, the centre more than the tails.

    p-value: Dallal & Wilkinson 1986 below 0.1, a simulated table (statsmodels) above. As ``anderson_darling``.
    """
    return _vector(x, {NormalityMethod.LILLIEFORS: _lilliefors})[0]


def chi_square(x: ArrayLike, cells: int | None = None) -> NormalityTest:
    """Pearson's χ² on ``cells`` cells, equiprobable under the fitted Gaussian (``None``: 2 n^{2/5}, at most n/5).

    Mean and variance are fitted to the values, not to the cells, so that X² lies between χ²_{c−3} and χ²_{c−1}
    (Chernoff & Lehmann 1954): it is χ²_{c−3} + λ₁ χ²₁ + λ₂ χ²₁, and is compared with a multiple of one χ² that has the
    same mean and variance: with 4 cells and 1000 values it rejects 9.6, 4.9 and 1.0 % where p says 10, 5 and 1 %. (The
    usual c − 3 rejects too often, c − 1 too seldom.) Other arguments and errors as of ``anderson_darling``;
    ``InvalidInput`` also for fewer than 4 cells or more than n/5.
    """
    values = as_real(x, "x", 1)
    used = _cells(values.size) if cells is None else cells
    if not (isinstance(used, int | np.integer) and 4 <= used <= max(values.size // 5, 4)):
        raise InvalidInput(
            f"cells: expected a whole number from 4 to {values.size // 5}, five values in each, got {cells!r}"
        )
    return _vector(values, {NormalityMethod.CHI_SQUARE: lambda z: _chi_square(z, used)})[0]


def tests(x: ArrayLike) -> tuple[NormalityTest, ...]:
    """All five tests of one sample, in the order of ``NormalityMethod``; arguments and errors as ``anderson_darling``.

    They look at the same values and are not independent: the smallest of five p-values is no p-value.
    """
    return _vector(x, _all(np.size(x)))


def tests_columns(U: ArrayLike) -> tuple[NormalityTests, ...]:
    """All five tests of every column of ``U`` (draws × columns), in the order of ``NormalityMethod``.

    Nothing in a column raises: see ``NormalityTests.status``. Raises ``InvalidInput`` for something that is not a real
    matrix.
    """
    values = as_real(U, "U", 2)
    return _columns(values, _all(len(values)))
