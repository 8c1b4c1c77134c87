"""The nulls of alignment: of noise turned at random against H, 95 % of the numbers lie in the range of their null."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from gradnoise.analyzer.stats.alignment import Matrix, Measured, Name, Sampling, align

D, TOP, PROBES, REPEATS = 60, 8, 12, 160
VALUES = np.asarray(10.0 * np.arange(1, D + 1) ** -0.7, np.float64)
HELD = (
    Name.GAMMA,
    Name.SLOPE,
    Name.OFF_DIAGONAL,
    Name.ANISOTROPY_GAIN,
    Name.ANISOTROPY_GAIN_SIGN,
    Name.PROJECTION_COEFFICIENT,
    Name.SUBSPACE_ENERGY,
    Name.SUBSPACE_OVERLAP,
    Name.MATRIX_COSINE,
    Name.MU,
    Name.B_NOISE,
)


@pytest.mark.parametrize("fall", [0.0, 0.5, 1.2])
def test_ranges_hold_what_they_promise(fall: float) -> None:
    """Variances i^-fall: isotropic noise, and an effective rank of 42 and of 8. The probe vectors know Tr H to 5 %, far
    worse than 256 draws know the rest."""
    rng = np.random.default_rng(11)
    basis = np.linalg.qr(rng.standard_normal((D, D)))[0]
    inside: Counter[Name] = Counter()
    relative = defaultdict(list)
    for _ in range(REPEATS):
        frame = np.linalg.qr(rng.standard_normal((D, D)))[0]
        noise = (rng.standard_normal((256, D)) * np.arange(1, D + 1) ** (-fall / 2)) @ frame
        probes = rng.choice([-1.0, 1.0], (PROBES, D)) @ basis
        probes[:, :TOP] = 0.0
        measured = Measured(
            dimension=D,
            eigenvalues=VALUES[:TOP],
            residuals=np.zeros(TOP),
            gram=noise @ noise.T,
            projections=noise[:, :TOP],
            quadratic=noise**2 @ VALUES,
            gradient_norm2=1.0,
            gradient_quadratic=1.0,
            trace_samples=probes**2 @ VALUES,
            square_samples=probes**2 @ VALUES**2,
            batch_size=10,
            examples=10**6,
            sampling=Sampling.INDEPENDENT,
            replacement=True,
            loss=0.5,
            matrix=Matrix.GAUSS_NEWTON,
        )
        for row in align(measured, rng=rng):
            if row.name in HELD:
                assert row.null is not None, row.name
                inside[row.name] += row.null.low <= row.estimate.value <= row.null.high
                relative[row.name].append(row.estimate.value / (row.null.value or math.nan))
    shares = {name: inside[name] / REPEATS for name in HELD}
    assert all(share > 0.9 for share in shares.values()), shares  # 95 % less 2.9 standard errors
    for name in (Name.SLOPE, Name.ANISOTROPY_GAIN, Name.MATRIX_COSINE, Name.SUBSPACE_ENERGY):
        error = np.std(relative[name]) / math.sqrt(REPEATS)
        # Frames are not quite a χ² law where the effective rank is small.
        assert abs(np.mean(relative[name]) - 1.0) < 4 * error + (0.05 if name is Name.SLOPE else 0.0), name
