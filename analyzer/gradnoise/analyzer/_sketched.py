"""All parameters of the model as one sample, where the window holds sketches of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradnoise.analyzer._rows import filled, with_draw_scale
from gradnoise.analyzer.stats import forms, sketch

if TYPE_CHECKING:
    from gradnoise.analyzer.report import TailRow
    from gradnoise.analyzer.windows import SketchRow, Window

__all__ = ["sketched_row"]

_NOTE = "all parameters of the model, not sampled ones: read from counts of every value (sketch)"
_IN_TIME = "draws have different parameters: neighbours in time were paired, one step's drift is in the noise"


def sketched_row(window: Window, base: TailRow) -> TailRow | None:
    """Return the whole model's row of the form ``pooled`` made of the window's sketches; None if it holds none.

    Pairs of draws of one theta are taken, unless that leaves more than half of the pairs out.

    Args:
        window: the window.
        base: the model's row without a value.
    """
    if not window.sketches:
        return None
    used = [row for row in window.sketches if row.same_theta]
    notes: tuple[str, ...] = (_NOTE,)
    if 2 * len(used) < len(window.sketches):
        used, notes = list(window.sketches), (_NOTE, _IN_TIME)
    result = forms.pooled_sketches([_dense(row) for row in used], reference="pair")
    blank = replace(base, form="pooled", reference="pair", draws=2 * len(used), warnings=(*base.warnings, *notes))
    # A half-difference of two SaS(sigma) draws is SaS(2^{1/alpha} / 2 sigma).
    return with_draw_scale(filled(blank, result), lambda alpha: 2.0 ** (1.0 - 1.0 / alpha))


def _dense(row: SketchRow) -> sketch.Sketch:
    counts = np.zeros(sketch.CELLS, np.int64)
    counts[row.cells] = row.counts
    return sketch.Sketch(counts, np.array([row.inexact], np.int64))
