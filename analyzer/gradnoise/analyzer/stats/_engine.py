"""From arrays to fitted rows: chunks, threads, and the meaning of the kernels' codes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from gradnoise.analyzer.stats import _fit as k
from gradnoise.analyzer.stats import _groups
from gradnoise.analyzer.stats._estimate import MIN_VALUES, Status
from gradnoise.analyzer.stats._likelihood import space

if TYPE_CHECKING:
    from gradnoise.analyzer.stats._estimate import Floats

STATUS = {
    k.CODE_OK: Status.OK,
    k.CODE_BOUNDARY: Status.AT_BOUNDARY,
    k.CODE_TOO_FEW: Status.TOO_FEW_VALUES,
    k.CODE_ALL_ZERO: Status.ALL_ZERO,
    k.CODE_NON_FINITE: Status.NON_FINITE,
    k.CODE_CONSTANT: Status.DEGENERATE,
    k.CODE_NO_CONVERGENCE: Status.NO_CONVERGENCE,
}
FITTED = k.FITTED

_CHUNK_VALUES = 1 << 17
"""Values copied at once when columns are fitted: with their groups and cells about 10 MiB, small beside a matrix."""
_THREADED_VALUES = 1 << 21
"""Below this many values threads cost more attention than they save."""


def cores() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ready(part: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """A part as the kernels take it: C order, float64. A long sample in C order is taken as it is, also float32: it is
    not copied."""
    if part.size > _CHUNK_VALUES and part.flags.c_contiguous:
        return part
    return np.array(part, dtype=np.float64, order="C")


def fit_rows(
    values: np.ndarray[Any, np.dtype[Any]],
    weights: Floats | None = None,
    *,
    located: bool = False,
    intervals: bool = False,
    least: int = MIN_VALUES,
    warm: Floats | None = None,
    columns: bool = False,
    threads: int | None = None,
) -> Floats:
    """Maximum likelihood for every row (``columns``: every column) of ``values``, float32 or float64, (samples
    × draws).

    Returns (samples × ``FIELDS``), see ``_fit``. ``warm`` is (samples × 3): starts (α, ln σ, μ). ``threads=None``
    takes every core for matrices of some millions of values and one thread otherwise.
    """
    w = np.empty(0) if weights is None else weights
    samples, size = (values.shape[1], values.shape[0]) if columns else values.shape
    rows = np.empty((samples, k.FIELDS))
    step = max(1, _CHUNK_VALUES // max(size, 1))
    if threads is None:
        threads = cores() if values.size >= _THREADED_VALUES else 1

    def work(low: int) -> None:
        high = min(low + step, samples)
        part = values[:, low:high].T if columns else values[low:high]
        rows[low:high] = k.fit_groups(
            _groups.group(_ready(part), w, located),
            located=located,
            intervals=intervals,
            least=least,
            warm=None if warm is None else warm[low:high],
            space=space(),
        )

    lows = range(0, samples, step)
    if threads > 1 and len(lows) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, lows))
    else:
        for low in lows:
            work(low)
    return rows
