"""One probe: gradients of fresh minibatches at frozen parameters."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from gradnoise.collector._records import DrawsAt, WindowEnd, window_id
from gradnoise.collector._torch_state import preserved, preserved_random
from gradnoise.wire import WindowKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gradnoise.collector._config import Probe
    from gradnoise.collector._gather import Gatherer
    from gradnoise.collector._sink import Sink

__all__ = ["ProbeError", "run_probe"]


class ProbeError(Exception):
    """The probe's closure raised, or returned what is no loss."""


def probe_seed(seed: int, theta: int) -> int:
    """Return the seed of the probe at ``theta``.

    It differs from probe to probe even where the training itself draws no random number; otherwise each would see the
    minibatches of the one before it.
    """
    digest = hashlib.sha256(f"probe\n{seed}\n{theta}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def run_probe(
    probe: Probe,
    *,
    model: torch.nn.Module,
    parameters: Mapping[int, torch.nn.Parameter],
    gatherer: Gatherer,
    sink: Sink,
    theta: int,
    seed: int,
    batch_size: int | None,
) -> None:
    """Record ``probe.draws`` gradients at the present parameters as one window; draws stream out as they come.

    Raises:
        ProbeError: the closure failed; the window is closed with what was recorded, and everything is restored.
    """
    window = window_id(theta, probe=True)
    numbers, tensors = list(parameters), list(parameters.values())
    dropped = 0
    try:
        with preserved(model), preserved_random(probe_seed(seed, theta)), torch.inference_mode(False):
            for _ in range(probe.draws):
                gradients = _gradients(probe.closure, tensors)
                with torch.no_grad():
                    parts = {
                        number: gatherer.pick(number, gradient)
                        for number, gradient in zip(numbers, gradients, strict=True)
                        if gradient is not None
                    }
                    if not parts:
                        raise ProbeError("the loss it returned depends on no recorded parameter")
                    item = DrawsAt(window, theta, theta, (gatherer.draw(parts),), batch_size)
                dropped += not sink.draws(item)
                if not sink.recording:
                    return
    finally:
        sink.end_window(WindowEnd(window, WindowKind.PROBE, theta, theta, probe.draws, dropped))


def _gradients(closure: Callable[[], object], tensors: list[torch.nn.Parameter]) -> tuple[torch.Tensor | None, ...]:
    try:
        with torch.enable_grad():
            loss = closure()
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise ProbeError(
                    f"it returned {_described(loss)}; expected the scalar loss of a fresh minibatch, with its graph"
                )
            return torch.autograd.grad(loss.reshape(()), tensors, allow_unused=True)
    except ProbeError:
        raise
    except StopIteration as error:
        raise ProbeError("its iterator is exhausted: it must own one that starts again") from error
    except Exception as error:
        raise ProbeError(f"{type(error).__name__}: {error}") from error


def _described(loss: object) -> str:
    if isinstance(loss, torch.Tensor):
        return f"a tensor of shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}"
    return f"{type(loss).__name__}"
