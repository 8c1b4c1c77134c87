"""How α differs over columns: quantiles, the spread beyond sampling error, and whether SαS fits them at all."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, _law
from gradnoise.analyzer.stats._estimate import Estimate
from gradnoise.analyzer.stats._form_result import QUANTILES, ColumnSummary
from gradnoise.analyzer.stats._jackknife import GROUPS, T95, standard_error
from gradnoise.analyzer.stats._multiple import rejected_share
from gradnoise.analyzer.stats._rules import FALSE_DISCOVERY_RATE

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._reading import Core, Matrix

_NODES = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.85, 1.9, 1.95, 2.0])
_SAMPLES = 1000
"""Simulated samples at each α."""
_FEW_ROWS = 128
"""Rows below which the spread of α over columns is warned of: α uniform between 1.4 and 1.8, of standard deviation
0.117, reads 0.06 at 64 rows."""
_TAIL = 50
"""Largest of them that the exponential tail beyond is fitted to."""


def summary(matrix: Matrix, core: Core, rng: np.random.Generator | None) -> ColumnSummary:
    """The summary of fitted columns; with ``rng`` SαS itself is tested in each of them."""
    share = math.nan
    if rng is not None:
        p = stable_p_values(matrix[:, core.fitted], core.fits[:, 0], np.exp(core.fits[:, 1]), rng)
        share = rejected_share(p, FALSE_DISCOVERY_RATE)
    quantiles = np.quantile(1.0 / core.units, QUANTILES)
    over = spread(core.units, core.unit_replicates)
    if len(matrix) < _FEW_ROWS:
        note = f"{len(matrix)} rows: below {_FEW_ROWS} the spread reads too small, at 64 by up to half"
        over = dataclasses.replace(over, warnings=(*over.warnings, note))
    return ColumnSummary(tuple(quantiles.tolist()), over, share)


def spread(units: Floats, replicates: Floats) -> Estimate:
    """Standard deviation of α over columns beyond sampling error, from 1/α̂ of each and its jackknife replicates.

    ``beyond_sampling`` of 1/α̂, in units of α: τ ᾱ², 1/ᾱ the mean of 1/α̂; 0 where τ² is negative. The interval is τ²'s,
    by jackknife over draws; all of it is for these columns, not for others of their kind.
    """
    count = len(units)
    alpha = 1.0 / float(units.mean())
    method = "random effects on 1/α̂ over columns; jackknife over draws"
    reference = "DerSimonian & Laird 1986"
    if count < 2:
        nan = math.nan
        return Estimate(nan, nan, nan, nan, count, method, reference)
    square, squares = beyond_sampling(units, replicates)
    return root(square, squares, alpha**2, count, method, reference)


def beyond_sampling(units: Floats, replicates: Floats) -> tuple[float, Floats]:
    """Variance τ² over columns of what ``units`` estimate, and its replicates; ``replicates`` are (groups × columns).

    A random-effects moment estimator, x_j = t_j + e_j (after DerSimonian & Laird 1986), whose errors may be correlated
    because columns share draws: the variance of x over columns exceeds that of t by what the errors bring to it, and
    that is estimated from the deviations d_j = x_j − x̄, in which a common error cancels,

        τ² = Σ_j [d_j² − V(d_j)] / (J − 1),   V(d_j) = (G−1)/G Σ_g (d_gj − d̄_j)².

    Jackknife variances are a little too large (of 1/α̂ 15 % at 64 rows), so that τ² is rather too small, and may be
    negative.
    """
    deviations = replicates - replicates.mean(axis=1, keepdims=True)
    freedom = len(units) - 1
    sampling = (GROUPS - 1) / GROUPS * float(np.sum((deviations - deviations.mean(axis=0)) ** 2)) / freedom
    # Without a group of draws the errors' variance is larger by its share.
    squares = np.sum(deviations**2, axis=1) / freedom - sampling * GROUPS / (GROUPS - 1)
    return float(np.var(units, ddof=1)) - sampling, squares


def root(square: float, squares: Floats, unit: float, n: float, method: str, reference: str = "") -> Estimate:
    """The estimate of ``unit`` · √square, 0 where the square is negative, from the square and its replicates."""
    half = T95 * standard_error(squares)
    value, low, high = (unit * math.sqrt(max(v, 0.0)) for v in (square, square - half, square + half))
    # Delta method; at the edge, where it has none, what makes the upper end.
    se = unit**2 * half / T95 / (2.0 * value) if low > 0 else (high - value) / T95
    return Estimate(value, se, low, high, n, method, reference)


def anderson_darling(magnitude: Floats, alpha: float, scale: float) -> float:
    """A² of |x| against |X|, X of SαS(``scale``).

    −n − (1/n) Σ (2i−1) [ln u_i + ln(1 − u_{n+1−i})] with u = P(|X| ≤ |x|) in ascending order (Anderson & Darling 1954).
    """
    beyond = 2.0 * np.asarray(_law.sf(np.sort(magnitude), alpha, scale))
    n = len(beyond)
    tiny = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(1.0 - beyond, tiny)) + np.log(np.maximum(beyond[::-1], tiny))
    return float(-n - np.mean((2.0 * np.arange(1, n + 1) - 1.0) * logs))


def stable_p_values(columns: Matrix, alpha: Floats, scale: Floats, rng: np.random.Generator) -> Floats:
    """p-value of each column against SαS with the fitted ``alpha`` and ``scale``: a parametric bootstrap that columns
    share.

    The null of A² depends on α and hardly on the number of values, so it is simulated at the columns' median number of
    non-zero values and at the nodes of α around theirs, 1000 refitted samples each; ln P(A² > t) is interpolated in α,
    exponential beyond the 50 largest. Zeros are left out. Asymmetry is not looked at: A² is of |x|.
    """
    magnitude = [np.abs(c[c != 0]).astype(np.float64) for c in columns.T]
    n = int(np.median([len(c) for c in magnitude]))
    low = max(int(np.searchsorted(_NODES, alpha.min(), side="right")) - 1, 0)
    high = min(int(np.searchsorted(_NODES, alpha.max())), len(_NODES) - 1)
    nodes = _NODES[low : high + 1]
    simulated = [_null_sample(float(a), n, rng) for a in nodes]
    fitted = zip(magnitude, alpha.tolist(), scale.tolist(), strict=True)
    observed = np.array([anderson_darling(c, a, s) for c, a, s in fitted])
    heights = np.stack([_log_survival(observed, null) for null in simulated])
    p = [np.interp(a, nodes, heights[:, j]) for j, a in enumerate(alpha)]
    return np.asarray(np.exp(np.array(p)))


def _null_sample(alpha: float, n: int, rng: np.random.Generator) -> Floats:
    """A² of SαS samples against the law fitted to each."""
    samples = _law.rvs(alpha, 1.0, (_SAMPLES, n), rng)
    rows = _engine.fit_rows(samples, least=2)
    return np.array(
        [
            anderson_darling(np.abs(x), float(row[_fit.ALPHA]), math.exp(row[_fit.LOG_SCALE]))
            for x, row in zip(samples, rows, strict=True)
        ]
    )


def _log_survival(at: Floats, null: Floats) -> Floats:
    """ln P(A² > t) from a simulated null: by counting, and beyond its ``_TAIL`` largest values exponential."""
    ordered = np.sort(null)
    edge = ordered[-_TAIL]
    above = len(ordered) - np.searchsorted(ordered, at)
    body = np.log((above + 1.0) / (len(ordered) + 1.0))
    rate = 1.0 / float(np.mean(ordered[-_TAIL:] - edge))
    return np.asarray(np.where(at > edge, math.log((_TAIL + 1.0) / (len(ordered) + 1.0)) - (at - edge) * rate, body))
