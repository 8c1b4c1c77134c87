"""The exact α evaluation of the published code, streamed: two passes instead of all gradients in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from gradnoise.analyzer.stats import NonFiniteValues, StatsError, block_sums, sketch
from gradnoise.studies._alpha import REFERENCE, AlphaStudy, StudyError, notes
from gradnoise.studies._pass import Flat, gradients, trainable, untouched

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradnoise.analyzer.stats import Estimate

__all__ = ["full_alpha"]

_CHUNK = 1 << 16  # values whose logarithms are taken at once: they stay in the processor's cache


def full_alpha(
    model: torch.nn.Module,
    losses: Callable[[], Any],
    *,
    estimator: Literal["mmo", "maximum_likelihood"] = "mmo",
    seed: int = 0,
) -> AlphaStudy:
    """Return the α of the gradient noise of a whole pass over the data, all parameters and minibatches pooled.

    Simsekli et al. 2019 and Zhou et al. 2020 evaluate α so: gradients of all minibatches of a pass, less their mean
    (minibatches weigh the same), flattened in the order of the parameters and strung together, estimated by block sums
    (``estimators.mmo``: blocks of m values, m the largest divisor of N not above √N). Their code holds all of them in
    memory. Here a first pass makes the mean and a second one the sums of the noise: the same value, with three
    gradients in memory.

    The model is used in the mode it is in (the published code calls ``eval()`` before) and left as it was; both passes
    begin with the same random numbers, so that shuffling and dropout are the same in both.

    Args:
        model: its trainable parameters, on one device.
        losses: returns an iterator over the losses of one pass, the same at each call, each scalar with its graph:
            ``lambda: (loss_fn(model(x), y) for x, y in loader)``.
        estimator: ``mmo``, or the maximum-likelihood fit of the stable law to all values (``stats.sketch``).
        seed: of the random numbers.

    Returns:
        The number, and what it cannot say.

    Raises:
        StudyError: the model or the losses cannot be evaluated, or the noise carries no estimate.
    """
    if estimator not in _READERS:
        raise StudyError(f"estimator: expected one of {', '.join(_READERS)}, got {estimator!r}")
    parameters = trainable(model)
    mean = Flat(parameters)
    with torch.no_grad():
        count = 0
        with untouched(model, seed):
            for tensors in gradients(losses, parameters):
                mean.add(tensors)
                count += 1
                del tensors
        if count < 2:
            raise StudyError(f"losses: {count} minibatches; expected a pass of at least 2")
        mean.values.div_(count)
        if not bool(torch.isfinite(mean.values).all()):
            raise StudyError("losses: the mean gradient holds NaN or infinity; there is no noise to measure")
        try:
            reader = _READERS[estimator](count * mean.values.numel(), mean.values)
            _second_pass(model, losses, parameters, mean, reader, count, seed)
            alpha = reader.finish()
        except StatsError as error:
            raise StudyError(f"the noise carries no estimate: {error}") from error
    return AlphaStudy(
        alpha,
        estimator,
        REFERENCE,
        count,
        mean.values.numel(),
        reader.block,
        notes(alpha, ordered=estimator == "mmo"),
    )


def _second_pass(
    model: torch.nn.Module,
    losses: Callable[[], Any],
    parameters: list[torch.nn.Parameter],
    mean: Flat,
    reader: _Reader,
    count: int,
    seed: int,
) -> None:
    noise = Flat(parameters)
    seen = 0
    with untouched(model, seed):
        for tensors in gradients(losses, parameters):
            seen += 1
            if seen > count:
                break
            noise.set_noise(mean, tensors)
            del tensors
            reader.read(noise.values)
    if seen != count:
        raise StudyError(
            f"losses: {count} minibatches in the first pass and {'more' if seen > count else seen} in the second; each "
            "call must return a whole pass"
        )


class _Reader(Protocol):
    block: int | None

    def __init__(self, n: int, like: torch.Tensor) -> None: ...

    def read(self, noise: torch.Tensor) -> None:
        """Take the noise of the next minibatch."""

    def finish(self) -> Estimate:
        """Return the estimate."""


class _BlockSums:
    """Block sums and logarithms on the device, their evaluation here."""

    def __init__(self, n: int, like: torch.Tensor) -> None:
        self._state = block_sums.zero(n)
        self.block: int | None = self._state.m
        self._work = torch.empty(min(max(_CHUNK, self._state.m), like.numel()), dtype=like.dtype, device=like.device)

    def read(self, noise: torch.Tensor) -> None:
        m, length = self._state.m, noise.numel()
        head, whole, _ = block_sums.cut(self._state, length)
        end = head + whole * m
        parts = [self._sums(noise[:head], 1), *self._rows(noise[head:end], m), self._sums(noise[end:], 1)]
        sums, logs = (torch.cat(list(each)) for each in zip(*parts, strict=True))
        zeros = length - torch.count_nonzero(noise)
        # One copy a minibatch.
        found = torch.cat([sums.double(), logs.double(), zeros.double().reshape(1)]).cpu().numpy()
        pieces = len(sums)
        try:
            self._state = block_sums.extend(
                self._state, length, found[:pieces], found[pieces : 2 * pieces], int(found[-1])
            )
        except NonFiniteValues:
            raise StudyError("losses: a gradient of the second pass holds NaN or infinity") from None

    def _rows(self, values: torch.Tensor, m: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Sums of the blocks, as many at once as fit into the working memory."""
        step = max(len(self._work) // m, 1) * m
        return [
            self._sums(values[start : start + step], min(step, values.numel() - start) // m)
            for start in range(0, values.numel(), step)
        ]

    def _sums(self, values: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of the values and of their logarithms over ``rows`` equal parts; none of no values."""
        if not values.numel():
            return values, values
        logs = torch.abs(values, out=self._work[: values.numel()]).add_(block_sums.EPS).log_()
        return values.view(rows, -1).sum(1), logs.view(rows, -1).sum(1)

    def finish(self) -> Estimate:
        return block_sums.finalize(self._state)


class _Likelihood:
    """Counts of all values; the law is fitted to the counts."""

    def __init__(self, n: int, like: torch.Tensor) -> None:
        self.block: int | None = None
        self._counts = sketch.zero()

    def read(self, noise: torch.Tensor) -> None:
        sketch.update(self._counts, noise.to("cpu", torch.float32).numpy(), out=self._counts)

    def finish(self) -> Estimate:
        return sketch.finalize(self._counts).alpha


_READERS: dict[str, type[_Reader]] = {"mmo": _BlockSums, "maximum_likelihood": _Likelihood}
