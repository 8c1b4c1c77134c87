"""The forms in which one noise matrix is read, and what each of them reads when the noise is Gaussian.

A noise matrix U has a row a draw and a column a coordinate of one parameter group.

================  =================================  =========================================================
form              sample                             what it mixes up
================  =================================  =========================================================
per_parameter     every column                       nothing; needs draws
across_parameter  every row                          scales of the coordinates read as tail
standardized      every row, columns over a scale    a tail that all coordinates of a draw share does not show
pooled            all values                         scales of coordinates and of draws read as tail
vector            norms of sums of whole rows        hardly scales; says nothing about one coordinate
projection        rows onto random directions        averages coordinates (central limit theorem)
row_scaled        every column, rows over a scale    as ``standardized``; for draws whose scale drifts
================  =================================  =========================================================

They answer different questions and on real gradients they disagree. Never report one of them alone; ``read`` takes the
first three together, ``decomposition`` says how much of what is read across parameters is spread of scales, and how
much is tail.

Each form averages **1/α̂** over its columns (rows), because that is closer to unbiased than α̂ is. The interval
resamples draws, never columns (``_jackknife``). Beside α stands ``null_alpha``, what Gaussian noise of the same
shape reads in the same form. How a reading becomes a verdict is said in ``verdict``, with its thresholds
``REJECTED_SHARE``, ``FALSE_DISCOVERY_RATE`` and ``GAUSSIAN_MARGIN``; whether the Gaussian law is rejected stands in
``FormResult.gaussian_rejected``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.analyzer.stats._centring import Centring, centring
from gradnoise.analyzer.stats._column_forms import per_parameter, projection, row_scaled
from gradnoise.analyzer.stats._combine import combine
from gradnoise.analyzer.stats._form_result import QUANTILES, ColumnSummary, FormResult, SumResult, Trend
from gradnoise.analyzer.stats._pooled import pooled, pooled_sketches
from gradnoise.analyzer.stats._readings import Readings, read_together
from gradnoise.analyzer.stats._row_forms import across_parameter, standardized
from gradnoise.analyzer.stats._rules import FALSE_DISCOVERY_RATE, GAUSSIAN_MARGIN, REJECTED_SHARE, SUMS, verdict
from gradnoise.analyzer.stats._vector import vector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from gradnoise.analyzer.stats.contrasts import Contrast

__all__ = [
    "FALSE_DISCOVERY_RATE",
    "GAUSSIAN_MARGIN",
    "QUANTILES",
    "REJECTED_SHARE",
    "SUMS",
    "Centring",
    "ColumnSummary",
    "FormResult",
    "Readings",
    "SumResult",
    "Trend",
    "across_parameter",
    "centring",
    "combine",
    "per_parameter",
    "pooled",
    "pooled_sketches",
    "projection",
    "read",
    "read_together",
    "row_scaled",
    "standardized",
    "vector",
    "verdict",
]


def read(noise: Contrast | ArrayLike, *, rng: np.random.Generator | None = None) -> Readings:
    """Read ``noise`` per parameter, across parameters and standardised, and put the three together (``read_together``).

    ``noise``: a ``Contrast``, or rows × columns of noise already formed. With ``rng`` columns are also tested against
    SαS itself, as by ``per_parameter``. Raises ``InvalidInput`` for no real matrix; whatever else a form cannot read
    has a status and a reason in its result.
    """
    return read_together(per_parameter(noise, rng=rng), across_parameter(noise), standardized(noise))
