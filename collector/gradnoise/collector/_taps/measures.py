"""What is measured of gradients as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradnoise.collector._taps.norms import norm_of, squared
from gradnoise.collector._taps.sketch import Sketcher

if TYPE_CHECKING:
    import torch

    from gradnoise.collector._config import Sampling
    from gradnoise.collector._recording.records import Draw
    from gradnoise.collector._taps.passes import BackwardPass
    from gradnoise.collector._taps.scale import LossScale
    from gradnoise.collector._taps.theta import AtTheta

__all__ = ["Measures"]


class Measures:
    """Norms and sketches, where the sampling wants them.

    Args:
        sampling: says which.
        scale: of the loss, divided out.

    Attributes:
        wanted: whether it wants any.
    """

    def __init__(self, sampling: Sampling, scale: LossScale) -> None:
        self._norms = sampling.norms
        self._sketcher = Sketcher() if sampling.sketch else None
        self._scale = scale
        self.wanted = sampling.norms or sampling.sketch

    def take(self, number: int, gradient: torch.Tensor, under_way: BackwardPass) -> None:
        """Measure the whole gradient of one group."""
        if self._norms:
            norm = norm_of(gradient)
            if norm is not None:
                under_way.norms[number] = norm
        if self._sketcher is not None:
            self._sketcher.take(number, gradient, self._scale.tensor)

    def with_norms(self, draw: Draw, norms: dict[int, torch.Tensor], scale: torch.Tensor | None) -> Draw:
        """Return a draw with the norms of its gradients."""
        return replace(draw, norms=squared(norms, draw.groups.tolist(), scale)) if norms else draw

    def end_draw(self, at: AtTheta) -> None:
        """Note that the last draw of ``at`` is complete; its sketch, if it ends a pair, is kept beside it."""
        if self._sketcher is not None:
            counts = self._sketcher.finish()
            if counts is not None:
                at.sketches.append((len(at.draws) - 1, counts))

    def forget(self) -> None:
        """Forget the pair of draws under way: one of them is discarded, or the window has ended."""
        if self._sketcher is not None:
            self._sketcher.reset()
