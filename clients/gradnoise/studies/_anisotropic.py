"""The anisotropic noise of Zhu et al. 2019: along a training, how much of the noise lies where the loss curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gradnoise.studies._alpha import StudyError
from gradnoise.studies._measured import Arguments, Examples, Measurement, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["anisotropic_noise"]


def anisotropic_noise(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, Any], torch.Tensor],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    steps: Sequence[int] = (0, 100, 300, 1000, 3000),
    batch_size: int = 50,
    top: int = 10,
    draws: int = 512,
    vectors: int | None = None,
    seed: int = 0,
) -> dict[int, Measurement]:
    """**Train the model** with this optimiser, and measure its noise against its curvature after so many steps.

    Zhu et al. 2019 (ICML; arXiv 1803.00195): SGD leaves a sharp minimum the faster the larger Tr(HΣ) is, and its noise
    has far more of it than isotropic noise of the same trace, Tr H Tr Σ / d. Readings of each measurement:
    ``trace_h_sigma``; ``anisotropy_gain``, d Tr(HΣ) / (Tr H Tr Σ); ``projection_coefficient``, v₁ᵀΣv₁ Tr H / (λ₁ Tr Σ),
    which their second condition wants to be not small.

    Args:
        model: all its trainable parameters are one part; trained in its present mode, measured in ``eval`` mode.
        loss_fn: ``loss_fn(model(inputs), targets)``, the mean over the examples.
        inputs, targets: all examples, on the model's device.
        optimizer: of the model.
        steps: after how many of its steps from now to measure, ascending; 0 is before the first.
        batch_size: of the training and of the noise; minibatches are drawn with replacement.
        top: eigenpairs.
        draws: minibatch gradients a measurement.
        vectors: how many vectors of the model's dimension may be held. By default all draws are, where that takes less
            than 256 MiB; ``top + 6`` where it does not, and then gradients are taken again.
        seed: of the minibatches and of every other random choice.

    Returns:
        Step -> measurement.

    Raises:
        StudyError: the arguments do not fit together, or the curvature cannot be measured.
    """
    examples = Examples(model, loss_fn, inputs, targets)
    whole_number("batch_size", batch_size)
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 0:
        raise StudyError(f"steps: expected ascending whole numbers from 0 on, got {tuple(steps)!r}")
    given = Arguments(top, draws, vectors=vectors, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    found, taken = {}, 0
    for step in steps:
        while taken < step:
            optimizer.zero_grad()
            examples.loss(batch_size, rng).backward()
            optimizer.step()
            taken += 1
        found[step] = examples.measured(batch_size, given, step=step)
    return found
