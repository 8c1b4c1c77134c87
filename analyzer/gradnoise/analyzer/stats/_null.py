"""What Gaussian noise reads: the simulated null of the likelihood ratio and of α̂, from
``tools/make_null_table.py``."""

from __future__ import annotations

import functools
import math
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Floats = np.ndarray[Any, np.dtype[np.float64]]

_LEAST = 1e-300  # no ratio makes a p-value of 0


class Null(NamedTuple):
    """The table's arrays; their meaning is in the generator's docstring."""

    n: Floats
    atom: Floats
    levels: Floats
    t: Floats
    rate: Floats
    located_n: Floats
    located_atom: Floats
    located_t: Floats
    located_rate: Floats
    inverse_alpha: Floats
    inverse_sd: Floats
    rows: Floats
    coordinates: Floats
    standardised: Floats
    standardised_above: Floats
    standardised_levels: Floats
    standardised_t: Floats
    fit_alpha: Floats
    fit_levels: Floats
    fit_distance: Floats
    fit_rate: Floats


@functools.cache
def null() -> Null:
    """Load the shipped table once a process."""
    with resources.files(__package__).joinpath("_data/null.npz").open("rb") as file, np.load(file) as data:
        return Null(*(np.asarray(data[name], dtype=np.float64) for name in Null._fields))


def p_value(ratio: ArrayLike, n: ArrayLike, *, located: bool = False) -> Floats:
    """P₀(LR ≥ ``ratio``) at sample size ``n``; 1 where the ratio is 0 (the null has an atom of about 0.83–0.9 there).

    ``located``: both laws were fitted with a location, which matters for small samples and has a table of its own up to
    n = 1000. Between the table's sizes ln survival is interpolated in ln n, between its levels in √LR, and beyond its
    last level, 0.001, the tail is exponential with the fitted rate. NaN ratios give NaN. Sizes outside the table, 16 to
    200 000, take its nearest end: the survival falls slowly with n (from n = 10⁴ to 10⁵ by a quarter), so p-values of
    larger samples are conservative.
    """
    tab = null()
    lr, sizes = np.broadcast_arrays(np.asarray(ratio, dtype=np.float64), np.asarray(n, dtype=np.float64))
    out = np.ones(lr.shape)
    out[np.isnan(lr)] = np.nan
    for size in np.unique(sizes[lr > 0]):
        here = (sizes == size) & (lr > 0)
        if located and size <= tab.located_n[-1]:
            survival = Survival(tab.located_n, tab.located_atom, tab.located_t, tab.located_rate)
        else:
            survival = Survival(tab.n, tab.atom, tab.t, tab.rate)
        out[here] = survival.at(float(size), lr[here])
    return out


class Survival(NamedTuple):
    """The null of one kind of fit by size."""

    n: Floats
    atom: Floats
    t: Floats
    rate: Floats

    def at(self, n: float, ratio: Floats) -> Floats:
        """P₀(LR ≥ ``ratio``) for ratios above 0."""
        levels = null().levels
        grid, where = np.log(self.n), math.log(n)
        atom = float(np.interp(where, grid, self.atom))
        t = np.array([np.interp(where, grid, self.t[:, j]) for j in range(len(levels))])
        # Levels above 1 − atom have t = 0.
        used = (t > 0) & (levels < 1.0 - atom)
        nodes = np.concatenate([[0.0], np.sqrt(t[used])])
        heights = np.log(np.concatenate([[1.0 - atom], levels[used]]))
        beyond = np.maximum(ratio - t[-1], 0.0) * float(np.interp(where, grid, self.rate))
        return np.asarray(np.maximum(np.exp(np.interp(np.sqrt(ratio), nodes, heights) - beyond), _LEAST))


def stable_p_value(distance: float, alpha: float) -> float:
    """P(A² ≥ ``distance``), A² the Anderson–Darling statistic of the sizes of SαS values against the law fitted to
    them, whose index is ``alpha``: the parametric bootstrap's p-value, from a table.

    A² depends on α and hardly on the number of values or on a fitted location. ln survival is interpolated linearly in
    A² and in α, exponential beyond the last level, 0.005.
    """
    tab = null()
    heights = np.log(np.concatenate([[1.0], tab.fit_levels]))
    beyond = np.maximum(distance - tab.fit_distance[:, -1], 0.0) * tab.fit_rate
    at_nodes = [np.interp(distance, np.concatenate([[0.0], t]), heights) for t in tab.fit_distance]
    return max(math.exp(float(np.interp(alpha, tab.fit_alpha, np.array(at_nodes) - beyond))), _LEAST)


def inverse_alpha(n: ArrayLike) -> Floats:
    """Mean of 1/α̂ over Gaussian samples of size ``n``; above the table's largest size it is taken to ½ as
    n^(−1/2)."""
    tab = null()
    sizes = np.asarray(n, dtype=np.float64)
    inside = np.interp(np.log(np.maximum(sizes, 1.0)), np.log(tab.n), tab.inverse_alpha)
    beyond = 0.5 + (tab.inverse_alpha[-1] - 0.5) * np.sqrt(tab.n[-1] / np.maximum(sizes, tab.n[-1]))
    return np.where(sizes > tab.n[-1], beyond, inside)


def inverse_alpha_sd(n: ArrayLike) -> Floats:
    """Standard deviation of 1/α̂ over Gaussian samples of size ``n``, log-log interpolated and extended."""
    tab = null()
    x, y = np.log(tab.n), np.log(tab.inverse_sd)
    at = np.log(np.maximum(np.asarray(n, dtype=np.float64), 1.0))
    slope = (y[-1] - y[-4]) / (x[-1] - x[-4])
    return np.asarray(np.exp(np.interp(at, x, y) + slope * np.maximum(at - x[-1], 0.0)))


def inverse_alpha_standardised(rows: int, coordinates: float) -> float:
    """Mean of 1/α̂ over the rows of a Gaussian matrix standardised by their other rows.

    Interpolated linearly in 1/rows and in coordinates^(−1/2); above the table's largest sizes linear to their limit.
    """
    tab = null()
    u, v = -1.0 / tab.rows, -1.0 / np.sqrt(tab.coordinates)
    at = -1.0 / rows
    if rows > tab.rows[-1]:  # extend the last segment towards 1/rows = 0
        slope = (tab.standardised[-1] - tab.standardised[-2]) / (u[-1] - u[-2])
        line = tab.standardised[-1] + slope * (at - u[-1])
    else:
        line = np.array([np.interp(at, u, tab.standardised[:, j]) for j in range(len(v))])
    return float(np.interp(-1.0 / np.sqrt(coordinates), v, line))


def p_value_standardised(ratio: ArrayLike, n: ArrayLike, rows: int) -> Floats:
    """P₀(LR ≥ ``ratio``) for rows of ``n`` values of a Gaussian matrix of ``rows`` rows, standardised by its
    other rows.

    Such values are a mixture of Gaussians, which the likelihood ratio notices the better the more of them there
    are. √LR is interpolated linearly in 1/rows and √n; beyond the table's last level, 0.02, the tail is that of
    ``p_value``; and the answer is never below ``p_value``, its limit for many rows.
    """
    tab = null()
    lr, sizes = np.broadcast_arrays(np.asarray(ratio, dtype=np.float64), np.asarray(n, dtype=np.float64))
    out = p_value(lr, sizes)
    for size in np.unique(sizes[lr > 0]):
        here = (sizes == size) & (lr > 0)
        above = _between(tab.standardised_above, rows, float(size))
        roots = [
            _between(np.sqrt(tab.standardised_t[:, :, j]), rows, float(size))
            for j in range(tab.standardised_t.shape[2])
        ]
        used = [j for j, root in enumerate(roots) if root > 0 and tab.standardised_levels[j] < above]
        nodes = np.array([0.0] + [roots[j] for j in used])
        heights = np.log(np.array([above] + [float(tab.standardised_levels[j]) for j in used]))
        beyond = np.maximum(lr[here] - nodes[-1] ** 2, 0.0) * float(tab.rate[0])
        out[here] = np.maximum(out[here], np.exp(np.interp(np.sqrt(lr[here]), nodes, heights) - beyond))
    return out


def _between(values: Floats, rows: int, n: float) -> float:
    """``values`` (rows × coordinates) interpolated in 1/rows and √coordinates; the nearest end outside."""
    tab = null()
    line = [np.interp(-1.0 / rows, -1.0 / tab.rows, values[:, j]) for j in range(values.shape[1])]
    return float(np.interp(np.sqrt(n), np.sqrt(tab.coordinates), np.array(line)))
