"""The density on tensors against its numpy twin, and its derivatives against finite differences."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gradnoise.analyzer.stats import InvalidInput, stable

torch = pytest.importorskip("torch")
stable_torch = pytest.importorskip("gradnoise.analyzer.stats.stable_torch")

ALPHAS = (0.5, 0.7, 1.0, 1.02, 1.3, 1.7, 1.95, 1.9999, 2.0 - 1e-12, 2.0)


def _points() -> np.ndarray[Any, np.dtype[np.float64]]:
    rng = np.random.default_rng(0)
    far = 10 ** rng.uniform(-8, 8, 1500)
    return np.concatenate([rng.normal(size=1500) * 3, far, -far, [0.0, 31.9375, -31.9375, 1e300, -1e308]])


def _double(values: Any) -> Any:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_agrees_with_numpy(alpha: float) -> None:
    x = _points()
    expected = stable.logpdf(x, alpha, 0.7)
    got = stable_torch.logpdf(torch.tensor(x), alpha, 0.7)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), expected, rtol=2e-14, atol=2e-10 if alpha == 1 else 1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_float32_keeps_its_bound(alpha: float) -> None:
    x = _points()[:-2].astype(np.float32)
    got = stable_torch.logpdf(torch.tensor(x), alpha, 0.7)
    assert got.dtype == torch.float32
    expected = stable.logpdf(x.astype(np.float64), alpha, float(np.float32(0.7)))
    assert (np.abs(got.double().numpy() - expected) <= 4e-6 + 5e-7 * np.abs(expected)).all()


def test_each_point_may_bring_its_parameters() -> None:
    rng = np.random.default_rng(1)
    x, alpha, scale = rng.normal(size=(40, 30)) * 9, rng.uniform(0.5, 2, (40, 30)), rng.uniform(0.1, 5, 30)
    alpha[0, :3] = 0.5, 1.0, 2.0
    for a in (alpha, alpha[:, :1], alpha[:1], alpha[0, 0]):
        got = stable_torch.logpdf(torch.tensor(x), torch.tensor(a), torch.tensor(scale))
        np.testing.assert_allclose(got.numpy(), stable.logpdf(x, a, scale), rtol=1e-13, atol=2e-10)
    assert stable_torch.logpdf(torch.tensor(1.0), 1.5).shape == ()
    assert stable_torch.logpdf(torch.empty(0), 1.5).shape == (0,)
    assert stable_torch.logpdf(torch.zeros(3, 1), torch.full((4,), 1.5)).shape == (3, 4)
    mixed = stable_torch.logpdf(torch.zeros(3), torch.tensor(1.5, dtype=torch.float64), 2)
    assert mixed.dtype == torch.float32


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.95])
def test_derivatives_of_first_and_second_order(alpha: float) -> None:
    x, a, s = _double([0.05, 0.3, -2.0, 7.0, 35.0, -50.0]), _double(alpha), _double([1.3])
    if alpha == 0.5:  # below it there is no density to take differences with
        a = _double(0.501)
    assert torch.autograd.gradcheck(stable_torch.logpdf, (x, a, s))
    assert torch.autograd.gradgradcheck(stable_torch.logpdf, (x, a, s), atol=1e-4)
    each = _double(np.linspace(0.6, 1.9, 6))
    assert torch.autograd.gradcheck(stable_torch.logpdf, (x, each, s))


def test_derivatives_are_the_score() -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.normal(size=300) * 4, [31.0, 33.0, -50.0, 1e6]])
    for alpha in (0.6, 1.0, 1.4, 1.9999, 2.0):
        x, a, s = torch.tensor(values), _double(np.full(304, alpha)), _double(np.full(304, 1.3))
        in_alpha, in_scale = torch.autograd.grad(stable_torch.logpdf(x, a, s).sum(), (a, s))
        expected = stable.score(values, alpha, 1.3)
        usable = np.isfinite(expected.alpha)
        np.testing.assert_allclose(in_alpha.numpy()[usable], expected.alpha[usable], rtol=1e-9, atol=1e-8)
        np.testing.assert_allclose(in_scale.numpy(), expected.scale, rtol=1e-9, atol=1e-8)


def test_derivatives_at_two_and_at_the_median() -> None:
    x, s = _double([0.05, 2.0, -7.0, 35.0]), _double(1.3)
    assert torch.autograd.gradcheck(lambda x, s: stable_torch.logpdf(x, 2.0, s), (x, s))
    assert torch.autograd.gradgradcheck(lambda x, s: stable_torch.logpdf(x, 2.0, s), (x, s), atol=1e-4)
    # The second derivative from below, against first ones.
    a = _double([2.0, 2.0 - 1e-6])
    (first,) = torch.autograd.grad(stable_torch.logpdf(torch.tensor(3.0).double(), a).sum(), a, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), a)
    assert float(second[0]) == pytest.approx(float((first[0] - first[1]).detach() / 1e-6), rel=1e-3)
    # f''(0)/f(0) = −Γ(3/α)/Γ(1/α), where |x| has a kink.
    x = _double(0.0)
    (first,) = torch.autograd.grad(stable_torch.logpdf(x, 1.5), x, create_graph=True)
    assert float(first.detach()) == pytest.approx(0.0, abs=1e-6)
    (second,) = torch.autograd.grad(first, x)
    assert float(second) == pytest.approx(-1.0 / 1.3541179394264, rel=1e-3)  # Γ(2) = 1, Γ(2/3)


def test_float32_gradients_are_finite_far_out() -> None:
    for alpha in (0.7, 1.5, 1.9999, 2.0):
        x = torch.tensor([0.0, 20.0, 40.0, 1e18, -3e38], requires_grad=True)
        a = torch.full((5,), alpha, requires_grad=True)
        s = torch.full((5,), 1.0, requires_grad=True)
        gradients = torch.autograd.grad(stable_torch.logpdf(x, a, s)[: 4 if alpha == 2 else 5].sum(), (x, a, s))
        for gradient in gradients[: 1 if alpha == 2 else 3]:
            assert torch.isfinite(gradient).all()


def test_values_that_are_not_finite() -> None:
    for alpha in (0.8, 1.0, 1.5, 2.0):
        out = stable_torch.logpdf(torch.tensor([torch.nan, torch.inf, -torch.inf]), alpha)
        assert torch.isnan(out[0])
        assert (out[1:] == -torch.inf).all()
    far = stable_torch.logpdf(torch.tensor(1e308, dtype=torch.float64), 1.5, 1e-10)
    assert float(far) == pytest.approx(stable.logpdf(1e308, 1.5, 1e-10), rel=1e-12)


def test_parameters_out_of_range() -> None:
    x = torch.zeros(3)
    for alpha in (0.49, 2.01, float("nan")):
        with pytest.raises(InvalidInput, match="alpha"):
            stable_torch.logpdf(x, alpha)
        assert torch.isnan(stable_torch.logpdf(x, torch.tensor(alpha))).all()
    for scale in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InvalidInput, match="scale"):
            stable_torch.logpdf(x, 1.5, scale)
    assert torch.isnan(stable_torch.logpdf(x, 1.5, torch.tensor([1.0, 0.0, -1.0]))).tolist() == [False, True, True]
    for wrong in (torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.float16), np.zeros(3), 1.0):
        with pytest.raises(InvalidInput, match="x: expected a float32 or float64 tensor"):
            stable_torch.logpdf(wrong, 1.5)


def test_a_fit_by_gradients_finds_the_maximum() -> None:
    x = stable.rvs(1.6, 2.0, 3000, np.random.default_rng(8))
    theta = _double([1.5, 0.5])
    optimizer = torch.optim.LBFGS([theta], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        value = -stable_torch.logpdf(torch.tensor(x), theta[0], theta[1].exp()).mean()
        value.backward()
        return value

    optimizer.step(loss)
    fit = stable.fit(x)
    assert float(theta[0].detach()) == pytest.approx(fit.alpha.value, abs=1e-4)
    assert float(theta[1].detach().exp()) == pytest.approx(fit.scale.value, rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own doing
def test_traces_without_a_graph_break() -> None:
    compiled = torch.compile(stable_torch.logpdf, backend="eager", fullgraph=True)
    x = torch.linspace(-40, 40, 50)
    for alpha in (1.5, torch.tensor(1.7), torch.linspace(0.6, 2.0, 50)):
        torch.testing.assert_close(compiled(x, alpha), stable_torch.logpdf(x, alpha))


def test_maps_over_batches() -> None:
    rng = np.random.default_rng(3)
    x, a, s = (torch.tensor(v) for v in (10 * rng.normal(size=(5, 7)), np.linspace(0.6, 2, 5), rng.uniform(0.5, 2, 5)))
    expected = stable_torch.logpdf(x, a[:, None], s[:, None])
    torch.testing.assert_close(torch.vmap(stable_torch.logpdf)(x, a, s), expected)
    torch.testing.assert_close(torch.vmap(stable_torch.logpdf)(x[:, 0], a, s), expected[:, 0])
    one = torch.vmap(stable_torch.logpdf, in_dims=(None, 0))(x[0], a)
    torch.testing.assert_close(one, stable_torch.logpdf(x[0], a[:, None]))

    def total(x: Any, a: Any, s: Any) -> Any:
        return stable_torch.logpdf(x, a, s).sum()

    gradients = torch.vmap(torch.func.grad(total, argnums=(0, 1, 2)))(x, a, s)
    leaves = [v.requires_grad_() for v in (x, a, s)]
    summed = stable_torch.logpdf(leaves[0], leaves[1][:, None], leaves[2][:, None]).sum()
    for got, each in zip(gradients, torch.autograd.grad(summed, leaves), strict=True):
        torch.testing.assert_close(got, each)


def test_only_this_module_imports_torch() -> None:
    code = "import sys, gradnoise.analyzer.stats; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import gradnoise.analyzer.stats.stable_torch"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert "pip install 'gradnoise[torch]'" in result.stderr


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    x = _points()
    for alpha in (0.6, 1.0, 1.7, 2.0):
        for dtype, bound in ((torch.float64, 2e-10), (torch.float32, 1e-4)):
            here = torch.tensor(x[:-2], dtype=dtype)
            there = here.cuda().requires_grad_()
            a = torch.full((1,), alpha, dtype=dtype, device="cuda", requires_grad=True)
            out = stable_torch.logpdf(there, a)
            assert out.device.type == "cuda"
            torch.testing.assert_close(out.detach().cpu(), stable_torch.logpdf(here, alpha), rtol=1e-5, atol=bound)
            for gradient in torch.autograd.grad(out[:1500].sum(), (there, a)):
                assert torch.isfinite(gradient).all()
