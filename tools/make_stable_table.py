"""Make ``analyzer/gradnoise/analyzer/stats/_data/stable.npz``: the symmetric alpha-stable density as polynomials.

Run ``python tools/make_stable_table.py`` (about a minute on one core; needs a platform whose ``long double``
has 64 bits of mantissa, such as x86-64). The table is committed, so nobody who only uses the package runs this.

What is tabulated
    T(x, alpha) = (f(x; alpha) - f(x; 2)) / (2 - alpha), so that f = f(x; 2) + (2 - alpha) T is the Gaussian
    exactly at alpha = 2, has no cancellation near it, and keeps its power tail there.
How
    alpha is cut into panels, x in [0, X_TAIL] into cells that are unions of fine bins; the fine bin of x is
    read off the bits of 1 + x / C. In a cell T is a polynomial of degree DEGREE_X in a local coordinate in [-1,
    1] whose coefficients are polynomials of degree DEGREE_ALPHA in the panel's local coordinate. Beyond X_TAIL
    the density is the tail series f = sum_k a_k(alpha) x^(-alpha k - 1), and b_k = a_k / (2 - alpha) is stored
    as polynomials in alpha as well.
Where the values come from
    f(x) = Re (1/pi) int_0^inf exp(i x w - w^alpha) dw along a ray w = r exp(i phi) (the characteristic function
    of SaS(1)), r = exp(s - exp(-s)), trapezoidal rule in s, in 80-bit floating point. On the ray the integrand
    does not oscillate more than a few times, so the error is about 1e-19 absolute.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

Array = np.ndarray[Any, np.dtype[Any]]

C = 1 / 16
"""Width of x that the first octave of 1 + x / C covers."""
OCTAVES = 9
SPLIT = 16
"""Fine bins in an octave."""
X_TAIL = C * (2**OCTAVES - 1)
DEGREE_X = 7
DEGREE_ALPHA = 10
TAIL_TERMS = 12
PANELS = (0.5, 0.6, 0.72, 0.86, 1.02, 1.2, 1.4, 1.6, 1.8, 2.0)
TOLERANCE = 2e-10
"""Largest relative error of f that merging fine bins into one cell may cause."""
TARGET = Path(__file__).resolve().parent.parent / "analyzer/gradnoise/analyzer/stats/_data/stable.npz"

LD = np.longdouble


def density(x: Array, alpha: float) -> Array:
    """SaS(1) density at ``x >= 0`` as 80-bit floats; absolute error about 1e-19."""
    a = LD(alpha)
    pi = LD("3.14159265358979323846264338327950288")
    phi = min(pi / 2, pi / (2 * a)) * LD("0.6")
    decay = float(np.cos(a * phi))
    s_high = math.log(50.0 / decay) / alpha + 0.05
    h = 1 / 64
    s = np.arange(-4.4, s_high, h).astype(LD)
    r = np.exp(s - np.exp(-s))
    weight = r * (1 + np.exp(-s)) * LD(h)
    ray = np.exp(1j * phi)
    w = r * ray
    base = np.exp(-(r**a) * np.exp(1j * a * phi)) * ray * weight
    out = np.empty(len(x), dtype=LD)
    for i in range(0, len(x), 256):
        out[i : i + 256] = np.real(np.exp(1j * np.outer(x[i : i + 256].astype(LD), w)) @ base) / pi
    return out


def gaussian(x: Array) -> Array:
    """SaS(1) density at alpha = 2, which is N(0, 2)."""
    pi = LD("3.14159265358979323846264338327950288")
    return np.asarray(np.exp(-(x.astype(LD) ** 2) / 4) / (2 * np.sqrt(pi)))


def tail_coefficient(k: int, alpha: float) -> float:
    """b_k: the coefficient of x^(-alpha k - 1) in the tail series, divided by 2 - alpha."""
    # sin(k pi alpha / 2) / (2 - alpha) without cancellation: sin(k pi - k pi d / 2) with d = 2 - alpha.
    d = 2.0 - alpha
    sine = -((-1.0) ** k) * k * math.pi / 2 * float(np.sinc(k * d / 2))
    return (-1.0) ** (k + 1) * math.exp(math.lgamma(alpha * k + 1) - math.lgamma(k + 1)) * sine / math.pi


def monomials(values: Array, nodes: Array, axis: int) -> Array:
    """Coefficients in powers of the local coordinate of the polynomial through ``values`` at Chebyshev ``nodes``."""
    matrix = np.linalg.inv(np.polynomial.chebyshev.chebvander(nodes, len(nodes) - 1))
    to_power = np.zeros((len(nodes), len(nodes)))
    for j in range(len(nodes)):
        unit = np.zeros(j + 1)
        unit[j] = 1
        to_power[: j + 1, j] = np.polynomial.chebyshev.cheb2poly(unit)
    moved = np.moveaxis(values, axis, 0)
    flat = moved.reshape(len(nodes), -1)
    return np.moveaxis((to_power @ (matrix @ flat)).reshape(moved.shape), 0, axis)


def chebyshev_nodes(n: int) -> Array:
    """Zeros of the Chebyshev polynomial of degree ``n``, ascending."""
    return np.asarray(np.cos(np.pi * (np.arange(n, 0, -1) - 0.5) / n))


def panel_cells(alphas: Array, edges: Array) -> tuple[list[tuple[int, int]], list[Array]]:
    """Greedy cells for one panel: fine-bin ranges, and T at (alpha node, x node) for each of them."""
    zx = chebyshev_nodes(DEGREE_X + 1)
    check = np.linspace(-1, 1, 15)
    cells: list[tuple[int, int]] = []
    values: list[Array] = []

    def attempt(lo: int, hi: int) -> tuple[float, Array]:
        mid, half = (edges[hi] + edges[lo]) / 2, (edges[hi] - edges[lo]) / 2
        x, xc = mid + half * zx, mid + half * check
        table, worst = np.empty((len(alphas), len(zx))), 0.0
        for i, alpha in enumerate(alphas):
            both = np.concatenate([x, xc])
            f = density(both, float(alpha))
            t = np.asarray((f - gaussian(both)) / (2 - LD(alpha)), dtype=float)
            table[i] = t[: len(x)]
            got = np.polynomial.polynomial.polyval(check, monomials(table[i], zx, 0))
            error = np.abs(got - t[len(x) :]) * (2 - alpha) / f[len(x) :].astype(float)
            worst = max(worst, float(error.max()))
        return worst, table

    lo, bins, width = 0, len(edges) - 1, 1
    while lo < bins:
        hi = min(lo + width, bins)
        error, table = attempt(lo, hi)
        while hi < bins and error < TOLERANCE:
            bigger, table_bigger = attempt(lo, hi + 1)
            if bigger >= TOLERANCE:
                break
            hi, error, table = hi + 1, bigger, table_bigger
        while error >= TOLERANCE and hi - lo > 1:
            hi -= 1
            error, table = attempt(lo, hi)
        cells.append((lo, hi))
        values.append(table)
        width = hi - lo
        lo = hi
    return cells, values


def quantiles(alphas: Array) -> tuple[Array, Array]:
    """Medians and 90 % points of |X|, X ~ SaS(1): what the fit takes its starting value from."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    q50, q90 = np.empty(len(alphas)), np.empty(len(alphas))
    edges = np.concatenate([np.linspace(0, 1, 41), np.geomspace(1, 512, 120)[1:]])
    mid, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    for i, alpha in enumerate(alphas):
        x = (mid[:, None] + half[:, None] * nodes).ravel()
        mass = (density(x, float(alpha)).astype(float).reshape(-1, 12) @ weights) * half
        cdf = 2 * np.concatenate([[0.0], np.cumsum(mass)])
        for target, out in ((0.5, q50), (0.9, q90)):
            j = int(np.searchsorted(cdf, target)) - 1
            fraction = (target - cdf[j]) / (cdf[j + 1] - cdf[j])
            out[i] = edges[j] + fraction * (edges[j + 1] - edges[j])
    return q50, q90


def main() -> None:
    """Build the table, measure it at points it was not built from, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET)
    out = parser.parse_args().out
    if np.finfo(LD).nmant < 63:
        raise SystemExit("the long double of this platform has too few bits; run this on x86-64")
    start = time.perf_counter()
    octave = np.arange(OCTAVES * SPLIT + 1)
    edges = C * (2.0 ** (octave // SPLIT) * (1 + (octave % SPLIT) / SPLIT) - 1)
    za = chebyshev_nodes(DEGREE_ALPHA + 1)
    panels, width = len(PANELS) - 1, DEGREE_X + 1
    cell_of = np.zeros((panels, len(edges) - 1), dtype=np.int64)
    mids, inverses, coefficients = [], [], []
    for p in range(panels):
        low, high = PANELS[p], PANELS[p + 1]
        alphas = (low + high) / 2 + (high - low) / 2 * za
        cells, values = panel_cells(alphas, edges)
        for c, (lo, hi) in enumerate(cells):
            cell_of[p, lo:hi] = c
        mids.append(np.array([(edges[hi] + edges[lo]) / 2 for lo, hi in cells]))
        inverses.append(np.array([2 / (edges[hi] - edges[lo]) for lo, hi in cells]))
        zx = chebyshev_nodes(width)
        body = np.concatenate([monomials(v, zx, 1) for v in values], axis=1)  # alpha node x (cell * power of x)
        tail = np.array([[tail_coefficient(k, float(a)) for k in range(1, TAIL_TERMS + 1)] for a in alphas])
        coefficients.append(monomials(np.concatenate([tail, body], axis=1), za, 0))
        print(f"panel {low}-{high}: {len(cells)} cells, {time.perf_counter() - start:.0f} s", flush=True)
    most = max(c.shape[1] for c in coefficients)
    packed = np.zeros((panels, DEGREE_ALPHA + 1, most))
    mid, inverse = np.zeros((panels, max(map(len, mids)))), np.zeros((panels, max(map(len, mids))))
    for p in range(panels):
        packed[p, :, : coefficients[p].shape[1]] = coefficients[p]
        mid[p, : len(mids[p])] = mids[p]
        inverse[p, : len(mids[p])] = inverses[p]
    start_alpha = np.concatenate([np.linspace(0.5, 1.9, 29), [1.95, 1.98, 2 - 1e-9]])
    q50, q90 = quantiles(start_alpha)
    q50[-1], q90[-1] = 2 * special.erfinv(0.5), 2 * special.erfinv(0.9)
    np.savez_compressed(
        out,
        edges=np.array(PANELS), c=np.array(C), split=np.array(SPLIT), x_tail=np.array(X_TAIL),
        cell_of=cell_of, mid=mid, inverse=inverse, coefficients=packed,
        rows=np.array([c.shape[1] for c in coefficients]),
        start_alpha=start_alpha, start_q50=q50, start_ratio=q90 / q50,
    )  # fmt: skip
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
