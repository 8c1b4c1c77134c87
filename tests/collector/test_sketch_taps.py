from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gradnoise.analyzer.stats import contrasts, sketch
from gradnoise.collector._taps import sketch as _sketch
from gradnoise.collector._taps.sketch import CELLS, Sketcher, rescaled


def counted(*half_differences: Any) -> np.ndarray:
    """As the analyzer counts values."""
    found = sketch.zero()
    for values in half_differences:
        found = sketch.update(found, values)
    return np.concatenate([found.counts, found.inexact])


def pairs(draws: list[list[torch.Tensor]], scales: list[Any] | None = None) -> list[np.ndarray]:
    sketcher, out = Sketcher(), []
    for index, gradients in enumerate(draws):
        for number, gradient in enumerate(gradients):
            kept = gradient.clone() if gradient.layout is torch.strided else None
            sketcher.take(number, gradient, None if scales is None else scales[index])
            assert kept is None or torch.allclose(kept, gradient, rtol=0, atol=0, equal_nan=True), (
                "the gradient was changed"
            )
        fetch = sketcher.finish()
        assert (fetch is None) == (index % 2 == 0)
        if fetch is not None:
            out.append(fetch)
    return [fetch() for fetch in out]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=rng) * torch.exp(4 * torch.randn(shape, generator=rng))
    values[torch.rand(shape, generator=rng) < 0.1] = 0.0
    return values


def test_counts_are_those_of_the_pair_contrast_of_all_parameters() -> None:
    shapes = [(300, 200), (7,), (), (64, 3, 5, 5), (40, 1000)]
    draws = [[noise(*shape, seed=10 * draw + i) for i, shape in enumerate(shapes)] for draw in range(5)]
    expected = [
        counted(
            *(
                contrasts.pair(np.stack([a.numpy().ravel(), b.numpy().ravel()])).noise
                for a, b in zip(draws[2 * i], draws[2 * i + 1], strict=True)
            )
        )
        for i in range(2)
    ]
    found = pairs(draws)  # the fifth waits for a sixth
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[0][:CELLS].sum() == sum(int(np.prod(shape)) for shape in shapes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_of_another_precision_are_halved_without_loss(dtype: torch.dtype) -> None:
    first, second = (noise(2000, seed=seed).clamp(-6e4, 6e4).to(dtype) for seed in (1, 2))
    expected = (first.double() / 2 - second.double() / 2).float().numpy()
    (found,) = pairs([[first], [second]])
    np.testing.assert_array_equal(found, counted(expected))


def test_large_finite_draws_of_opposite_sign_stay_finite() -> None:
    large = torch.full((50,), 3e38)
    (found,) = pairs([[large], [-large]])
    np.testing.assert_array_equal(found, counted(large.numpy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_loss_scales_are_divided_out_also_where_they_change_within_a_pair(dtype: torch.dtype) -> None:
    first, second = (torch.randn(1000, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (1, 2))
    plain = pairs([[first], [second]])
    scaled = pairs([[first * 1024], [second * 512]], [torch.tensor(1024.0), torch.tensor(512.0)])
    np.testing.assert_array_equal(scaled, plain)


def test_a_scale_that_is_no_power_of_two_costs_half_precision_nothing() -> None:
    first, second = (torch.randn(1000, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (1, 2))
    scale = torch.tensor(3.0)
    (found,) = pairs([[first], [second]], [scale, scale])
    np.testing.assert_array_equal(found, counted((first.float() / scale / 2 - second.float() / scale / 2).numpy()))


def test_gradients_of_any_layout() -> None:
    first, second = noise(4, 6, 8, 5, seed=1), noise(4, 6, 8, 5, seed=2)
    (expected,) = pairs([[first], [second]])
    for layout in (
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
        lambda t: torch.stack([t, t], -1)[..., 0],
    ):
        (found,) = pairs([[layout(first)], [layout(second)]])
        np.testing.assert_array_equal(found, expected)
        (mixed,) = pairs([[layout(first)], [second]])
        np.testing.assert_array_equal(mixed, expected)
    one = torch.tensor(3.0)
    (expanded,) = pairs([[one.expand(5, 4)], [noise(5, 4)]])
    np.testing.assert_array_equal(expanded, pairs([[torch.full((5, 4), 3.0)], [noise(5, 4)]])[0])


def test_sparse_gradients_are_added_up() -> None:
    indices = torch.tensor([[3, 1, 3, 0], [0, 1, 0, 2]])
    for values in (torch.randn(4), torch.randn(4, 6)):
        sparse = torch.sparse_coo_tensor(indices, values, (5, 3, *values.shape[1:]), check_invariants=True)
        dense = noise(*sparse.shape)
        np.testing.assert_array_equal(pairs([[sparse], [dense]]), pairs([[sparse.to_dense()], [dense]]))


def test_a_group_missing_in_one_of_the_two_draws_is_left_out() -> None:
    sketcher = Sketcher()
    a, b, c = noise(100, seed=1), noise(100, seed=2), noise(100, seed=3)
    sketcher.take(0, a)
    sketcher.take(1, b)
    assert sketcher.finish() is None
    sketcher.take(0, c)
    sketcher.take(2, c)
    found = sketcher.finish()
    assert found is not None
    np.testing.assert_array_equal(found(), counted((a * 0.5 - c * 0.5).numpy()))


def test_a_discarded_draw_takes_its_pair_with_it() -> None:
    sketcher = Sketcher()
    draws = [noise(40_000, seed=seed) for seed in range(6)]
    sketcher.take(0, draws[0])
    sketcher.finish()
    sketcher.take(0, draws[1])  # of a backward pass that turns out to be no draw
    sketcher.reset()
    assert sketcher.finish() is None  # nothing was taken: no pair begins
    found = []
    for draw in draws[2:]:
        sketcher.take(0, draw)
        found.append(sketcher.finish())
    assert [fetch is None for fetch in found] == [True, False, True, False]
    for fetch, (a, b) in zip(found[1::2], ((2, 3), (4, 5)), strict=True):
        assert fetch is not None
        np.testing.assert_array_equal(fetch(), counted((draws[a] * 0.5 - draws[b] * 0.5).numpy()))


def test_non_finite_values_are_counted_as_what_they_are() -> None:
    bad = torch.tensor([float("nan"), float("inf"), 1.0, -float("inf")])
    (found,) = pairs([[bad], [torch.zeros(4)]])
    assert sketch.Sketch(found[:CELLS], found[CELLS:]).non_finite == 3


def test_large_parameters_are_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = [[noise(70_000, seed=1), noise(9, seed=2)], [noise(70_000, seed=3), noise(9, seed=4)]]
    expected = pairs(draws)
    monkeypatch.setattr(_sketch, "_CHUNK", 1000)
    np.testing.assert_array_equal(pairs(draws), expected)


def test_the_pair_needs_no_memory_but_the_first_draw() -> None:
    sketcher = Sketcher()
    big = noise(3, 50_000)
    for _ in range(4):
        sketcher.take(0, big)
        sketcher.finish()
    (half,) = sketcher._halves.values()
    assert half.numel() == big.numel()
    before = half.data_ptr()
    sketcher.take(0, big)
    assert sketcher._halves[0].data_ptr() == before


def test_counts_of_values_times_a_factor() -> None:
    values = noise(5000).numpy()
    counts = counted(values)
    for factor in (4.0, 0.125, -2.0):
        np.testing.assert_array_equal(rescaled(counts, factor), counted(values * np.float32(factor)))
    near = rescaled(counts, 3.0)
    assert near[:CELLS].sum() == 5000
    exact = sketch.finalize(sketch.Sketch(*np.split(counted(values * np.float32(3.0)), [CELLS])))
    fit = sketch.finalize(sketch.Sketch(*np.split(near, [CELLS])))
    assert fit.alpha.value == pytest.approx(exact.alpha.value, abs=2e-3)
    assert fit.scale.value == pytest.approx(exact.scale.value, rel=5e-3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_nothing_synchronises_and_the_counts_are_the_same() -> None:
    draws = [[noise(300, 200, seed=seed), noise(7, seed=seed)] for seed in range(4)]
    expected = pairs(draws)
    there = [[gradient.cuda() for gradient in gradients] for gradients in draws]
    sketcher, fetches = Sketcher(), []
    for index, gradients in enumerate(there):
        if index == 2:  # the first pair fills the caches
            torch.cuda.set_sync_debug_mode("error")
        try:
            for number, gradient in enumerate(gradients):
                sketcher.take(number, gradient)
            fetch = sketcher.finish()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        if fetch is not None:
            fetches.append(fetch)
    np.testing.assert_array_equal([fetch() for fetch in fetches], expected)
