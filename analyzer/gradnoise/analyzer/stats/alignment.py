"""Gradient noise against curvature: is the covariance of the noise proportional to the Hessian, and how nearly?

:func:`align` takes one measurement (:class:`Measured`: eigenpairs of H, the Gram matrix, projections and quadratic
forms of noise draws, probe vectors) and gives every number of ``docs/alignment.md`` as a :class:`Metric`: estimate,
interval, and what the same number is without alignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.analyzer.stats._estimate import as_generator
from gradnoise.analyzer.stats._measured import Matrix, Measured, NoiseReference, Sampling
from gradnoise.analyzer.stats._metric import Metric, Name
from gradnoise.analyzer.stats._setting import MIN_DRAWS, setting
from gradnoise.analyzer.stats._traces import eigenvalues, traces, variances

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MIN_DRAWS", "Matrix", "Measured", "Metric", "Name", "NoiseReference", "Sampling", "align"]


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
    given = setting(measured)
    return (*traces(given), *eigenvalues(given), *variances(given))
