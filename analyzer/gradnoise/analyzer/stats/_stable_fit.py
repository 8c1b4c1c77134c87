"""Maximum-likelihood SαS fits of one sample and of all columns of a matrix."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit
from gradnoise.analyzer.stats._estimate import (
    MIN_VALUES,
    Z95,
    AllZero,
    DegenerateValues,
    Estimate,
    NoConvergence,
    NonFiniteValues,
    Status,
    TooFewValues,
    as_real,
    as_weights,
)
from gradnoise.analyzer.stats._table import ALPHA_MIN

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

Matrix = np.ndarray[Any, np.dtype[Any]]

_METHOD = "maximum likelihood; interval by profile likelihood, cut at 0.5 and 2"
_METHOD_WALD = "maximum likelihood; interval from the observed information on the log scale"
_REFERENCE = "DuMouchel 1973"
_OFF_CENTRE = 4.0  # standard errors by which signs may be out of balance


@dataclass(frozen=True, slots=True)
class StableFit:
    """An SαS law fitted to one sample."""

    alpha: Estimate
    """Stable index. Interval: profile likelihood, cut at 2. At α̂ = 2 (status ``at_boundary``) no standard
    error exists in
    the usual sense; ``se`` is then (2 − low)/1.96, the one-sided interval's length in its own unit."""
    scale: Estimate
    """σ, in units of x. Interval: exp(ln σ̂ ± 1.96 se(ln σ̂)); at α̂ = 2 the one of the Gaussian fit."""
    location: Estimate | None
    """μ, in units of x; ``None`` for a fit at location 0."""
    loglik: float
    n: float
    """Sum of the weights of the non-zero values."""
    zeros: float
    """Share of exact zeros, which are left out of the fit."""
    status: Status
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StableFits:
    """SαS laws fitted to the columns of a matrix: the fields of ``StableFit`` as float64 arrays over columns.

    ``fits[j]`` is the ``StableFit`` of column j. A column that could not be fitted is NaN, with its reason in
    ``status``.
    """

    alpha: Estimate
    scale: Estimate
    location: Estimate | None
    loglik: Floats
    n: Floats
    zeros: Floats
    status: tuple[Status, ...]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, j: int) -> StableFit:
        zeros = float(self.zeros[j])
        return StableFit(
            alpha=self.alpha.at(j),
            scale=self.scale.at(j),
            location=None if self.location is None else self.location.at(j),
            loglik=float(self.loglik[j]),
            n=float(self.n[j]),
            zeros=zeros,
            status=self.status[j],
            warnings=_warnings(self.status[j], float(self.alpha.value[j]), zeros),
        )


def _warnings(status: Status, alpha: float, zeros: float) -> tuple[str, ...]:
    found = []
    if zeros > 0 and status is not Status.ALL_ZERO:
        found.append(f"{zeros:.1%} of the values are exactly 0; the law is fitted to the others")
    if status is Status.AT_BOUNDARY and alpha <= ALPHA_MIN:
        found.append(f"alpha is at the table's lower end, {ALPHA_MIN}: the data are heavier-tailed than that")
    return tuple(found)


def fits_from_rows(rows: Floats, located: bool, intervals: bool = True) -> StableFits:
    """Name the columns of kernel results (internal to the package)."""
    code = rows[:, _fit.CODE].astype(int)
    fitted = np.isin(code, _engine.FITTED)
    rows = rows.copy()
    rows[~fitted, _fit.ALPHA : _fit.HIGH + 1] = np.nan
    n, zeros = rows[:, _fit.N_USED], rows[:, _fit.N_ZERO]
    alpha, low, high = rows[:, _fit.ALPHA], rows[:, _fit.LOW], rows[:, _fit.HIGH]
    se = rows[:, _fit.SE_ALPHA]
    if intervals:
        se = np.where(alpha >= 2.0, (2.0 - low) / Z95, np.where(alpha <= ALPHA_MIN, (high - ALPHA_MIN) / Z95, se))
    scale, half = np.exp(rows[:, _fit.LOG_SCALE]), Z95 * rows[:, _fit.SE_LOG_SCALE]
    location = None
    if located:
        mu, se_mu = rows[:, _fit.LOCATION], rows[:, _fit.SE_LOCATION]
        location = Estimate(
            mu,
            se_mu,
            mu - Z95 * se_mu,
            mu + Z95 * se_mu,
            n,
            "maximum likelihood; interval from the observed information",
            _REFERENCE,
        )
    method = _METHOD if intervals else "maximum likelihood; interval not asked for"
    return StableFits(
        alpha=Estimate(alpha, se, low, high, n, method, _REFERENCE),
        scale=Estimate(
            scale,
            scale * rows[:, _fit.SE_LOG_SCALE],
            scale * np.exp(-half),
            scale * np.exp(half),
            n,
            _METHOD_WALD,
            _REFERENCE,
        ),
        location=location,
        loglik=rows[:, _fit.LOGLIK],
        n=n,
        zeros=np.divide(zeros, n + zeros, out=np.zeros_like(n), where=n + zeros > 0),
        status=tuple(_engine.STATUS[c] for c in code),
    )


def raise_unfit(status: Status, name: str, n: float, total: int) -> None:
    """Raise the error that ``status`` stands for, if it stands for one (internal to the package)."""
    if status is Status.NON_FINITE:
        raise NonFiniteValues(
            f"{name}: expected finite values, got NaN or infinity among {total}; drop or mend them first"
        )
    if status is Status.ALL_ZERO:
        raise AllZero(f"{name}: all {total} values are exactly 0; there is no noise to fit")
    if status is Status.TOO_FEW_VALUES:
        raise TooFewValues(
            f"{name}: expected at least {MIN_VALUES} non-zero values (by count and by weight), got {n:g} of {total};"
            " collect more draws"
        )
    if status is Status.DEGENERATE:
        raise DegenerateValues(f"{name}: all {total} values (zeros aside) are equal; a constant has no law to fit")
    if status is Status.NO_CONVERGENCE:
        raise NoConvergence(
            f"{name}: the likelihood of these {total} values could not be maximised; look at them for atoms"
        )


def fit(x: ArrayLike, weights: ArrayLike | None = None, *, location: bool = False) -> StableFit:
    """Maximum-likelihood SαS fit of one sample ``x`` (one dimension; float32, float64 or integers).

    Jointly in (α, ln σ), with ``location=True`` also in μ; without it the law is centred at 0. ``weights`` are
    frequencies: a weight of 3 counts as three equal values. Exact zeros are counted and left out. Values that lie
    close together are fitted as one group with its first three moments (``_likelihood``): against the sum over the
    values themselves α̂ moves by less than 1e-6 and the log-likelihood by less than 1e-5. A long contiguous array,
    float32 or float64, is read where it lies.

    Raises ``InvalidInput`` (text, wrong dimension, negative or too few weights), ``NonFiniteValues``,
    ``TooFewValues`` (fewer than 30 non-zero values), ``AllZero`` and ``DegenerateValues`` (constant).
    """
    values = as_real(x, "x", 1)
    w = as_weights(weights, values.size)
    if values.size == 0:
        raise TooFewValues(f"x: expected at least {MIN_VALUES} non-zero values, got an empty array")
    rows = _engine.fit_rows(values[None, :], w, located=location, intervals=True)
    fits = fits_from_rows(rows, location)
    raise_unfit(fits.status[0], "x", float(fits.n[0]), values.size)
    one = fits[0]
    return one if location else dataclasses.replace(one, warnings=one.warnings + off_centre(values, w))


def off_centre(values: Matrix, weights: Floats) -> tuple[str, ...]:
    """Return the warning that values do not lie about 0, by their signs, if they do not (internal to the package)."""
    w = weights if weights.size else np.ones(values.size)
    positive, negative = float(w[values > 0].sum()), float(w[values < 0].sum())
    if abs(positive - negative) <= _OFF_CENTRE * math.sqrt(positive + negative):
        return ()
    share = positive / (positive + negative)
    return (f"{share:.0%} of the values are positive: they do not lie about 0; pass location=True",)


def fit_columns(
    U: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    location: bool = False,
    intervals: bool = True,
    threads: int | None = None,
) -> StableFits:
    """Maximum-likelihood SαS fits of all columns of ``U`` (draws × columns, float32 or float64) at once.

    ``weights``: one frequency a draw, common to all columns. ``intervals=False`` leaves out the profile
    intervals of α (a quarter of the time); they are NaN then, as is α's ``se`` of a column at a boundary.
    ``threads``: ``None`` takes every core for matrices of some millions of values. ``fit_columns(U)[j]`` is
    ``fit(U[:, j])``, but nothing in a column raises: see ``StableFits.status``. Memory beside the matrix and the
    results: about 10 MiB a thread.

    Raises ``InvalidInput`` for something that is not a real matrix, or bad weights.
    """
    values = as_real(U, "U", 2)
    w = as_weights(weights, values.shape[0])
    rows = _engine.fit_rows(values, w, located=location, intervals=intervals, columns=True, threads=threads)
    return fits_from_rows(rows, location, intervals)
