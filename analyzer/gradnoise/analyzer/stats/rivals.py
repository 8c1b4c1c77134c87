"""Finite-variance laws that a heavy-tailed sample may come from as well: maximum-likelihood fits.

That a sample is not Gaussian does not make it stable. The rivals here are Student's t with ν ≥ 2, the Laplace law,
the generalised Gaussian (Laplace is its β = 1, the Gaussian its β = 2), and a mixture of two Gaussians of different
scale. All are centred at 0, or with ``location=True`` at a fitted location. ``fit_all`` fits the four in about
1.5 ms at n = 1000.

**ν ≤ 2.** Student's t has a variance only for ν > 2, so ``student_t`` stops at ν = 2, the closed end of the
finite-variance range: a sample with heavier tails gives ν = 2 and status ``at_boundary``, and its log-likelihood is the
supremum over all finite-variance t laws. ``student_t(x, finite_variance=False)`` goes on to ν = 0.5; the Cauchy law,
ν = 1, is both t and SαS.

Sources: Lange, Little & Taylor, JASA 84 (1989) for t; Nadarajah, J. Appl. Statist. 32 (2005) for the generalised
Gaussian; Dempster, Laird & Rubin, JRSS B 39 (1977) for the mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from gradnoise.analyzer.stats import _rival_kernels as k
from gradnoise.analyzer.stats._estimate import (
    MIN_VALUES,
    Z95,
    AllZero,
    DegenerateValues,
    Estimate,
    NonFiniteValues,
    Status,
    TooFewValues,
    as_real,
)
from gradnoise.analyzer.stats._laws import PARAMETERS, Law

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._laws import Parameters

__all__ = [
    "GaussianMixtureFit",
    "GeneralisedGaussianFit",
    "LaplaceFit",
    "Law",
    "RivalFit",
    "StudentFit",
    "fit_all",
    "gaussian_mixture",
    "generalised_gaussian",
    "laplace",
    "student_t",
]

NU_MIN, NU_FREE, NU_MAX = 2.0, 0.5, 1.0 / k.KAPPA_MIN
"""Least ν of a finite-variance fit and of a free one, and the ν that counts as Gaussian."""
_METHOD = "maximum likelihood; interval from the observed information on the log scale"
_EDGE = "maximum likelihood, at the end of the range that is fitted; no interval"
_STEP = 1e-3  # of the logarithms of the parameters, for second differences of the log-likelihood
_RANGE = 1e150
_WIDEST = 100.0  # half an interval of a logarithm
_FLAT = 10.0  # a standard error of a logarithm above which nothing is known about the parameter


@dataclass(frozen=True, slots=True)
class RivalFit:
    """What every fit of a rival law has."""

    law: ClassVar[Law]
    location: float | None
    """μ, in units of x, without an interval: it only centres the law. ``None`` for a fit at location 0."""
    loglik: float
    n: int
    """Non-zero values."""
    zeros: float
    """Share of exact zeros, which are left out of the fit."""
    status: Status
    """``at_boundary``: a shape at an end of its range."""
    parameters: Parameters
    """The numbers of the fit, location last: what ``goodness`` draws from."""
    warnings: tuple[str, ...]

    @property
    def k(self) -> int:
        """Number of fitted parameters."""
        return PARAMETERS[self.law] + (self.location is not None)

    @property
    def aic(self) -> float:
        """Akaike's criterion, 2k − 2ℓ."""
        return 2.0 * self.k - 2.0 * self.loglik

    @property
    def bic(self) -> float:
        """Schwarz's criterion, k ln n − 2ℓ."""
        return self.k * math.log(self.n) - 2.0 * self.loglik


@dataclass(frozen=True, slots=True)
class StudentFit(RivalFit):
    """Student's t, f(x) ∝ (1 + ((x − μ)/σ)²/ν)^(−(ν+1)/2)."""

    law: ClassVar[Law] = Law.STUDENT_T
    nu: Estimate
    """Degrees of freedom, between 2 (free fits: 0.5) and 10 000. At either end: no interval (NaN)."""
    scale: Estimate
    """σ, in units of x; the standard deviation is σ √(ν/(ν−2))."""


@dataclass(frozen=True, slots=True)
class LaplaceFit(RivalFit):
    """Laplace, f(x) = exp(−|x − μ|/a)/(2a)."""

    law: ClassVar[Law] = Law.LAPLACE
    scale: Estimate
    """a, in units of x; the standard deviation is √2 a."""


@dataclass(frozen=True, slots=True)
class GeneralisedGaussianFit(RivalFit):
    """Generalised Gaussian, f(x) = β/(2aΓ(1/β)) exp(−(|x − μ|/a)^β)."""

    law: ClassVar[Law] = Law.GENERALISED_GAUSSIAN
    beta: Estimate
    """Shape, between 0.3 and 10: 1 is Laplace, 2 Gaussian, more is lighter-tailed. At either end: no interval (NaN)."""
    scale: Estimate
    """a, in units of x."""


@dataclass(frozen=True, slots=True)
class GaussianMixtureFit(RivalFit):
    """Two Gaussians around one location, π N(μ, s₁²) + (1 − π) N(μ, s₂²), s₁ ≤ s₂."""

    law: ClassVar[Law] = Law.GAUSSIAN_MIXTURE
    share: Estimate
    """π of the narrow component. Standard errors are NaN, with a warning, where the likelihood is flat: two components
    that are one."""
    narrow: Estimate
    """s₁, a standard deviation, in units of x; at least a thousandth of the median of |x − μ|."""
    wide: Estimate
    """s₂, a standard deviation, in units of x."""


class Sample(NamedTuple):
    """Values as the kernels take them."""

    x: Floats
    """In units of the median size, ascending; at location 0 their sizes, which are all that matters there."""
    sizes: Floats
    """|x − centre|, ascending."""
    centre: float
    unit: float
    zeros: float
    located: bool

    @property
    def log_unit(self) -> float:
        """What the log-likelihood loses by going back to the units of the values."""
        return self.x.size * math.log(self.unit)


def require_range(values: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> None:
    """Raise ``DegenerateValues`` for values whose squares leave the range of float64 (internal to the package)."""
    largest = float(np.abs(values).max())
    typical = float(np.median(np.abs(values[values != 0])))
    if not (1.0 / _RANGE <= typical <= largest <= _RANGE and largest <= _RANGE * typical):
        raise DegenerateValues(
            f"x: expected sizes between {1 / _RANGE:.0e} and {_RANGE:.0e}, the largest at most {_RANGE:.0e} times the"
            f" median, got a median of {typical:.3g} and a largest of {largest:.3g}; rescale, or drop the outliers"
        )


def prepare(values: np.ndarray[tuple[int, ...], np.dtype[np.floating]], located: bool) -> Sample:
    """Drop zeros, sort, and scale (internal to the package); the values are finite and not all equal.

    Raises as ``require_range``.
    """
    require_range(values)
    u = values[values != 0].astype(np.float64)
    zeros = 1.0 - u.size / values.size
    centre = float(np.median(u)) if located else 0.0
    sizes = np.sort(np.abs(u - centre))
    unit = float(sizes[sizes.size // 2])
    if unit == 0.0:  # half of the values are equal
        unit = float(sizes[-1])
    if located:
        x = np.sort((u - centre) / unit)
        return Sample(x, sizes / unit, centre, unit, zeros, True)
    sizes = sizes / unit
    return Sample(sizes, sizes, 0.0, unit, zeros, False)


def _sample(x: ArrayLike, location: bool) -> Sample:
    values = as_real(x, "x", 1)
    if not np.isfinite(values).all():
        raise NonFiniteValues(
            f"x: expected finite values, got NaN or infinity among {values.size}; drop or mend them first"
        )
    n = int(np.count_nonzero(values))
    if n == 0 and values.size > 0:
        raise AllZero(f"x: all {values.size} values are exactly 0; there is no noise to fit")
    if n < MIN_VALUES:
        raise TooFewValues(f"x: expected at least {MIN_VALUES} non-zero values, got {n} of {values.size}")
    used = values[values != 0]
    if (used == used[0]).all():
        raise DegenerateValues(f"x: all {n} values (zeros aside) are equal; a constant has no law to fit")
    return prepare(values, location)


class Top(NamedTuple):
    """A maximum in the units of a ``Sample``: parameters (location last) and log-likelihood."""

    parameters: Parameters
    loglik: float
    edge: bool = False


def best_student(s: Sample, least: float = NU_MIN) -> Top:
    """Maximum over ν ≥ ``least`` (internal to the package, as the three after it)."""
    place = np.array([0.0, 0.0])
    high = 1.0 / least
    kappa = k.best_shape(k.STUDENT, s.x, k.KAPPA_MIN, high, s.located, place)
    k.student_inner(s.x, kappa, s.located, place)
    value = k.student_loglik(s.x, kappa, place[0], place[1])
    return Top((1.0 / kappa, math.exp(place[0]), float(place[1])), value, kappa in (k.KAPPA_MIN, high))


def best_laplace(s: Sample) -> Top:
    """The median is the location, the mean distance from it the scale."""
    scale = float(s.sizes.mean())
    return Top((scale, 0.0), -s.x.size * (math.log(2.0 * scale) + 1.0))


def best_generalised(s: Sample) -> Top:
    """Maximum over β; with a location by turns, shape and location of a symmetric law being orthogonal."""
    place = np.array([0.0, 0.0])
    best = Top((), -math.inf)
    for _ in range(8 if s.located else 1):
        beta = k.best_shape(k.GENERALISED, s.x, k.BETA_MIN, k.BETA_MAX, False, place)
        if s.located:
            place[1] = k.power_centre(s.x, beta)
        mean, _ = k.power_moments(s.x, place[1], beta)
        log_scale = math.log(beta * mean) / beta
        value = k.generalised_loglik(s.x, beta, log_scale, place[1])
        gain = value - best.loglik
        if gain > 0:
            best = Top((beta, math.exp(log_scale), float(place[1])), value, beta in (k.BETA_MIN, k.BETA_MAX))
        if not gain > 1e-4:
            break
    return best


def best_mixture(s: Sample) -> Top:
    """Maximum over (π, s₁, s₂) and the common location."""
    theta = np.empty(4)
    value = k.mixture_fit(s.x, s.sizes, s.located, 0.0, theta)
    share = 1.0 / (1.0 + math.exp(-theta[0]))
    return Top((share, math.exp(theta[1]), math.exp(theta[2]), float(theta[3])), value)


MAXIMA: dict[Law, Callable[[Sample], Top]] = {
    Law.STUDENT_T: best_student,
    Law.LAPLACE: best_laplace,
    Law.GENERALISED_GAUSSIAN: best_generalised,
    Law.GAUSSIAN_MIXTURE: best_mixture,
}
"""The maximum of each rival (internal to the package)."""


def in_units(s: Sample, law: Law, top: Top) -> Parameters:
    """Parameters in the units of the values (internal to the package)."""
    *theta, mu = top.parameters
    shapes = 0 if law is Law.LAPLACE else 1
    scaled = [v if i < shapes else v * s.unit for i, v in enumerate(theta)]
    return (*scaled, s.centre + mu * s.unit)


def _errors(loglik: Callable[[Floats], float], at: Floats) -> Floats:
    """Standard errors from second differences of ``loglik``; NaN where the information is not positive definite."""
    size = at.size
    information = np.empty((size, size))
    centre = loglik(at)
    step = np.eye(size) * _STEP
    for i in range(size):
        information[i, i] = (2 * centre - loglik(at + step[i]) - loglik(at - step[i])) / _STEP**2
        for j in range(i):
            twist = loglik(at + step[i] + step[j]) + loglik(at - step[i] - step[j])
            twist -= loglik(at + step[i] - step[j]) + loglik(at - step[i] + step[j])
            information[i, j] = information[j, i] = -twist / (4 * _STEP**2)
    try:
        np.linalg.cholesky(information)
        variance = np.diag(np.linalg.inv(information))
    except np.linalg.LinAlgError:
        return np.full(size, np.nan)
    return np.sqrt(np.where(variance > 0, variance, np.nan))


def _positive(value: float, se_log: float, n: int, method: str = _METHOD) -> Estimate:
    half = Z95 * se_log
    if half > _WIDEST:  # the likelihood is flat: nothing is known
        return Estimate(value, math.nan, math.nan, math.nan, n, method)
    return Estimate(value, value * se_log, value * math.exp(-half), value * math.exp(half), n, method)


class _Common(NamedTuple):
    location: float | None
    loglik: float
    n: int
    zeros: float
    status: Status
    parameters: Parameters
    warnings: tuple[str, ...]


def _common(s: Sample, law: Law, top: Top, warnings: tuple[str, ...] = ()) -> _Common:
    parameters = in_units(s, law, top)
    if s.zeros > 0:
        warnings = (f"{s.zeros:.3g} of the values are exactly 0; the law is fitted to the others", *warnings)
    return _Common(
        location=parameters[-1] if s.located else None,
        loglik=top.loglik - s.log_unit,
        n=s.x.size,
        zeros=s.zeros,
        status=Status.AT_BOUNDARY if top.edge else Status.OK,
        parameters=parameters,
        warnings=warnings,
    )


def _shape_and_scale(
    s: Sample, top: Top, loglik: Callable[[Floats, float, float, float], float], invert: bool
) -> tuple[Estimate, Estimate]:
    """Estimates of a shape and a scale; at an end of the shape's range of the scale alone."""
    shape, scale, mu = top.parameters
    sign = -1.0 if invert else 1.0
    n = s.x.size

    def at(theta: Floats) -> float:
        return loglik(s.x, math.exp(sign * theta[0]), theta[1], mu)

    start = np.array([math.log(shape), math.log(scale)])
    if top.edge:
        se = _errors(lambda v: at(np.array([start[0], v[0]])), start[1:])
        return _positive(shape, math.nan, n, _EDGE), _positive(scale * s.unit, se[0], n)
    se = _errors(at, start)
    return _positive(shape, se[0], n), _positive(scale * s.unit, se[1], n)


def _student(s: Sample, least: float = NU_MIN) -> StudentFit:
    top = best_student(s, least)
    nu, scale = _shape_and_scale(s, top, k.student_loglik, invert=True)
    warnings: tuple[str, ...] = ()
    if top.edge:
        gaussian = nu.value > least
        what = "a Gaussian for all purposes" if gaussian else "the sample is heavier-tailed than that"
        warnings = (f"nu is at the {'upper' if gaussian else 'lower'} end of what is fitted, {nu.value:g}: {what}",)
    return StudentFit(*_common(s, Law.STUDENT_T, top, warnings), nu, scale)


def _laplace(s: Sample) -> LaplaceFit:
    top = best_laplace(s)
    n = s.x.size
    return LaplaceFit(*_common(s, Law.LAPLACE, top), _positive(top.parameters[0] * s.unit, 1 / math.sqrt(n), n))


def _generalised(s: Sample) -> GeneralisedGaussianFit:
    top = best_generalised(s)
    beta, scale = _shape_and_scale(s, top, k.generalised_loglik, invert=False)
    warnings: tuple[str, ...] = ()
    if top.edge:
        warnings = (f"beta is at the end of what is fitted, {beta.value:g}",)
    return GeneralisedGaussianFit(*_common(s, Law.GENERALISED_GAUSSIAN, top, warnings), beta, scale)


def _mixture(s: Sample) -> GaussianMixtureFit:
    top = best_mixture(s)
    share, narrow, wide, mu = top.parameters
    n = s.x.size
    spare = np.empty(4)

    def at(theta: Floats) -> float:
        return k.mixture_step(s.x, s.located, np.array([*theta, mu]), spare)

    logit = math.log(share / (1 - share))
    se = _errors(at, np.array([logit, math.log(narrow), math.log(wide)]))
    warnings: tuple[str, ...] = ()
    if not (se < _FLAT).all():
        se = np.full(3, np.nan)
        warnings = ("the likelihood of the mixture is flat: its components have no standard errors",)
    low, high = (1 / (1 + math.exp(-(logit + side * Z95 * se[0]))) for side in (-1, 1))
    return GaussianMixtureFit(
        *_common(s, Law.GAUSSIAN_MIXTURE, top, warnings),
        Estimate(share, share * (1 - share) * se[0], low, high, n, "maximum likelihood; interval on the logit scale"),
        _positive(narrow * s.unit, se[1], n),
        _positive(wide * s.unit, se[2], n),
    )


def fit_sample(s: Sample) -> tuple[StudentFit, LaplaceFit, GeneralisedGaussianFit, GaussianMixtureFit]:
    """The four rivals fitted to prepared values (internal to the package)."""
    return _student(s), _laplace(s), _generalised(s), _mixture(s)


def fit_law(x: ArrayLike, law: Law, location: bool) -> RivalFit:
    """The rival named ``law`` fitted to ``x`` (internal to the package)."""
    fits: dict[Law, Callable[[Sample], RivalFit]] = {
        Law.STUDENT_T: _student,
        Law.LAPLACE: _laplace,
        Law.GENERALISED_GAUSSIAN: _generalised,
        Law.GAUSSIAN_MIXTURE: _mixture,
    }
    return fits[law](_sample(x, location))


def student_t(x: ArrayLike, *, location: bool = False, finite_variance: bool = True) -> StudentFit:
    """Student's t with ν ≥ 2, or with ``finite_variance=False`` ν ≥ 0.5 (see the module).

    ``x``: one dimension, real; exact zeros are left out and counted, as ``stable.fit`` does. ν and σ jointly by a root
    of the profile score. Raises ``InvalidInput``, ``NonFiniteValues``, ``TooFewValues`` (fewer than 30 non-zero
    values), ``AllZero``, ``DegenerateValues`` (constant).
    """
    return _student(_sample(x, location), NU_MIN if finite_variance else NU_FREE)


def laplace(x: ArrayLike, *, location: bool = False) -> LaplaceFit:
    """Laplace law: a = mean |x − μ|, μ = 0 or the median. Arguments and errors as of ``student_t``."""
    return _laplace(_sample(x, location))


def generalised_gaussian(x: ArrayLike, *, location: bool = False) -> GeneralisedGaussianFit:
    """Generalised Gaussian with 0.3 ≤ β ≤ 10. Arguments and errors as of ``student_t``.

    With a location and β ≤ 1, where the likelihood has a cusp at every value, μ is the best of the order statistics
    within three standard errors of the median (of 33 of them where there are more).
    """
    return _generalised(_sample(x, location))


def gaussian_mixture(x: ArrayLike, *, location: bool = False) -> GaussianMixtureFit:
    """Mixture of two Gaussians around one location, by accelerated EM from four starts.

    Of values heavier-tailed than a Gaussian the log-likelihood is within 0.01 of its maximum in at least 96 % of
    samples (200 and 1000 values of t₃, Laplace, SαS(1.7), mixtures). Of Gaussian or lighter-tailed values it has many
    small maxima, spikes in the middle that only chance made: there it is short of the highest by up to 1.5 at
    location 0, 4.5 with a fitted one. Arguments and errors as of ``student_t``.
    """
    return _mixture(_sample(x, location))


def fit_all(
    x: ArrayLike, *, location: bool = False
) -> tuple[StudentFit, LaplaceFit, GeneralisedGaussianFit, GaussianMixtureFit]:
    """The four rivals fitted to one sample. Arguments and errors as of ``student_t``."""
    return fit_sample(_sample(x, location))
