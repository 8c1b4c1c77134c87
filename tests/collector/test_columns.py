from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradnoise.collector import Recorder, Sampling
from gradnoise.collector._recording.columns import UsedColumns
from gradnoise.wire import Dump, Table, completed, schema, version_of

from .loops import rows

if TYPE_CHECKING:
    from pathlib import Path

numbers = st.none() | st.floats(allow_nan=False)
step_rows = st.fixed_dictionaries(
    {"loss": numbers, "lr": numbers, "beta1": numbers, "batch_size": st.none() | st.integers(0, 99)}
)


@given(st.lists(st.lists(step_rows, min_size=1, max_size=3), min_size=1, max_size=6))
def test_what_is_left_out_reads_as_it_was_and_a_column_never_goes_again(given_rows: list[list[dict[str, Any]]]) -> None:
    used, before = UsedColumns(), set[str]()
    for given_batch in given_rows:
        filled = [{"step": 0, "theta": 0, "wall_time": 0} | row for row in given_batch]
        batch = pa.RecordBatch.from_pylist(filled, schema=schema(Table.STEPS))
        found = used.of(Table.STEPS, batch)
        assert version_of(Table.STEPS, found.schema) is not None
        assert completed(Table.STEPS, found).equals(batch)
        names = set(found.schema.names)
        assert before <= names
        held = {name for row in given_batch for name, value in row.items() if value is not None}
        assert names == before | held | {"step", "theta", "wall_time"}
        before = names


def test_tables_do_not_share_their_columns() -> None:
    used = UsedColumns()
    row = {"step": 7, "theta": 0, "wall_time": 0}
    used.of(Table.STEPS, pa.RecordBatch.from_pylist([row | {"batch_size": 3}], schema=schema(Table.STEPS)))
    event = {"wall_time": 0, "kind": "k", "count": 1, "detail": "d"}
    found = used.of(Table.EVENTS, pa.RecordBatch.from_pylist([event], schema=schema(Table.EVENTS)))
    assert found.schema.names == ["wall_time", "kind", "count", "detail"]


def columns(path: Path, table: Table) -> list[list[str]]:
    return [pa.ipc.open_file(file).schema.names for file in sorted(path.glob(f"{table}-*.arrow"))]


def test_a_column_comes_with_its_first_value_and_stays(tmp_path: Path) -> None:
    with Recorder(dump=tmp_path, groups={"w": (8,)}, sampling=Sampling(burst=2, every=2)) as recorder:
        for step in range(8):
            size = 4 if 2 <= step < 4 else None
            recorder.record(step=step, group="w", gradients=np.ones((1, 8), np.float32), batch_size=size)
            if step == 5:
                recorder.log(step=step, loss=0.5)
            recorder.flush()
    first, second = columns(tmp_path, Table.DRAWS)
    assert second == [*first[:-1], "batch_size", first[-1]]
    assert "norm2" not in first
    assert [row["batch_size"] for row in rows(tmp_path)] == [None, None, 4, 4, None, None, None, None]
    assert {row["norm2"] for row in rows(tmp_path)} == {None}
    steps = rows(tmp_path, Table.STEPS)
    assert [(row["step"], row["loss"]) for row in steps] == [(s, 0.5 if s == 5 else None) for s in range(8)]
    assert "loss" not in columns(tmp_path, Table.STEPS)[0]
    assert "beta1" not in columns(tmp_path, Table.STEPS)[-1]


@pytest.mark.parametrize("batch_size", [None, 8])
def test_a_dump_of_256_coordinates_a_group_takes_a_twentieth_more_than_its_values(
    tmp_path: Path, batch_size: int | None
) -> None:
    groups = {f"layer.{number}": (256,) for number in range(10)}
    sampling = Sampling(coordinates=256, burst=64, every=64)
    gradient = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)
    with Recorder(dump=tmp_path, groups=groups, sampling=sampling, batch_size=batch_size) as recorder:
        for step in range(512):
            for group in groups:
                recorder.record(step=step, group=group, gradients=gradient)
            recorder.log(step=step, loss=0.5, lr=0.1)
    dump = Dump(tmp_path)
    values = sum(
        one.batch.column("values").values.nbytes
        for producer in dump.producers()
        for one in dump.batches(Table.DRAWS, producer)
    )
    assert values == 512 * 10 * 256 * 4
    whole = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert values < whole <= 1.05 * values
