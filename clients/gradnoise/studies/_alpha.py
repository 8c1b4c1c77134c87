"""What an α evaluation over a pass returns, and the errors it raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradnoise.analyzer.stats import Estimate

__all__ = ["AlphaStudy", "StudyError", "notes"]


class StudyError(ValueError):
    """What a study was given cannot be evaluated; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class AlphaStudy:
    """The pooled α of the gradient noise of one pass over the data, at one θ.

    Attributes:
        alpha: value, error, interval; its ``method`` and ``reference`` name the estimator.
        estimator: ``mmo`` or ``maximum_likelihood``.
        reference: what the noise is measured against.
        minibatches: of the pass.
        parameters: numbers in one gradient.
        block: values in a block sum; None where there are none.
        warnings: what this one number cannot say.
    """

    alpha: Estimate
    estimator: str
    reference: str
    minibatches: int
    parameters: int
    block: int | None
    warnings: tuple[str, ...]


REFERENCE = "mean of the minibatch gradients of the pass"

_POOLED = (
    "values are pooled over parameters and minibatches: a spread of scales over either reads as a heavy tail; set the "
    "forms of a probe beside this number"
)
_ORDERED = "block sums depend on the order of the parameters: layers of other scales, or correlated neighbours, move it"
_INDEPENDENT = "the error takes values as independent, and parameters of one minibatch are not"


def notes(alpha: Estimate, *, ordered: bool) -> tuple[str, ...]:
    """Return the warnings of a pooled number, those of its estimate first."""
    return (*alpha.warnings, _POOLED, *([_ORDERED] if ordered else []), _INDEPENDENT)
