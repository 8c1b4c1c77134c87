"""From the gradients of a backward pass to a draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.collector._taps.measures import Measures
from gradnoise.collector._taps.sentinels import Sentinels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from gradnoise.collector._config import Sampling
    from gradnoise.collector._taps.gather import Gatherer
    from gradnoise.collector._taps.listener import Listener
    from gradnoise.collector._taps.passes import BackwardPass
    from gradnoise.collector._taps.scale import LossScale
    from gradnoise.collector._taps.theta import AtTheta
    from gradnoise.wire import Group

__all__ = ["Gathering"]


class Gathering:
    """Takes the sampled values of each gradient, and what is measured of it as a whole.

    Args:
        groups: the model's.
        sampling: says what is measured.
        listener: knows the parameters listened to.
        scale: of the loss, divided out.
        gatherer: of the groups.
    """

    def __init__(
        self, groups: Sequence[Group], sampling: Sampling, listener: Listener, scale: LossScale, gatherer: Gatherer
    ) -> None:
        self._gatherer = gatherer
        self._sentinels = Sentinels(groups)
        self._measures = Measures(sampling, scale)
        self._listener = listener
        self._scale = scale

    def take(
        self, number: int, gradient: torch.Tensor, under_way: BackwardPass, before: torch.Tensor | None = None
    ) -> None:
        """Take the gradient of a group; of a running sum what was there before, at the sampled coordinates.

        Raises:
            UnsupportedGradientError: it is of a kind that cannot be read.
        """
        values = self._gatherer.pick(number, gradient)
        if before is not None:
            under_way.parts[number] = values - before
            return  # nothing is known of the rest of it
        under_way.parts[number] = values
        if self._measures.wanted:
            self._measures.take(number, gradient, under_way)

    def end(self, under_way: BackwardPass, at: AtTheta, pending: int) -> bool:
        """Add the draw that a backward pass gave; return whether it is the last there is room for in so many bytes."""
        scale = self._scale.tensor
        fingerprint = self._sentinels.read(self._listener.parameters)
        draw = self._gatherer.draw(under_way.parts, scale=scale, fingerprint=fingerprint)
        last = at.add(self._measures.with_norms(draw, under_way.norms, scale), pending)
        self._measures.end_draw(at)
        return last

    def forget(self) -> None:
        """Forget the pair of draws under way that is measured together: one is discarded, or the window has ended."""
        self._measures.forget()
