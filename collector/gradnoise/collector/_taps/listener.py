"""The recorded parameters as they are now, with hooks on them while a burst lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradnoise.collector._taps.groups import held

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from gradnoise.collector._recording.sink import Sink
    from gradnoise.collector._taps.hooks import LeafHooks
    from gradnoise.wire import Group

__all__ = ["Listener"]


class Listener:
    """Finds parameters by name whenever it begins to listen, because they may have been replaced, frozen or unfrozen.

    Args:
        groups: what was declared.
        hooks: come and go.
        sink: told of parameters that cannot be recorded.

    Attributes:
        parameters: group number -> parameter, of those listened to.
    """

    def __init__(self, groups: Sequence[Group], hooks: LeafHooks, sink: Sink) -> None:
        self._shapes = {group.name: group.shape for group in groups}
        self._hooks = hooks
        self._sink = sink
        self._frozen: list[torch.nn.Parameter] = []  # those that it goes on without
        self.parameters: Mapping[int, torch.nn.Parameter] = {}

    @property
    def armed(self) -> bool:
        """Whether the hooks are in place."""
        return self._hooks.armed

    @property
    def outdated(self) -> bool:
        """Whether a parameter is trained by now that was frozen when this began to listen."""
        return any(parameter.requires_grad for parameter in self._frozen)

    @property
    def version(self) -> int:
        """Sum of the parameters' version counters: it grows with each change that torch counts."""
        return sum([parameter._version for parameter in self.parameters.values()])

    def trained(self, model: torch.nn.Module) -> dict[int, torch.nn.Parameter]:
        """Return the recorded parameters that are trained now, by group number."""
        return self._hooks.parameters(model)

    def begin(self, model: torch.nn.Module, step: int) -> None:
        """Put hooks on the parameters that are trained now; once, name those that cannot be recorded."""
        self.parameters = self._hooks.arm(model)
        present = [(name, shape, parameter) for name, shape, parameter in held(model) if 0 not in shape]
        self._frozen = [p for name, shape, p in present if not p.requires_grad and self._shapes.get(name) == shape]
        strangers = [name for name, shape, p in present if p.requires_grad and self._shapes.get(name) != shape]
        if strangers:
            self._name(strangers, step)

    def before_backward(self, loss: torch.Tensor) -> None:
        """Look at what sharded parameters hold when the backward pass of this loss begins; never raises."""
        if self._hooks.mark is not None:
            self._hooks.mark(loss)

    def rest(self) -> None:
        """Take the hooks off until it begins again; idempotent."""
        self._hooks.rest()
        self._forget()

    def end(self) -> None:
        """Take the hooks off for good; idempotent."""
        self._hooks.disarm()
        self._forget()

    def _forget(self) -> None:
        self.parameters = {}
        self._frozen = []

    def _name(self, strangers: Sequence[str], step: int) -> None:
        """Say which parameters came, or changed their shape, after attach."""
        if self._sink.warn_once(
            "strangers",
            "gradnoise does not record %s%s: made, or of another shape, since attach(). Close this handle and attach "
            "again to record the model as it is now",
            ", ".join(strangers[:3]),
            f" and {len(strangers) - 3} more" if len(strangers) > 3 else "",
        ):
            self._sink.event("unknown_parameter", ", ".join(strangers[:20]), count=len(strangers), step=step)
