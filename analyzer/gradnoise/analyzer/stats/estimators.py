"""Estimators of α other than maximum likelihood. Each returns an ``AlphaEstimate``.

``mmo`` is the one that the first papers on heavy-tailed gradient noise used; it is here to reproduce them, bias
and all. ``block_sum`` is the same idea without its faults. ``ecf`` is nearly as good as ``stable.fit`` and may be
fed a histogram; ``quantile`` is location-free and untouched by the farthest tenth of the values; ``log_moment`` is a
closed form. The indices of tails alone are in ``tail_index``: they are no estimates of α.
"""

from gradnoise.analyzer.stats._alpha import AlphaEstimate
from gradnoise.analyzer.stats._block_sum import block_sum, mmo
from gradnoise.analyzer.stats._ecf import ecf
from gradnoise.analyzer.stats._log_moment import log_moment
from gradnoise.analyzer.stats._quantile import quantile

__all__ = ["AlphaEstimate", "block_sum", "ecf", "log_moment", "mmo", "quantile"]
