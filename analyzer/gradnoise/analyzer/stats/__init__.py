"""Statistics of gradient noise: symmetric α-stable against Gaussian. Pure functions of arrays; no I/O.

``stable`` and ``gaussian`` are the laws and their maximum-likelihood fits, ``estimators`` other estimators of
α, ``compare`` the calibrated test between the two laws. ``contrasts`` turns draws of the gradient into noise,
``forms`` reads a noise matrix per parameter, across parameters and standardised. Results are frozen dataclasses
built from ``Estimate``.
"""

from gradnoise.analyzer.stats import compare, contrasts, estimators, forms, gaussian, stable
from gradnoise.analyzer.stats._estimate import (
    AllZero,
    DegenerateValues,
    Estimate,
    InvalidInput,
    NoConvergence,
    NonFiniteValues,
    StatsError,
    Status,
    TooFewValues,
    Verdict,
)

__all__ = [
    "AllZero",
    "DegenerateValues",
    "Estimate",
    "InvalidInput",
    "NoConvergence",
    "NonFiniteValues",
    "StatsError",
    "Status",
    "TooFewValues",
    "Verdict",
    "compare",
    "contrasts",
    "estimators",
    "forms",
    "gaussian",
    "stable",
]
