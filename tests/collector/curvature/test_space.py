from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.space import Space

_SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5)


def _parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


@settings(deadline=None)
@given(shapes=_SHAPES)
def test_what_is_flattened_is_viewed_back(shapes: list[tuple[int, ...]]) -> None:
    parameters = _parameters(shapes)
    space = Space(parameters)
    vector = space.flatten(parameters)
    assert vector.shape == (sum(each.numel() for each in parameters),)
    for part, each in zip(space.views(vector), parameters, strict=True):
        assert torch.equal(part, each)
    torch.testing.assert_close(vector, torch.cat([each.detach().reshape(-1) for each in parameters]), rtol=0, atol=0)


def test_none_is_zero_and_an_out_is_written_whole() -> None:
    parameters = _parameters([(2,), (3,)])
    out = torch.full((5,), torch.nan)
    assert Space(parameters).flatten([None, torch.ones(3)], out) is out
    assert out.tolist() == [0, 0, 1, 1, 1]


def test_views_share_memory_and_tangents_have_the_parameters_dtype() -> None:
    space = Space([nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16)), nn.Parameter(torch.zeros(3))])
    assert space.dtype is torch.float32
    vector = space.zeros()
    space.views(vector)[1].fill_(1)
    assert vector.tolist() == [0] * 4 + [1] * 3
    assert [each.dtype for each in space.tangents(vector)] == [torch.bfloat16, torch.float32]


def test_a_double_precision_parameter_makes_vectors_double() -> None:
    assert Space([nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1).double())]).dtype is torch.float64


def test_coordinates_are_in_logical_order_whatever_the_memory_format() -> None:
    values = torch.randn(2, 3, 4, 5)
    parameter = nn.Parameter(values.to(memory_format=torch.channels_last))
    assert torch.equal(Space([parameter]).flatten([parameter]), values.reshape(-1))


def test_tied_parameters_stand_once() -> None:
    one, other = _parameters([(2,), (3,)])
    space = Space([one, other, one])
    assert space.parameters == (one, other)
    assert space.dimension == 5


def test_adding_weighs_and_takes_sparse_tensors_with_repeated_rows() -> None:
    space = Space(_parameters([(3, 2), (1,)]))
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), rows, (3, 2), check_invariants=True)
    out = torch.ones(7)
    space.add(out, [sparse, None], 2)
    assert out.tolist() == [1, 1, 9, 13, 1, 1, 1]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([], "no parameter is chosen"),
        ([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], "complex64.*real floating point"),
        ([nn.Parameter(torch.zeros(2), requires_grad=False)], "frozen"),
        ([nn.Parameter(torch.zeros(0))], "no elements"),
        ([nn.UninitializedParameter()], "no values yet"),
        ([nn.Parameter(torch.zeros(2, device="meta"))], "no values yet"),
    ],
)
def test_what_is_no_vector_is_refused(parameters: list[nn.Parameter], message: str) -> None:
    with pytest.raises(CurvatureError, match=message):
        Space(parameters)


def test_a_vector_of_another_dimension_is_refused_with_both() -> None:
    with pytest.raises(CurvatureError, match=r"\(4,\); expected \(5,\)"):
        Space(_parameters([(5,)])).views(torch.zeros(4))
