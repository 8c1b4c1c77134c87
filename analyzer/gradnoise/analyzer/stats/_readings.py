"""The three forms of one noise matrix, taken together."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradnoise.analyzer.stats._estimate import Verdict
from gradnoise.analyzer.stats._form_result import FormResult, Trend
from gradnoise.analyzer.stats._rules import sums_say

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Readings:
    """One noise matrix per parameter, across parameters and standardised, with what they say together."""

    per_parameter: FormResult
    across_parameter: FormResult
    """Its verdict is ``scale_mixture`` where the others make it one; alone it could not be."""
    standardized: FormResult
    verdict: Verdict
    """What the columns are, and ``scale_mixture`` if they are Gaussian on different scales."""
    why: str
    """The evidence, in a sentence."""


def read_together(per: FormResult, across: FormResult, standard: FormResult) -> Readings:
    """Put three readings of one matrix (or of the same groups of one window, by ``combine``) together.

    - ``gaussian``: all three are ``gaussian``.
    - ``scale_mixture``: per parameter and standardised are ``gaussian``, across parameters the Gaussian is rejected.
    - ``stable``, ``heavy_finite_variance``: it is rejected per parameter *and* standardised, and one of them is called
      so and neither the other thing. Of a form without a value (``too_few_draws``, ...) nothing is asked.
    - ``undecided``: else. Then no single form is called ``stable`` either.
    """
    columns = [r for r in (per, standard) if math.isfinite(r.alpha.value)]
    verdict, why = _together(columns, across)
    if verdict is Verdict.SCALE_MIXTURE:
        across = dataclasses.replace(across, verdict=verdict)
    if verdict is not Verdict.STABLE:
        per, standard = (_not_stable(result) for result in (per, standard))
    return Readings(per, across, standard, verdict, why)


def _not_stable(result: FormResult) -> FormResult:
    """A form is not called stable against the evidence of the other."""
    return dataclasses.replace(result, verdict=Verdict.UNDECIDED) if result.verdict is Verdict.STABLE else result


def _together(columns: Sequence[FormResult], across: FormResult) -> tuple[Verdict, str]:
    if not columns:
        return Verdict.UNDECIDED, "neither the per-parameter nor the standardised form has a value"
    names = " and ".join(r.form for r in columns)
    if all(r.verdict is Verdict.GAUSSIAN for r in columns):
        if across.gaussian_rejected and len(columns) == 2:
            return Verdict.SCALE_MIXTURE, f"{names} are gaussian, across parameters α is {across.alpha.value:.2f}"
        if across.verdict is Verdict.GAUSSIAN:
            return Verdict.GAUSSIAN, f"{names} and across_parameter are gaussian"
        return Verdict.UNDECIDED, f"{names} gaussian, across parameters nothing is decided"
    if all(r.gaussian_rejected for r in columns):
        trends = [sums_say(r.sums) for r in columns]
        said = {r.verdict for r in columns}
        for verdict, other, way in (
            (Verdict.STABLE, Trend.CLIMBING, "stay where single draws are"),
            (Verdict.HEAVY_FINITE_VARIANCE, Trend.FLAT, "climb towards Gaussian"),
        ):
            if verdict in said and other not in trends:
                return verdict, f"{names} reject the Gaussian law, and α of sums of draws {way}"
        return Verdict.UNDECIDED, f"{names} reject the Gaussian law, but sums of draws do not tell which law it is"
    if any(r.gaussian_rejected for r in columns):
        return Verdict.UNDECIDED, f"{names} disagree on the Gaussian law"
    return Verdict.UNDECIDED, f"{names} neither reject the Gaussian law nor bear it out"
