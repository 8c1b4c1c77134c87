"""SαS against Gaussian: a likelihood ratio whose null is simulated, because α = 2 is a boundary.

LR = 2 (ℓ_SαS − ℓ_Gauss) is exactly 0 for about 84 % of Gaussian samples and, where it is not, much smaller than
χ²₁ would have it. The p-value is P₀(LR ≥ observed) at the sample's size, from a shipped table
(``tools/make_null_table.py``), and 1 where LR = 0: super-uniform under the Gaussian, so Benjamini–Hochberg over
columns holds (π₀-adaptive variants do not).

Rejecting the Gaussian does not make the law stable: a Student t or a mixture of scales rejects it as well. That
is why no verdict says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, _null, gaussian
from gradnoise.analyzer.stats._estimate import MIN_VALUES, Status, TooFewValues, Verdict, as_real
from gradnoise.analyzer.stats._multiple import benjamini_hochberg
from gradnoise.analyzer.stats._stable_fit import fits_from_rows, raise_unfit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats.gaussian import GaussianFit, GaussianFits
    from gradnoise.analyzer.stats.stable import StableFit, StableFits

__all__ = ["Comparison", "Comparisons", "stable_vs_gaussian", "stable_vs_gaussian_columns"]

FEW_LOCATED = 100
REJECT_BELOW = 0.01
"""``not_gaussian`` needs a p-value below this ..."""
REJECT_HIGH = 1.98
"""... and an interval of α that ends below this: with enough values everything real rejects."""
ACCEPT_ABOVE = 0.05
"""``gaussian`` needs a p-value at least this large ..."""
ACCEPT_LOW = 1.85
"""... and an interval of α that begins here or above: else the sample was too small to tell."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both laws fitted to one sample, and the test of the Gaussian."""

    p_value: float
    """P₀(LR ≥ observed) under the Gaussian, calibrated by n; 1 where LR = 0."""
    verdict: Verdict
    likelihood_ratio: float
    """2 (ℓ_SαS − ℓ_Gauss) ≥ 0."""
    stable: StableFit
    gaussian: GaussianFit
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The fields of ``Comparison`` as arrays over columns, NaN where a column has no fit (``stable.status``
    says why)."""

    p_value: Floats
    adjusted: Floats
    """p-values adjusted for the false-discovery rate (Benjamini–Hochberg) over the columns that were fitted."""
    verdict: tuple[Verdict, ...]
    likelihood_ratio: Floats
    stable: StableFits
    gaussian: GaussianFits
    warnings: tuple[str, ...] = ()

    def rejected_share(self, rate: float = 0.05) -> float:
        """Share of the fitted columns that reject the Gaussian at this false-discovery rate; NaN without any."""
        fitted = np.isfinite(self.p_value)
        return float(np.mean(self.adjusted[fitted] <= rate)) if fitted.any() else float("nan")


def decide(p_value: float, low: float, high: float) -> Verdict:
    """``not_gaussian`` if p < 0.01 and α's interval ends below 1.98; ``gaussian`` if p ≥ 0.05 and it begins at 1.85
    or above; else ``undecided``."""
    if p_value < REJECT_BELOW and high < REJECT_HIGH:
        return Verdict.NOT_GAUSSIAN
    if p_value >= ACCEPT_ABOVE and low >= ACCEPT_LOW:
        return Verdict.GAUSSIAN
    return Verdict.UNDECIDED


def stable_vs_gaussian_columns(U: ArrayLike, *, location: bool = False, threads: int | None = None) -> Comparisons:
    """Every column of ``U`` (draws × columns) compared; see ``stable_vs_gaussian`` and ``stable.fit_columns``."""
    values = as_real(U, "U", 2)
    rows = _engine.fit_rows(values, located=location, intervals=True, columns=True, threads=threads)
    fits = fits_from_rows(rows, location)
    fitted = np.isin(rows[:, _fit.CODE].astype(int), _engine.FITTED)
    ratio = np.full(len(rows), np.nan)
    ratio[fitted] = np.maximum(2 * (rows[fitted, _fit.LOGLIK] - rows[fitted, _fit.GAUSS_LOGLIK]), 0.0)
    p = np.full(len(rows), np.nan)
    p[fitted] = _null.p_value(ratio[fitted], fits.n[fitted])
    adjusted = np.full(len(rows), np.nan)
    adjusted[fitted] = benjamini_hochberg(p[fitted])
    low, high = fits.alpha.low, fits.alpha.high
    verdicts = tuple(decide(p[j], low[j], high[j]) if fitted[j] else Verdict.UNDECIDED for j in range(len(rows)))
    return Comparisons(p, adjusted, verdicts, ratio, fits, gaussian.fit_columns(values, location=location))


def stable_vs_gaussian(x: ArrayLike, *, location: bool = False) -> Comparison:
    """Fit both laws to ``x`` (one dimension) and test the Gaussian; ``location=True`` fits a location in both.

    Exact zeros are left out of both and counted. Errors as of ``stable.fit``. Verdict: ``decide``. The null is
    simulated at location 0; with a fitted location and fewer than 100 values p-values are a little too small
    (P(p ≤ 0.05) = 0.06 at n = 30), and a warning says so.
    """
    values = as_real(x, "x", 1)
    if values.size == 0:
        raise TooFewValues(f"x: expected at least {MIN_VALUES} non-zero values, got an empty array")
    all_of_it = stable_vs_gaussian_columns(values[:, None], location=location)
    status: Status = all_of_it.stable.status[0]
    raise_unfit(status, "x", float(all_of_it.stable.n[0]), values.size)
    one = all_of_it.stable[0]
    few = location and one.n < FEW_LOCATED
    note = (f"{one.n:.0f} values with a fitted location: p-values below {FEW_LOCATED} are a little too small",)
    return Comparison(
        p_value=float(all_of_it.p_value[0]),
        verdict=all_of_it.verdict[0],
        likelihood_ratio=float(all_of_it.likelihood_ratio[0]),
        stable=one,
        gaussian=all_of_it.gaussian[0],
        warnings=one.warnings + (note if few else ()),
    )
