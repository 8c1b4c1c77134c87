"""Verdicts on samples of known laws: the confusion table of ``compare.stable_vs_gaussian``, location 0.

1000 samples a cell, 4000 for t₃ and the lognormal mixture of scales. What must hold: laws of finite variance are called
``stable`` at most 5 % of the time at n = 200 and 5000 and at most 2 % at n = 1000; those of ``HARD``, mixtures of many
scales, which no rival has, among them, at most 5 % at n = 5000; SαS of α ≤ 1.95 is called ``heavy_finite_variance`` at
most 5 %; a Gaussian is called either at most 1 %, and ``gaussian`` at least 90 % at n = 1000 and 93 % at n = 5000. Of
laws that no test at these sizes can tell from SαS, and of laws outside the scheme, the table only says what happens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradnoise.analyzer.stats import Verdict, compare, stable

SIZES = (200, 1000, 5000)
SAMPLES, MORE_SAMPLES = 1000, 4000
MORE = ("Student t, ν = 3", "lognormal(1) scale mixture")
Draw = Callable[[int, np.random.Generator], np.ndarray]


def _signs(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice((-1.0, 1.0), n)


def _layers(scales: tuple[float, ...], weights: tuple[float, ...]) -> Draw:
    """Gaussian values on some scales."""
    return lambda n, rng: rng.normal(size=n) * rng.choice(scales, n, p=weights)


def _truncated(n: int, rng: np.random.Generator) -> np.ndarray:
    x = stable.rvs(1.5, 1.0, 2 * n + 100, rng)
    return np.asarray(x[np.abs(x) <= 50.0][:n])


STABLE: dict[str, Draw] = {
    f"SαS, α = {alpha}": lambda n, rng, alpha=alpha: stable.rvs(alpha, 1.0, n, rng)  # type: ignore[misc]
    for alpha in (1.0, 1.2, 1.5, 1.7, 1.8, 1.9, 1.95)
}
FINITE: dict[str, Draw] = {
    "Student t, ν = 2.5": lambda n, rng: rng.standard_t(2.5, n),
    "Student t, ν = 3": lambda n, rng: rng.standard_t(3, n),
    "Student t, ν = 5": lambda n, rng: rng.standard_t(5, n),
    "lognormal(1) scale mixture": lambda n, rng: rng.normal(size=n) * np.exp(rng.normal(size=n)),
    "Laplace": lambda n, rng: rng.laplace(size=n),
    "generalised Gaussian, β = 0.7": lambda n, rng: rng.gamma(1 / 0.7, size=n) ** (1 / 0.7) * _signs(n, rng),
    "Gaussian, 5 % of thrice the scale": lambda n, rng: rng.normal(size=n) * np.where(rng.random(n) < 0.05, 3, 1),
    "Gaussian, 1 % of ten times the scale": lambda n, rng: rng.normal(size=n) * np.where(rng.random(n) < 0.01, 10, 1),
    "logistic": lambda n, rng: rng.logistic(size=n),
    "symmetric lognormal(1)": lambda n, rng: np.exp(rng.normal(size=n)) * _signs(n, rng),
}
HARD: dict[str, Draw] = {
    "lognormal(2) scale mixture": lambda n, rng: rng.normal(size=n) * np.exp(2 * rng.normal(size=n)),
    "lognormal(3) scale mixture": lambda n, rng: rng.normal(size=n) * np.exp(3 * rng.normal(size=n)),
    "Gaussian, scales 1, 4, 16, 64": _layers((1, 4, 16, 64), (0.7, 0.21, 0.065, 0.025)),
    "Gaussian, scales 1, 5, 25": _layers((1, 5, 25), (0.7, 0.25, 0.05)),
    "skewed lognormal(1), median 0": lambda n, rng: np.exp(rng.normal(size=n)) - 1,
    "Student t, ν = 2.2": lambda n, rng: rng.standard_t(2.2, n),
}
NOT_TOLD: dict[str, Draw] = {
    "Student t, ν = 2.5, plus N(0, 4)": lambda n, rng: rng.standard_t(2.5, n) + 2 * rng.normal(size=n),
    "Student t, ν = 3, plus N(0, 4)": lambda n, rng: rng.standard_t(3, n) + 2 * rng.normal(size=n),
    "SαS, α = 1.5, cut at ±50": _truncated,
}
OTHER: dict[str, Draw] = {
    "Gaussian": lambda n, rng: rng.normal(size=n),
    "uniform": lambda n, rng: rng.uniform(-1, 1, n),
    **{
        f"Student t, ν = {nu} (infinite variance, not stable)": lambda n, rng, nu=nu: rng.standard_t(nu, n)  # type: ignore[misc]
        for nu in (1.2, 1.5, 1.9)
    },
    "SαS, α = 1.5, lognormal(0.5) scales (infinite variance, not stable)": lambda n, rng: (
        stable.rvs(1.5, 1.0, n, rng) * np.exp(0.5 * rng.normal(size=n))
    ),
}
SHOWN = (Verdict.GAUSSIAN, Verdict.STABLE, Verdict.HEAVY_FINITE_VARIANCE, Verdict.UNDECIDED)


def shares(draw: Draw, n: int, samples: int, rng: np.random.Generator) -> dict[Verdict, float]:
    """Share of each verdict."""
    found: list[Verdict] = []
    while len(found) < samples:
        u = np.column_stack([draw(n, rng) for _ in range(min(100, samples - len(found)))])
        found += compare.stable_vs_gaussian_columns(u, rivals=True, threads=1).verdict
    return {verdict: found.count(verdict) / samples for verdict in Verdict}


def main() -> None:
    """Print the table; assert what is promised."""
    print("Per cent called gaussian / stable / heavy_finite_variance / undecided:\n")
    print("| law |" + "".join(f" n = {n} |" for n in SIZES))
    print("|---|" + "---|" * len(SIZES))
    missed = []
    for index, (name, draw) in enumerate({**STABLE, **FINITE, **OTHER, **HARD, **NOT_TOLD}.items()):
        cells = []
        for n in SIZES:
            rng = np.random.default_rng([4, index, n])
            share = shares(draw, n, MORE_SAMPLES if name in MORE else SAMPLES, rng)
            cells.append(" / ".join(f"{100 * share[verdict]:.1f}" for verdict in SHOWN))
            stable_, heavy = share[Verdict.STABLE], share[Verdict.HEAVY_FINITE_VARIANCE]
            limit = {200: 0.05, 1000: 0.02, 5000: 0.05}[n]
            accepted = {200: 0.0, 1000: 0.9, 5000: 0.93}[n]
            if (
                (name in FINITE and stable_ > limit)
                or (name in HARD and n == 5000 and stable_ > limit)
                or (name in STABLE and heavy > 0.05)
                or (name == "Gaussian" and (max(stable_, heavy) > 0.01 or share[Verdict.GAUSSIAN] < accepted))
            ):
                missed.append(f"{name}, n = {n}: {cells[-1]}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    assert not missed, "; ".join(missed)


if __name__ == "__main__":
    main()
