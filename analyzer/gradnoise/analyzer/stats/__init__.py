"""Statistics of gradient noise: symmetric α-stable against Gaussian. Pure functions of arrays; no I/O.

``stable`` and ``gaussian`` are the laws and their maximum-likelihood fits, ``sketch`` the fit of more values than fit
into memory, ``estimators`` other estimators of α, ``block_sums`` the published one of more values than fit into memory,
``tail_index`` those of a Pareto tail. ``compare`` tests the Gaussian and holds finite-variance ``rivals`` against the
stable law, ``goodness`` asks whether a law fits at all, ``aggregation`` what becomes of α in sums, ``normality`` are
the classical tests. ``contrasts`` turns draws of the gradient into noise, ``forms`` reads a noise matrix in the forms
of the literature, ``decomposition`` says how much of the tail across parameters is a spread of scales, ``drift`` and
``dependence`` look at the order of the draws, ``adam`` is the noise of ADAM's momentum. ``alignment`` holds the
covariance of the noise against the Hessian, ``noise_scale`` against the gradient. Results are frozen dataclasses built
from ``Estimate``.

Modules are loaded when they are first used: scipy and numba take their time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from types import ModuleType

    from gradnoise.analyzer.stats import (
        adam,
        aggregation,
        alignment,
        block_sums,
        compare,
        contrasts,
        decomposition,
        dependence,
        drift,
        estimators,
        forms,
        gaussian,
        goodness,
        noise_scale,
        normality,
        rivals,
        sketch,
        stable,
        tail_index,
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
    "adam",
    "aggregation",
    "alignment",
    "block_sums",
    "compare",
    "contrasts",
    "decomposition",
    "dependence",
    "drift",
    "estimators",
    "forms",
    "gaussian",
    "goodness",
    "noise_scale",
    "normality",
    "rivals",
    "sketch",
    "stable",
    "tail_index",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
