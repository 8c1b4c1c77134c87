from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.data import Passes
from gradnoise.collector._curvature.products import Products
from gradnoise.collector._curvature.space import Space
from gradnoise.wire import ProductMethod

from .models import CASES, Case, dense_gauss_newton, dense_hessian, differenced, losses, three_layers
from .storage import LiveStorage

EXACT, DIFFERENCES = ProductMethod.DOUBLE_BACKWARD, ProductMethod.FINITE_DIFFERENCES


def _products(case: Case, data: Any = None, **options: Any) -> Products:
    passes = Passes(case.model, case.loss_fn, case.data if data is None else data)
    passes.check()
    return Products(Space(case.parameters), passes, **options)


def _direction(case: Case) -> torch.Tensor:
    vector = torch.randn(sum(each.numel() for each in case.parameters), dtype=torch.float64)
    return nn.functional.normalize(vector, dim=0)


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _whole(case: Case) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.cat([x for x, _ in case.data]), torch.cat([y for _, y in case.data]))]


def _dense(products: Products, dimension: int) -> torch.Tensor:
    return torch.stack([products(unit) for unit in torch.eye(dimension, dtype=torch.float64)])


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("whole", [False, True], ids=["three minibatches", "one minibatch"])
@pytest.mark.parametrize(("method", "error"), [("auto", 1e-13), ("finite_differences", 1e-8)])
def test_every_column_agrees_with_the_dense_matrix(matrix: str, whole: bool, method: str, error: float) -> None:
    case = three_layers()
    expected = {"hessian": dense_hessian, "gauss_newton": dense_gauss_newton}[matrix](case)
    products = _products(case, _whole(case) if whole else None, matrix=matrix, method=method)
    assert _apart(_dense(products, len(expected)), expected) < error
    assert products.count == len(expected)


@pytest.mark.parametrize("name", CASES)
def test_products_of_every_kind_of_model_are_exact(name: str) -> None:
    case = CASES[name]()
    vector = _direction(case)
    expected = differenced(case, vector)
    products = _products(case)
    assert _apart(products(vector), expected) < 1e-9
    assert (products.method, products.notes) == (EXACT, [])
    loss, gradient = products.gradient()
    assert loss == pytest.approx(case.mean_loss().item(), rel=1e-13)
    assert _apart(gradient, case.gradient()) < 1e-13


@pytest.mark.parametrize("name", ["attention", "lstm", "dropout, train", "frozen and unused", "sparse embedding"])
def test_finite_differences_come_near_and_say_how_near(name: str) -> None:
    case = CASES[name]()
    vector = _direction(case)
    expected = differenced(case, vector)
    products = _products(case, method="finite_differences")
    assert _apart(products(vector), expected) < 1e-8
    assert products.method is DIFFERENCES
    (note,) = products.notes
    assert "finite differences with a step of" in note


def test_a_graph_that_is_kept_gives_what_a_new_one_gives_and_costs_no_forward() -> None:
    case = three_layers()
    calls = []
    handle = case.model.register_forward_hook(lambda *_: calls.append(1))
    kept, fresh = _products(case, graphs=3), _products(case)
    vectors = [_direction(case) for _ in range(3)]
    expected = [fresh(vector) for vector in vectors]
    assert len(calls) == 2 * 2 * 3 + 3 * 3
    for vector, product in zip(vectors, expected, strict=True):
        torch.testing.assert_close(kept(vector), product, rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(kept.gradient(), fresh.gradient(), rtol=1e-14, atol=1e-16)
    assert len(calls) == 21 + 3 + 3
    kept.release()
    kept(vectors[0])
    assert len(calls) == 27 + 3
    handle.remove()


def test_a_kept_graph_costs_no_memory_once_it_is_released() -> None:
    case = three_layers()
    data = _whole(case)
    with LiveStorage() as memory:
        products = _products(case, data)
        out = torch.zeros(83, dtype=torch.float64)
        start = memory.current
        vector = _direction(case)
        products(vector, out)
        assert memory.current > start + 3 * 83 * 8
        products.release()
        del vector
        assert memory.current == start


def test_of_several_minibatches_one_is_in_memory_at_a_time() -> None:
    case = three_layers()
    peaks = []
    for copies in (1, 6):
        data = case.data[:1] * copies
        products = _products(case, data, graphs=0)
        vector, out = _direction(case), torch.zeros(83, dtype=torch.float64)
        with LiveStorage() as memory:
            products(vector, out)
        peaks.append(memory.peak)
    assert peaks[1] <= peaks[0] + 64 * 6  # a number or two a minibatch


def test_out_is_written_whole_and_returned() -> None:
    case = three_layers()
    products = _products(case)
    vector = _direction(case)
    expected = products(vector)
    for method in (products, _products(case, method="finite_differences")):
        out = torch.full_like(vector, torch.nan)
        assert method(vector, out=out) is out
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-9)
        assert method(torch.zeros_like(vector), out).abs().max() == 0


class _SeenCube(torch.autograd.Function):
    """x^3, of whose backward pass autograd sees everything."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.as_tensor(3 * x**2 * gradient)


class _Cube(_SeenCube):
    """Its backward pass cannot be differentiated."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _SeenCube.backward(ctx, gradient)


class _HiddenCube(_SeenCube):
    """Autograd sees a part of its backward pass only."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2) * gradient


class _Custom(nn.Module):
    def __init__(self, cube: Any) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)
        self.cube = cube

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.cube.apply(self.first(x)))
        return out


def _custom(cube: Any) -> Case:
    case = three_layers()
    case.model = _Custom(cube).double()
    return case


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_without_a_double_backward_finite_differences_take_over_and_say_why(matrix: str) -> None:
    case = _custom(_Cube)
    vector = _direction(case)
    plain = _custom(_SeenCube)
    plain.model.load_state_dict(case.model.state_dict())
    plain.data = case.data
    expected = _products(plain, matrix=matrix, method="double_backward")(vector)
    products = _products(case, matrix=matrix)
    assert _apart(products(vector), expected) < 1e-7
    assert products.method is DIFFERENCES
    assert "double backward failed" in products.notes[0]
    assert "once_differentiable" in products.notes[0]
    with pytest.raises(CurvatureError, match=r"cannot be differentiated twice.*finite_differences"):
        _products(case, matrix=matrix, method="double_backward")(vector)


def test_a_backward_pass_that_hides_something_is_found_out() -> None:
    case = _custom(_HiddenCube)
    vector = _direction(case)
    expected = differenced(case, vector)
    assert _apart(_products(case, method="double_backward")(vector), expected) > 0.05  # wrong without a word
    products = _products(case)
    assert _apart(products(vector), expected) < 1e-7
    assert products.method is DIFFERENCES
    assert "_HiddenCube seems to do what autograd does not see" in products.notes[0]


def test_a_backward_pass_of_ones_own_that_hides_nothing_is_taken() -> None:
    case = _custom(_SeenCube)
    vector = _direction(case)
    products = _products(case)
    assert _apart(products(vector), differenced(case, vector)) < 1e-9
    assert (products.method, products.notes) == (EXACT, [])


def test_default_attention_has_no_double_backward_and_ours_needs_no_setting() -> None:
    case = CASES["attention"]()
    vector = _direction(case)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        gradients = torch.autograd.grad(case.mean_loss(), case.parameters, create_graph=True)
        with pytest.raises(RuntimeError, match="not implemented"):
            torch.autograd.grad(gradients, case.parameters, gradients)
        products = _products(case)
        assert _apart(products(vector), differenced(case, vector)) < 1e-9
    assert products.method is EXACT


def test_the_fast_path_of_an_encoder_and_other_settings_are_put_back() -> None:
    case = CASES["transformer encoder, eval"]()
    torch.backends.mha.set_fastpath_enabled(True)
    enabled = torch.backends.cudnn.enabled
    _products(case)(_direction(case))
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cudnn.enabled is enabled


@pytest.mark.parametrize(("name", "enabled"), [("lstm", False), ("three layers", True)])
def test_cudnn_is_off_for_recurrent_networks_only(name: str, enabled: bool) -> None:
    case = CASES[name]()
    seen = []
    case.model.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.enabled))
    _products(case)(_direction(case))
    assert set(seen) == {enabled}


def test_finite_differences_put_the_parameters_back_bit_for_bit_also_when_stopped() -> None:
    case = three_layers()
    before = [(each.detach().clone(), each._version) for each in case.parameters]

    def unchanged() -> bool:
        return all(
            torch.equal(each, values) and each._version == version
            for each, (values, version) in zip(case.parameters, before, strict=True)
        )

    products = _products(case, method="finite_differences")
    products(_direction(case))
    assert unchanged()
    left = [7]

    def stop(*_: object) -> None:
        left[0] -= 1
        if not left[0]:
            assert not unchanged()
            raise KeyboardInterrupt

    case.model.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        _products(case, method="finite_differences")(_direction(case))
    assert unchanged()


def test_half_precision_parameters_are_summed_up_in_single() -> None:
    case = three_layers()
    expected = dense_hessian(case)
    case.model.bfloat16()
    case.data = [(x.bfloat16(), y) for x, y in case.data]
    vector = torch.randn(83)
    for method, error in (("auto", 0.02), ("finite_differences", 0.3)):
        products = _products(case, method=method)
        found = products(vector)
        assert found.dtype is torch.float32
        assert _apart(found.double(), expected @ vector.double()) < error


def test_differences_that_mean_nothing_at_any_step_are_named() -> None:
    case = three_layers()
    first = case.parameters[0]
    case.loss_fn = lambda outputs, _: outputs.square().mean() + (1e12 * first).sin().mean()
    with pytest.raises(CurvatureError, match=r"do not settle.*float64"):
        _products(case, method="finite_differences")(_direction(case))


def test_single_precision_differences_are_worth_three_digits() -> None:
    case = three_layers()
    expected = dense_hessian(case)
    case.model.float()
    case.data = [(x.float(), y) for x, y in case.data]
    products = _products(case, method="finite_differences")
    vector = torch.randn(83)
    assert _apart(products(vector).double(), expected @ vector.double()) < 1e-3


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_a_compiled_model_is_taken_as_it_was_written() -> None:
    case = three_layers()
    vector = _direction(case)
    expected = _products(case)(vector)
    written = case.model
    compiled: Any = torch.compile(written, backend="aot_eager")
    case.loss_fn(compiled(case.data[0][0]), case.data[0][1]).backward()
    for data, loss_fn in ((case.data, case.loss_fn), (losses(Case(compiled, case.loss_fn, case.data)), None)):
        products = Products(Space(case.parameters), Passes(compiled, loss_fn, data))
        assert _apart(products(vector), expected) < 1e-13
        assert products.method is EXACT


def test_what_the_loss_does_not_depend_on_is_zero_and_on_nothing_is_named() -> None:
    case = three_layers()
    idle = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    passes = Passes(case.model, case.loss_fn, case.data)
    products = Products(Space([*case.parameters, idle]), passes)
    assert products(torch.ones(85, dtype=torch.float64))[-2:].tolist() == [0, 0]
    for matrix in ("hessian", "gauss_newton"):
        for method in ("auto", "finite_differences"):
            alone = Products(Space([idle]), passes, matrix=matrix, method=method)
            with pytest.raises(CurvatureError, match="depends on none of the chosen parameters"):
                alone(torch.ones(2, dtype=torch.float64))
    with pytest.raises(CurvatureError, match="depends on none"):
        Products(Space([idle]), passes).gradient()


@pytest.mark.parametrize("method", ["auto", "finite_differences"])
def test_a_loss_that_is_linear_has_no_hessian(method: str) -> None:
    model = nn.Linear(3, 1).double()
    case = Case(model, lambda out, _: out.mean(), [(torch.randn(4, 3, dtype=torch.float64), torch.zeros(4))])
    for matrix in ("hessian", "gauss_newton"):
        found = _products(case, matrix=matrix, method=method)(_direction(case))
        assert found.abs().max() < 1e-9


def test_the_minibatch_whose_derivative_is_not_finite_is_named() -> None:
    case = three_layers()
    first = case.parameters[0]

    def with_root() -> Iterator[tuple[torch.Tensor, int]]:
        for index, (x, y) in enumerate(case.data):
            loss = case.loss_fn(case.model(x), y)
            if index == 1:
                loss = loss + (first[0, 0] - first[0, 0].detach()).abs().sqrt()
            yield loss, len(x)

    products = Products(Space(case.parameters), Passes(case.model, None, with_root))
    with pytest.raises(CurvatureError, match="minibatch 1: NaN or infinity in a derivative"):
        products(_direction(case))
    with pytest.raises(CurvatureError, match="minibatch 1: NaN or infinity"):
        products.gradient()


def test_a_model_that_works_in_place_on_what_backward_needs_is_named() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = torch.sigmoid(self.first(x))
            out = hidden * 2
            hidden.add_(1)
            return out

    case = three_layers()
    case.model = InPlace().double()
    with pytest.raises(CurvatureError, match=r"gradient of minibatch 0 raised RuntimeError.*inplace"):
        _products(case)(_direction(case))


def test_a_reentrant_checkpoint_is_named_with_what_to_do() -> None:
    class Reentrant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = checkpoint(self.first, x.requires_grad_(), use_reentrant=True)
            return out

    case = three_layers()
    case.model = Reentrant().double()
    with pytest.raises(CurvatureError, match="use_reentrant=False"):
        _products(case)(_direction(case))


def test_gauss_newton_without_outputs_or_with_others_is_named() -> None:
    case = three_layers()

    def with_outputs(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Iterator[Any]]:
        def pass_() -> Iterator[Any]:
            for x, y in case.data:
                outputs = case.model(x)
                yield case.loss_fn(outputs, y), len(x), change(outputs)

        return pass_

    space = Space(case.parameters)
    for data, message in (
        (losses(case), "no outputs with a graph"),
        (with_outputs(lambda out: out.detach()), "no outputs with a graph"),
        (with_outputs(lambda out: out * 1), "not made of the given outputs"),
    ):
        with pytest.raises(CurvatureError, match=message):
            Products(space, Passes(case.model, None, data), matrix="gauss_newton")(_direction(case))
    good = Products(space, Passes(case.model, None, with_outputs(lambda out: out)), matrix="gauss_newton")
    vector = _direction(case)
    assert _apart(good(vector), dense_gauss_newton(case) @ vector) < 1e-13


def test_parameters_that_change_between_products_are_named() -> None:
    case = three_layers()
    products = _products(case, _whole(case))
    products(_direction(case))
    with torch.no_grad():
        case.parameters[0].mul_(1)
    with pytest.raises(CurvatureError, match="changed between two products"):
        products(_direction(case))


def test_nothing_is_added_to_the_gradients() -> None:
    case = three_layers()
    for method in ("auto", "finite_differences"):
        products = _products(case, method=method)
        products(_direction(case))
        products.gradient()
    assert all(each.grad is None for each in case.model.parameters())


def test_a_least_squares_model_has_its_known_hessian() -> None:
    model = nn.Linear(5, 1, bias=False).double()
    x = torch.randn(40, 5, dtype=torch.float64)
    case = Case(model, nn.functional.mse_loss, [(x[:30], torch.randn(30, 1)), (x[30:], torch.randn(10, 1))])
    case.data = [(a, b.double()) for a, b in case.data]
    expected = 2 * x.T @ x / 40
    for matrix in ("hessian", "gauss_newton"):
        np.testing.assert_allclose(_dense(_products(case, matrix=matrix), 5), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_on_cuda_products_are_those_of_the_cpu(name: str) -> None:
    case = CASES[name]()
    if "dropout" in name or name == "transformer encoder, train":
        pytest.skip("the masks of the two devices differ")
    vector = _direction(case)
    expected = _products(case)(vector)
    case.model.cuda()
    products = _products(case)
    found = products(vector.cuda())
    assert products.method is EXACT
    assert found.is_cuda
    assert _apart(found.cpu(), expected) < 1e-8
