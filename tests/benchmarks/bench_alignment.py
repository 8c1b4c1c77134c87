"""Time of one window of curvature: 50 eigenpairs, 512 draws of dimension 3000, 16 probe vectors; promised: 50 ms.

Best of nine, in seconds of this process, which are those of the wall clock on a free core; the parts beside it say
where they go. With one thread of BLAS, as the service and the command take it: matrices of this size are too small for
two, which mostly wait for each other and are counted twice (that figure stands last).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from gradnoise.analyzer.stats import alignment
from gradnoise.analyzer.stats._exponent import exponents, log_scales
from gradnoise.analyzer.stats._projection_tails import projection_alpha
from gradnoise.analyzer.stats._ratios import ratios
from gradnoise.analyzer.stats._setting import setting
from gradnoise.analyzer.stats._subspace import overlaps

from .paired import fastest

TOP, DRAWS, DIMENSION, PROBES = 50, 512, 3000, 16
REPEATS = 9
PROMISED = 0.050


def window(rng: np.random.Generator) -> alignment.Measured:
    """A measurement whose noise is nearly aligned with a power-law spectrum."""
    values = 10.0 * np.arange(1.0, DIMENSION + 1.0) ** -0.9
    noise = rng.standard_normal((DRAWS, DIMENSION)) * np.sqrt(values) * 0.1
    return alignment.Measured(
        dimension=DIMENSION,
        eigenvalues=values[:TOP],
        residuals=1e-3 * values[:TOP],
        gram=noise @ noise.T,
        projections=noise[:, :TOP].copy(),
        quadratic=noise**2 @ values,
        gradient_norm2=1.0,
        gradient_quadratic=0.5,
        gradient_projections=rng.standard_normal(TOP),
        trace_samples=values[TOP:].sum() * rng.normal(1.0, 0.05, PROBES),
        square_samples=(values[TOP:] ** 2).sum() * rng.normal(1.0, 0.1, PROBES),
        batch_size=32,
        examples=50_000,
        sampling=alignment.Sampling.EPOCH,
    )


def main() -> None:
    rng = np.random.default_rng(0)
    measured = window(rng)
    given = setting(measured)
    parts: dict[str, Callable[[], object]] = {
        "moments": lambda: setting(measured),
        "exponents and correlations": lambda: exponents(given, log_scales(given), rng),
        "ratios": lambda: ratios(given),
        "overlaps": lambda: overlaps(given),
        "tails of projections": lambda: projection_alpha(given),
    }
    print(f"| k = {TOP}, K = {DRAWS} | ms |\n|---|---|")
    with threadpool_limits(1):
        for name, part in parts.items():
            print(f"| {name} | {1e3 * fastest(part, REPEATS):.1f} |", flush=True)
        whole = fastest(lambda: alignment.align(measured, rng=rng), REPEATS)
    print(f"| **align** | {1e3 * whole:.1f} |")
    several = fastest(lambda: alignment.align(measured, rng=rng), 3)
    print(f"| the same with as many threads as BLAS takes | {1e3 * several:.1f} |")
    print(f"\npromised: {1e3 * PROMISED:.0f} ms; {'kept' if whole <= PROMISED else 'missed'}")


if __name__ == "__main__":
    main()
