"""The leading eigenpairs of a symmetric matrix from its products, by restarted Lanczos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.dots import norm, project_out, quick_dots
from gradnoise.collector._curvature.shifts import leja, shifted, tridiagonal
from gradnoise.wire import Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradnoise.collector._curvature.stochastic import Multiply

__all__ = ["Eigenpairs", "eigenpairs"]

_THIN = 4  # restarts before the unwanted interval is taken for known
_EXTRA = 2  # vectors kept at a restart beside the pairs
_LOCK = 1e-4  # of the tolerance of the last pair
_PAST = 40  # shifts that are remembered: the interval has become another since


@dataclass(frozen=True, slots=True, eq=False)
class Eigenpairs:
    """Eigenpairs of a symmetric matrix A, in the order asked for.

    Attributes:
        values: float64 (k,), fewer than asked for where the dimension or ``max_products`` is.
        residuals: |A v - lambda v| of each, float64 (k,). Lanczos' own figure, exact up to the rounding of the
            products; or measured.
        measured: whether the residuals come from one more product each.
        vectors: (k, d), orthonormal rows.
        spare: (basis + 1 - k, d): rows of the basis that are no longer needed; whoever has the pairs may write there.
        products: with A, all in all.
        converged: whether every pair meets the tolerance.
        asymmetry: the largest element by which the projected matrix was not symmetric, relative to its largest
            element: rounding, the error of products that are no exact derivatives, or what no Hessian is.
    """

    values: NDArray[np.float64]
    residuals: NDArray[np.float64]
    measured: bool
    vectors: torch.Tensor
    spare: torch.Tensor
    products: int
    converged: bool
    asymmetry: float


def eigenpairs(
    multiply: Multiply,
    dimension: int,
    k: int,
    *,
    order: str,
    basis: int,
    tolerance: float,
    max_products: int | None,
    generator: torch.Generator,
    dtype: torch.dtype,
    device: torch.device,
    measure: bool | None = None,
) -> Eigenpairs:
    """Return the k leading eigenpairs of a symmetric matrix.

    Restarted Lanczos, each new vector orthogonalised twice against the whole basis: a few thick restarts (Wu & Simon,
    SIAM J. Matrix Anal. Appl. 22, 2000), then implicit ones with Leja shifts (Calvetti, Reichel & Sorensen, Electron.
    Trans. Numer. Anal. 2, 1994), with which a basis of k + 5 takes hardly more products than one of 3 k.

    Where the basis is the whole space the pairs are exact. An invariant subspace is left by a new random vector; pairs
    are then taken for converged when another such subspace has not changed them, so that multiple eigenvalues come as
    often as they are. (Without a breakdown the copies of a multiple eigenvalue come from rounding, as in every Krylov
    method with one starting vector, and may come late.)

    On the device are ``basis + 1`` vectors of d, and pieces that are smaller than one; nothing of d is on the host.

    Args:
        multiply: ``multiply(v, out=w)`` writes A v to ``w``, or returns a new vector.
        dimension: d.
        k: pairs; at most d are returned.
        order: ``algebraic`` (largest first) or ``magnitude``.
        basis: vectors, at least k + 2 unless it reaches d.
        tolerance: of each pair's residual, relative to its |lambda|; 10 eps of ``dtype`` times the largest is always
            good enough, for no product is better.
        max_products: after which the pairs at hand are returned as they are; None for ``300 + 10 k``.
        generator: of random vectors, on ``device``.
        dtype: of the vectors.
        device: of the vectors.
        measure: measure the residuals by k more products; None does where the products are those of no symmetric
            matrix by a tenth of the tolerance (finite differences): Lanczos' figure rests on that.

    Raises:
        ValueError: k, basis or max_products is too small.
        CurvatureError: a product is not finite.
    """
    k, basis = min(k, dimension), min(basis, dimension)
    if k < 1 or (basis < k + 2 and basis < dimension) or (max_products is not None and max_products < 1):
        raise ValueError(
            f"{k} eigenpairs of dimension {dimension} from a basis of {basis} and {max_products} products; expected at "
            "least one pair, two vectors more in the basis, and a product"
        )
    limit = 300 + 10 * k if max_products is None else max_products
    run = _Lanczos(multiply, dimension, k, basis, Order(order), tolerance, generator, dtype, device)
    while run.products < limit and not run.step():
        pass
    return run.finish(measure=measure)


class _Lanczos:
    """A basis V of m rows, of which ``size`` are multiplied, T = V A V^T, and the vector that follows.

    A V[:size]^T = V[:size]^T T + rest * V[size]^T e_size^T, but for the rounding (Wu & Simon 2000, eq. 8).
    """

    def __init__(
        self,
        multiply: Multiply,
        dimension: int,
        k: int,
        basis: int,
        order: Order,
        tolerance: float,
        generator: torch.Generator,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.products = 0
        self._multiply = multiply
        self._k = k
        self._order = order
        self._tolerance = tolerance
        self._generator = generator
        self._rounding = 10 * torch.finfo(dtype).eps
        self._nothing = 100 * torch.finfo(dtype).eps  # of a product: what has no direction but that of rounding
        self._rows = torch.empty(basis + 1, dimension, dtype=dtype, device=device)
        self._small = np.zeros((basis + 1, basis + 1))
        # More than the pairs are kept, so that those next in order need not be found again.
        self._kept = min(k + max(1, (basis - k) // 4), basis - 1)
        self._size = 0
        self._rest = 0.0
        self._lost = 0.0  # what breakdowns left out
        self._largest = 0.0
        self._asymmetry = 0.0
        self._broke = False
        self._before: NDArray[np.float64] | None = None  # the leading values at the last breakdown
        self._values: NDArray[np.float64] = np.empty(0)
        self._states: NDArray[np.float64] = np.empty((0, 0))
        self._converged = False
        self._restarts = 0
        self._shifts: list[float] = []
        self._least = math.inf
        self._renew()

    def step(self) -> bool:
        """Make one product and what follows from it; return whether the pairs are found."""
        basis, dimension = len(self._rows) - 1, self._rows.shape[1]
        broken = self._expand()
        whole = self._size == dimension
        full = self._size == basis
        if whole or full or broken or (self._size >= self._k and self._size % (1 + self._size // 64) == 0):
            self._solve()
            self._converged = whole or self._found(broken=broken, full=full)
            if self._converged:
                return True
        if broken:
            self._renew()
        if full:
            self._restart()
        return False

    def finish(self, *, measure: bool | None) -> Eigenpairs:
        """Return the pairs at hand."""
        self._solve()
        k = min(self._k, self._size)
        residuals = np.hypot(self._estimates()[:k], self._lost)
        self._rotate(k)
        vectors, spare = self._rows[:k], self._rows[k:]
        values = self._values[:k].copy()
        largest = np.abs(self._small).max(initial=0.0)
        asymmetry = float(self._asymmetry / largest) if largest else 0.0
        if measure is None:
            measure = asymmetry > max(self._tolerance / 10, self._nothing)
        if measure:
            for index in range(k):
                product = self._product(vectors[index], spare[0])
                residuals[index] = float(norm(product.sub_(vectors[index], alpha=values[index])))
        found = bool((residuals <= self._allowed(values)).all()) if measure else self._converged
        return Eigenpairs(values, residuals, measure, vectors, spare, self.products, found and k == self._k, asymmetry)

    def _product(self, vector: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        product = self._multiply(vector, out=out)
        self.products += 1
        return out if product is out else out.copy_(product)

    def _expand(self) -> bool:
        """Multiply the next vector and append what is new in the product; return whether nothing is (a breakdown)."""
        here = self._size
        rows, new = self._rows[: here + 1], self._rows[here + 1]
        self._product(rows[here], new)
        parts = quick_dots(rows, new)
        new.addmv_(rows.T, parts.to(new.dtype), alpha=-1)
        again = quick_dots(rows, new)
        new.addmv_(rows.T, again.to(new.dtype), alpha=-1)
        # One transfer from the device a step.
        column = torch.cat([parts.add_(again), norm(new)[None]]).to("cpu", torch.float64).numpy()
        if not np.isfinite(column).all():
            raise CurvatureError(f"product {self.products} with the matrix is not finite")
        self._rest = float(column[-1])
        self._asymmetry = max(self._asymmetry, float(np.abs(column[:here] - self._small[:here, here]).max(initial=0.0)))
        self._small[: here + 1, here] = self._small[here, : here + 1] = column[:-1]
        self._largest = max(self._largest, math.sqrt(float(column @ column)))
        self._size += 1
        broken = self._rest <= self._nothing * self._largest
        if broken:
            self._lost = math.hypot(self._lost, self._rest)
            self._rest = 0.0
        else:
            new.div_(self._rest)
        self._small[here + 1, here] = self._small[here, here + 1] = self._rest
        return broken

    def _renew(self) -> None:
        """Make the next vector a random one, orthogonal to the basis."""
        rows, new = self._rows[: self._size], self._rows[self._size]
        new.normal_(generator=self._generator)
        # Again: of a space of which little is left, little is left of the vector after the first.
        for _ in range(2):
            project_out(rows, new)
            new.div_(norm(new))

    def _solve(self) -> None:
        """Solve the projected problem, leading pairs first."""
        values, states = np.linalg.eigh(self._small[: self._size, : self._size])
        ranks = np.argsort(-np.abs(values) if self._order is Order.MAGNITUDE else -values, kind="stable")
        self._values, self._states = values[ranks], states[:, ranks]

    def _estimates(self) -> NDArray[np.float64]:
        """Return the residual of each Ritz pair: what couples it to the vector that follows."""
        coupling: NDArray[np.float64] = np.abs(self._small[self._size, : self._size] @ self._states)
        return coupling

    def _allowed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the residuals that are small enough."""
        return np.maximum(self._tolerance * np.abs(values), self._rounding * self._largest)

    def _found(self, *, broken: bool, full: bool) -> bool:
        # A basis that can be the whole space becomes it: only then is no copy of an eigenvalue missed.
        if self._size < self._k or len(self._rows) > self._rows.shape[1]:
            return False
        leading = self._values[: self._k]
        if broken:
            before, self._before, self._broke = self._before, leading, True
            return before is not None and bool(np.all(np.abs(leading - before) <= self._allowed(leading)))
        if self._broke and not full:
            return False
        return bool((self._estimates()[: self._k] <= self._allowed(leading)).all())

    def _restart(self) -> None:
        """Go on from fewer vectors: with the unwanted part of the spectrum damped, else from the kept Ritz vectors."""
        self._restarts += 1
        if self._restarts <= _THIN or not self._rest or not self._damp():
            self._thin()

    def _damp(self) -> bool:
        """Apply a polynomial with zeros all over the unwanted interval to what the basis began with; False: it cannot.

        An implicit restart (Sorensen, SIAM J. Matrix Anal. Appl. 13, 1992) with Leja points as shifts (Calvetti,
        Reichel & Sorensen, ETNA 2, 1994): where the basis is hardly larger than the number of pairs, the Ritz values
        that a thick restart would take instead cover the interval badly, and it takes up to twice the products. Ritz
        vectors that have converged far beyond the tolerance are kept apart, as they are: they would split the matrix.
        """
        values, states = self._values, self._states
        coupling = self._small[self._size, : self._size] @ states
        far = _LOCK * self._allowed(values[: self._k]).min()
        locked = np.flatnonzero(np.abs(coupling[: self._k]) < far)
        others = np.setdiff1d(np.arange(self._size), locked)
        kept = min(self._k - len(locked) + _EXTRA, len(others) - 1)
        band = self._unwanted()
        if kept < 1 or band[0] >= band[1]:
            return False
        rest = float(np.linalg.norm(coupling[others]))
        last = coupling[others] / rest
        small, turn = tridiagonal(values[others], last)
        for _ in range(len(others) - kept):
            self._shifts.append(leja(self._shifts[-_PAST:], band))
            small, turn = shifted(small, turn, self._shifts[-1])
        # The rows that stay, then the one that follows: of the basis, and of the vector behind it.
        start = len(locked) + kept
        matrix = np.zeros((start + 1, self._size + 1))
        matrix[: len(locked), :-1] = states[:, locked].T
        matrix[len(locked) :, :-1] = (states[:, others] @ turn[:, : kept + 1]).T
        matrix[start] *= small[kept, kept - 1]
        matrix[start, -1] = rest * float(last @ turn[:, kept - 1])
        length = float(np.linalg.norm(matrix[start]))
        if not length > self._nothing * self._largest:
            return False
        matrix[start] /= length
        self._turn(matrix)
        row = project_out(self._rows[:start], self._rows[start])  # what rounding has left in it
        row.div_(norm(row))
        self._small[:] = 0.0
        self._small[range(len(locked)), range(len(locked))] = values[locked]
        self._small[len(locked) : start, len(locked) : start] = small[:kept, :kept]
        # What couples the locked ones to the vectors that are gone is lost, and small.
        ahead = coupling[locked] * matrix[start, -1]
        self._lost = math.hypot(self._lost, float(np.linalg.norm(coupling[locked])))
        self._small[: len(locked), start] = self._small[start, : len(locked)] = ahead
        self._small[start - 1, start] = self._small[start, start - 1] = length
        self._size = start
        return True

    def _unwanted(self) -> tuple[float, float]:
        """Return the interval of the eigenvalues that are not asked for, as far as it is known."""
        edge = float(self._values[self._k])
        if self._order is Order.MAGNITUDE:
            return -abs(edge), abs(edge)
        self._least = min(self._least, float(self._values[-1]))
        return self._least, edge

    def _thin(self) -> None:
        """Go on from the leading Ritz vectors and the vector that follows (Wu & Simon 2000, section 3)."""
        kept = self._kept
        self._rotate(kept)
        self._rows[kept].copy_(self._rows[self._size])
        self._small[:] = 0.0
        self._small[range(kept), range(kept)] = self._values[:kept]
        self._small[:kept, kept] = self._small[kept, :kept] = self._rest * self._states[-1, :kept]
        self._size = kept

    def _rotate(self, count: int) -> None:
        """Make the first ``count`` rows the leading Ritz vectors."""
        self._turn(self._states[:, :count].T)

    def _turn(self, matrix: NDArray[np.float64]) -> None:
        """Make the first rows combinations of the first rows, in place: a piece of the columns at a time."""
        count, size = matrix.shape
        turn = torch.from_numpy(np.ascontiguousarray(matrix)).to(self._rows)
        width = max(256, self._rows.shape[1] // (2 * len(self._rows)))
        for piece in self._rows[:size].split(width, dim=1):
            piece[:count] = turn @ piece
