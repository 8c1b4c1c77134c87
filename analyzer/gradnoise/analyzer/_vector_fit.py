"""Laws fitted to one vector of numbers."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING

from gradnoise.analyzer.report import FitReport, FitRow
from gradnoise.analyzer.stats import Estimate, Status, compare
from gradnoise.analyzer.stats.rivals import Law

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["fit_vector"]


def fit_vector(values: NDArray[np.float64], *, location: bool) -> FitReport:
    """Fit the stable law, the Gaussian and the finite-variance rivals to one vector of numbers and compare them.

    Args:
        values: one-dimensional, at least 30 finite values that are not all equal.
        location: estimate a location too; otherwise it is 0.

    Raises:
        gradnoise.analyzer.stats.StatsError: the values carry no fit; the message says why.
    """
    comparison = compare.stable_vs_gaussian(values, location=location)
    stable, gaussian = comparison.stable, comparison.gaussian
    found: list[tuple[str, str, Estimate | None, Status]] = [
        ("stable", "alpha", stable.alpha, stable.status),
        ("stable", "scale", stable.scale, stable.status),
        ("stable", "location", stable.location, stable.status),
        ("gaussian", "sd", gaussian.std, gaussian.status),
        ("gaussian", "mean", gaussian.location, gaussian.status),
    ]
    for rival in comparison.rivals:
        estimates = ((field.name, getattr(rival, field.name)) for field in fields(rival))
        found += [(rival.law, name, value, rival.status) for name, value in estimates if isinstance(value, Estimate)]
        if rival.location is not None:
            centre = Estimate(rival.location, math.nan, math.nan, math.nan, rival.n, "maximum likelihood; no interval")
            found.append((rival.law, "location", centre, rival.status))
    criteria = {criterion.law: criterion for criterion in comparison.criteria}
    return FitReport(
        tuple(
            FitRow(
                law=law,
                parameter=parameter,
                value=estimate.value,
                se=estimate.se,
                low=estimate.low,
                high=estimate.high,
                n=int(estimate.n),
                method=estimate.method,
                loglik=criteria[Law(law)].loglik,
                aic=criteria[Law(law)].aic,
                bic=criteria[Law(law)].bic,
                likelihood_ratio=comparison.likelihood_ratio,
                p_value=comparison.p_value,
                gaussian_rejected=comparison.gaussian_rejected,
                verdict=comparison.verdict,
                reason=comparison.reason,
                zeros=stable.zeros,
                status=status,
                warnings=(*estimate.warnings, *comparison.warnings),
            )
            for law, parameter, estimate, status in found
            if estimate is not None
        )
    )
