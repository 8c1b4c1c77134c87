"""Figure 1 of Xie et al. 2022: the covariance of the noise against the Hessian, in the Hessian's eigenbasis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradnoise.studies._alpha import StudyError
from gradnoise.studies._measured import Arguments, Examples, Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

__all__ = ["hessian_covariance"]


def hessian_covariance(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, Any], torch.Tensor],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 8, 64),
    top: int = 20,
    draws: int = 512,
    matrix: str = "hessian",
    mode: str = "eval",
    vectors: int | None = None,
    seed: int = 0,
) -> dict[int, Measurement]:
    """Measure c_ii = v_iᵀ Σ v_i against λ_i at several batch sizes: the exponent of c_ii ∝ λ_i^γ, the slope, the rest.

    Xie et al. 2022 (Adai), eq. 3 and figure 1: near a critical point Σ ≈ H / B, so that γ = 1 and B c_ii / λ_i = 1, and
    they show it for a network at random initialisation, too. Contested: arXiv 2602.05600 finds 1 ≤ γ ≤ 2. Nothing is
    assumed here. The model is left as it was.

    Args:
        model: all its trainable parameters are one part.
        loss_fn: ``loss_fn(model(inputs), targets)``, the mean over the examples.
        inputs, targets: all examples, on the model's device.
        batch_sizes: of the noise; the minibatches are drawn with replacement.
        top: eigenpairs.
        draws: minibatch gradients for each batch size.
        matrix: ``hessian``, or ``gauss_newton``, for cross-entropy the Fisher matrix of the model's own labels.
        mode: of the modules meanwhile, ``eval`` or ``train``.
        vectors: how many vectors of the model's dimension may be held. By default all draws are, where that takes less
            than 256 MiB; ``top + 6`` where it does not, and then gradients are taken again.
        seed: of every random choice.

    Returns:
        Batch size -> measurement, in the order asked for.

    Raises:
        StudyError: the arguments do not fit together, or the curvature cannot be measured.
    """
    examples = Examples(model, loss_fn, inputs, targets)
    if not batch_sizes or len(set(batch_sizes)) < len(batch_sizes):
        raise StudyError(f"batch_sizes: expected different whole numbers, got {tuple(batch_sizes)!r}")
    given = Arguments(top, draws, matrix, mode, vectors, seed)
    return {size: examples.measured(size, given) for size in batch_sizes}
