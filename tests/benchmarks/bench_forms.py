"""Time of one parameter group, 512 draws × 1024 coordinates in pairs, in every form and decomposed; one core.

The live plan reads the first three. Best of three, in seconds of this process; fits that stop at the boundary are the
cheaper ones, so that a Gaussian group takes less time than a heavy one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from unittest import mock

import numpy as np

from gradnoise.analyzer.stats import _engine, contrasts, decomposition, forms, stable

from .paired import fastest

DRAWS, COORDINATES = 512, 1024
REPEATS = 3


def main() -> None:
    rng = np.random.default_rng(0)
    scales = np.exp(rng.standard_normal(COORDINATES))
    shape = (DRAWS, COORDINATES)
    groups = {
        "Gaussian": rng.standard_normal(shape) * scales,
        "SαS(1.7)": stable.rvs(1.7, 1.0, shape, rng) * scales,
        "t, 3 degrees": rng.standard_t(3, shape) * scales,
    }
    live: dict[str, Callable[[contrasts.Contrast], object]] = {
        "per_parameter": forms.per_parameter,
        "across_parameter": forms.across_parameter,
        "standardized": forms.standardized,
    }
    others: dict[str, Callable[[contrasts.Contrast], object]] = {
        "per_parameter, SαS tested": lambda noise: forms.per_parameter(noise, rng=rng),
        "row_scaled": forms.row_scaled,
        "pooled": forms.pooled,
        "vector": lambda noise: forms.vector(noise, rng=rng),
        "projection": lambda noise: forms.projection(noise, rng=rng),
        "decompose (with the three forms)": lambda noise: decomposition.decompose(noise, rng=rng),
        "centring (three readings)": lambda noise: forms.centring(noise.noise),
    }
    print(f"| {DRAWS} × {COORDINATES} | {' | '.join(groups)} | million values/s |")
    print("|---|" + "---|" * (len(groups) + 1))
    noises = [contrasts.pair(draws.astype(np.float32)) for draws in groups.values()]
    with mock.patch.object(_engine, "cores", return_value=1):
        total = np.zeros(len(groups))
        for name, form in (live | others).items():
            form(noises[1])
            seconds = [fastest(lambda form=form, noise=noise: form(noise), REPEATS) for noise in noises]  # type: ignore[misc]
            total += seconds if name in live else 0.0
            row(name, seconds)
            if name == "standardized":
                row("**live: these three**", total.tolist())
    print(f"\nnumba threads {os.environ.get('NUMBA_NUM_THREADS', 'default')}; process time")


def row(name: str, seconds: list[float]) -> None:
    rate = DRAWS * COORDINATES / np.mean(seconds) / 1e6
    print(f"| {name} | {' | '.join(f'{s:.3f} s' for s in seconds)} | {rate:.2f} |", flush=True)


if __name__ == "__main__":
    main()
