"""Measurements of curvature made from matrices that are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats.alignment import Measured, Metric, Name, Sampling, align

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats


def measured(hessian: Floats, noise: Floats, gradient: Floats, k: int, probes: int = 0, **more: Any) -> Measured:
    """What an exact measurement of ``hessian`` (d × d) and ``noise`` (K × d) would be; probe vectors are drawn with
    seed 0. Batches of 10 of 1000 examples, independent and with replacement, unless ``more`` says otherwise."""
    values, vectors = np.linalg.eigh(hessian)
    values, vectors = values[::-1], vectors[:, ::-1]
    top = vectors[:, :k]
    z = np.random.default_rng(0).choice([-1.0, 1.0], (probes, len(hessian)))
    z = z - z @ top @ top.T
    return Measured(
        **{
            "dimension": len(hessian),
            "eigenvalues": values[:k].copy(),
            "residuals": np.zeros(k),
            "gram": noise @ noise.T,
            "projections": noise @ top,
            "quadratic": np.einsum("ka,ab,kb->k", noise, hessian, noise),
            "gradient_norm2": float(gradient @ gradient),
            "gradient_quadratic": float(gradient @ hessian @ gradient),
            "gradient_projections": gradient @ top,
            "trace_samples": np.einsum("ka,ab,kb->k", z, hessian, z),
            "square_samples": ((z @ hessian) ** 2).sum(axis=1),
            "batch_size": 10,
            "examples": 1000,
            "sampling": Sampling.INDEPENDENT,
            "replacement": True,
            "loss": 0.5,
            **more,
        }
    )


def rows(found: Measured, seed: int = 0) -> dict[tuple[Name, int | None], Metric]:
    """Every metric by name and index."""
    metrics = align(found, rng=np.random.default_rng(seed))
    table = {(metric.name, metric.index): metric for metric in metrics}
    assert len(table) == len(metrics)
    return table


def value(table: dict[tuple[Name, int | None], Metric], name: Name, index: int | None = None) -> float:
    """The value of a metric."""
    return float(table[name, index].estimate.value)
