"""SαS against Gaussian, and against the finite-variance laws that are taken for SαS.

**The test of the Gaussian.** LR = 2 (ℓ_SαS − ℓ_Gauss) is exactly 0 for about 84 % of Gaussian samples and, where it is
not, much smaller than χ²₁ would have it, because α = 2 is a boundary. The p-value is P₀(LR ≥ observed) at the sample's
size, from a shipped table (``tools/make_null_table.py``), and 1 where LR = 0: super-uniform under the Gaussian, so
Benjamini–Hochberg over columns holds (π₀-adaptive variants do not).

**The rivals.** Rejecting the Gaussian does not make the law stable: a Student t or a mixture of scales rejects it as
well. The margin is Δ = ℓ_SαS − k_SαS − max over rivals (ℓ − k), half a difference of AIC, over the finite-variance laws
of ``rivals``; beside it stands Vuong's statistic.

**The verdict** of one vector (``Verdict``; never ``scale_mixture``, which needs the matrix):

- ``gaussian``: p ≥ 0.05, α's interval begins at 1.85 or above, and no rival beats the Gaussian by ``GAUSSIAN_MARGIN``;
- ``stable``: p < 0.01, α's interval ends below 1.98, Δ > ``STABLE_MARGIN``, and a t law free to have infinite variance
  is not ahead of SαS by ``FREE_T_MARGIN``: it is for lognormal mixtures of scales, whose t fit is worse only where it
  is kept from ν < 2;
- ``heavy_finite_variance``: p < 0.01, α's interval ends below 1.98, Δ < −``HEAVY_MARGIN``;
- ``undecided``: everything else.

The margins come from simulation (``tests/calibration/cal_verdict.py`` prints the confusion table). Among its laws of
finite variance at most 4.2, 1.2 and 0.1 % are called ``stable`` at n = 200, 1000 and 5000; SαS(1.5–1.95) is called
``heavy_finite_variance`` in at most 2.4 %, and ``stable`` at n = 5000 in 99 % for α from 1.5 to 1.8, 90 % at 1.9 and
49 % at 1.95. One law lies outside the scheme: Student's t with ν < 2 has infinite variance and is not stable. t₁.₅ is
called ``stable`` in 30 % at n = 1000 and in 5 % at n = 5000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, _laws, _null, gaussian
from gradnoise.analyzer.stats import rivals as _rivals
from gradnoise.analyzer.stats._estimate import MIN_VALUES, Status, TooFewValues, Verdict, as_real
from gradnoise.analyzer.stats._laws import PARAMETERS, Law
from gradnoise.analyzer.stats._multiple import benjamini_hochberg
from gradnoise.analyzer.stats._stable_fit import fits_from_rows, raise_unfit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats._estimate import Floats
    from gradnoise.analyzer.stats._laws import Parameters
    from gradnoise.analyzer.stats.gaussian import GaussianFit, GaussianFits
    from gradnoise.analyzer.stats.rivals import RivalFit, Sample
    from gradnoise.analyzer.stats.stable import StableFit, StableFits

__all__ = [
    "Comparison",
    "Comparisons",
    "Criterion",
    "Evidence",
    "Law",
    "Vuong",
    "decide",
    "stable_vs_gaussian",
    "stable_vs_gaussian_columns",
]

REJECT_BELOW = 0.01
"""The Gaussian is rejected at a p-value below this ..."""
REJECT_HIGH = 1.98
"""... and a verdict other than ``gaussian`` needs an interval of α that ends below this as well: with enough values
everything real rejects."""
ACCEPT_ABOVE = 0.05
"""``gaussian`` needs a p-value at least this large ..."""
ACCEPT_LOW = 1.85
"""... an interval of α that begins here or above: else the sample was too small to tell ..."""
GAUSSIAN_MARGIN = 3.0
"""... and no rival better than the Gaussian by this much (nats, each parameter costing one)."""
STABLE_MARGIN = 2.0
"""Nats by which SαS must beat the best finite-variance rival, each parameter costing one."""
HEAVY_MARGIN = 3.0
"""Nats by which a finite-variance rival must beat SαS, each parameter costing one."""
FREE_T_MARGIN = 0.4
"""Nats by which a Student t of any ν ≥ 0.5 may beat SαS that is called stable. At α = ν = 1 the two are the same law
and their maxima differ by the chance of sampling: by more than this in 6 % of Cauchy samples."""


class Evidence(NamedTuple):
    """What the rivals say, in nats, each parameter costing one."""

    best: Law
    """The best finite-variance rival."""
    margin: float
    """Δ: SαS less the best rival."""
    free_t: float
    """SαS less a Student t of any ν ≥ 0.5."""
    over_gaussian: float
    """The best rival less the Gaussian."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One law of the comparison in figures. Smaller AIC and BIC are better."""

    law: Law
    loglik: float
    k: int
    """Fitted parameters, the location among them if one was fitted."""
    aic: float
    """2k − 2ℓ."""
    bic: float
    """k ln n − 2ℓ."""


@dataclass(frozen=True, slots=True)
class Vuong:
    """Vuong's test of SαS against the best rival (Econometrica 57, 1989, eq. 5.6, with Akaike's correction).

    Σ (d_i) − (k_SαS − k_rival) over √n sd(d_i), d_i the differences of the log-densities. Standard normal if both laws
    are equally far from the truth; that holds for laws that are not nested and differ, and fails where both sit on
    their common boundary, the Gaussian. So it is evidence beside the verdict, not part of it.
    """

    statistic: float
    """Positive where SαS is nearer to the truth."""
    p_value: float
    """Two-sided."""
    rival: Law


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both laws fitted to one sample, the test of the Gaussian, and the rivals."""

    p_value: float
    """P₀(LR ≥ observed) under the Gaussian, calibrated by n; 1 where LR = 0."""
    gaussian_rejected: bool
    """p < 0.01."""
    verdict: Verdict
    reason: str
    """Why the verdict is what it is, in a sentence."""
    likelihood_ratio: float
    """2 (ℓ_SαS − ℓ_Gauss) ≥ 0."""
    stable: StableFit
    gaussian: GaussianFit
    rivals: tuple[RivalFit, ...] = ()
    """Finite-variance rivals; empty without them."""
    evidence: Evidence | None = None
    criteria: tuple[Criterion, ...] = ()
    """SαS, Gaussian and rivals, best AIC first."""
    vuong: Vuong | None = None
    """``None`` without rivals, and where SαS is the Gaussian."""
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
    margin: Floats
    """Δ of every column; NaN without rivals."""
    best_rival: tuple[Law | None, ...]
    """``None`` without rivals."""
    warnings: tuple[str, ...] = ()

    def rejected_share(self, rate: float = 0.05) -> float:
        """Share of the fitted columns that reject the Gaussian at this false-discovery rate; NaN without any."""
        fitted = np.isfinite(self.p_value)
        return float(np.mean(self.adjusted[fitted] <= rate)) if fitted.any() else float("nan")


def decide(p_value: float, low: float, high: float, evidence: Evidence | None = None) -> tuple[Verdict, str]:
    """The verdict on a sample and why, by the rule of the module. Without evidence of rivals it is ``gaussian`` or
    ``undecided``. ``low``, ``high``: the interval of α."""
    if p_value >= ACCEPT_ABOVE:
        if low < ACCEPT_LOW:
            return Verdict.UNDECIDED, f"a Gaussian fits (p = {p_value:.2g}), but so may an α of {low:.3g}"
        if evidence is not None and evidence.over_gaussian >= GAUSSIAN_MARGIN:
            better = f"{evidence.best} fits better than a Gaussian by {evidence.over_gaussian:.1f} nats"
            return Verdict.UNDECIDED, better
        return Verdict.GAUSSIAN, f"a Gaussian fits (p = {p_value:.2g}) and α is at least {low:.3g}"
    if p_value >= REJECT_BELOW:
        return Verdict.UNDECIDED, f"p = {p_value:.2g} neither rejects a Gaussian nor lets it pass"
    rejected = f"the Gaussian is rejected (p = {p_value:.2g})"
    if high >= REJECT_HIGH:
        return Verdict.UNDECIDED, f"{rejected}, but α may be as large as {high:.3g}"
    if evidence is None:
        return Verdict.UNDECIDED, f"{rejected}; finite-variance rivals were not fitted"
    margin, rival = evidence.margin, evidence.best
    if margin < -HEAVY_MARGIN:
        return Verdict.HEAVY_FINITE_VARIANCE, f"{rejected} and {rival} beats SαS by {-margin:.1f} nats"
    if margin <= STABLE_MARGIN:
        return Verdict.UNDECIDED, f"{rejected}, but SαS and {rival} differ by {margin:.1f} nats only"
    if evidence.free_t < -FREE_T_MARGIN:
        return (
            Verdict.UNDECIDED,
            f"{rejected}, but a t law of infinite variance beats SαS by {-evidence.free_t:.1f} nats",
        )
    return Verdict.STABLE, f"{rejected} and SαS beats {rival}, the best finite-variance rival, by {margin:.1f} nats"


def _evidence(stable: float, normal: float, of_rivals: dict[Law, float], free_t: float) -> Evidence:
    """From log-likelihoods; a fitted location costs every law the same."""
    priced = {law: value - PARAMETERS[law] for law, value in of_rivals.items()}
    best = max(priced, key=priced.__getitem__)
    own = stable - PARAMETERS[Law.STABLE]
    return Evidence(
        best=best,
        margin=own - priced[best],
        free_t=own - (free_t - PARAMETERS[Law.STUDENT_T]),
        over_gaussian=priced[best] - (normal - PARAMETERS[Law.GAUSSIAN]),
    )


def _free_t(sample: Sample) -> float:
    """ℓ of Student's t with ν ≥ 0.5."""
    return _rivals.best_student(sample, _rivals.NU_FREE).loglik - sample.log_unit


def _column_evidence(values: Floats, location: bool, stable: float, normal: float) -> Evidence:
    sample = _rivals.prepare(values, location)
    tops = {law: best(sample) for law, best in _rivals.MAXIMA.items()}
    of_rivals = {law: top.loglik - sample.log_unit for law, top in tops.items()}
    free_t = _free_t(sample) if tops[Law.STUDENT_T].edge else of_rivals[Law.STUDENT_T]
    return _evidence(stable, normal, of_rivals, free_t)


def stable_vs_gaussian_columns(
    U: ArrayLike, *, location: bool = False, rivals: bool = False, threads: int | None = None
) -> Comparisons:
    """Every column of ``U`` (draws × columns) compared; see ``stable_vs_gaussian`` and ``stable.fit_columns``.

    Cheap by default: without rivals a verdict is ``gaussian`` or ``undecided``. ``rivals=True`` fits them to every
    column, about 1 ms each at 1000 draws, and decides by the whole rule.
    """
    values = as_real(U, "U", 2)
    rows = _engine.fit_rows(values, located=location, intervals=True, columns=True, threads=threads)
    fits = fits_from_rows(rows, location)
    size = len(rows)
    fitted = np.isin(rows[:, _fit.CODE].astype(int), _engine.FITTED)
    ratio, p, adjusted, margin = (np.full(size, np.nan) for _ in range(4))
    ratio[fitted] = np.maximum(2 * (rows[fitted, _fit.LOGLIK] - rows[fitted, _fit.GAUSS_LOGLIK]), 0.0)
    p[fitted] = _null.p_value(ratio[fitted], fits.n[fitted], located=location)
    adjusted[fitted] = benjamini_hochberg(p[fitted])
    verdicts = [Verdict.UNDECIDED] * size
    best: list[Law | None] = [None] * size
    for j in np.flatnonzero(fitted):
        evidence = None
        if rivals:
            logliks = float(rows[j, _fit.LOGLIK]), float(rows[j, _fit.GAUSS_LOGLIK])
            evidence = _column_evidence(values[:, j], location, *logliks)
            margin[j], best[j] = evidence.margin, evidence.best
        verdicts[j], _ = decide(p[j], fits.alpha.low[j], fits.alpha.high[j], evidence)
    return Comparisons(
        p_value=p,
        adjusted=adjusted,
        verdict=tuple(verdicts),
        likelihood_ratio=ratio,
        stable=fits,
        gaussian=gaussian.fit_columns(values, location=location),
        margin=margin,
        best_rival=tuple(best),
    )


def _criterion(law: Law, loglik: float, n: float, location: bool) -> Criterion:
    k = PARAMETERS[law] + location
    return Criterion(law, loglik, k, aic=2.0 * k - 2.0 * loglik, bic=k * math.log(n) - 2.0 * loglik)


def _vuong(x: Floats, fit: StableFit, best: RivalFit) -> Vuong | None:
    mu = 0.0 if fit.location is None else fit.location.value
    own: Parameters = (fit.alpha.value, fit.scale.value, mu)
    d = _laws.logpdf(Law.STABLE, own, x) - _laws.logpdf(best.law, best.parameters, x)
    spread = float(d.std()) * math.sqrt(d.size)
    if fit.alpha.value == 2.0 or spread == 0.0:
        return None
    statistic = float(d.sum() - PARAMETERS[Law.STABLE] + PARAMETERS[best.law]) / spread
    return Vuong(statistic, math.erfc(abs(statistic) / math.sqrt(2.0)), best.law)


def stable_vs_gaussian(x: ArrayLike, *, location: bool = False, rivals: bool = True) -> Comparison:
    """Fit SαS, the Gaussian and the finite-variance rivals to ``x`` (one dimension), test the Gaussian, and decide.

    ``location=True`` fits a location in every law. ``rivals=False`` leaves the rivals out, most of the time spent;
    then the verdict is ``gaussian`` or ``undecided``. Exact zeros are left out of all laws and counted. Errors as of
    ``stable.fit``.
    """
    values = as_real(x, "x", 1)
    if values.size == 0:
        raise TooFewValues(f"x: expected at least {MIN_VALUES} non-zero values, got an empty array")
    both = stable_vs_gaussian_columns(values[:, None], location=location)
    raise_unfit(both.stable.status[0], "x", float(both.stable.n[0]), values.size)
    fit, normal, p = both.stable[0], both.gaussian[0], float(both.p_value[0])
    found: tuple[RivalFit, ...] = ()
    evidence, vuong = None, None
    criteria = [
        _criterion(Law.STABLE, fit.loglik, fit.n, location),
        _criterion(Law.GAUSSIAN, normal.loglik, fit.n, location),
    ]
    if rivals:
        sample = _rivals.prepare(values, location)
        found = _rivals.fit_sample(sample)
        of_rivals = {rival.law: rival.loglik for rival in found}
        free_t = of_rivals[Law.STUDENT_T] if found[0].status is Status.OK else _free_t(sample)
        evidence = _evidence(fit.loglik, normal.loglik, of_rivals, free_t)
        best = next(rival for rival in found if rival.law is evidence.best)
        vuong = _vuong(values[values != 0].astype(np.float64), fit, best)
        criteria += [_criterion(rival.law, rival.loglik, fit.n, location) for rival in found]
    verdict, reason = decide(p, fit.alpha.low, fit.alpha.high, evidence)
    return Comparison(
        p_value=p,
        gaussian_rejected=p < REJECT_BELOW,
        verdict=verdict,
        reason=reason,
        likelihood_ratio=float(both.likelihood_ratio[0]),
        stable=fit,
        gaussian=normal,
        rivals=found,
        evidence=evidence,
        criteria=tuple(sorted(criteria, key=lambda c: c.aic)),
        vuong=vuong,
        warnings=fit.warnings,
    )
