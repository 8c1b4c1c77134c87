from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.analyzer.stats import estimators, stable
from gradnoise.studies import StudyError, full_alpha, sampled_alpha

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def network() -> Any:
    """Layers of different scales, a convolution in channels_last, a dead unit."""
    model: Any = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 5)
    )
    with torch.no_grad():
        model[3].bias[0] = -100.0
    return model.to(memory_format=torch.channels_last)


def data(minibatches: int, batch: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(1)
    return [
        (torch.randn(batch, 1, 8, 8, generator=rng), torch.randint(0, 5, (batch,), generator=rng))
        for _ in range(minibatches)
    ]


def passes(model: nn.Module, batches: list[Any]) -> Callable[[], Iterator[torch.Tensor]]:
    return lambda: (nn.functional.cross_entropy(model(x), y) for x, y in batches)


def materialised(model: nn.Module, batches: list[Any], seed: int = 0) -> np.ndarray:
    """All gradients of a pass, as the published code holds them, less their mean."""
    torch.manual_seed(seed)
    rows = []
    for x, y in batches:
        gradients = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
        rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    stacked = torch.stack(rows)
    return np.asarray((stacked - stacked.mean(0)).numpy())


@pytest.mark.parametrize("minibatches", [2, 7, 30, 41])
def test_the_streamed_evaluation_is_that_of_all_gradients_in_memory(minibatches: int) -> None:
    model, batches = network(), data(minibatches)
    study = full_alpha(model, passes(model, batches))
    expected = estimators.mmo(materialised(model, batches))
    assert study.alpha.value == pytest.approx(expected.value, abs=1e-6)
    assert study.alpha.se == pytest.approx(expected.se, rel=1e-4)
    assert (study.minibatches, study.parameters) == (minibatches, 3045)
    assert study.alpha.method == expected.method
    assert set(expected.warnings) <= set(study.warnings)
    assert any("pooled over parameters" in text for text in study.warnings)
    assert any("order of the parameters" in text for text in study.warnings)
    assert study.reference == "mean of the minibatch gradients of the pass"


def test_the_model_is_left_as_it_was_and_both_passes_see_the_same_random_numbers() -> None:
    model = nn.Sequential(nn.Linear(6, 40), nn.BatchNorm1d(40), nn.Dropout(0.5), nn.Linear(40, 3))
    x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
    held = torch.utils.data.TensorDataset(x, y)

    def losses() -> Iterator[torch.Tensor]:
        for a, b in torch.utils.data.DataLoader(held, batch_size=8, shuffle=True):
            yield nn.functional.cross_entropy(model(a), b)

    nn.functional.cross_entropy(model(x), y).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = [parameter.grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    first, again, other = (full_alpha(model, losses, seed=seed).alpha.value for seed in (3, 3, 4))
    assert first == again != other
    torch.manual_seed(3)
    taken = (torch.autograd.grad(loss, list(model.parameters())) for loss in losses())
    stacked = torch.stack([torch.cat([g.reshape(-1) for g in gradients]) for gradients in taken])
    assert first == pytest.approx(estimators.mmo((stacked - stacked.mean(0)).numpy()).value, abs=1e-6)
    model.load_state_dict(before)
    torch.set_rng_state(state)
    full_alpha(model, losses)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(a is b.grad for a, b in zip(kept, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


def test_three_gradients_are_in_memory() -> None:
    model = nn.Linear(300, 501)
    x = torch.randn(2, 4, 300)
    alive = []

    def losses() -> Iterator[torch.Tensor]:
        for part in x:
            yield model(part).square().mean()
            size = 300 * 501
            found = (t for t in gc.get_objects() if type(t) in (torch.Tensor, nn.Parameter) and t.numel() >= size)
            alive.append(len({t.untyped_storage().data_ptr() for t in found}))

    full_alpha(model, losses)
    # The parameter and its copy aside: the mean; then the noise too; the gradient under way is gone already.
    assert alive == [3, 3, 4, 4]


def test_a_parameter_that_some_losses_do_not_use_has_a_gradient_of_zero_there() -> None:
    model = nn.ModuleList([nn.Linear(30, 10), nn.Linear(30, 10)])
    xs = torch.randn(12, 5, 30)

    def losses() -> Iterator[torch.Tensor]:
        for i, x in enumerate(xs):
            yield model[i % 2](x).square().mean()

    rows = []
    for loss in losses():
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, model.parameters(), strict=True)]
        rows.append(torch.cat([g.reshape(-1) for g in flat]))
    stacked = torch.stack(rows)
    expected = estimators.mmo((stacked - stacked.mean(0)).numpy()).value
    assert full_alpha(model, losses).alpha.value == pytest.approx(expected, abs=1e-6)


def test_values_of_double_precision_and_sparse_gradients() -> None:
    table = nn.Embedding(50, 20, sparse=True)
    head = nn.Linear(20, 4)
    words = torch.randint(0, 50, (10, 6))
    model = nn.Sequential(table, head).double()
    dense = nn.Sequential(nn.Embedding(50, 20), nn.Linear(20, 4)).double()
    dense.load_state_dict(model.state_dict())
    found = [
        full_alpha(which, lambda which=which: (which(w).square().mean() for w in words)).alpha.value  # type: ignore[misc]
        for which in (model, dense)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_the_likelihood_fit_of_all_values() -> None:
    model, batches = network(), data(30)
    study = full_alpha(model, passes(model, batches), estimator="maximum_likelihood")
    noise = materialised(model, batches)
    assert study.alpha.value == pytest.approx(stable.fit(noise[noise != 0].astype(np.float64)).alpha.value, abs=1e-3)
    assert study.block is None
    assert not any("order of the parameters" in text for text in study.warnings)


def test_a_sample_of_blocks_estimates_the_full_evaluation() -> None:
    model, batches = network(), data(40)
    model.eval()  # without dropout every pass is the same
    whole = full_alpha(model, passes(model, batches)).alpha
    errors = []
    for seed in range(40):
        study = sampled_alpha(model, passes(model, batches), minibatches=40, blocks=40, seed=seed)
        errors.append((1 / study.alpha.value - 1 / whole.value) / (study.alpha.se / study.alpha.value**2))
    assert abs(np.mean(errors)) < 0.5
    assert 0.6 < np.std(errors) < 1.4
    assert (study.block, study.minibatches, study.parameters) == (348, 40, 3045)
    assert "of 350 blocks" in study.alpha.method
    every = sampled_alpha(model, passes(model, batches), minibatches=40, blocks=10**6)
    assert every.alpha.value == pytest.approx(whole.value, abs=1e-6)
    assert every.alpha.se == pytest.approx(whole.se, rel=1e-4)


def test_blocks_longer_than_a_gradient_are_sampled_too() -> None:
    model = nn.Linear(20, 4, bias=False)
    xs = torch.randn(320, 5, 20)
    losses = lambda: (model(x).square().mean() for x in xs)  # noqa: E731
    whole, sampled = full_alpha(model, losses), sampled_alpha(model, losses, minibatches=320, blocks=10**6)
    assert whole.block == sampled.block == 160
    assert sampled.alpha.value == pytest.approx(whole.alpha.value, abs=1e-6)


def nan_later(model: nn.Module) -> Callable[[], Iterator[torch.Tensor]]:
    calls: list[int] = []

    def losses() -> Iterator[torch.Tensor]:
        calls.append(1)
        for _ in range(3):
            yield model(torch.ones(2, 40)).sum() * (math.nan if len(calls) > 1 else 1.0)

    return losses


def shrinking(model: nn.Module) -> Callable[[], Iterator[torch.Tensor]]:
    remaining = [5, 4]
    return lambda: (model(torch.ones(2, 40)).sum() for _ in range(remaining.pop(0)))


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        (lambda model: None, "expected a function"),
        (lambda model: lambda: [1.0], "losses returned float"),
        (lambda model: lambda: [model(torch.ones(2, 40)).sum()], "1 minibatches"),
        (lambda model: lambda: [model(torch.ones(2, 40)).sum() for _ in range(3)], "exactly 0"),
        (
            lambda model: lambda: [model(torch.ones(2, 40)).sum() * math.nan for _ in range(3)],
            "mean gradient holds NaN",
        ),
        (nan_later, "second pass holds NaN"),
        (shrinking, "5 minibatches in the first pass and 4 in the second"),
        (lambda model: lambda: 1 / 0, "losses raised ZeroDivisionError"),
    ],
)
def test_a_pass_that_cannot_be_evaluated(losses: Callable[[nn.Module], Any], text: str) -> None:
    model = nn.Linear(40, 5)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(StudyError, match=text):
        full_alpha(model, losses(model))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_arguments_that_make_no_sense() -> None:
    model = nn.Linear(40, 5)
    losses = lambda: (model(torch.randn(2, 40)).square().sum() for _ in range(6))  # noqa: E731
    waves = nn.ParameterList([torch.zeros(3, dtype=torch.complex64)])
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: full_alpha(3, losses), "expected a torch.nn.Module"),  # type: ignore[arg-type]
        (lambda: full_alpha(nn.ReLU(), losses), "no parameter"),
        (lambda: full_alpha(waves, losses), "complex"),
        (lambda: full_alpha(model, losses, estimator="hill"), "expected one of mmo"),  # type: ignore[arg-type]
        (lambda: sampled_alpha(model, losses, minibatches=5), "more than 5 minibatches; minibatches=5"),
        (lambda: sampled_alpha(model, losses, minibatches=0), "minibatches: expected"),
        (lambda: sampled_alpha(model, losses, minibatches=6, blocks=1), "blocks: expected"),
        (lambda: sampled_alpha(nn.Linear(2, 1), losses, minibatches=6), "carry no estimate"),
    ]
    for wrong, text in cases:
        with pytest.raises(StudyError, match=text):
            wrong()
