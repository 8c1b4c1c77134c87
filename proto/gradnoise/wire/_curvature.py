"""One measurement of curvature: the row of the table ``curvature``, there and back."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gradnoise.wire._columns import completed
from gradnoise.wire._schemas import Table, schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = [
    "MAX_COORDINATES",
    "MAX_DRAWS",
    "MAX_EIGENVALUES",
    "CurvatureKind",
    "CurvatureRow",
    "Mode",
    "Order",
    "ProductMethod",
    "curvature_batch",
    "curvature_rows",
]


class CurvatureKind(StrEnum):
    """What was measured: the Hessian or the Gauss-Newton matrix with the noise on it, or the loss around theta.

    ``SHARPNESS``: the loss at random distances. ``BARRIER``: the loss on the segment between two checkpoints.
    """

    HESSIAN = "hessian"
    GAUSS_NEWTON = "gauss_newton"
    SHARPNESS = "sharpness"
    BARRIER = "barrier"


class ProductMethod(StrEnum):
    """How products with the matrix were made; ``LOSS``: none were, the loss alone was evaluated."""

    DOUBLE_BACKWARD = "double_backward"
    FINITE_DIFFERENCES = "finite_differences"
    LOSS = "loss"


class Mode(StrEnum):
    """In which mode the modules were: BatchNorm and Dropout differ in it. ``AS_IS``: the caller's business."""

    EVAL = "eval"
    TRAIN = "train"
    AS_IS = "as_is"


class Order(StrEnum):
    """Which eigenvalues: the largest, or the largest in absolute value (with their signs)."""

    ALGEBRAIC = "algebraic"
    MAGNITUDE = "magnitude"


MAX_EIGENVALUES = 1024
MAX_DRAWS = 2048
MAX_COORDINATES = 1024
"""Of one measurement: its row stays below what a message may hold, and its analysis below a minute or so."""


def _none() -> NDArray[np.float64]:
    return np.empty(0)


_ENUMS: dict[str, type[StrEnum]] = {
    "kind": CurvatureKind,
    "method": ProductMethod,
    "mode": Mode,
    "order": Order,
}


@dataclass(frozen=True, slots=True, eq=False)
class CurvatureRow:
    """One measurement of one part of a model at one theta.

    The fields are the columns that :func:`gradnoise.wire.schema` documents; a list that is null there is an empty
    array here, and the matrices have their shapes. With ``k`` eigenvalues, ``K`` draws, ``m`` probe vectors:
    ``eigenvalues``, ``residuals``, ``gradient_projections`` (k,); ``quadratic`` (K,); ``gram`` (K, K), symmetric;
    ``projections`` (K, k); ``trace_samples``, ``square_samples`` (m,); ``density_nodes``, ``density_weights``
    (vectors, steps); ``coordinates`` (p,), ``block`` (p, p), ``block_noise`` (K, p).

    Raises:
        ValueError: the shapes do not fit together; the message names which.
    """

    part: str
    kind: CurvatureKind
    dimension: int
    method: ProductMethod
    mode: Mode
    loss: float
    minibatches: int
    products: int
    seconds: float
    window: int = 0
    theta: int = 0
    step: int = 0
    examples: int | None = None
    notes: tuple[str, ...] = ()
    eigenvalues: NDArray[np.float64] = field(default_factory=_none)
    residuals: NDArray[np.float64] = field(default_factory=_none)
    order: Order | None = None
    draws: int | None = None
    batch_size: int | None = None
    sampling: str | None = None
    replacement: bool | None = None
    gram: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    projections: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    quadratic: NDArray[np.float64] = field(default_factory=_none)
    gradient_norm2: float | None = None
    gradient_quadratic: float | None = None
    gradient_projections: NDArray[np.float64] = field(default_factory=_none)
    trace_samples: NDArray[np.float64] = field(default_factory=_none)
    square_samples: NDArray[np.float64] = field(default_factory=_none)
    density_nodes: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    density_weights: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    coordinates: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    block: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    block_noise: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    radius: float | None = None
    positions: NDArray[np.float64] = field(default_factory=_none)
    losses: NDArray[np.float64] = field(default_factory=_none)

    def __post_init__(self) -> None:
        pairs, draws, width = len(self.eigenvalues), self.draws or 0, len(self.coordinates)
        wanted = {
            "residuals": (pairs,),
            "gradient_projections": (pairs,),
            "quadratic": (draws,),
            "gram": (draws, draws),
            "projections": (draws, pairs),
            "square_samples": self.trace_samples.shape,
            "density_weights": self.density_nodes.shape,
            "block": (width, width),
            "block_noise": (draws, width),
        }
        for name, shape in wanted.items():
            found = getattr(self, name)
            if found.size and found.shape != shape:
                raise ValueError(
                    f"a measurement of curvature with {pairs} eigenvalues, {draws} draws and {width} coordinates: "
                    f"{name} has shape {found.shape}, expected {shape}"
                )


def _flat(row: CurvatureRow) -> dict[str, Any]:
    """Return a row as the table has it."""
    cells: dict[str, Any] = {each.name: getattr(row, each.name) for each in fields(row)}
    for name, value in cells.items():
        if isinstance(value, np.ndarray):
            cells[name] = value.ravel() if value.size else None
    if row.gram.size:
        cells["gram"] = row.gram[np.triu_indices(len(row.gram))]
    cells["density_steps"] = row.density_nodes.shape[1] if row.density_nodes.size else None
    cells["notes"] = list(row.notes)
    return cells


def _shaped(cells: dict[str, Any]) -> CurvatureRow:
    """Return what :func:`_flat` was given."""
    steps = cells.pop("density_steps")
    for name, kind in _ENUMS.items():
        cells[name] = None if cells[name] is None else kind(cells[name])
    arrays = {name: value for name, value in cells.items() if isinstance(value, np.ndarray)}
    draws, pairs, width = cells["draws"] or 0, len(arrays["eigenvalues"]), len(arrays["coordinates"])
    shapes = {
        "projections": (draws, pairs),
        "density_nodes": (-1, steps or 1),
        "density_weights": (-1, steps or 1),
        "block": (width, width),
        "block_noise": (draws, width),
    }
    for name, shape in shapes.items():
        if not arrays[name].size:
            cells[name] = np.empty((0, 0))
            continue
        try:
            cells[name] = arrays[name].reshape(shape)
        except ValueError:
            raise ValueError(f"{name}: {arrays[name].size} numbers cannot have the shape {shape}") from None
    packed = arrays["gram"]
    cells["gram"] = np.empty((0, 0))
    if packed.size:
        if packed.size != draws * (draws + 1) // 2:
            raise ValueError(f"gram: {packed.size} numbers are no upper triangle of {draws} draws")
        upper = np.triu_indices(draws)
        cells["gram"] = gram = np.empty((draws, draws))
        gram[upper] = packed
        gram.T[upper] = packed
    return CurvatureRow(**(cells | {"notes": tuple(cells["notes"])}))


def curvature_batch(rows: Iterable[CurvatureRow]) -> pa.RecordBatch:
    """Return measurements as a batch of the table ``curvature``."""
    where = schema(Table.CURVATURE)
    cells = [_flat(row) for row in rows]
    return pa.RecordBatch.from_arrays(
        [pa.array([row[name] for row in cells], where.field(name).type) for name in where.names], schema=where
    )


def curvature_rows(batch: pa.RecordBatch) -> list[CurvatureRow]:
    """Return the measurements in a batch of the table ``curvature``.

    Raises:
        ValueError: a row's lists do not fit together; the message names which.
    """
    batch = completed(Table.CURVATURE, batch)
    found = []
    for index in range(batch.num_rows):
        cells: dict[str, Any] = {}
        for each, column in zip(batch.schema, batch.columns, strict=True):
            cell = column[index]
            if each.name != "notes" and pa.types.is_list(each.type):
                dtype = np.int64 if pa.types.is_integer(each.type.value_type) else np.float64
                cells[each.name] = cell.values.to_numpy() if cell.is_valid else np.empty(0, dtype)
            else:
                cells[each.name] = cell.as_py()
        found.append(_shaped(cells))
    return found
