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
- ``stable``: p < 0.01, α's interval ends below 1.98, Δ > ``STABLE_MARGIN``, a t law free to have infinite variance is
  not ahead of SαS by ``FREE_T_MARGIN``, the values are not skewed (``skew_p``), and SαS fits by itself (``stable_p``);
- ``heavy_finite_variance``: p < 0.01, α's interval ends below 1.98, Δ < −``HEAVY_MARGIN``, and a t law with ν < 2 is
  behind the best rival;
- ``undecided``: everything else, α̂ at 0.5, the end of what is fitted, among it.

SαS may beat every rival and yet not be the law: Gaussian noise on many scales (layers) has a variance, and no rival
has so many scales. That is what ``stable_p`` is for.

The margins come from simulation; ``tests/calibration/cal_verdict.py`` prints the confusion table. Per cent called
``stable`` at n = 200 / 1000 / 5000 (100 to 2500 samples a figure):

- SαS of α = 1 91/91/93, 1.2 58/76/87, 1.5 7/65/93, 1.7 4/68/95, 1.8 1/53/95, 1.9 1/22/82, 1.95 0/3/47;
  ``heavy_finite_variance`` at most 2.4;
- finite variance, one hump of scales (t₂.₅, t₃, t₅, Laplace, lognormal(1) scales, …): at most 4.2/1.2/0;
- finite variance, many scales: lognormal(2) 8/0/0, lognormal(3) 0/0/0, Gaussian on scales 1, 4, 16, 64 72/10/0, on
  1, 5, 25 57/10/0; t₂.₂ 1/2/0; exp(N) − 1, skewed, 0/0/0;
- infinite variance, not stable: t₁.₂ 75/57/29, t₁.₅ 29/24/4, t₁.₉ 5/5/2 (``heavy_finite_variance`` 6/16/7), SαS(1.5)
  on lognormal(0.5) scales 10/8/0 (8/1/0).

**What one vector cannot tell**: a law with a variance whose difference from SαS lies beyond the sample. t₂.₅ plus
N(0, 4) is called ``stable`` in 0/24/77 %, t₃ plus N(0, 4) in 0/8/39 %, SαS(1.5) cut at ±50 scales in 2/44/87 %: SαS
passes every test there. And at n = 200 ``stable`` may be a spread of scales.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradnoise.analyzer.stats import _engine, _fit, _laws, _null, gaussian, goodness
from gradnoise.analyzer.stats import rivals as _rivals
from gradnoise.analyzer.stats._estimate import MIN_VALUES, DegenerateValues, Status, TooFewValues, Verdict, as_real
from gradnoise.analyzer.stats._laws import PARAMETERS, Law
from gradnoise.analyzer.stats._multiple import benjamini_hochberg
from gradnoise.analyzer.stats._signs import skew_p_value
from gradnoise.analyzer.stats._stable_fit import fits_from_rows, raise_unfit
from gradnoise.analyzer.stats._table import ALPHA_MIN

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
GAUSSIAN_MARGIN = 4.0
"""... and no rival better than the Gaussian by this much (nats, each parameter costing one). In 1.5 % of Gaussian
samples a mixture is by more than 3, having found a spike."""
STABLE_MARGIN = 2.0
"""Nats by which SαS must beat the best finite-variance rival, each parameter costing one."""
HEAVY_MARGIN = 3.0
"""Nats by which a finite-variance rival must beat SαS, each parameter costing one."""
FREE_T_MARGIN = 0.4
"""Nats by which a Student t of any ν ≥ 0.5 may beat SαS that is called stable. At α = ν = 1 the two are the same law
and their maxima differ by the chance of sampling: by more than this in 6 % of Cauchy samples."""
FIT_BELOW = 0.05
"""SαS does not fit, and is not called stable, at a p-value of its own goodness of fit below this."""
SKEW_BELOW = 0.01
"""Values are skewed at a p-value of symmetry below this."""


class Evidence(NamedTuple):
    """What the rivals say, in nats, each parameter costing one; and what the sample says of SαS without rivals."""

    best: Law
    """The best finite-variance rival."""
    margin: float
    """Δ: SαS less the best rival."""
    free_t: float
    """SαS less a Student t of any ν ≥ 0.5."""
    free_nu: float
    """ν of that t; below 2 its variance is infinite."""
    over_gaussian: float
    """The best rival less the Gaussian."""
    stable_p: float
    """p-value of SαS itself: Anderson–Darling of sizes, calibrated by simulation (as ``goodness.goodness_of_fit``)."""
    skew_p: float
    """p-value of symmetry: the balance of signs among the smaller and among the larger half of sizes."""


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
    """Δ of every column; this and the two p-values below are NaN without rivals."""
    stable_p: Floats
    """p-value of SαS itself in every column."""
    skew_p: Floats
    """p-value of symmetry in every column."""
    best_rival: tuple[Law | None, ...]
    """``None`` without rivals."""
    warnings: tuple[str, ...] = ()

    def rejected_share(self, rate: float = 0.05) -> float:
        """Share of the fitted columns that reject the Gaussian at this false-discovery rate; NaN without any."""
        fitted = np.isfinite(self.p_value)
        return float(np.mean(self.adjusted[fitted] <= rate)) if fitted.any() else float("nan")


def decide(
    p_value: float, alpha: float, low: float, high: float, evidence: Evidence | None = None
) -> tuple[Verdict, str]:
    """The verdict on a sample and why, by the rule of the module. Without evidence of rivals it is ``gaussian`` or
    ``undecided``. ``low``, ``high``: the interval of ``alpha``."""
    if p_value >= ACCEPT_ABOVE:
        if not low >= ACCEPT_LOW:
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
    if alpha <= ALPHA_MIN:
        return Verdict.UNDECIDED, f"{rejected}, but α is at or below {ALPHA_MIN}, the end of what is fitted"
    margin, rival = evidence.margin, evidence.best
    if margin < -HEAVY_MARGIN:
        if evidence.free_nu < _rivals.NU_MIN and evidence.free_t <= margin:
            infinite = f"a t law of infinite variance (ν = {evidence.free_nu:.2f}) fits no worse than {rival}"
            return Verdict.UNDECIDED, f"{rejected} and {rival} beats SαS by {-margin:.1f} nats, but {infinite}"
        return Verdict.HEAVY_FINITE_VARIANCE, f"{rejected} and {rival} beats SαS by {-margin:.1f} nats"
    if margin <= STABLE_MARGIN:
        return Verdict.UNDECIDED, f"{rejected}, but SαS and {rival} differ by {margin:.1f} nats only"
    if evidence.free_t < -FREE_T_MARGIN:
        better = f"a t law (ν = {evidence.free_nu:.2f}) beats SαS by {-evidence.free_t:.1f} nats"
        return Verdict.UNDECIDED, f"{rejected}, but {better}"
    if evidence.skew_p < SKEW_BELOW:
        return Verdict.UNDECIDED, f"{rejected}, but {_skewed(evidence)}, and SαS is symmetric"
    if evidence.stable_p < FIT_BELOW:
        return Verdict.UNDECIDED, f"{rejected}, but SαS itself does not fit (p = {evidence.stable_p:.2g})"
    return Verdict.STABLE, f"{rejected} and SαS beats {rival}, the best finite-variance rival, by {margin:.1f} nats"


def _skewed(evidence: Evidence) -> str:
    return f"the values are skewed (p = {evidence.skew_p:.2g})"


class _Fitted(NamedTuple):
    """SαS and the Gaussian fitted to a sample."""

    parameters: Parameters
    stable: float
    """ℓ of SαS."""
    gaussian: float
    """ℓ of the Gaussian."""


def _evidence(
    values: Floats, fitted: _Fitted, sample: Sample, of_rivals: dict[Law, float], nu: float, edge: bool
) -> Evidence:
    """``of_rivals``: log-likelihoods, that of Student's t with ``nu`` ≥ 2 among them; ``edge``: it ended on a bound.
    A fitted location costs every law the same."""
    priced = {law: value - PARAMETERS[law] for law, value in of_rivals.items()}
    best = max(priced, key=priced.__getitem__)
    own = fitted.stable - PARAMETERS[Law.STABLE]
    free_t = of_rivals[Law.STUDENT_T]
    if edge:
        top = _rivals.best_student(sample, _rivals.NU_FREE)
        nu, free_t = top.parameters[0], top.loglik - sample.log_unit
    distance = goodness.anderson_darling(Law.STABLE, fitted.parameters, values)
    return Evidence(
        best=best,
        margin=own - priced[best],
        free_t=own - (free_t - PARAMETERS[Law.STUDENT_T]),
        free_nu=nu,
        over_gaussian=priced[best] - (fitted.gaussian - PARAMETERS[Law.GAUSSIAN]),
        stable_p=_null.stable_p_value(distance, fitted.parameters[0]),
        skew_p=skew_p_value(values - fitted.parameters[-1]),
    )


def _column_evidence(column: Floats, location: bool, fitted: _Fitted) -> Evidence | None:
    """``None`` for a column whose magnitudes no rival can be fitted to."""
    values = column[column != 0].astype(np.float64)
    try:
        sample = _rivals.prepare(column, location)
    except DegenerateValues:
        return None
    tops = {law: best(sample) for law, best in _rivals.MAXIMA.items()}
    of_rivals = {law: top.loglik - sample.log_unit for law, top in tops.items()}
    student = tops[Law.STUDENT_T]
    return _evidence(values, fitted, sample, of_rivals, student.parameters[0], student.edge)


def stable_vs_gaussian_columns(
    U: ArrayLike, *, location: bool = False, rivals: bool = False, threads: int | None = None
) -> Comparisons:
    """Every column of ``U`` (draws × columns) compared; see ``stable_vs_gaussian`` and ``stable.fit_columns``.

    Cheap by default: without rivals a verdict is ``gaussian`` or ``undecided``. ``rivals=True`` fits them to every
    column, about 2 ms each at 1000 draws, and decides by the whole rule.
    """
    values = as_real(U, "U", 2)
    rows = _engine.fit_rows(values, located=location, intervals=True, columns=True, threads=threads)
    fits = fits_from_rows(rows, location)
    size = len(rows)
    fitted = np.isin(rows[:, _fit.CODE].astype(int), _engine.FITTED)
    ratio, p, adjusted, margin, stable_p, skew_p = (np.full(size, np.nan) for _ in range(6))
    ratio[fitted] = np.maximum(2 * (rows[fitted, _fit.LOGLIK] - rows[fitted, _fit.GAUSS_LOGLIK]), 0.0)
    p[fitted] = _null.p_value(ratio[fitted], fits.n[fitted], located=location)
    adjusted[fitted] = benjamini_hochberg(p[fitted])
    verdicts = [Verdict.UNDECIDED] * size
    best: list[Law | None] = [None] * size
    for j in np.flatnonzero(fitted).tolist():
        evidence = None
        if rivals:
            evidence = _column_evidence(values[:, j], location, _fitted(fits[j], rows[j, _fit.GAUSS_LOGLIK]))
        if evidence is not None:
            margin[j], best[j] = evidence.margin, evidence.best
            stable_p[j], skew_p[j] = evidence.stable_p, evidence.skew_p
        verdicts[j], _ = decide(p[j], fits.alpha.value[j], fits.alpha.low[j], fits.alpha.high[j], evidence)
    return Comparisons(
        p_value=p,
        adjusted=adjusted,
        verdict=tuple(verdicts),
        likelihood_ratio=ratio,
        stable=fits,
        gaussian=gaussian.fit_columns(values, location=location),
        margin=margin,
        stable_p=stable_p,
        skew_p=skew_p,
        best_rival=tuple(best),
    )


def _fitted(fit: StableFit, of_gaussian: float) -> _Fitted:
    mu = 0.0 if fit.location is None else fit.location.value
    return _Fitted((fit.alpha.value, fit.scale.value, mu), fit.loglik, float(of_gaussian))


def _criterion(law: Law, loglik: float, n: float, location: bool) -> Criterion:
    k = PARAMETERS[law] + location
    return Criterion(law, loglik, k, aic=2.0 * k - 2.0 * loglik, bic=k * math.log(n) - 2.0 * loglik)


def _vuong(x: Floats, own: Parameters, best: RivalFit) -> Vuong | None:
    if own[0] == 2.0:
        return None
    d = _laws.logpdf(Law.STABLE, own, x) - _laws.logpdf(best.law, best.parameters, x)
    spread = float(d.std()) * math.sqrt(d.size)
    if spread == 0.0:
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
    evidence, vuong, warnings = None, None, fit.warnings
    criteria = [
        _criterion(Law.STABLE, fit.loglik, fit.n, location),
        _criterion(Law.GAUSSIAN, normal.loglik, fit.n, location),
    ]
    if rivals:
        used = values[values != 0].astype(np.float64)
        sample, fitted = _rivals.prepare(values, location), _fitted(fit, normal.loglik)
        found = _rivals.fit_sample(sample)
        student = found[0]
        of_rivals = {rival.law: rival.loglik for rival in found}
        evidence = _evidence(used, fitted, sample, of_rivals, student.nu.value, student.status is not Status.OK)
        best = next(rival for rival in found if rival.law is evidence.best)
        vuong = _vuong(used, fitted.parameters, best)
        if evidence.skew_p < SKEW_BELOW:
            warnings += (f"{_skewed(evidence)}; every law here is symmetric",)
        criteria += [_criterion(rival.law, rival.loglik, fit.n, location) for rival in found]
    verdict, reason = decide(p, fit.alpha.value, fit.alpha.low, fit.alpha.high, evidence)
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
        warnings=warnings,
    )
