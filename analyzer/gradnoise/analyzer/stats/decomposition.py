"""How much of the heaviness across parameters is spread of scales, and how much is tail.

Across parameters noise reads as heavy-tailed for two reasons: coordinates have different scales, and each may have
heavy tails. Heaviness is measured as **h = 1/α − ½**, the scale on which forms are averaged and on which a spread of
scales adds up (Gaussian noise of lognormal(0, s) scales has h → s²/ln m for block sums of m values). Of one noise
matrix U (draws × coordinates):

- ``total``: h across parameters, less the bias of that reading: what Gaussian noise of one scale reads above ½, which
  fades with heaviness;
- ``scale``: the h that spread of scales alone brings: of simulated Gaussian noise on the scales of these columns, which
  are half moments (mean √|u|)², drawn together until their spread is that beyond sampling error;
- ``tail``: the h that tails alone bring: standardised, over what standardised Gaussian noise reads, without the bias
  that dividing by estimated scales has;
- ``remainder`` = total − scale − tail: what the two do together (below 0 where both are large: together they bring less
  than the sum), and what neither is: scale and tail that depend on each other, and coordinates that do, whose common
  factor of a row shows within no row.

All intervals resample draws: they are for these coordinates, and below 100 of them they cover
nearer nine times in ten (64 × 64 SαS(1.5): ``total`` 88 %, ``tail`` 85 %, shares 92 %).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from gradnoise.analyzer.stats import _engine, _fit, _null, forms
from gradnoise.analyzer.stats._assemble import coordinate_notes
from gradnoise.analyzer.stats._columns import beyond_sampling, root
from gradnoise.analyzer.stats._estimate import Estimate, Status, Verdict
from gradnoise.analyzer.stats._jackknife import GROUPS, T95, standard_error
from gradnoise.analyzer.stats._reading import prepare
from gradnoise.analyzer.stats._standard import log_scales

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._form_result import FormResult
    from gradnoise.analyzer.stats._readings import Readings
    from gradnoise.analyzer.stats.contrasts import Contrast

__all__ = ["LEAST_HEAVINESS", "Decomposition", "decompose"]

LEAST_HEAVINESS = 0.01
"""Least ``total`` (α = 1.96) of which shares are given."""
MIN_ROWS_DECOMPOSITION = 16
"""Fewest noise rows: standardised halves of fewer rows are not calibrated."""
_SCALES = 256
"""Scales that stand for those of all columns: means of as many stretches of the sorted ones."""
_WEIGHT = 1e6
_VALUES = 1 << 18
"""Simulated values of Gaussian noise on the columns' scales."""
_FADE = 0.07
_FEW_COLUMNS = 100


@dataclass(frozen=True, slots=True)
class Decomposition:
    """The heaviness of one noise matrix across parameters, in its parts. Without a value: ``status``, ``reason``."""

    total: Estimate
    scale: Estimate
    tail: Estimate
    remainder: Estimate
    """In units of 1/α; ``total = scale + tail + remainder``."""
    scale_share: Estimate
    tail_share: Estimate
    """Of ``total``; NaN where that is not beyond doubt or is below ``LEAST_HEAVINESS``."""
    log_scale_sd: Estimate
    """Standard deviation of ln(scale) over columns beyond sampling error."""
    readings: Readings
    """The forms it rests on."""
    verdict: Verdict
    """That of ``readings``: ``gaussian``, ``scale_mixture``, ``stable``, ``heavy_finite_variance`` or ``undecided``."""
    why: str
    status: Status
    reason: str = ""
    warnings: tuple[str, ...] = ()


def decompose(noise: Contrast | ArrayLike, *, rng: np.random.Generator) -> Decomposition:
    """Take the heaviness that ``noise`` shows across parameters apart: spread of scales, tail, remainder.

    ``noise``: a ``Contrast``, or rows × columns of noise already formed; at least 16 rows and 30 coordinates. Columns
    that are mostly zero have no scale and count in ``total`` only, which a warning says. The verdict is that of
    ``forms.read``, which never calls ``scale_mixture`` what is heavy column by column. ``rng`` simulates the Gaussian
    noise of ``scale``; its error is in the intervals.

    Raises ``InvalidInput`` for what is no real matrix.
    """
    given = prepare(noise)
    readings = forms.read(noise, rng=rng)
    across, standard = readings.across_parameter, readings.standardized
    for form in (across, standard):
        if not math.isfinite(form.alpha.value):
            return _nothing(readings, form.status, f"{form.form}: {form.reason}")
    rows = len(given.matrix)
    if rows < MIN_ROWS_DECOMPOSITION:
        reason = f"{rows} finite noise rows, at least {MIN_ROWS_DECOMPOSITION} needed"
        return _nothing(readings, Status.TOO_FEW_DRAWS, reason)

    units = log_scales(given.matrix)
    present = np.isfinite(units) & (2 * np.count_nonzero(given.matrix, axis=0) >= rows)
    matrix, units = given.matrix[:, present], units[present]
    without = np.stack([log_scales(matrix[given.group != g]) for g in range(GROUPS)])
    without = np.where(np.isfinite(without), without, units)
    square, squares = beyond_sampling(units, without)

    null = 1.0 / across.null_alpha
    total = float(_heaviness(1.0 / across.alpha.value, null))
    tail = _tail(standard)
    scale, simulation = _simulated(units, square, rng)
    # Replicates about the values; those of the scales by the limit of what was simulated.
    totals, tails = (
        r - r.mean() + v for r, v in ((_heaviness(across.replicates, null), total), (standard.replicates, tail))
    )
    scales = np.array([_mixture(u, s) for u, s in zip(without, squares, strict=True)])
    scales += scale - scales.mean()
    warnings = coordinate_notes(given)
    if len(units) < _FEW_COLUMNS:
        warnings += (
            f"{len(units)} coordinates: below {_FEW_COLUMNS} the intervals of the parts are a little too short",
        )
    if not present.all():
        warnings += (f"{int((~present).sum())} of {len(present)} columns are mostly zero and have no scale",)
    reason = ""
    scale_share, tail_share = _none(), _none()
    whole = _estimate(total, totals, rows)
    if whole.low > 0 and total >= LEAST_HEAVINESS:
        scale_share = _estimate(scale / total, scales / totals, rows, simulation / total)
        tail_share = _estimate(tail / total, tails / totals, rows)
    else:
        reason = f"no heaviness across parameters to divide: 1/α is {total:+.4f} from the Gaussian reading"
    return Decomposition(
        total=whole,
        scale=_estimate(scale, scales, rows, simulation),
        tail=_estimate(tail, tails, rows),
        remainder=_estimate(total - scale - tail, totals - scales - tails, rows, simulation),
        scale_share=scale_share,
        tail_share=tail_share,
        log_scale_sd=root(square, squares, 1.0, len(units), "random effects on ln(scale); jackknife over draws"),
        readings=readings,
        verdict=readings.verdict,
        why=readings.why,
        status=Status.OK,
        reason=reason,
        warnings=warnings,
    )


def _heaviness(inverse: ArrayLike, null: float) -> Floats:
    """1/α − ½ of rows that read ``inverse``, where Gaussian ones read ``null``: what these read above ½ is the bias of
    the boundary α = 2, which heavier noise has the less of (as ``_tail``'s)."""
    above = np.asarray(inverse, dtype=np.float64) - null
    return np.asarray(above + (null - 0.5) * -np.expm1(-np.maximum(above, 0.0) / _FADE))


def _tail(standard: FormResult) -> float:
    """The standardised heaviness: 1/α without its jackknife bias, less what is left of that bias.

    For Gaussian noise the correction overshoots at few rows (2 r − r' of the simulated readings r of all rows and r' of
    half of them is below ½); the heavier the tail the less (16 and 32 rows, α = 1.9, 1.7, 1.4: as exp(−h/0.07)).
    """
    centre = GROUPS / standard.alpha.value - (GROUPS - 1) * float(standard.replicates.mean())
    rows = standard.rows_used
    whole, half = (_null.inverse_alpha_standardised(k, standard.columns_used) for k in (rows, rows // 2))
    left = 2.0 * whole - half - 0.5
    return float(centre - 0.5 - left * math.exp(-max(centre - 0.5, 0.0) / _FADE))


def _drawn_together(log_scale: Floats, square: float) -> Floats:
    """The log scales about their mean, shrunk until their variance is ``square``: without their sampling error."""
    variance = float(np.var(log_scale, ddof=1))
    if not (square > 0 and variance > 0):
        return np.zeros(len(log_scale))
    return np.asarray((log_scale - log_scale.mean()) * math.sqrt(min(square / variance, 1.0)))


def _simulated(log_scale: Floats, square: float, rng: np.random.Generator) -> tuple[float, float]:
    """``_heaviness`` of rows of Gaussian noise on these scales, and its simulation error."""
    scales = np.exp(_drawn_together(log_scale, square))
    if (scales == 1.0).all():
        return 0.0, 0.0
    rows = _engine.fit_rows(rng.standard_normal((max(_VALUES // len(scales), GROUPS), len(scales))) * scales)
    inverse = 1.0 / rows[:, _fit.ALPHA]
    value = float(_heaviness(inverse.mean(), float(_null.inverse_alpha(len(scales)))))
    return value, float(inverse.std(ddof=1)) / math.sqrt(len(inverse))


@functools.cache
def _half_normal() -> tuple[Floats, Floats]:
    """Values of |ξ|, ξ normal, and their probabilities: cells of 10 % from 0.01 to 5."""
    edges = np.concatenate([[0.0], np.geomspace(0.01, 5.0, 65), [np.inf]])
    weights = np.diff(special.erf(edges / math.sqrt(2.0)))
    nodes = np.concatenate([[0.005], np.sqrt(edges[1:-2] * edges[2:-1]), [5.2]])
    return nodes, weights


def _mixture(log_scale: Floats, square: float) -> float:
    """The limit of ``_simulated`` for ever more values a row: one fit to the mixture's own probabilities."""
    ordered = np.sort(_drawn_together(log_scale, square))
    if ordered[0] == ordered[-1]:
        return 0.0
    edges = np.linspace(0, len(ordered), min(len(ordered), _SCALES) + 1).astype(int)
    scales = np.exp(np.add.reduceat(ordered, edges[:-1]) / np.diff(edges))
    nodes, weights = _half_normal()
    values = np.outer(scales, nodes).ravel()
    masses = np.outer(np.diff(edges) / len(ordered), weights).ravel() * _WEIGHT
    return 1.0 / float(_engine.fit_rows(values[None, :], masses)[0, _fit.ALPHA]) - 0.5


def _estimate(value: float, replicates: Floats, rows: int, simulation: float = 0.0) -> Estimate:
    se = math.hypot(standard_error(replicates), simulation)
    return Estimate(value, se, value - T95 * se, value + T95 * se, rows, "delete-a-group jackknife over draws")


def _none() -> Estimate:
    nan = math.nan
    return Estimate(nan, nan, nan, nan, 0, "none")


def _nothing(readings: Readings, status: Status, reason: str) -> Decomposition:
    none = _none()
    return Decomposition(
        none, none, none, none, none, none, none, readings, readings.verdict, readings.why, status, reason
    )
