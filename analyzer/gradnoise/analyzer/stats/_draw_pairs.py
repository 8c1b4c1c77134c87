"""Tr Σ and |∇F|² from products of different draws at one θ, or of neighbours, with replicates for their errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats import _jackknife

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats

__all__ = ["Design", "Sums", "design", "sums"]

Ints = np.ndarray[Any, np.dtype[np.int64]]

_ENOUGH = 8
"""Fewest units (draws beyond the first of their θ, or θs) that an interval is made of."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """Which draws are compared, and what the jackknife leaves out."""

    pairs: bool
    """Draws of one θ; else each with the next one."""
    rows: Ints
    """Of the draws that take part, in order: grouped by θ where ``pairs``."""
    theta: Ints
    """Of each of them, its θ counted from 0."""
    thetas: int
    drop_theta: bool
    """The jackknife leaves out whole θs."""
    units: int
    """Units that it leaves out in turn; 0 where there are too few to compare."""
    strata: int
    """Sets of units within which it does."""


def design(theta: np.ndarray[Any, np.dtype[Any]]) -> Design:
    """How the draws with these θ are compared."""
    _, code, counts = np.unique(theta, return_inverse=True, return_counts=True)
    counts_of = counts[code]
    order = np.argsort(code, kind="stable")
    for least, whole in ((2, True), (3, False)):
        # Two draws at a θ leave one when one is dropped, and nothing to compare: then whole θs are dropped.
        used = order[counts_of[order] >= least]
        kinds, place = np.unique(code[used], return_inverse=True)
        enough = len(kinds) >= _ENOUGH if whole else len(used) - len(kinds) >= _ENOUGH - 1
        if enough:
            units = len(kinds) if whole else len(used)
            return Design(True, used, place, len(kinds), whole, units, 1 if whole else len(kinds))
    enough = len(counts) >= 2 * _jackknife.GROUPS and bool((counts == 1).all())
    units = _jackknife.GROUPS if enough else 0
    return Design(False, order, code[order], len(counts), False, units, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Tr Σ and |∇F|² of a group, or of groups together."""

    replicates: Floats
    """(units + 1, 2): of all, then without each unit."""
    weights: Floats
    """(units,): (m−1)/m of a unit among the m of its stratum."""
    coordinates: Floats
    """(2, 2): covariance from the sample of coordinates; 0 where all are there."""

    @property
    def trace(self) -> float:
        """Tr Σ of one minibatch."""
        return float(self.replicates[0, 0])

    @property
    def norm2(self) -> float:
        """|∇F|²."""
        return float(self.replicates[0, 1])

    def covariance(self) -> Floats:
        """Of the two: stratified jackknife over draws, plus that of the coordinates."""
        without = self.replicates[1:]
        # Units of one stratum have one weight, and their mean is taken off within it.
        apart = np.empty_like(without)
        edges = np.flatnonzero(np.diff(self.weights[:, 1], prepend=-1.0))
        for begin, end in zip(edges, [*edges[1:], len(without)], strict=True):
            apart[begin:end] = without[begin:end] - without[begin:end].mean(axis=0)
        result: Floats = (apart * self.weights[:, :1]).T @ apart + self.coordinates
        return result


def sums(values: np.ndarray[Any, np.dtype[Any]], size: int, plan: Design) -> Sums:
    """Tr Σ and |∇F|² of draws (K × J of ``size`` coordinates), finite."""
    g = values[plan.rows].astype(np.float64)
    share = size / g.shape[1]
    replicates, weights = (_pairs if plan.pairs else _neighbours)(g, plan)
    return Sums(replicates * share, weights, _sampled(g, size, plan))


def _pairs(g: Floats, plan: Design) -> tuple[Floats, Floats]:
    """Of a θ with m draws, sum S: Tr Σ = (Σ|g|² − |S|²/m)/(m−1), |∇F|² = (|S|² − Σ|g|²)/(m(m−1)); weight m − 1."""
    starts = np.flatnonzero(np.diff(plan.theta, prepend=-1))
    m = np.diff([*starts, len(g)]).astype(np.float64)
    squares = np.einsum("kj,kj->k", g, g)
    sum_of = np.add.reduceat(g, starts)
    along = np.einsum("kj,kj->k", g, sum_of[plan.theta])
    ss, s2 = np.add.reduceat(squares, starts), np.add.reduceat(along, starts)
    # Weighted by m − 1, sums over θ:
    top = np.column_stack([ss - s2 / m, (s2 - ss) / m])
    total, weight = top.sum(axis=0), (m - 1.0).sum()
    if plan.drop_theta:
        without = (total - top) / (weight - (m - 1.0))[:, None]
        weights = np.column_stack([np.full(len(m), (len(m) - 1) / len(m)), np.zeros(len(m))])
    else:
        at = plan.theta
        ss_left, s2_left = ss[at] - squares, s2[at] - 2.0 * along + squares
        left = m[at] - 1.0
        changed = np.column_stack([ss_left - s2_left / left, (s2_left - ss_left) / left])
        without = (total - top[at] + changed) / (weight - 1.0)
        weights = np.column_stack([left / m[at], at.astype(np.float64)])
    return np.concatenate([(total / weight)[None], without]), weights


def _neighbours(g: Floats, plan: Design) -> tuple[Floats, Floats]:
    """½|g_t − g_{t+1}|² and g_t · g_{t+1}, averaged; tenths of the window are left out in turn."""
    apart = np.diff(g, axis=0)
    each = np.column_stack([0.5 * np.einsum("kj,kj->k", apart, apart), np.einsum("kj,kj->k", g[1:], g[:-1])])
    group = _jackknife.groups(len(each))
    total = each.sum(axis=0)
    parts = np.array([each[group == i].sum(axis=0) for i in range(plan.units)])
    counts = np.bincount(group, minlength=plan.units).astype(np.float64)
    without = (total - parts) / (len(each) - counts)[:, None]
    weights = np.column_stack([np.full(plan.units, (plan.units - 1) / plan.units), np.zeros(plan.units)])
    return np.concatenate([(total / len(each))[None], without]), weights


def _sampled(g: Floats, size: int, plan: Design) -> Floats:
    """Covariance of the two scaled sums over a random sample of J coordinates: size² (1 − J/size)/J · Cov_j.

    Cov_j is that of the coordinates' own Tr Σ_j and (∇F)_j²: the variances of what is estimated of them hold the errors
    of estimates too, which the draws' jackknife already counts. They are taken off (of normal noise:
    Var of σ̂² = 2σ⁴/ν, of the pair product 4μ²σ²/m + 2σ⁴/(m(m−1))).
    """
    coordinates = g.shape[1]
    if coordinates == size or coordinates < 2:
        return np.zeros((2, 2))
    if plan.pairs:
        starts = np.flatnonzero(np.diff(plan.theta, prepend=-1))
        m = np.diff([*starts, len(g)]).astype(np.float64)[:, None]
        s2, ss = np.add.reduceat(g, starts) ** 2, np.add.reduceat(g**2, starts)
        weight = float((m - 1.0).sum())
        trace, norm2 = (ss - s2 / m).sum(axis=0) / weight, ((s2 - ss) / m).sum(axis=0) / weight
        share = (m - 1.0) / weight
        of_signal, of_noise = float((share**2 / m).sum()), float((share**2 / (m * (m - 1.0))).sum())
        of_trace = 1.0 / weight
    else:
        trace, norm2 = 0.5 * (np.diff(g, axis=0) ** 2).mean(axis=0), (g[1:] * g[:-1]).mean(axis=0)
        steps = len(g) - 1.0
        of_signal, of_noise, of_trace = 1.0 / steps, 0.5 / steps, 1.5 / steps
    found = np.cov(trace, norm2)
    found[0, 0] = max(found[0, 0] - float(np.mean(2.0 * of_trace * trace**2)), 0.0)
    noise = 4.0 * of_signal * np.maximum(norm2, 0.0) * trace + 2.0 * of_noise * trace**2
    found[1, 1] = max(found[1, 1] - float(noise.mean()), 0.0)
    most = np.sqrt(found[0, 0] * found[1, 1])
    found[0, 1] = found[1, 0] = np.clip(found[0, 1], -most, most)
    result: Floats = found * size**2 * (1.0 - coordinates / size) / coordinates
    return result
