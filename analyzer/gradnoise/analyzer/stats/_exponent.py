"""Rows on v_iᵀΣv_i against λ_i: the exponent, its plain and its robust version, correlations, the slope at γ = 1.

The v_i were chosen by H, the c_ii are means of squares along them: no c_ii was selected for its size. All logarithms
of c_ii are freed of their bias: ln of a mean over K draws lies Var/2 below the ln of what it estimates (for normal
noise 1/K, from E ln χ²_K = ψ(K/2) + ln 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import digamma, polygamma, stdtrit

from gradnoise.analyzer.stats._curved import Unknown, eigenvalue_errors
from gradnoise.analyzer.stats._estimate import Z95, Estimate, Status
from gradnoise.analyzer.stats._interval import combined, jackknife_part, jackknife_variance
from gradnoise.analyzer.stats._line import Line, fit_line, fit_offset, jackknife_covariance, slope_of_noise
from gradnoise.analyzer.stats._metric import Metric, Name, missing
from gradnoise.analyzer.stats._moments import jackknife_means
from gradnoise.analyzer.stats._unaligned import FRAME, relative_variance

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._setting import Setting

__all__ = ["exponents", "log_scales", "negative_share", "scale_rows"]

_ADAI = "Xie et al. 2022, eq. 3 and figure 1"
_YORK = "York et al. 2004; DerSimonian & Laird 1986"
_MIN_POINTS = 3
_LOG_NORMAL = 0.5 * (math.log(2.0) + np.euler_gamma)
"""−E ln|Z| of a standard normal Z: (γ + ln 2)/2."""
_REPLICATES = 200
_ROUNDING = 1e-14
"""Of the largest eigenvalue, what the others are rounded to at best."""


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """ln λ_i and ln c_ii of the directions that have both."""

    x: Floats
    x_variance: Floats
    y: Floats
    """(K + 1, k'), of all draws and without each."""
    covariance: Floats
    """Of ``y[0]``."""
    values: Floats
    """λ_i."""
    warnings: tuple[str, ...]

    @property
    def draws(self) -> int:
        """K."""
        return len(self.y) - 1

    @property
    def base(self) -> float:
        """Mean variance of the logarithms."""
        return float(np.trace(self.covariance)) / len(self.x)

    @property
    def level(self) -> Floats:
        """ln c_ii without its bias."""
        found: Floats = self.y[0] + 0.5 * self.base
        return found


def log_scales(given: Setting) -> Floats | Unknown:
    """ln of the squared scales of the projections, (K + 1, k): 2 E ln|u·v_i| + 1.27.

    Of normal projections it is ln c_ii; of SαS(σ_i) ones ln σ_i² + 2γ(1/α − 1) + 1.27: the same constant for every
    direction, so that differences between them are those of ln σ_i². It exists whatever the tails. Exact zeros, whose
    logarithm does not exist, count as the smallest size there is in their direction.
    """
    if isinstance(given.variances, Unknown):
        return given.variances
    size = np.abs(given.measured.projections[:, given.finite])
    if not size.any(axis=0).all():
        return Unknown(Status.ALL_ZERO, "no noise in a direction")
    smallest = np.where(size > 0, size, np.inf).min(axis=0)
    result: Floats = 2.0 * (jackknife_means(np.log(np.maximum(size, smallest))) + _LOG_NORMAL)
    return result


def scale_rows(given: Setting, found: Floats | Unknown) -> list[Metric]:
    """The squared scales themselves, from ``log_scales``."""
    places = given.finite
    if isinstance(found, Unknown):
        return [missing(Name.SCALE2, found.status, found.reason, index=i) for i in range(len(places))]
    rows, column = [], 0
    for i, usable in enumerate(places):
        if not usable:
            rows.append(missing(Name.SCALE2, Status.NON_FINITE, "NaN or infinity in the direction", index=i))
            continue
        y = found[:, column]
        column += 1
        part = jackknife_part(y)
        value, method = math.exp(float(y[0])), "mean of ln|u·v|, delete-one jackknife"
        estimate = combined(value, (part,), n=len(y) - 1, method=method, log=True, warnings=given.warnings)
        rows.append(Metric(Name.SCALE2, i, estimate, None))
    return rows


def _unsure(given: Setting) -> Floats:
    """How near to 0 an eigenvalue is not told from it: its residual and rounding. (The smaller r²/gap is of an
    eigenvector without rounding.)"""
    values = given.values
    result: Floats = np.full(len(values), _ROUNDING * np.abs(values).max(initial=0.0))
    return result + given.residuals if given.residuals.size else result


def negative_share(given: Setting) -> Metric:
    """Share of the eigenvalues that are 0 or below; from those that are so surely, to those that may be.

    An eigenvalue of exactly 0, which a symmetry of the model brings, is found on either side of it.
    """
    k = len(given.values)
    if not k:
        missed = len(given.measured.eigenvalues)
        status, reason = (
            (Status.NON_FINITE, f"none of {missed} eigenpairs is finite")
            if missed
            else (Status.NOT_MEASURED, "no eigenvalues were measured")
        )
        return missing(Name.NEGATIVE_SHARE, status, reason)
    values = given.values
    unsure = _unsure(given)
    low, share, high = (float(np.mean(values <= end)) for end in (-unsure, 0.0, unsure))
    found = Estimate(share, (high - low) / 2.0, low, high, k, "counted; the interval by the residuals")
    return Metric(Name.NEGATIVE_SHARE, None, found, None)


def _points(given: Setting, logs: Floats | Unknown) -> _Points | Unknown:
    """The directions that have both logarithms."""
    if not len(given.measured.eigenvalues):
        return Unknown(Status.NOT_MEASURED, "no eigenvalues were measured")
    if isinstance(logs, Unknown):
        return logs
    values, warnings = given.values, given.warnings
    errors = eigenvalue_errors(values, given.residuals)
    positive, told, noisy = values > 0, _unsure(given) < np.abs(values), np.isfinite(logs).all(axis=0)
    for what, count in (
        (f"of {len(values)} eigenvalues are 0 or below and have no logarithm", int((~positive).sum())),
        (f"of {len(values)} eigenvalues are not told from 0 by their residuals", int((positive & ~told).sum())),
        ("directions have no noise", int((positive & told & ~noisy).sum())),
    ):
        if count:
            warnings += (f"{count} {what}",)
    usable = positive & told & noisy
    if usable.sum() < _MIN_POINTS:
        reason = f"{int(usable.sum())} of {len(values)} directions have a logarithm; a line needs {_MIN_POINTS}"
        return Unknown(Status.TOO_FEW_VALUES, reason)
    x = np.log(values[usable])
    if np.ptp(x) <= 1e-9:
        return Unknown(Status.DEGENERATE, "the eigenvalues are all equal: no line through one place")
    errors = errors[usable]
    if np.median(errors / values[usable]) > 0.1:
        warnings += ("residuals are above a tenth of the eigenvalues: take more products",)
    y = logs[:, usable]
    return _Points(x, (errors / values[usable]) ** 2, y, jackknife_covariance(y), values[usable], warnings)


def exponents(given: Setting, scales: Floats | Unknown, rng: np.random.Generator) -> list[Metric]:
    """All of them; ``scales`` from ``log_scales``."""
    logs = given.variances
    if not isinstance(logs, Unknown):
        with np.errstate(divide="ignore"):  # no noise in a direction
            logs = np.log(logs)
    points = _points(given, logs)
    robust = _points(given, scales)
    rows: list[Metric] = []
    if isinstance(points, Unknown):
        names = (Name.GAMMA, Name.SCATTER, Name.GAMMA_PLAIN, Name.SLOPE, Name.PEARSON, Name.SPEARMAN)
        rows += [missing(name, points.status, points.reason) for name in names]
    else:
        line = fit_line(points.x, points.level, points.x_variance, points.covariance, points.draws)
        rows += [
            _gamma(Name.GAMMA, given, points, line, "line with errors in both, jackknife covariance"),
            _spread(points, line),
            _plain(points),
            _slope(given, points),
            _pearson(points),
            _spearman(Name.SPEARMAN, points, rng),
        ]
    if isinstance(robust, Unknown):
        rows += [missing(name, robust.status, robust.reason) for name in (Name.GAMMA_ROBUST, Name.SPEARMAN_ROBUST)]
    else:
        line = fit_line(robust.x, robust.y[0], robust.x_variance, robust.covariance, robust.draws)
        rows += [
            _gamma(Name.GAMMA_ROBUST, given, robust, line, "line through log scales, jackknife covariance"),
            _spearman(Name.SPEARMAN_ROBUST, robust, rng),
        ]
    return [*rows, negative_share(given)]


def _directionless(given: Setting, points: _Points) -> tuple[float, float]:
    """Mean of ln c_ii − ln(Tr Σ/d) where direction means nothing, and its variance: of a random frame (ln of a χ² law)
    and of the draws."""
    relative = relative_variance(given, 1.0, 1.0, sampled=False)
    if not relative > 0:
        return 0.0, points.base
    half = 1.0 / relative
    return float(digamma(half)) - math.log(half), float(polygamma(1, half)) + points.base


def _gamma(name: Name, given: Setting, points: _Points, line: Line, method: str) -> Metric:
    """The exponent with the error of draws, eigenvalues and scatter; 0 where direction means nothing."""
    found = combined(
        line.value,
        (line.sampling, line.scatter),
        n=len(points.x),
        method=method,
        reference=f"{_ADAI}; {_YORK}",
        warnings=points.warnings,
    )
    null = None
    if not isinstance(given.trace, Unknown):
        se = slope_of_noise(line, np.full(len(points.x), _directionless(given, points)[1]))
        null = Estimate(0.0, se, -Z95 * se, Z95 * se, len(points.x), FRAME)
    return Metric(name, None, found, null)


def _spread(points: _Points, line: Line) -> Metric:
    """τ, from 0."""
    value, low, high = (math.sqrt(v) for v in line.scatter_variance)
    method = "residuals less sampling error, χ² interval"
    found = Estimate(value, (high - low) / (2 * Z95), low, high, len(points.x), method, _YORK, points.warnings)
    return Metric(Name.SCATTER, None, found, None)


def _plain(points: _Points) -> Metric:
    """Least squares of ln c_ii as measured on ln λ_i, with the textbook's error."""
    x, y, size = points.x - points.x.mean(), points.y[0], len(points.x)
    under = float(x @ x)
    value = float(x @ y) / under
    residual = y - y.mean() - value * x
    se = math.sqrt(float(residual @ residual) / (size - 2) / under)
    margin = float(stdtrit(size - 2, 0.975)) * se
    noise = float(points.x_variance.mean() * size / under)
    warnings = (*points.warnings, "directions taken for independent and of equal error")
    if noise > 1e-3:
        warnings += (f"errors of the eigenvalues draw the slope to 0 by a factor {1 - noise:.3f}",)
    found = Estimate(value, se, value - margin, value + margin, size, "least squares of logs", _ADAI, warnings)
    return Metric(Name.GAMMA_PLAIN, None, found, None)


def _slope(given: Setting, points: _Points) -> Metric:
    """exp(mean(ln c_ii − ln λ_i)) · B: 1 where C = H."""
    covariance = points.covariance + np.diag(points.x_variance)
    line = fit_offset(points.level - points.x, covariance, points.draws)
    value = given.scale * math.exp(line.value)
    found = combined(
        value,
        (line.sampling, line.scatter),
        n=len(points.x),
        method="geometric mean over directions, bias of logs taken off, jackknife covariance",
        reference=_ADAI,
        log=True,
        warnings=points.warnings + given.factor_warnings,
    )
    null = None
    if not isinstance(given.trace, Unknown):
        level, variance = _directionless(given, points)
        centre = given.scale * float(given.trace[0]) / given.measured.dimension * math.exp(level - points.x.mean())
        se = math.sqrt(variance / len(points.x))
        null = Estimate(
            centre, centre * se, centre * math.exp(-Z95 * se), centre * math.exp(Z95 * se), len(points.x), FRAME
        )
    return Metric(Name.SLOPE, None, found, null)


def _by_chance(size: int, raised: float = 1.0) -> Estimate:
    """Range of a correlation of ``size`` pairs without any, t/√(n − 2 + t²), times what taking errors off raises it."""
    t = float(stdtrit(size - 2, 0.975))
    end = min(raised * t / math.sqrt(size - 2 + t * t), 1.0)
    return Estimate(0.0, raised / math.sqrt(size - 1), -end, end, size, "directions in random order")


def _pearson(points: _Points) -> Metric:
    """Correlation of the logs with the variance of their sampling errors taken off; of these k directions."""
    x = points.x - points.x.mean()
    y = points.y - points.y.mean(axis=1, keepdims=True)
    size = len(x)
    noise = float(np.trace(points.covariance) - points.covariance.sum() / size)
    of_x = float(x @ x) - float(points.x_variance.sum()) * (size - 1) / size
    of_y = np.einsum("ri,ri->r", y, y) - noise
    if of_x <= 0 or (of_y <= 0).any():
        reason = "ln c_ii differ by no more than their sampling errors: no correlation can be told"
        return missing(Name.PEARSON, Status.DEGENERATE, reason, n=size)
    values = y @ x / np.sqrt(of_x * of_y)
    method = "of logs, sampling errors taken off, delete-one jackknife"
    value, se = float(values[0]), math.sqrt(jackknife_variance(values))
    margin = float(stdtrit(points.draws - 1, 0.975)) * se
    ends = (max(value - margin, -1.0), min(value + margin, 1.0))
    cut = min(max(value, -1.0), 1.0)
    null = _by_chance(size, math.sqrt(float((x @ x) / of_x * (y[0] @ y[0]) / of_y[0])))
    found = Estimate(cut, se, min(ends[0], cut), max(ends[1], cut), size, method, _ADAI, points.warnings)
    if abs(value) >= 1:
        reason = f"{value:.3f} after sampling errors are taken off, cut"
        return Metric(Name.PEARSON, None, found, null, Status.AT_BOUNDARY, reason)
    return Metric(Name.PEARSON, None, found, null)


def _spearman(name: Name, points: _Points, rng: np.random.Generator) -> Metric:
    """Rank correlation of these k directions; its error by adding the sampling errors once more."""
    size = len(points.x)

    def ranks(values: Floats) -> Floats:
        return np.argsort(np.argsort(values, axis=-1), axis=-1).astype(np.float64) - (size - 1) / 2.0

    x = ranks(points.x)
    root_values, root_vectors = np.linalg.eigh(points.covariance)
    root = root_vectors * np.sqrt(np.maximum(root_values, 0.0))
    again = points.y[0] + rng.standard_normal((_REPLICATES, size)) @ root.T
    value = float(ranks(points.y[0]) @ x / (x @ x))
    se = float((ranks(again) @ x / (x @ x)).std(ddof=1))
    low, high = max(value - Z95 * se, -1.0), min(value + Z95 * se, 1.0)
    method = "ranks, simulated sampling errors"
    found = Estimate(value, se, low, high, size, method, _ADAI, points.warnings)
    return Metric(name, None, found, _by_chance(size))
