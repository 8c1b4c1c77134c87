"""From values to groups (``_likelihood.Groups``): a histogram of |x − centre| that keeps mean and spread of each cell.

A first pass counts octaves of |x − centre| and so finds its rough quantiles. A second pass sorts the values into cells
that are read off the bits of y = 1 + |x − centre|/c, c twice the 10 % point: 2^b cells an octave of y, so cells are of
equal width below c, far narrower than the law bends, and of equal relative width beyond. Nothing is kept of a sample
but its cells, however long it is.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gradnoise.analyzer.stats._jit import kernel, part
from gradnoise.analyzer.stats._likelihood import Groups, row_of
from gradnoise.analyzer.stats._table import Floats

FRAME = 15
ZEROS, COUNT, WEIGHT, FIRST, DIFFERENT, NON_FINITE = range(6)
"""Of a sample: weight of its exact zeros; number and weight of its other values, the first of them, how many of them
differ from the first; and number of NaN and infinities."""
GROUPS, CENTRE, UNIT, LOWER, MEDIAN, UPPER, MEAN, SPAN, SQUARE = range(6, FRAME)
"""Of its groups: how many, the centre that was taken off, the unit they are in; in that unit the 10, 50 and 90 % points
of |x|, the mean of x and a bound on |x|; and Σ w (x/bound)²."""

_OCTAVES = 2048
_CELL = 4  # Σw, Σw d, Σw d², Σw d³
_FAR = 1e300
_SMALLEST = 2.2250738585072014e-308
CENTRE_VALUES = 1 << 16
"""Values that the centre is taken from, at most."""
_COARSE, _FINE = 5, 7
_COARSE_VALUES = 1 << 12


def cell_bits(size: int) -> int:
    """b for samples of ``size`` values: the more values, the finer the cells, at the price of a few more groups."""
    return _COARSE if size <= _COARSE_VALUES else _FINE


def most_groups(size: int) -> int:
    """The most groups that a sample of ``size`` values can make."""
    return min(size, (_OCTAVES << cell_bits(size)))


class Grouped(NamedTuple):
    """Samples in groups: (samples × groups), and what ``FRAME`` names of each."""

    groups: Groups
    frames: Floats


def group(values: np.ndarray[Any, np.dtype[Any]], weights: Floats, located: bool) -> Grouped:
    """Group every row of ``values`` (samples × draws, C order); ``weights`` is empty or one weight a draw.

    Rows with NaN or infinity, or without two different values, are left without groups.
    """
    samples, size = values.shape
    bits = cell_bits(size)
    centres = np.empty(samples if located else 0)
    if located:
        memory = min(size, CENTRE_VALUES)
        medians(values, weights, np.empty(memory), np.empty(memory), centres)
    width = most_groups(size)
    x, weight, spread, skew = (np.empty((samples, width)) for _ in range(4))
    result = Grouped(Groups(x, weight, spread, skew), np.zeros((samples, FRAME)))
    octaves, cells = np.empty(_OCTAVES), np.empty((_OCTAVES << bits, _CELL))
    group_rows(values, weights, centres, bits, octaves, cells, result.groups, result.frames)
    return result


@part
def _count_octaves(values: Any, weights: Floats, centre: float, octaves: Floats, frame: Floats) -> None:
    """Weights of the non-zero values by binary exponent of |x − centre|; and the first six numbers of ``frame``."""
    for e in range(octaves.size):
        octaves[e] = 0.0
    zeros, weight, first = 0.0, 0.0, 0.0
    count, different, broken = 0, 0, 0
    for i in range(values.size):
        x = np.float64(values[i])
        q = weights[i] if weights.size > 0 else 1.0
        exponent = (np.float64(x - centre).view(np.int64) >> 52) & (_OCTAVES - 1)
        broken += exponent == _OCTAVES - 1
        if x == 0.0 or q == 0.0:
            zeros += q
            continue
        if count == 0:
            first = x
        different += x != first
        count += 1
        weight += q
        octaves[exponent] += q
    frame[ZEROS] = zeros
    frame[COUNT] = count
    frame[WEIGHT] = weight
    frame[FIRST] = first
    frame[DIFFERENT] = different
    frame[NON_FINITE] = broken


@part
def _octave_point(octaves: Floats, target: float) -> float:
    """The value below which the weight ``target`` lies, to a few per cent; 0 in the octave of 0."""
    below = 0.0
    for e in range(_OCTAVES - 1):
        if octaves[e] > 0.0 and below + octaves[e] >= target:
            return 0.0 if e == 0 else math.ldexp(1.0 + max(target - below, 0.0) / octaves[e], e - 1023)
        below += octaves[e]
    return 0.0


@part
def _fill_cells(
    values: Any, weights: Floats, centre: float, inverse: float, bits: int, below: int, cells: Floats
) -> None:
    """Sums of w, w d, w d², w d³ by cell, d = y − its edge; those under ``centre`` in the cells from ``below`` on."""
    shift = 52 - bits
    offset = 1023 << bits
    for i in range(values.size):
        x = np.float64(values[i])
        q = weights[i] if weights.size > 0 else 1.0
        if x == 0.0 or q == 0.0:
            continue
        y = min(1.0 + abs(x - centre) * inverse, _FAR)
        head = np.float64(y).view(np.int64) >> shift
        d = y - np.int64(head << shift).view(np.float64)
        k = head - offset + (below if x < centre else 0)
        cells[k, 0] += q
        cells[k, 1] += q * d
        cells[k, 2] += q * d * d
        cells[k, 3] += q * d * d * d


@part
def _collect(
    cells: Floats, top: int, sides: int, bits: int, factor: float, span: float, groups: Groups, frame: Floats
) -> None:  # fmt: skip
    """The occupied cells as groups, y − 1 times ``factor``; and the quantiles of |x|."""
    shift = 52 - bits
    offset = 1023 << bits
    count, total, square = 0, 0.0, 0.0
    below, reached = 0.0, 0
    for k in range(top):
        edge = np.int64((k + offset) << shift).view(np.float64) - 1.0
        middle = 0.0
        for side in range(sides):
            cell = cells[k + side * top]
            if cell[0] > 0.0:
                mean = cell[1] / cell[0]
                middle = (edge + mean) * factor
                sign = -1.0 if side == 1 else 1.0
                spread = max(cell[2] - cell[1] * mean, 0.0) * factor * factor
                third = cell[3] - 3.0 * mean * cell[2] + 2.0 * mean * mean * cell[1]
                groups.x[count] = sign * middle
                groups.weight[count] = cell[0]
                groups.spread[count] = spread
                groups.skew[count] = sign * third * factor * factor * factor
                below += cell[0]
                total += cell[0] * sign * middle
                square += cell[0] * (middle / span) ** 2 + spread / span / span
                count += 1
        while reached < 3 and below > (0.1 + 0.4 * reached) * frame[WEIGHT]:
            frame[LOWER + reached] = middle
            reached += 1
    frame[GROUPS] = count
    frame[MEAN] = total / frame[WEIGHT]
    frame[SPAN] = span
    frame[SQUARE] = square


@kernel
def group_rows(
    values: Any, weights: Floats, centres: Floats, bits: int, octaves: Floats, cells: Floats, groups: Groups,
    frames: Floats,
) -> None:  # fmt: skip
    """See ``group``; ``centres`` is empty for a fit at location 0."""
    for r in range(values.shape[0]):
        row, frame = values[r], frames[r]
        located = centres.size > 0
        _count_octaves(row, weights, 0.0, octaves, frame)
        if frame[NON_FINITE] > 0.0 or frame[DIFFERENT] == 0.0:
            continue
        centre = centres[r] if located else 0.0
        if located:
            _count_octaves(row, weights, centre, octaves, frame)
        lower = _octave_point(octaves, 0.1 * frame[WEIGHT])
        unit = _octave_point(octaves, 0.5 * frame[WEIGHT])
        last = _OCTAVES - 2
        while octaves[last] == 0.0:
            last -= 1
        largest = math.ldexp(1.0, min(last - 1022, 1023))
        if unit == 0.0:
            unit = _octave_point(octaves, 0.9 * frame[WEIGHT])
        if unit == 0.0:
            unit = 0.5 * largest
        c = min(max(2.0 * lower, 1e-12 * unit, _SMALLEST), _FAR)
        bound = min(1.0 + largest / c, _FAR)
        top = (math.frexp(bound)[1] + 1) << bits
        sides = 2 if located else 1
        for k in range(sides * top):
            for j in range(_CELL):
                cells[k, j] = 0.0
        _fill_cells(row, weights, centre, 1.0 / c, bits, top if located else 0, cells)
        frame[CENTRE], frame[UNIT] = centre, unit
        sample = row_of(groups, r, groups.x.shape[1])
        _collect(cells, top, sides, bits, c / unit, bound * c / unit, sample, frame)


@part
def _middle(a: Floats, w: Floats) -> float:
    """The weighted median of ``a``, which is reordered together with ``w``."""
    left, right = 0, a.size - 1
    target = 0.0
    for k in range(w.size):
        target += 0.5 * w[k]
    while left < right:
        pivot = a[(left + right) >> 1]
        i, j = left, right
        while i <= j:
            while a[i] < pivot:
                i += 1
            while a[j] > pivot:
                j -= 1
            if i <= j:
                a[i], a[j] = a[j], a[i]
                w[i], w[j] = w[j], w[i]
                i += 1
                j -= 1
        # Now a[left..j] ≤ pivot = a[j+1..i−1] ≤ a[i..right].
        low = 0.0
        for k in range(left, j + 1):
            low += w[k]
        upto = low
        for k in range(j + 1, i):
            upto += w[k]
        if target <= low:
            right = j
        elif target > upto:
            left = i
            target -= upto
        else:
            return float(pivot)
    return float(a[left])


@kernel
def medians(values: Any, weights: Floats, a: Floats, w: Floats, centres: Floats) -> None:
    """Where a fit of the location starts: each row's median, zeros left out; of a part of the row if that is longer
    than the memory given, ``a`` and ``w``."""
    stride = 1 + (values.shape[1] - 1) // a.size
    for r in range(values.shape[0]):
        count = 0
        for i in range(0, values.shape[1], stride):
            q = weights[i] if weights.size > 0 else 1.0
            x = np.float64(values[r, i])
            if x != 0.0 and q > 0.0 and math.isfinite(x):
                a[count], w[count] = x, q
                count += 1
        centres[r] = _middle(a[:count], w[:count]) if count > 0 else 0.0
