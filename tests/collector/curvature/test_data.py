from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.data import Passes

from .models import Case, losses, three_layers


def _passes(case: Case, data: Any = None, **options: Any) -> Passes:
    return Passes(case.model, case.loss_fn, case.data if data is None else data, **options)


def _function(case: Case, function: Callable[[], Any]) -> Passes:
    return Passes(case.model, None, function)


def test_a_pass_weighs_unequal_minibatches_by_their_size() -> None:
    case = three_layers()
    passes = _passes(case)
    assert passes.mean_loss() == pytest.approx(case.mean_loss().item(), rel=1e-14)
    assert (passes.minibatches, passes.examples) == (3, 15)
    assert [each.size for each in passes] == [6, 6, 3]


def test_functions_of_every_form_give_the_same_minibatches() -> None:
    case = three_layers()
    expected = [(float(each.loss.detach()), each.size) for each in _passes(case)]
    with_outputs = _function(case, lambda: ((case.loss_fn(out := case.model(x), y), len(x), out) for x, y in case.data))
    for passes in (_function(case, losses(case)), _function(case, lambda: list(losses(case)())), with_outputs):
        assert [(float(each.loss.detach()), each.size) for each in passes] == expected
    assert all(each.outputs is not None for each in with_outputs)


def test_one_scalar_loss_is_a_pass_of_one_minibatch() -> None:
    case = three_layers()
    (x, y), *_ = case.data
    for given in (lambda: case.loss_fn(case.model(x), y), lambda: (case.loss_fn(case.model(x), y), 6)):
        passes = _function(case, given)
        passes.check()
        assert passes.minibatches == 1
    assert passes.examples == 6


class _OwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layer(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_mappings_go_to_models_that_make_their_loss() -> None:
    model = _OwnLoss()
    batch = {"x": torch.randn(5, 4), "labels": torch.randint(0, 3, (5,))}
    (minibatch,) = Passes(model, None, [batch])
    assert minibatch.size == 5
    assert minibatch.outputs is not None
    assert torch.equal(minibatch.loss, model(**batch)["loss"])
    with pytest.raises(CurvatureError, match=r"mapping.*loss_fn=None"):
        list(Passes(model, nn.functional.cross_entropy, [batch]))


def test_a_shuffled_loader_repeats_its_pass_and_another_seed_is_another_order() -> None:
    case = three_layers()
    x = torch.cat([each for each, _ in case.data])
    y = torch.cat([each for _, each in case.data])
    loader = DataLoader(TensorDataset(x, y), 4, shuffle=True)
    passes = _passes(case, loader)
    passes.check()
    first, again, other = (
        [float(each.loss.detach()) for each in one] for one in (iter(passes), iter(passes), passes.seeded(5))
    )
    assert first == again
    assert first != other


def test_what_is_random_in_a_pass_leaves_the_generators_alone() -> None:
    case = three_layers()

    def noisy() -> Iterator[torch.Tensor]:
        for x, y in case.data:
            yield case.loss_fn(case.model(x), y) + torch.rand(()) + random.random() + np.random.random()  # noqa: NPY002

    passes = Passes(case.model, None, noisy, seed=3)
    seen = []
    for _ in range(2):
        before = torch.rand(3), random.random(), np.random.random()  # noqa: NPY002
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        seen.append([float(each.loss.detach()) for each in passes])
        after = torch.rand(3), random.random(), np.random.random()  # noqa: NPY002
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 3
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert torch.equal(torch.rand(3), after[0])
    assert (random.random(), np.random.random()) == after[1:]  # noqa: NPY002
    assert before[1:] != after[1:]


def test_steady_passes_have_the_same_random_numbers_and_leave_the_generators_alone() -> None:
    case = three_layers()

    def noisy() -> Iterator[torch.Tensor]:
        for x, y in case.data:
            yield case.loss_fn(case.model(x), y) + torch.rand(()) + random.random() + np.random.random()  # noqa: NPY002

    passes = Passes(case.model, None, noisy, seed=3)
    alone = [float(each.loss.detach()) for each in passes]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    with passes.steady():
        steady = [[float(each.loss.detach()) for each in passes] for _ in range(2)]
    with suppress(KeyError), passes.steady():
        next(iter(passes))
        raise KeyError
    assert steady == [alone, alone]
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]  # noqa: NPY002
    assert [float(each.loss.detach()) for each in passes] == alone


def _none() -> Iterator[torch.Tensor]:
    return iter(())


def test_data_without_a_minibatch_are_named() -> None:
    case = three_layers()
    for passes in (_passes(case, []), _function(case, _none)):
        with pytest.raises(CurvatureError, match="gave no minibatch"):
            passes.check()


def test_an_iterator_that_is_used_up_is_named_at_the_second_pass() -> None:
    case = three_layers()
    with pytest.raises(CurvatureError, match=r"no minibatch in the second pass.*only once; give a list"):
        _passes(case, iter(case.data)).check()


def test_a_pass_of_another_length_is_named_with_both() -> None:
    case = three_layers()
    left = [3, 2]
    with pytest.raises(CurvatureError, match="has 2 minibatches where the first had 3"):
        _function(case, lambda: list(losses(case)())[: left.pop(0)]).check()


def test_two_passes_that_differ_are_named_with_both_values_and_why() -> None:
    case = three_layers()
    case.model.insert(1, nn.Dropout(0.5))  # type: ignore[operator]
    case.model.train()
    _passes(case).check()  # the masks repeat
    x, y = case.data[0]

    def sampled() -> torch.Tensor:
        chosen = torch.randint(0, 6, (3,))
        return case.loss_fn(case.model(x[chosen]), y[chosen])

    case.model.eval()
    with pytest.raises(CurvatureError, match=r"mean loss of a pass is \d.*that of the first was \d.*Likely causes"):
        _function(case, sampled).check()
    counted = iter(range(100))
    with pytest.raises(CurvatureError, match="Likely causes"):
        _function(case, lambda: case.loss_fn(case.model(x), y) * (1 + 1e-9 * next(counted))).check()


def test_a_shuffled_loader_that_drops_its_last_minibatch_is_named() -> None:
    case = three_layers()
    loader = DataLoader(TensorDataset(torch.randn(7, 4).double(), torch.randint(0, 3, (7,))), 3, True, drop_last=True)
    with pytest.raises(CurvatureError, match="shuffled loader with drop_last"):
        _passes(case, loader).check()


def test_examples_that_act_on_each_other_in_shuffled_minibatches_are_named() -> None:
    attention = nn.TransformerEncoderLayer(4, 1, 8, dropout=0.0)  # without batch_first: over the minibatch
    model = nn.Sequential(attention, nn.Linear(4, 3)).double().eval()
    inputs, targets = torch.randn(12, 2, 4).double(), torch.randint(0, 3, (12, 2))
    data = TensorDataset(inputs, targets)

    def loss_fn(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    Passes(model, loss_fn, DataLoader(data, 3)).check()
    with pytest.raises(CurvatureError, match="attention over the batch"):
        Passes(model, loss_fn, DataLoader(data, 3, shuffle=True)).check()


def test_every_pass_is_compared_with_the_first() -> None:
    case = three_layers()
    passes = _passes(case)
    passes.check()
    with torch.no_grad():
        case.parameters[0].add_(0.1)
    with pytest.raises(CurvatureError, match="Likely causes"):
        list(passes)
    assert passes.mean_loss() == pytest.approx(case.mean_loss().item())


def test_single_precision_in_another_order_is_no_change() -> None:
    case = three_layers()
    case.model.float()
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(4096, 4), torch.randint(0, 3, (4096,)))
    passes = _passes(case, DataLoader(data, 64, shuffle=True))
    passes.check()
    assert passes.minibatches == 64


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out: out.sum(1), r"minibatch 0: the loss is a tensor of shape \(6,\).*expected a scalar"),
        (lambda out: 1.5, "minibatch 0: the loss is float; expected a scalar"),
        (lambda out: out.sum().detach(), "depends on no parameter"),
        (lambda out: out.sum() * torch.nan, "minibatch 0: the loss is nan"),
        (lambda out: out.sum() * (1 + 1j), "complex"),
        (lambda out: [][1], "minibatch 0 raised IndexError"),
    ],
)
def test_a_loss_that_is_none_is_named_with_its_minibatch(loss: Callable[[torch.Tensor], Any], message: str) -> None:
    case = three_layers()
    with pytest.raises(CurvatureError, match=message):
        Passes(case.model, lambda out, _: loss(out), case.data).check()


def test_the_minibatch_whose_loss_is_not_finite_is_named() -> None:
    case = three_layers()
    case.data[1][0][0, 0] = torch.nan
    with pytest.raises(CurvatureError, match="minibatch 1: the loss is nan"):
        _passes(case).check()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "data is a int; expected an iterable"),
        ([torch.zeros(3)], "minibatch 0 is a tensor"),
        ([(1, 2, 3)], "minibatch 0 is a tuple of 3"),
        (lambda: 3, "the function returned int"),
        (lambda: iter([(torch.ones(()), "six")]), "the size 'six'"),
        (lambda: iter([(torch.ones((), requires_grad=True), 2), torch.ones((), requires_grad=True)]), "give all sizes"),
        (lambda: 1 / 0, "data raised ZeroDivisionError"),
    ],
)
def test_data_of_another_form_are_named(data: Any, message: str) -> None:
    case = three_layers()
    with pytest.raises(CurvatureError, match=message):
        _passes(case, data).check()


def test_pairs_without_a_loss_function_are_named() -> None:
    case = three_layers()
    with pytest.raises(CurvatureError, match="loss_fn is None"):
        Passes(case.model, None, case.data).check()


def test_parameters_that_change_during_a_pass_are_named() -> None:
    case = three_layers()

    def stepping() -> Iterator[torch.Tensor]:
        for x, y in case.data:
            yield case.loss_fn(case.model(x), y)
            with torch.no_grad():
                case.parameters[0].add_(1e-3)

    def stepped(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            case.parameters[0].mul_(1)
        return case.loss_fn(outputs, targets)

    with pytest.raises(CurvatureError, match="minibatch 0: parameters were changed in place"):
        Passes(case.model, stepped, case.data).check()
    with pytest.raises(CurvatureError, match="parameters were changed in place"):
        _function(case, stepping).check()


def test_autocast_is_off_and_gradients_are_on_inside() -> None:
    case = three_layers()
    case.model.float()
    data = [(x.float(), y) for x, y in case.data]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = [(each.outputs, each.loss.requires_grad) for each in _passes(case, data)]
        assert torch.is_autocast_enabled("cpu")
    assert all(outputs is not None and outputs.dtype is torch.float32 and grad for outputs, grad in found)


def test_a_users_iterator_is_closed_when_a_pass_is_left() -> None:
    case = three_layers()
    closed = []

    def pass_() -> Iterator[torch.Tensor]:
        try:
            for x, y in case.data:
                yield case.loss_fn(case.model(x), y)
        finally:
            closed.append(True)

    one = iter(_function(case, pass_))
    next(one)
    assert not closed
    del one
    assert closed
