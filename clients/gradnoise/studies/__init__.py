"""Experiments of the literature on a model at hand: one call, one result, made of the collector and the statistics.

>>> from gradnoise.studies import full_alpha
>>> study = full_alpha(model, lambda: (loss_fn(model(x), y) for x, y in loader))  # doctest: +SKIP
>>> study.alpha.value                                                             # doctest: +SKIP
1.218

Needs torch.
"""

from gradnoise.studies._alpha import AlphaStudy, StudyError
from gradnoise.studies._full import full_alpha
from gradnoise.studies._sampled import sampled_alpha

__all__ = ["AlphaStudy", "StudyError", "full_alpha", "sampled_alpha"]
