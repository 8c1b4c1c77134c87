"""Measurements of curvature: every field there and back, and rows that do not fit together."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gradnoise.wire import (
    CurvatureKind,
    CurvatureRow,
    Mode,
    Order,
    ProductMethod,
    Stamped,
    Table,
    curvature_batch,
    curvature_rows,
    pack,
    unpack,
)

if TYPE_CHECKING:
    import pyarrow as pa


def measurement() -> CurvatureRow:
    """One in which every field holds something of its own."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(5, 7))
    return CurvatureRow(
        part="layers.*",
        kind=CurvatureKind.GAUSS_NEWTON,
        dimension=7,
        method=ProductMethod.FINITE_DIFFERENCES,
        mode=Mode.EVAL,
        loss=1.25,
        minibatches=10,
        products=33,
        seconds=0.5,
        window=-8,
        theta=7,
        step=7,
        examples=640,
        notes=("one", "two"),
        eigenvalues=np.array([3.0, 1.0]),
        residuals=np.array([1e-3, 2e-3]),
        order=Order.MAGNITUDE,
        draws=5,
        batch_size=64,
        sampling="epoch",
        replacement=False,
        gram=noise @ noise.T,
        projections=noise[:, :2],
        quadratic=rng.normal(size=5),
        gradient_norm2=0.25,
        gradient_quadratic=0.125,
        gradient_projections=np.array([0.5, 0.75]),
        trace_samples=np.array([4.0, 5.0, 6.0]),
        square_samples=np.array([7.0, 8.0, 9.0]),
        density_nodes=rng.normal(size=(2, 3)),
        density_weights=np.full((2, 3), 1 / 3),
        coordinates=np.array([1, 5]),
        block=np.array([[2.0, 1.0], [1.0, 3.0]]),
        block_noise=noise[:, [1, 5]],
        radius=0.01,
        positions=np.array([0.0, 1.0]),
        losses=np.array([2.0, 3.0, 4.0]),
    )


def assert_same(one: CurvatureRow, other: CurvatureRow) -> None:
    for field in fields(CurvatureRow):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name, strict=True)
        else:
            assert ours == theirs, field.name
            assert type(ours) is type(theirs), field.name


def test_every_field_goes_there_and_back_over_the_wire() -> None:
    row = measurement()
    assert_same(
        row,
        curvature_rows(unpack(Table.CURVATURE, pack(Stamped.of(Table.CURVATURE, 0, curvature_batch([row])))).batch)[0],
    )


def test_what_was_not_measured_is_empty_or_none_on_both_sides() -> None:
    row = CurvatureRow("*", CurvatureKind.SHARPNESS, 3, ProductMethod.LOSS, Mode.AS_IS, 1.0, 1, 0, 0.1)
    (back,) = curvature_rows(curvature_batch([row]))
    assert_same(row, back)


def test_rows_come_in_their_order_also_of_a_slice() -> None:
    batch = curvature_batch([replace(measurement(), part=part) for part in "abc"])
    assert [row.part for row in curvature_rows(batch)] == ["a", "b", "c"]
    assert [row.part for row in curvature_rows(batch.slice(1, 1))] == ["b"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("residuals", np.zeros(3)),
        ("projections", np.zeros((5, 3))),
        ("quadratic", np.zeros(4)),
        ("gram", np.zeros((4, 4))),
        ("block_noise", np.zeros((5, 3))),
        ("square_samples", np.zeros(2)),
        ("gradient_projections", np.zeros(1)),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused_by_name(name: str, value: Any) -> None:
    changed: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name):
        replace(measurement(), **changed)


def test_a_hostile_row_of_a_billion_draws_is_refused_without_the_memory_for_them() -> None:
    batch = curvature_batch([measurement()])
    with pytest.raises(ValueError, match="projections"):
        curvature_rows(_with(batch, "draws", 2**31 - 1))
    bare = _with(_with(batch, "draws", 2**31 - 1), "projections", None)
    with pytest.raises(ValueError, match=r"block_noise|gram"):
        curvature_rows(bare)
    with pytest.raises(ValueError, match="gram"):
        curvature_rows(_with(bare, "block_noise", None))


def _with(batch: pa.RecordBatch, name: str, value: object) -> pa.RecordBatch:
    import pyarrow as pa

    index = batch.schema.get_field_index(name)
    return batch.set_column(index, batch.schema.field(index), pa.array([value], batch.schema.field(index).type))
