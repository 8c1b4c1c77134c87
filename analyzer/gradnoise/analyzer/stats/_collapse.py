"""The table at one α, cell by cell as points ask for it.

A fit evaluates thousands of points at one α and collapses the whole table. Points that bring their own α each need one
cell only: here a cell is collapsed when the first point falls into it, and remembered until α changes. So the same loop
serves one α for a million points and a million values of α.
"""

from __future__ import annotations

import numpy as np

from gradnoise.analyzer.stats._jit import kernel
from gradnoise.analyzer.stats._table import _FINE_OFFSET, _FINE_SHIFT, _INVERSE_C, Floats, Table


@kernel
def panel_of(tab: Table, alpha: float) -> tuple[int, float, float]:
    """The panel of ``alpha``, the local coordinate in it, and that coordinate's derivative in α."""
    panel = 0
    while panel < tab.edges.size - 2 and alpha > tab.edges[panel + 1]:
        panel += 1
    slope = 2.0 / (tab.edges[panel + 1] - tab.edges[panel])
    return panel, (alpha - 0.5 * (tab.edges[panel + 1] + tab.edges[panel])) * slope, slope


@kernel
def cell_of(tab: Table, panel: int, z: float) -> tuple[int, float]:
    """The cell of 0 ≤ ``z`` < X_TAIL and the local coordinate in it."""
    fine = (np.float64(1.0 + z * _INVERSE_C).view(np.int64) >> _FINE_SHIFT) - _FINE_OFFSET
    cell = tab.cell_of[panel, fine]
    return cell, (z - tab.mid[panel, cell]) * tab.inverse[panel, cell]


@kernel
def values(tab: Table, panel: int, u: float, first: int, count: int, work: Floats) -> None:
    """Coefficients ``first`` ... ``first + count − 1`` at the local α ``u`` into ``work[0]``."""
    degree = tab.coefficients.shape[1] - 1
    for i in range(first, first + count):
        work[0, i] = tab.coefficients[panel, degree, i]
    for d in range(degree - 1, -1, -1):
        for i in range(first, first + count):
            work[0, i] = work[0, i] * u + tab.coefficients[panel, d, i]


@kernel
def slopes(tab: Table, panel: int, u: float, slope: float, first: int, count: int, work: Floats) -> None:
    """The same with their derivatives in α in ``work[1]``."""
    degree = tab.coefficients.shape[1] - 1
    for i in range(first, first + count):
        work[0, i] = tab.coefficients[panel, degree, i]
        work[1, i] = 0.0
    for d in range(degree - 1, -1, -1):
        for i in range(first, first + count):
            work[1, i] = work[1, i] * u + work[0, i]
            work[0, i] = work[0, i] * u + tab.coefficients[panel, d, i]
    for i in range(first, first + count):
        work[1, i] *= slope
