"""Sampled values out of gradients of every memory layout, dtype and sparsity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from gradnoise.collector._recording.coordinates import sample_coordinates
from gradnoise.collector._taps.gather import Gatherer, UnsupportedGradientError
from gradnoise.wire import Group

if TYPE_CHECKING:
    from collections.abc import Callable


def group(shape: tuple[int, ...], count: int, name: str = "g") -> Group:
    return Group(name, shape, "float32", sample_coordinates(name, math.prod(shape), count, 0))


def expected(values: torch.Tensor, to: Group) -> torch.Tensor:
    return values.detach().contiguous().flatten()[list(to.indices)]


class Operations(TorchDispatchMode):
    """Names of the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("shape", "change"),
    [
        ((30, 7), lambda g: g),
        ((30, 7), lambda g: g.t().contiguous().t()),
        ((4, 5, 3, 2), lambda g: g.to(memory_format=torch.channels_last)),
        ((4, 5, 3, 2), lambda g: g.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)),
        ((30, 7), lambda g: g[:, :1].expand(30, 7)),
        ((30, 7), lambda g: g[:1, :1].expand(30, 7)),
        ((30, 7), lambda g: torch.stack([g, g + 1], -1)[..., 1]),
        ((30, 7), lambda g: torch.cat([g, g])[30:]),
        ((1, 7), lambda g: g),
        ((), lambda g: g),
        ((), lambda g: torch.stack([g, g])[1]),
    ],
)
def test_values_are_read_in_the_memory_order_the_gradient_has(
    shape: tuple[int, ...], change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    for count in (5, 10_000):
        where = group(shape, count)
        gatherer = Gatherer([where])
        for _ in range(2):  # through a cached layout too
            gradient = change(torch.randn(shape))
            assert gradient.shape == shape
            with Operations() as operations:
                picked = gatherer.pick(0, gradient)
            assert torch.equal(picked, expected(gradient, where))
            assert "clone" not in operations.seen
            before = picked.clone()
            if gradient.is_contiguous():
                gradient.mul_(0)
            assert torch.equal(picked, before)  # a copy, not a view


def test_a_layout_that_changes_from_one_backward_pass_to_the_next_is_followed() -> None:
    where = group((6, 5, 4, 3), 50)
    gatherer = Gatherer([where])
    dense = torch.randn(6, 5, 4, 3)
    for gradient in (dense, dense.to(memory_format=torch.channels_last), dense, dense[:1].expand(6, 5, 4, 3)):
        assert torch.equal(gatherer.pick(0, gradient), expected(gradient, where))
    meta = gatherer.pick(0, dense.to("meta"))  # stands for another device
    assert (meta.device.type, meta.shape) == ("meta", (50,))
    assert torch.equal(gatherer.pick(0, dense), expected(dense, where))


def test_nothing_of_what_is_picked_belongs_to_a_graph() -> None:
    gatherer = Gatherer([group((5, 4), 7)])
    leaf = torch.randn(5, 4, requires_grad=True)
    for gradient in (leaf * 2, (leaf * 2).t().contiguous().t()):
        assert not gatherer.pick(0, gradient).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_every_precision_becomes_float32(dtype: torch.dtype, layout: str) -> None:
    where = [group((40, 6), 30), group((3,), 30, "h")]
    gatherer = Gatherer(where)
    dense = torch.zeros(40, 6, dtype=dtype)
    dense[[3, 17, 39]] = torch.randn(3, 6).to(dtype)
    gradient = dense.to_sparse(1) if layout == "sparse" else dense
    small = torch.randn(3).to(dtype)
    parts = {1: gatherer.pick(1, small), 0: gatherer.pick(0, gradient)}
    values = gatherer.draw(parts).values()
    assert values.dtype == np.float32
    wanted = torch.cat([expected(dense, where[0]), small]).to(torch.float32)
    np.testing.assert_array_equal(values, wanted.numpy())
    scaled = gatherer.draw(parts, scale=torch.tensor(1024.0)).values()
    np.testing.assert_array_equal(scaled, (wanted / 1024).numpy())


def test_precisions_may_differ_between_groups() -> None:
    dtypes = (torch.float16, torch.bfloat16, torch.float64, torch.float32)
    gatherer = Gatherer([group((3,), 3, str(dtype)) for dtype in dtypes])
    gradients = [torch.randn(3).to(dtype) for dtype in dtypes]
    mark = torch.tensor([1 / 3, 7.0])
    for scale in (None, torch.tensor(2.0)):
        parts = {number: gatherer.pick(number, gradient) for number, gradient in enumerate(gradients)}
        draw = gatherer.draw(parts, scale=scale, fingerprint=[mark])
        wanted = torch.cat([g.float() for g in gradients]) / (1 if scale is None else 2)
        np.testing.assert_array_equal(draw.values(), torch.cat([wanted, mark]).numpy())
        assert (draw.fingerprint, draw.nbytes) == (2, 4 * 14)
        assert draw.groups.tolist() == [0, 1, 2, 3]


def coo(indices: Any, values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    with torch.sparse.check_sparse_tensor_invariants(True):
        return torch.sparse_coo_tensor(torch.as_tensor(indices), values, shape)


def test_a_sparse_gradient_whose_rows_do_not_repeat_is_read_to_the_bit() -> None:
    where = group((50, 9), 200)
    gatherer = Gatherer([where])
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        rows = torch.randperm(50, generator=rng)[:20]
        gradient = coo(rows[None], torch.randn(20, 9, generator=rng), (50, 9))
        assert not gradient.is_coalesced()
        with Operations() as operations:
            picked = gatherer.pick(0, gradient)
        assert torch.equal(picked, expected(gradient.to_dense(), where))
        # Each of these asks the device how many there are, and waits for the answer.
        assert not {"_coalesce", "nonzero", "item", "_local_scalar_dense", "masked_select", "unique"} & {
            *operations.seen
        }


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    data=st.data(),
    seed=st.integers(0, 2**31),
    count=st.sampled_from([1, 3, 20, 5000]),
)
def test_any_sparse_gradient_is_read_as_its_dense_form(
    shape: tuple[int, ...], data: st.DataObject, seed: int, count: int
) -> None:
    sparse = data.draw(st.integers(1, len(shape)))
    given_rows = data.draw(st.integers(0, 30))
    rng = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randint(0, extent, (given_rows,), generator=rng) for extent in shape[:sparse]])
    gradient = coo(indices, torch.randn(given_rows, *shape[sparse:], generator=rng), shape)
    where = group(shape, count)
    gatherer = Gatherer([where])
    for one in (gradient, gradient.coalesce()):
        torch.testing.assert_close(gatherer.pick(0, one), expected(one.to_dense(), where), rtol=1e-5, atol=1e-6)


def test_a_value_that_is_not_finite_stays_in_its_row() -> None:
    where = Group("g", (10, 2), "float32", (0, 5, 19))
    values = torch.tensor([[math.inf, 1.0], [math.nan, math.nan], [3.0, 4.0]])
    picked = Gatherer([where]).pick(0, coo([[0, 5, 9]], values, (10, 2)))
    assert picked.tolist() == [math.inf, 0.0, 4.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_repeated_rows_of_half_precision_are_added_up_in_single_precision(dtype: torch.dtype) -> None:
    where = Group("g", (4, 1), "float16", (2,))
    large = 2048.0  # a one added to it is lost in either type
    gradient = coo([[2, 2, 2]], torch.tensor([[large], [1.0], [1.0]], dtype=dtype), (4, 1))
    assert Gatherer([where]).pick(0, gradient).tolist() == [large + 2]


def test_a_sparse_gradient_without_rows_is_zero() -> None:
    where = group((10, 2), 7)
    empty = coo(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 2), (10, 2))
    assert Gatherer([where]).pick(0, empty).tolist() == [0.0] * 7


def test_a_gradient_may_be_sparse_once_and_dense_the_next_time() -> None:
    where = group((10, 2), 7)
    gatherer = Gatherer([where])
    dense = torch.randn(10, 2)
    for gradient in (dense.to_sparse(1), dense, dense.to_sparse(2), dense.to_sparse(1)):
        assert torch.equal(gatherer.pick(0, gradient), expected(dense, where))


def test_other_kinds_of_gradients_are_refused_with_their_name() -> None:
    class Odd(torch.Tensor):
        pass

    gatherer = Gatherer([group((4, 4), 7)])
    dense = torch.randn(4, 4)
    for gradient, text in (
        (dense.as_subclass(Odd), "type Odd"),
        (dense.to_mkldnn(), "layout torch._mkldnn"),
    ):
        with pytest.raises(UnsupportedGradientError, match=text):
            gatherer.pick(0, gradient)


def test_groups_on_several_devices_are_put_together_in_order() -> None:
    # Another device cannot be had here: pieces are moved to one that the gatherer is told of.
    where = [group((5,), 5, name) for name in "abc"]
    gatherer = Gatherer(where)
    gradients = [torch.randn(5) for _ in where]
    parts = {number: gatherer.pick(number, gradient) for number, gradient in enumerate(gradients)}
    gatherer.pick(1, torch.empty(5, device="meta"))  # from now on values may lie on two devices
    mark = torch.randn(2)
    for scale in (None, torch.tensor(4.0)):
        draw = gatherer.draw(parts, scale=scale, fingerprint=[mark])
        wanted = torch.cat(gradients) / (1 if scale is None else 4)
        np.testing.assert_array_equal(draw.values(), torch.cat([wanted, mark]).numpy())
        assert draw.nbytes == 4 * 17
