"""Measurements of curvature for the tests of the analyzer: H and the noise on it known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gradnoise.wire import (
    CurvatureKind,
    CurvatureRow,
    Mode,
    Order,
    ProductMethod,
    Stamped,
    Table,
    curvature_batch,
    schema,
)

from .producing import Producer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["barrier", "closing", "hessian", "send_curvature", "sharpness", "stamped", "window_of"]

BATCH_SIZE = 32
EXAMPLES = 100_000
_SPECTRUM = np.concatenate([np.geomspace(20.0, 0.5, 12), np.full(8, 0.1)])


def window_of(step: int) -> int:
    """The id of the window of a measurement."""
    return -1 - step


def hessian(step: int = 0, part: str = "*", *, pairs: int = 12, draws: int = 256, **changed: Any) -> CurvatureRow:
    """H diagonal, the noise of a minibatch normal with covariance H / B: gamma and slope are 1."""
    rng = np.random.default_rng([step, *part.encode()])
    noise = rng.standard_normal((draws, len(_SPECTRUM))) * np.sqrt(_SPECTRUM / BATCH_SIZE)
    gradient = np.full(len(_SPECTRUM), 0.1)
    probes = rng.choice([-1.0, 1.0], (8, len(_SPECTRUM)))
    probes[:, :pairs] = 0.0
    fields: dict[str, Any] = {
        "part": part,
        "kind": CurvatureKind.HESSIAN,
        "dimension": len(_SPECTRUM),
        "method": ProductMethod.DOUBLE_BACKWARD,
        "mode": Mode.EVAL,
        "loss": 1.5,
        "minibatches": 10,
        "products": 100,
        "seconds": 0.25,
        "window": window_of(step),
        "theta": step,
        "step": step,
        "examples": EXAMPLES,
        "eigenvalues": _SPECTRUM[:pairs],
        "residuals": np.zeros(pairs),
        "order": Order.ALGEBRAIC,
        "draws": draws,
        "batch_size": BATCH_SIZE,
        "sampling": "independent",
        "replacement": True,
        "gram": noise @ noise.T,
        "projections": noise[:, :pairs],
        "quadratic": np.einsum("ki,i,ki->k", noise, _SPECTRUM, noise),
        "gradient_norm2": float(gradient @ gradient),
        "gradient_quadratic": float(gradient @ (_SPECTRUM * gradient)),
        "gradient_projections": gradient[:pairs],
        "trace_samples": np.einsum("mi,i,mi->m", probes, _SPECTRUM, probes),
        "square_samples": ((probes * _SPECTRUM) ** 2).sum(axis=1),
    }
    return CurvatureRow(**(fields | changed))


def sharpness(losses: Sequence[float], *, step: int = 0, loss: float = 1.0, radius: float = 0.01) -> CurvatureRow:
    """A measurement of the loss around theta."""
    return _landscape(CurvatureKind.SHARPNESS, step, loss, radius=radius, losses=np.array(losses))


def barrier(positions: Sequence[float], losses: Sequence[float], *, step: int = 0) -> CurvatureRow:
    """A measurement of the loss on a segment."""
    return _landscape(
        CurvatureKind.BARRIER,
        step,
        losses[0] if losses else 1.0,
        positions=np.array(positions),
        losses=np.array(losses),
    )


def _landscape(kind: CurvatureKind, step: int, loss: float, **fields: Any) -> CurvatureRow:
    place: dict[str, Any] = {"window": window_of(step), "theta": step, "step": step}
    return CurvatureRow("*", kind, 20, ProductMethod.LOSS, Mode.EVAL, loss, 10, 0, 0.1, **place, **fields)


def closing(step: int, **changed: Any) -> pa.RecordBatch:
    """The row that closes the window of a measurement."""
    row = {
        "window": window_of(step), "kind": "curvature", "first_step": step, "last_step": step, "first_theta": step,
        "last_theta": step, "declared": 0, "recorded": 0, "rows": 0, "non_finite": 0, "dropped": 0,
    }  # fmt: skip
    return pa.RecordBatch.from_pylist([row | changed], schema=schema(Table.WINDOWS))


def send_curvature(
    producer: Producer, number: int, step: int, rows: Sequence[CurvatureRow], *, closes: int | None = None
) -> None:
    """Send a producer's ``number``-th measurements and close their window, its ``closes``-th; default as many."""
    closed = Stamped.of(Table.WINDOWS, number if closes is None else closes, closing(step))
    assert {reply[0] for reply in producer.send(stamped(rows, number), closed)} == {"ack"}


def stamped(rows: Sequence[CurvatureRow], number: int = 0) -> Stamped:
    """A batch of measurements."""
    return Stamped.of(Table.CURVATURE, number, curvature_batch(rows))
