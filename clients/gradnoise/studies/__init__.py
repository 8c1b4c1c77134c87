"""Experiments of the literature on a model at hand: one call, one result, made of the collector and the statistics.

>>> from gradnoise.studies import full_alpha
>>> study = full_alpha(model, lambda: (loss_fn(model(x), y) for x, y in loader))  # doctest: +SKIP
>>> study.alpha.value                                                             # doctest: +SKIP
1.218

Needs torch.
"""

from gradnoise.studies._alpha import AlphaStudy, StudyError
from gradnoise.studies._anisotropic import anisotropic_noise
from gradnoise.studies._full import full_alpha
from gradnoise.studies._hessian_covariance import hessian_covariance
from gradnoise.studies._measured import Measurement
from gradnoise.studies._sampled import sampled_alpha

__all__ = [
    "AlphaStudy",
    "Measurement",
    "StudyError",
    "anisotropic_noise",
    "full_alpha",
    "hessian_covariance",
    "sampled_alpha",
]
