"""What to record, and where to: the configuration of a collector."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradnoise.collector._errors import CollectorError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DISABLED",
    "DUMP",
    "ENDPOINT",
    "RESUME",
    "Limits",
    "Probe",
    "Sampling",
    "default_dump",
    "default_endpoint",
    "disabled",
    "resuming",
]

DISABLED = "GRADNOISE_DISABLED"
DUMP = "GRADNOISE_DUMP"
ENDPOINT = "GRADNOISE_ENDPOINT"
RESUME = "GRADNOISE_RESUME"


def _integer(owner: str, name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise CollectorError(f"{owner}({name}={value!r}): expected a whole number of at least {least}")


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which coordinates of the gradients of which steps are recorded.

    Attributes:
        coordinates: sampled coordinates a parameter group; a smaller group is recorded whole.
        burst: consecutive steps recorded at the start of every ``every`` steps; 0 records none (probes only),
            ``burst=every`` records every step.
        every: steps from the start of one burst to the start of the next.
        seed: seed of the choice of coordinates and of the probes' minibatches.
        norms: measure the squared norm of each group's whole gradient, too.
        sketch: count the half-differences of every second draw with the one before over all recorded parameters; costs
            memory of one more gradient and a pass over it.

    Raises:
        CollectorError: a value out of its range.
    """

    coordinates: int = 1024
    burst: int = 64
    every: int = 1024
    seed: int = 0
    norms: bool = False
    sketch: bool = False

    def __post_init__(self) -> None:
        for name, least in (("coordinates", 1), ("burst", 0), ("every", 1), ("seed", 0)):
            _integer("Sampling", name, getattr(self, name), least)
        for name in ("norms", "sketch"):
            if not isinstance(getattr(self, name), bool):
                raise CollectorError(f"Sampling({name}={getattr(self, name)!r}): expected True or False")
        if self.burst > self.every:
            raise CollectorError(
                f"Sampling(burst={self.burst}, every={self.every}): a burst of more steps than lie between two "
                "bursts; use burst=every to record every step"
            )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a collector may take from the machine. What exceeds it is dropped and counted, never waited for.

    Attributes:
        memory: bytes of what waits for the disk, all of it together.
        spool: bytes of this producer's segments on disk. While they exceed it whole bursts and probes are skipped; with
            an endpoint, sealed segments that the analyzer has acknowledged are deleted first.

    Raises:
        CollectorError: less than 1 MiB.
    """

    memory: int = 64 << 20
    spool: int = 2 << 30

    def __post_init__(self) -> None:
        for name in ("memory", "spool"):
            _integer("Limits", name, getattr(self, name), 1 << 20)


@dataclass(frozen=True, slots=True)
class Probe:
    """Extra minibatches at frozen parameters: the draws that tell noise from drift, and the exact gradient.

    First at update number ``every`` and then every ``every`` parameter updates, ``draws`` losses are taken from
    ``closure`` and differentiated, and the losses of ``full`` give the exact gradient that the noise is measured
    against. Parameters, buffers, gradients, train/eval flags, hooks and random number generators are put back bit for
    bit afterwards. Nothing may step an optimiser meanwhile, or call ``backward``; with a loss scaler attached the
    losses are scaled by the probe: return them unscaled.

    Attributes:
        closure: returns the scalar loss of a fresh minibatch, the mean over its examples, or (loss, batch size). It
            owns its iterator over the data. None: the first ``draws`` minibatches of ``full`` are the draws, of one
            pass and so without replacement; shuffle it.
        draws: minibatches a probe.
        every: parameter updates between two probes, and before the first: a shorter training is not probed.
        full: returns an iterator over the losses of one whole pass over the data, each the mean over its minibatch:
            ``full=lambda: (loss_fn(model(x), y) for x, y in loader)``. Give ``(loss, len(x))`` instead of the loss
            where minibatches differ in size: they are weighted by it. One gradient at a time is in memory.

    Raises:
        CollectorError: a value out of its range, a function that cannot be called, or neither of the two.
    """

    closure: Callable[[], Any] | None = None
    draws: int = 512
    every: int = 5000
    full: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        expected = {
            "closure": "a function without arguments that returns the loss of a fresh minibatch",
            "full": "a function without arguments that returns an iterator over the losses of a pass over the data",
        }
        for name, text in expected.items():
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise CollectorError(f"Probe({name}={given!r}): expected {text}")
        if self.closure is None and self.full is None:
            raise CollectorError("Probe(closure=None, full=None): give one of them, or both")
        _integer("Probe", "draws", self.draws, 2)
        _integer("Probe", "every", self.every, 1)


def disabled() -> bool:
    """Whether ``GRADNOISE_DISABLED`` turns every collector of this process off."""
    return _is_set(DISABLED)


def resuming() -> bool:
    """Whether ``GRADNOISE_RESUME`` lets this process go on with a finished run as another producer of it."""
    return _is_set(RESUME)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no")


def default_endpoint() -> str | None:
    """Return ``GRADNOISE_ENDPOINT``, or None where it is unset or empty."""
    return os.environ.get(ENDPOINT, "").strip() or None


def default_dump(run: str) -> Path:
    """Return ``$GRADNOISE_DUMP``, else ``./gradnoise/<run>``."""
    chosen = os.environ.get(DUMP, "").strip()
    return Path(chosen) if chosen else Path("gradnoise") / run
