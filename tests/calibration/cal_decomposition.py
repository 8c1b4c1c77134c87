"""Verdicts and shares of ``decomposition.decompose`` on matrices of known law: 512 draws in pairs, 256 columns.

Shares are of the heaviness 1/α − ½ across parameters; truth: Gaussian noise of spread scales is all scale, columns of
one scale are all tail. Promised: at most 5 % of the matrices of a law called what it is not (a t or Laplace law
``stable``, a Gaussian one heavy, a heavy one ``gaussian`` or ``scale_mixture``), with 4.5 binomial standard errors;
mean scale share of Gaussian noise between 0.95 and 1.05 from s = 0.5 on; mean tail share of columns of one scale
between 0.95 and 1.05.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradnoise.analyzer.stats import Verdict, contrasts, decomposition, stable

MATRICES = 200
DRAWS, COLUMNS = 512, 256
GAUSSIAN, MIXTURE = {Verdict.GAUSSIAN, Verdict.UNDECIDED}, {Verdict.SCALE_MIXTURE, Verdict.UNDECIDED}
STABLE, FINITE = {Verdict.STABLE, Verdict.UNDECIDED}, {Verdict.HEAVY_FINITE_VARIANCE, Verdict.UNDECIDED}

Make = Callable[[np.random.Generator], Any]


def scaled(make: Make, s: float) -> Make:
    """``make`` times lognormal(0, s) scales of the columns, others in each matrix."""
    return lambda rng: make(rng) * np.exp(s * rng.standard_normal(COLUMNS))


def gaussian(rng: np.random.Generator) -> Any:
    return rng.standard_normal((DRAWS, COLUMNS))


def sas(alpha: float) -> Make:
    return lambda rng: stable.rvs(alpha, 1.0, (DRAWS, COLUMNS), rng)


def student(freedom: float) -> Make:
    return lambda rng: rng.standard_t(freedom, (DRAWS, COLUMNS))


# Name, draws, verdicts that are not wrong, and the share that is 1 ("scale", "tail" or neither).
CASES: tuple[tuple[str, Make, set[Verdict], str], ...] = (
    ("Gaussian", gaussian, GAUSSIAN, ""),
    ("Gaussian, s = 0.5", scaled(gaussian, 0.5), MIXTURE, "scale"),
    ("Gaussian, s = 1", scaled(gaussian, 1.0), MIXTURE, "scale"),
    ("Gaussian, s = 2", scaled(gaussian, 2.0), MIXTURE, "scale"),
    ("SαS(1.5)", sas(1.5), STABLE, "tail"),
    ("SαS(1.7)", sas(1.7), STABLE, "tail"),
    ("SαS(1.9)", sas(1.9), STABLE, "tail"),
    ("SαS(1.7), s = 1", scaled(sas(1.7), 1.0), STABLE, ""),
    ("SαS(1.95), s = 1", scaled(sas(1.95), 1.0), STABLE, ""),
    ("t, 2.5 degrees", student(2.5), FINITE, "tail"),
    ("t, 3 degrees", student(3), FINITE, "tail"),
    ("t, 5 degrees", student(5), FINITE, "tail"),
    ("t, 3 degrees, s = 1", scaled(student(3), 1.0), FINITE, ""),
    ("Laplace", lambda rng: rng.laplace(size=(DRAWS, COLUMNS)), FINITE, "tail"),
)


def main() -> None:
    missed = []
    names = [verdict for verdict in Verdict if verdict in GAUSSIAN | MIXTURE | STABLE | FINITE]
    print(
        f"{MATRICES} matrices of {DRAWS} draws × {COLUMNS} columns a row, in pairs; shares: mean (standard deviation);"
    )
    print("covers: share of the 95 % intervals of the share that is 1 which hold 1\n")
    print(f"| columns | {' | '.join(names)} | total h | scale share | tail share | covers | sd of ln scale |")
    print("|---|" + "---|" * (len(names) + 5))
    for name, make, right, whole in CASES:
        rng = np.random.default_rng(11)
        results = [decomposition.decompose(contrasts.pair(make(rng)), rng=rng) for _ in range(MATRICES)]
        counts = collections.Counter(result.verdict for result in results)
        wrong = sum(count for verdict, count in counts.items() if verdict not in right) / MATRICES
        shares = {
            part: np.array([getattr(result, f"{part}_share").value for result in results]) for part in ("scale", "tail")
        }
        covers = "–"
        if whole:
            intervals = [getattr(result, f"{whole}_share") for result in results]
            covers = f"{np.mean([i.low <= 1 <= i.high for i in intervals]):.2f}"
            mean = float(shares[whole].mean())
            if not 0.95 <= mean <= 1.05:
                missed.append(f"{whole} share of {name}: {mean:.3f}")
        if wrong > 0.05 + 4.5 * math.sqrt(0.0475 / MATRICES):
            missed.append(f"{name}: {wrong:.1%} wrong")
        print(
            f"| {name} | {' | '.join(f'{counts[verdict] / MATRICES:.1%}' for verdict in names)} "
            f"| {np.mean([result.total.value for result in results]):.3f} "
            f"| {' | '.join(described(values) for values in shares.values())} | {covers} "
            f"| {np.mean([result.log_scale_sd.value for result in results]):.3f} |",
            flush=True,
        )
    assert not missed, "; ".join(missed)


def described(values: Any) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():.3f} ({known.std():.3f})" if len(known) > len(values) / 2 else "–"


if __name__ == "__main__":
    main()
