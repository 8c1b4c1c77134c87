"""Gradient noise against curvature: is the covariance of the noise proportional to the Hessian, and how nearly?

:func:`align` takes one measurement (:class:`Measured`: eigenpairs of H, the Gram matrix, projections and quadratic
forms of noise draws, probe vectors) and gives every number of ``docs/alignment.md`` as a :class:`Metric`: estimate,
interval, and what the same number is without alignment.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from gradnoise.analyzer.stats._batch_scales import batch_scales
from gradnoise.analyzer.stats._dense_blocks import damped
from gradnoise.analyzer.stats._estimate import Status, as_generator
from gradnoise.analyzer.stats._exponent import exponents, log_scales, scale_rows
from gradnoise.analyzer.stats._measured import Matrix, Measured, NoiseReference, Sampling
from gradnoise.analyzer.stats._metric import Metric, Name, missing
from gradnoise.analyzer.stats._projection_tails import heavy_warning, is_heavy, projection_alpha
from gradnoise.analyzer.stats._ratios import ratios
from gradnoise.analyzer.stats._setting import MIN_DRAWS, setting
from gradnoise.analyzer.stats._subspace import overlaps
from gradnoise.analyzer.stats._traces import eigenvalues, traces, variances

NEEDS_COVARIANCE = frozenset(
    {
        Name.GAMMA,
        Name.SCATTER,
        Name.GAMMA_PLAIN,
        Name.SLOPE,
        Name.PEARSON,
        Name.SPEARMAN,
        Name.OFF_DIAGONAL,
        Name.ANISOTROPY_GAIN,
        Name.PROJECTION_COEFFICIENT,
        Name.SUBSPACE_OVERLAP,
        Name.SUBSPACE_OVERLAP_SELF,
        Name.SUBSPACE_ENERGY,
        Name.MATRIX_COSINE,
        Name.TIC_TRACE,
        Name.TIC_DAMPED,
        Name.MU,
        Name.B_SIMPLE,
        Name.B_NOISE,
        Name.TRACE_SIGMA,
        Name.TRACE_H_SIGMA,
        Name.SIGMA_SQUARED,
        Name.EFFECTIVE_RANK,
        Name.VARIANCE,
    }
)
"""What is made of Σ, which heavy tails (α < 2) do not have. Where they are found, these rows carry a warning."""

__all__ = [
    "MIN_DRAWS",
    "NEEDS_COVARIANCE",
    "Matrix",
    "Measured",
    "Metric",
    "Name",
    "NoiseReference",
    "Sampling",
    "align",
]


def align(measured: Measured, *, rng: np.random.Generator) -> tuple[Metric, ...]:
    """Every metric of one measurement, in the order of :class:`Name`'s topics.

    What the measurement cannot carry is a row with a status and a reason, never left out: the same names come back for
    every measurement, and one row an eigenvalue for ``eigenvalue``, ``variance`` and ``scale2``.

    Args:
        measured: the measurement.
        rng: for the simulated errors of rank correlations.

    Raises:
        InvalidInput: ``rng`` is no generator.
    """
    as_generator(rng)
    # What leaves the range of numbers is found where rows are made, and gets a status.
    with np.errstate(all="ignore"):
        given = setting(measured)
        scales_of = log_scales(given)
        alpha = projection_alpha(given)
        rows = [
            *exponents(given, scales_of, rng),
            *ratios(given),
            *overlaps(given),
            *damped(given),
            *batch_scales(given),
            alpha,
            *traces(given),
            *eigenvalues(given),
            *variances(given),
            *scale_rows(given, scales_of),
        ]
    rows = [_in_range(row) for row in rows]
    if not is_heavy(alpha):
        return tuple(rows)
    warning = heavy_warning(alpha)
    return tuple(_warned(row, warning) if row.name in NEEDS_COVARIANCE else row for row in rows)


def _in_range(row: Metric) -> Metric:
    """``row``, or one without a value where numbers left their range on the way."""
    if row.status not in (Status.OK, Status.AT_BOUNDARY) or math.isfinite(row.estimate.value):
        return row
    reason = "the numbers behind it are beyond the range of double precision"
    return missing(row.name, Status.NON_FINITE, reason, index=row.index, n=row.estimate.n, method=row.estimate.method)


def _warned(row: Metric, warning: str) -> Metric:
    estimate = dataclasses.replace(row.estimate, warnings=(*row.estimate.warnings, warning))
    return dataclasses.replace(row, estimate=estimate)
