"""The trend of the aggregation curve on samples of known laws (vectors).

Per cent called flat / climbing / unclear. What must hold: SαS climbs in at most 5 % (with 3 standard errors for the
simulation), laws of finite variance are flat in at most 5 %, and at n = 5000 at least 80 % of them climb. Of laws that
are hard to tell, wide mixtures of scales among them, which are flat, the table only says what happens.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from gradnoise.analyzer.stats import aggregation
from gradnoise.analyzer.stats.aggregation import Trend
from tests.calibration.cal_verdict import FINITE, HARD, NOT_TOLD, STABLE, Draw

SAMPLES = {1000: 400, 5000: 150}
NAMES = (
    *STABLE,
    "Student t, ν = 2.5",
    "Student t, ν = 3",
    "Student t, ν = 5",
    "lognormal(1) scale mixture",
    "Laplace",
)
LAWS: dict[str, Draw] = {**{name: {**STABLE, **FINITE}[name] for name in NAMES}, **HARD, **NOT_TOLD}


def trends(draw: Draw, n: int, samples: int, rng: np.random.Generator) -> Counter[Trend]:
    """How often each trend is seen."""
    return Counter(aggregation.aggregation_curve(draw(n, rng), rng=rng).trend for _ in range(samples))


def main() -> None:
    """Print the table; assert the bands."""
    print("| law |" + "".join(f" n = {n} ({samples} samples) |" for n, samples in SAMPLES.items()))
    print("|---|" + "---|" * len(SAMPLES))
    missed = []
    for index, (name, draw) in enumerate(LAWS.items()):
        cells = []
        for n, samples in SAMPLES.items():
            found = trends(draw, n, samples, np.random.default_rng([5, index, n]))
            share = {trend: found[trend] / samples for trend in Trend}
            cells.append(" / ".join(f"{100 * share[t]:.1f}" for t in (Trend.FLAT, Trend.CLIMBING, Trend.UNCLEAR)))
            limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / samples)
            wrong = share[Trend.CLIMBING] if name in STABLE else share[Trend.FLAT]
            few = name in FINITE and n == 5000 and share[Trend.CLIMBING] < 0.8
            if name in NAMES and (wrong > limit or few):
                missed.append(f"{name}, n = {n}: {cells[-1]}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    assert not missed, "; ".join(missed)


if __name__ == "__main__":
    main()
