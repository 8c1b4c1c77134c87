"""The laws that are compared: their names, densities, tail probabilities and random numbers, by parameters.

Parameters are a tuple whose last entry is the location: SαS (α, σ, μ), Gaussian (σ, μ) with variance 2σ², Student's t
(ν, σ, μ), Laplace (σ, μ), generalised Gaussian (β, σ, μ), mixture (π of the narrow component, its standard deviation,
that of the wide one, μ).
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats import stable

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats

Parameters = tuple[float, ...]


class Law(enum.StrEnum):
    """A law fitted to a sample."""

    STABLE = "stable"
    GAUSSIAN = "gaussian"
    STUDENT_T = "student_t"
    LAPLACE = "laplace"
    GENERALISED_GAUSSIAN = "generalised_gaussian"
    GAUSSIAN_MIXTURE = "gaussian_mixture"


PARAMETERS = {
    Law.STABLE: 2,
    Law.GAUSSIAN: 1,
    Law.STUDENT_T: 2,
    Law.LAPLACE: 1,
    Law.GENERALISED_GAUSSIAN: 2,
    Law.GAUSSIAN_MIXTURE: 3,
}
"""Free parameters of each law at location 0."""


def _normal_logpdf(x: Floats, sd: float) -> Floats:
    return np.asarray(-0.5 * (x / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi))


def logpdf(law: Law, parameters: Parameters, x: Floats) -> Floats:
    """ln f(x)."""
    *theta, mu = parameters
    d = x - mu
    if law is Law.STABLE:
        return np.asarray(stable.logpdf(d, *theta))
    if law is Law.GAUSSIAN:
        return _normal_logpdf(d, math.sqrt(2.0) * theta[0])
    if law is Law.STUDENT_T:
        nu, s = theta
        constant = math.lgamma(0.5 * (nu + 1)) - math.lgamma(0.5 * nu) - 0.5 * math.log(math.pi * nu) - math.log(s)
        return np.asarray(constant - 0.5 * (nu + 1) * np.log1p((d / s) ** 2 / nu))
    if law is Law.GAUSSIAN_MIXTURE:
        share, narrow, wide = theta
        return np.logaddexp(
            math.log(share) + _normal_logpdf(d, narrow), math.log1p(-share) + _normal_logpdf(d, wide)
        )  # fmt: skip
    beta, s = (1.0, theta[0]) if law is Law.LAPLACE else theta
    return np.asarray(math.log(0.5 * beta / s) - math.lgamma(1 / beta) - np.abs(d / s) ** beta)


def tail(law: Law, parameters: Parameters, distance: Floats) -> Floats:
    """P(X − μ > d) for distances d ≥ 0, accurate far out; all these laws are symmetric about μ."""
    from scipy import special  # 0.1 s to import

    *theta, _ = parameters
    if law is Law.STABLE:
        return np.asarray(stable.sf(distance, *theta))
    if law is Law.GAUSSIAN:
        return np.asarray(special.ndtr(-distance / (math.sqrt(2.0) * theta[0])))
    if law is Law.STUDENT_T:
        return np.asarray(special.stdtr(theta[0], -distance / theta[1]))
    if law is Law.GAUSSIAN_MIXTURE:
        share, narrow, wide = theta
        return np.asarray(share * special.ndtr(-distance / narrow) + (1 - share) * special.ndtr(-distance / wide))
    beta, s = (1.0, theta[0]) if law is Law.LAPLACE else theta
    return np.asarray(0.5 * special.gammaincc(1 / beta, (distance / s) ** beta))


def rvs(law: Law, parameters: Parameters, size: int, rng: np.random.Generator) -> Floats:
    """``size`` random numbers."""
    *theta, mu = parameters
    draws: Any
    if law is Law.STABLE:
        draws = stable.rvs(theta[0], theta[1], size, rng)
    elif law is Law.GAUSSIAN:
        draws = rng.normal(0.0, math.sqrt(2.0) * theta[0], size)
    elif law is Law.STUDENT_T:
        draws = theta[1] * rng.standard_t(theta[0], size)
    elif law is Law.GAUSSIAN_MIXTURE:
        share, narrow, wide = theta
        draws = rng.standard_normal(size) * np.where(rng.random(size) < share, narrow, wide)
    elif law is Law.LAPLACE:
        draws = rng.laplace(0.0, theta[0], size)
    else:
        beta, s = theta
        draws = s * rng.standard_gamma(1 / beta, size) ** (1 / beta) * rng.choice((-1.0, 1.0), size)
    return np.asarray(draws + mu)
