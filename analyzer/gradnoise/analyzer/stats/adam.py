"""ADAM's gradient noise as a transform of a sequence of draws (Zhou et al. 2020, §3.2, §4.2).

ADAM steps along an exponential average of gradients, so that what enters it is

    n_t = (1 − β₁)/(1 − β₁^t) Σ_{i=1}^t β₁^{t−i} u_i.

For iid SαS(σ) noise u_i it is SαS with the same α. Its marginal scale differs, see ``scale_factor``. But the n_t are
serially dependent (for α = 2 their correlation at lag k is β₁^k in the limit, and K of them are worth
K (1 − β₁)/(1 + β₁)), and the weights of each u_i over all later n_t sum to 1: accumulated noise, and with it escape
rates, go by the unreduced scale σ. Intervals need blocks (``dependence.block_bootstrap``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats._alpha import require_finite
from gradnoise.analyzer.stats._estimate import InvalidInput, TooFewValues, as_real

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["adam_noise", "scale_factor"]


def _decay(beta1: float) -> float:
    beta = float(beta1)
    if not 0 <= beta < 1:
        raise InvalidInput(f"beta1: expected a decay in [0, 1), got {beta1!r}")
    return beta


def adam_noise(noise: ArrayLike, beta1: float = 0.9) -> np.ndarray[Any, np.dtype[Any]]:
    """The rows n_t that ADAM makes of the noise rows u_1, u_2, ...: same shape and dtype (float32 or float64).

    ``noise``: draws × coordinates, in time order from the optimiser's first step (else the first 1/(1 − ``beta1``)
    rows are of another law). Accumulated in float64. Raises ``InvalidInput`` (no real matrix, ``beta1`` outside
    [0, 1)), ``TooFewValues`` (no rows) and ``NonFiniteValues``: one NaN would spoil every later row.
    """
    u = as_real(noise, "noise", 2)
    beta = _decay(beta1)
    if len(u) == 0:
        raise TooFewValues("noise: expected at least 1 row, got 0")
    require_finite(u, "noise")
    out = np.empty_like(u)
    total, weight = np.zeros(u.shape[1]), 0.0
    for t, row in enumerate(u):
        total, weight = beta * total + row, beta * weight + 1.0  # weight: Σ β^{t−i} = (1 − β^t)/(1 − β)
        out[t] = total / weight
    return out


def scale_factor(alpha: float, beta1: float = 0.9, t: int | None = None) -> float:
    """Scale of n_t over the scale σ of iid SαS(σ) noise, at step ``t`` (``None``: in the limit).

    From the law of weighted sums, σ(Σ c_i u_i) = (Σ |c_i|^α)^{1/α} σ,

        (1 − β₁)/(1 − β₁^t) · [(1 − β₁^{αt})/(1 − β₁^α)]^{1/α}  →  (1 − β₁)/(1 − β₁^α)^{1/α}:

    below 1 for α > 1, 1 at α = 1, above 1 for α < 1; and 1 at t = 1. Raises ``InvalidInput`` for α outside (0, 2],
    ``beta1`` outside [0, 1), t not a whole number from 1.
    """
    a, beta = float(alpha), _decay(beta1)
    if not 0 < a <= 2:
        raise InvalidInput(f"alpha: expected a value in (0, 2], got {alpha!r}")
    if t is not None and not (isinstance(t, int | np.integer) and t >= 1):
        raise InvalidInput(f"t: expected a whole number of steps from 1, got {t!r}")
    if beta == 0:
        return 1.0
    # 1 − β^s without cancellation for β near 1
    log_beta = math.log(beta)
    steps = math.inf if t is None else float(t)
    limit = (1.0 - beta) / (-math.expm1(a * log_beta)) ** (1 / a)
    return float(limit * (-math.expm1(a * log_beta * steps)) ** (1 / a) / -math.expm1(log_beta * steps))
