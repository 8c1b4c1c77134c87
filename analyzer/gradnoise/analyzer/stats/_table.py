"""The tabulated SαS(1) density: what every kernel of this package evaluates.

``_data/stable.npz`` is made by ``tools/make_stable_table.py``, which documents the representation: with δ = 2 − α,
f(x; α) = f(x; 2) + δ T(x, α), T a polynomial in α and x on cells, and beyond ``X_TAIL`` the tail series
f = δ Σ_k b_k(α) x^(−αk−1).

Whoever evaluates points first *collapses* the table at one α: every coefficient becomes a number.
"""

from __future__ import annotations

import functools
import math
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

ALPHA_MIN = 0.5
"""Smallest α of the table; the fit's lower boundary."""
X_TAIL = 31.9375
"""From here on the tail series is used."""
_INVERSE_C = 16.0
_FINE_SHIFT = 48  # 52 mantissa bits less log2 of 16 fine bins in an octave
_FINE_OFFSET = 1023 << 4
_WIDTH = 8  # coefficients of a cell: degree 7 in x
TAIL_TERMS = 12
DEGREE_ALPHA = 10
LOG_2_SQRT_PI = math.log(2.0 * math.sqrt(math.pi))
GAUSS_PEAK = 0.5 / math.sqrt(math.pi)


class Table(NamedTuple):
    """The table as arrays, in the shape the kernels take it."""

    edges: Floats
    """α at the panel edges, ascending."""
    cell_of: Ints
    """(panel, fine bin) → cell."""
    mid: Floats
    """(panel, cell) → x at the cell's middle."""
    inverse: Floats
    """(panel, cell) → 1 / half width of the cell."""
    coefficients: Floats
    """(panel, power of local α, row): ``TAIL_TERMS`` rows of b_k, then 8 rows a cell (powers of the local x)."""
    start_alpha: Floats
    start_q50: Floats
    start_ratio: Floats
    """Median of |X| and its 90 % point over its median, by α: the starting value of a fit."""


@functools.cache
def table() -> Table:
    """Load the shipped table once a process."""
    with resources.files(__package__).joinpath("_data/stable.npz").open("rb") as file, np.load(file) as data:
        if (
            float(data["x_tail"]) != X_TAIL
            or float(data["c"]) * _INVERSE_C != 1.0
            or int(data["split"]) != 16
            or float(data["edges"][0]) != ALPHA_MIN
            or data["coefficients"].shape[1] != DEGREE_ALPHA + 1
        ):
            raise RuntimeError("stable.npz does not belong to this version of the code: run tools/make_stable_table.py")
        return Table(
            edges=np.ascontiguousarray(data["edges"]),
            cell_of=np.ascontiguousarray(data["cell_of"]),
            mid=np.ascontiguousarray(data["mid"]),
            inverse=np.ascontiguousarray(data["inverse"]),
            coefficients=np.ascontiguousarray(data["coefficients"]),
            start_alpha=np.ascontiguousarray(data["start_alpha"]),
            start_q50=np.ascontiguousarray(data["start_q50"]),
            start_ratio=np.ascontiguousarray(data["start_ratio"]),
        )
