"""What cannot be measured: named, with what was found and what to do; or measured as far as it goes, with a note."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.collector.curvature import CurvatureError, CurvatureRow, measure_curvature
from gradnoise.wire import ProductMethod

from ...alignment.exact import dense
from ...alignment.worlds import network
from .test_measure import batched, close

if TYPE_CHECKING:
    from collections.abc import Iterator

LOSS = nn.CrossEntropyLoss()
SMALL: dict[str, Any] = {"top": 2, "draws": 3, "probes": 2}


def measured(model: nn.Module, loss_fn: Any, data: Any, **options: Any) -> CurvatureRow:
    (row,) = measure_curvature(model, loss_fn, data, **(SMALL | options))
    return row


class Spare(nn.Module):
    """A network, and a parameter that its loss does not depend on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        return out


def test_parameters_that_the_loss_does_not_depend_on_have_zeros() -> None:
    inner, inputs, targets = network()
    truth = dense(inner, LOSS, inputs, targets)
    model = Spare(inner)
    row = measured(model, LOSS, batched(inputs, targets, 20), dense=100, tolerance=1e-8)
    whole = np.zeros((row.dimension, row.dimension))
    whole[3:, 3:] = truth.hessian
    close(row.block, whole)
    np.testing.assert_array_equal(row.block_noise[:, :3], 0)
    np.testing.assert_allclose(row.eigenvalues, truth.pairs(2)[0], rtol=1e-6)
    with pytest.raises(CurvatureError, match="depends on none of the chosen parameters"):
        measured(model, LOSS, batched(inputs, targets, 20), parts="spare")


def test_a_loss_without_a_gradient_is_named() -> None:
    model, inputs, targets = network()
    data = batched(inputs, targets, 20)
    with pytest.raises(CurvatureError, match="depends on no parameter that requires a gradient"):
        measured(model, lambda out, y: (out.argmax(1) == y).double().mean(), data)


class _Once(torch.autograd.Function):
    """The square, of which only a first derivative is given."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        derivative: torch.Tensor = 2 * x * gradient
        return derivative


class Squared(nn.Module):
    def __init__(self, inner: nn.Module, *, once: bool) -> None:
        super().__init__()
        self.inner, self.once = inner, once

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.inner(x)
        squared: torch.Tensor = _Once.apply(out) if self.once else out * out  # type: ignore[no-untyped-call]
        return squared


def test_a_model_without_double_backward_is_measured_by_finite_differences() -> None:
    inner, inputs, targets = network()
    data = batched(inputs, targets, 20)
    exact = measured(Squared(inner, once=False), LOSS, data, tolerance=1e-8)
    row = measured(Squared(inner, once=True), LOSS, data, tolerance=1e-6)
    assert exact.method is ProductMethod.DOUBLE_BACKWARD
    assert row.method is ProductMethod.FINITE_DIFFERENCES
    assert any("double backward failed" in note for note in row.notes)
    np.testing.assert_allclose(row.eigenvalues, exact.eigenvalues, rtol=1e-4)
    close(row.gram, exact.gram)
    close(row.quadratic, exact.quadratic, rel=1e-4)
    with pytest.raises(CurvatureError, match="cannot be differentiated twice"):
        measured(Squared(inner, once=True), LOSS, data, method="double_backward")


def test_a_model_that_changes_its_parameters_is_named() -> None:
    model, inputs, targets = network()

    def losses() -> Iterator[torch.Tensor]:
        for x, y in batched(inputs, targets, 20):
            yield LOSS(model(x), y)
            with torch.no_grad():
                next(model.parameters()).mul_(0.999)

    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(CurvatureError, match=r"parameters were changed|mean loss of a pass|modified by an inplace"):
        measured(model, None, losses)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_an_optimizer_step_inside_is_refused() -> None:
    model, inputs, targets = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss() -> torch.Tensor:
        optimizer.step()
        return nn.functional.cross_entropy(model(inputs), targets)

    with pytest.raises(CurvatureError, match="optimizer step"):
        measured(model, None, loss)


def test_a_loss_that_is_no_scalar_is_named() -> None:
    model, inputs, targets = network()
    with pytest.raises(CurvatureError, match=r"shape \(20,\).*scalar"):
        measured(model, nn.CrossEntropyLoss(reduction="none"), batched(inputs, targets, 20))
    with pytest.raises(CurvatureError, match="returned dict"):
        measured(model, None, lambda: {"loss": 1})


def test_a_loss_that_changes_between_calls_is_named_with_both_values() -> None:
    model, inputs, targets = network()
    calls = iter(range(1, 100))
    with pytest.raises(CurvatureError, match=r"mean loss of a pass is .* where that of the first was"):
        measured(model, None, lambda: LOSS(model(inputs), targets) * next(calls))


def test_an_iterator_that_is_used_up_is_named() -> None:
    model, inputs, targets = network()
    with pytest.raises(CurvatureError, match="only once"):
        measured(model, LOSS, iter(batched(inputs, targets, 20)))


def test_no_data_are_named() -> None:
    with pytest.raises(CurvatureError, match="no minibatch"):
        measured(network()[0], LOSS, [])


def test_nan_in_the_hessian_is_named_with_its_minibatch() -> None:
    """The square root of a square has a first derivative of NaN or a second one, at zero."""
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    inputs = torch.ones(4, 3, dtype=torch.float64)
    inputs[2:] = 0
    data = batched(inputs, torch.zeros(4), 2)
    with pytest.raises(CurvatureError, match="minibatch 1: NaN or infinity"):
        measured(model, lambda out, _: out.square().sum().pow(0.75), data)


def test_a_loss_of_nan_is_named() -> None:
    model, inputs, targets = network()
    inputs[25] = torch.nan
    with pytest.raises(CurvatureError, match="minibatch 1: the loss is nan"):
        measured(model, LOSS, batched(inputs, targets, 20))


def test_a_loader_shorter_than_the_draws_gives_what_it_has() -> None:
    model, inputs, targets = network()
    row = measured(model, LOSS, batched(inputs, targets, 20), draws=50)
    assert (row.draws, row.gram.shape) == (3, (3, 3))
    assert any("3 draws instead of 50" in note and "shuffle" in note for note in row.notes)


def test_a_function_that_raises_is_named() -> None:
    model, inputs, targets = network()
    with pytest.raises(CurvatureError, match="minibatch 0 raised KeyError"):
        measured(model, lambda out, y: {"no": out}["loss"], batched(inputs, targets, 20))
    with pytest.raises(CurvatureError, match="loss_fn is None"):
        measured(model, None, batched(inputs, targets, 20))
