"""TIC at chosen coordinates, from dense blocks: Tr(C (H + δ)⁻¹)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats._estimate import Status
from gradnoise.analyzer.stats._metric import Metric, Name, missing
from gradnoise.analyzer.stats._moments import jackknife_means, ties
from gradnoise.analyzer.stats._ratios import row
from gradnoise.analyzer.stats._setting import MIN_DRAWS
from gradnoise.analyzer.stats._unaligned import ISOTROPIC, positive_null

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Estimate, Floats
    from gradnoise.analyzer.stats._setting import Setting

__all__ = ["DAMPINGS", "damped"]

DAMPINGS = (1, 2, 3, 4)
"""j of δ = 10⁻ʲ max |λ|."""
_SOURCE = "Takeuchi 1976; Thomas et al. 2020, eq. 4"


def damped(given: Setting) -> list[Metric]:
    """One row a damping (Takeuchi 1976; Thomas et al. 2020, eq. 4)."""
    measured = given.measured
    block, noise = measured.block, measured.block_noise
    found: tuple[Status, str] | None = None
    if not block.size or not noise.size:
        found = Status.NOT_MEASURED, "no dense blocks were measured"
    elif len(noise) < MIN_DRAWS:
        found = Status.TOO_FEW_DRAWS, f"{len(noise)} draws; an interval needs {MIN_DRAWS}"
    elif not (np.isfinite(block).all() and np.isfinite(noise).all()):
        found = Status.NON_FINITE, "NaN or infinity in the dense blocks"
    elif not block.any():
        found = Status.ALL_ZERO, "the block of H is 0"
    if found is not None:
        return [missing(Name.TIC_DAMPED, *found, index=j) for j in DAMPINGS]
    values, vectors = np.linalg.eigh((block + block.T) / 2.0)
    along = (noise @ vectors) ** 2
    largest = float(np.abs(values).max())
    width = len(block)
    warnings = given.warnings + given.factor_warnings
    if width < measured.dimension:
        warnings += (f"of {width} of {measured.dimension} coordinates, the others held fixed",)
    rows = []
    for j in DAMPINGS:
        delta = 10.0**-j * largest
        if values[0] + delta <= 0:
            reason = f"H + δ has a negative eigenvalue: {values[0]:.3g} + {delta:.3g}"
            rows.append(missing(Name.TIC_DAMPED, Status.DEGENERATE, reason, index=j))
            continue
        inverse = 1.0 / (values + delta)
        null = _isotropic(inverse, given.scale * ties(measured).scale * float(along.sum()) / len(noise), len(noise))
        of_draws = given.scale * ties(measured).scale * jackknife_means(along @ inverse)
        method = f"dense blocks, δ = {delta:.3g}, delete-one jackknife"
        rows.append(
            row(Name.TIC_DAMPED, of_draws, method=method, reference=_SOURCE, null=null, warnings=warnings, index=j)
        )
    return rows


def _isotropic(inverse: Floats, trace: float, draws: int) -> Estimate:
    """Of isotropic noise of the same trace: Tr C · mean of the eigenvalues of (H + δ)⁻¹."""
    mean = inverse.mean()
    relative = 2.0 * float(inverse.var() / mean**2) / len(inverse) / draws
    return positive_null(trace * float(mean), relative, draws, ISOTROPIC)
