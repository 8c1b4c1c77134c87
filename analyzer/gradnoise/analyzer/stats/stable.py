"""The symmetric α-stable law SαS(σ): density, random numbers and maximum likelihood.

SαS(σ) has the characteristic function E exp(iωx) = exp(−σ^α |ω|^α), 0 < α ≤ 2. α = 1 is the Cauchy law of scale σ and
**α = 2 is N(0, 2σ²)**: σ is a scale, never a standard deviation. The functions here cover 0.5 ≤ α ≤ 2.

The density comes from a shipped table (``tools/make_stable_table.py``); its relative error is below 1e-9 for
every finite x and every α in the range, except where the density itself underflows. References: Nolan,
*Univariate Stable Distributions* (2020), §3.2; DuMouchel, Ann. Statist. 1 (1973) for the likelihood; Chambers,
Mallows & Stuck, JASA 71 (1976) for ``rvs``.
"""

from gradnoise.analyzer.stats._law import logpdf, pdf, rvs
from gradnoise.analyzer.stats._stable_fit import StableFit, StableFits, fit, fit_columns

__all__ = ["StableFit", "StableFits", "fit", "fit_columns", "logpdf", "pdf", "rvs"]
