"""The Gaussian law, fitted by maximum likelihood in the parametrisation of the stable laws.

α = 2 is N(μ, 2σ²): ``scale`` is σ = standard deviation / √2, so that it can stand beside an SαS scale, and
``std`` is the standard deviation itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._estimate import (
    MIN_VALUES,
    Z95,
    Estimate,
    InvalidInput,
    Status,
    TooFewValues,
    as_numbers,
    as_real,
    as_weights,
)
from gradnoise.analyzer.stats._stable_fit import raise_unfit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["GaussianFit", "GaussianFits", "fit", "fit_columns", "logpdf"]

_METHOD = "maximum likelihood; interval from the expected information on the log scale"


@dataclass(frozen=True, slots=True)
class GaussianFit:
    """A Gaussian fitted to one sample."""

    scale: Estimate
    """σ of N(μ, 2σ²), comparable with an SαS scale."""
    std: Estimate
    """Standard deviation, √2 σ."""
    location: Estimate | None
    loglik: float
    n: float
    zeros: float
    """Share of exact zeros, which are left out, as ``stable.fit`` does."""
    status: Status
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GaussianFits:
    """Gaussians fitted to the columns of a matrix: arrays over columns; NaN with a status where there is no fit."""

    scale: Estimate
    std: Estimate
    location: Estimate | None
    loglik: Floats
    n: Floats
    zeros: Floats
    status: tuple[Status, ...]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, j: int) -> GaussianFit:
        zeros = float(self.zeros[j])
        return GaussianFit(
            scale=self.scale.at(j),
            std=self.std.at(j),
            location=None if self.location is None else self.location.at(j),
            loglik=float(self.loglik[j]),
            n=float(self.n[j]),
            zeros=zeros,
            status=self.status[j],
            warnings=(f"{zeros:.1%} of the values are exactly 0; the law is fitted to the others",)
            if zeros > 0
            else (),
        )


def logpdf(x: ArrayLike, scale: ArrayLike = 1.0) -> Any:
    """ln of the N(0, 2 ``scale``²) density, broadcast over both arguments; float64.

    NaN in ``x`` stays NaN; −infinity where |x| is infinite or too large for its square. Raises ``InvalidInput`` for
    scale ≤ 0, for what is no real number, and for shapes that do not broadcast.
    """
    values, s = (as_numbers(v, name).astype(np.float64) for v, name in ((x, "x"), (scale, "scale")))
    if not ((s > 0) & np.isfinite(s)).all():
        raise InvalidInput(f"scale: expected finite values above 0, got {scale!r}")
    try:
        np.broadcast_shapes(values.shape, s.shape)
    except ValueError:
        raise InvalidInput(f"x, scale: expected shapes that broadcast, got {values.shape} and {s.shape}") from None
    with np.errstate(over="ignore", under="ignore"):
        result = -((values / s) ** 2) / 4 - np.log(s) - math.log(2 * math.sqrt(math.pi))
    return float(result) if np.ndim(result) == 0 else result


def fit_columns(U: ArrayLike, weights: ArrayLike | None = None, *, location: bool = False) -> GaussianFits:
    """Gaussian fits of all columns of ``U`` (draws × columns): closed form, exact zeros left out and counted.

    ``weights``: one frequency a draw. Raises ``InvalidInput`` for something that is not a real matrix; nothing
    in a column raises (see ``GaussianFits.status``).
    """
    values = as_real(U, "U", 2)
    w = as_weights(weights, values.shape[0])
    weight = (w if w.size or weights is not None else np.ones(values.shape[0]))[:, None]
    u = values.astype(np.float64, copy=False)
    finite = np.isfinite(u).all(axis=0)
    u = np.where(np.isfinite(u), u, 0.0)
    full = np.where(u != 0, weight, 0.0)
    n, count = full.sum(axis=0), np.count_nonzero(full, axis=0)
    zeros = np.where(u == 0, weight, 0.0).sum(axis=0)
    unit = np.abs(u).max(axis=0, initial=0.0)
    safe, n_safe = np.where(unit > 0, unit, 1.0), np.where(n > 0, n, 1.0)
    scaled = u / safe
    centre = (full * scaled).sum(axis=0) / n_safe if location else np.zeros(u.shape[1])
    square = (full * (scaled - centre) ** 2).sum(axis=0) / n_safe
    low = np.where(full > 0, u, np.inf).min(axis=0, initial=np.inf)
    high = np.where(full > 0, u, -np.inf).max(axis=0, initial=-np.inf)
    status = []
    for j in range(u.shape[1]):
        if not finite[j]:
            status.append(Status.NON_FINITE)
        elif n[j] == 0 and zeros[j] > 0:
            status.append(Status.ALL_ZERO)
        elif n[j] < MIN_VALUES or count[j] < MIN_VALUES:
            status.append(Status.TOO_FEW_VALUES)
        elif low[j] == high[j] or square[j] == 0:
            status.append(Status.DEGENERATE)
        else:
            status.append(Status.OK)
    good = np.array([s is Status.OK for s in status], dtype=bool)
    sigma = np.where(good, safe * np.sqrt(np.where(good, square, 1.0) / 2), np.nan)
    se = sigma / np.sqrt(2 * n_safe)
    half = Z95 / np.sqrt(2 * n_safe)

    def estimate(factor: float) -> Estimate:
        s = factor * sigma
        return Estimate(s, factor * se, s * np.exp(-half), s * np.exp(half), n, _METHOD)

    place = None
    if location:
        mu, se_mu = np.where(good, safe * centre, np.nan), sigma * np.sqrt(2 / n_safe)
        place = Estimate(mu, se_mu, mu - Z95 * se_mu, mu + Z95 * se_mu, n, "maximum likelihood (mean)")
    return GaussianFits(
        scale=estimate(1.0),
        std=estimate(math.sqrt(2.0)),
        location=place,
        loglik=-n / 2 - n * np.log(2 * math.sqrt(math.pi) * sigma),
        n=n,
        zeros=np.divide(zeros, n + zeros, out=np.zeros_like(n), where=n + zeros > 0),
        status=tuple(status),
    )


def fit(x: ArrayLike, weights: ArrayLike | None = None, *, location: bool = False) -> GaussianFit:
    """Gaussian fit of one sample: σ² = mean (x − μ)²/2, μ = 0 or, with ``location=True``, the mean.

    Arguments, zeros and errors as of ``stable.fit``.
    """
    values = as_real(x, "x", 1)
    w = None if weights is None else as_weights(weights, values.size)
    if values.size == 0:
        raise TooFewValues(f"x: expected at least {MIN_VALUES} non-zero values, got an empty array")
    fits = fit_columns(values[:, None], w, location=location)
    raise_unfit(fits.status[0], "x", float(fits.n[0]), values.size)
    return fits[0]
