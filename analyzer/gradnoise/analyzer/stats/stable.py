"""The symmetric α-stable law SαS(σ): density, score, distribution function, quantiles, random numbers, fits.

SαS(σ) has the characteristic function E exp(iωx) = exp(−σ^α |ω|^α), 0 < α ≤ 2. α = 1 is the Cauchy law of scale σ and
**α = 2 is N(0, 2σ²)**: σ is a scale, never a standard deviation. The functions here cover 0.5 ≤ α ≤ 2 and every finite
x, are exact at α = 1 and α = 2 and continuous through and into them.

All of it comes from one shipped table (``tools/make_stable_table.py``). Relative errors measured against 30-digit
series and integrals for α from 0.5 to 1.9999 and |x| ≤ 1e6 scales: density 2e-10, ``sf`` and ``cdf`` 2e-12, in the far
tail too, ``ppf`` and ``isf`` 5e-11. Absolute errors of ``score`` at scale 1: 1e-8 in α (relative where it exceeds 1),
1e-7 in the scale. ``stable_torch.logpdf`` is the same density on tensors.

References: Nolan, *Univariate Stable Distributions* (2020), §3.2; DuMouchel, Ann. Statist. 1 (1973) for the
likelihood; Chambers, Mallows & Stuck, JASA 71 (1976) for ``rvs``.
"""

from gradnoise.analyzer.stats._law import Score, cdf, isf, logpdf, pdf, ppf, rvs, score, sf
from gradnoise.analyzer.stats._stable_fit import StableFit, StableFits, fit, fit_columns

__all__ = [
    "Score",
    "StableFit",
    "StableFits",
    "cdf",
    "fit",
    "fit_columns",
    "isf",
    "logpdf",
    "pdf",
    "ppf",
    "rvs",
    "score",
    "sf",
]
