"""Small dumps for the tests of the wire contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gradnoise.wire import Group, RunInfo, Table, schema

if TYPE_CHECKING:
    from collections.abc import Sequence

INFO = RunInfo(
    run="run-1",
    model="Net",
    created="2026-01-01T00:00:00+00:00",
    groups=(
        Group("a.weight", (4, 3), "float32", (0, 2, 5, 11)),
        Group("a.bias", (2,), "float32", (0, 1)),
    ),
    plan={"coordinates": 4},
    versions={"python": "3.11"},
)

# A row of the steps table that holds something in every column.
STEP: dict[str, Any] = {
    "step": 3,
    "theta": 2,
    "wall_time": 5,
    "loss": 0.5,
    "lr": 0.1,
    "beta1": 0.9,
    "beta2": 0.99,
    "batch_size": 8,
}
STEP |= {"metrics": [("accuracy", 0.25)], "divisor": 4.0, "loss_scale": 1024.0, "clip_factor": 0.5}


def draws_batch(
    draws: Sequence[int], *, window: int = 0, seed: int = 0, info: RunInfo = INFO, batch_size: int | None = 32
) -> pa.RecordBatch:
    """Rows for every group of every given draw, values from a seeded normal."""
    rng = np.random.default_rng([seed, *draws])
    groups = info.groups
    n = len(draws) * len(groups)
    widths = np.tile([len(group.indices) for group in groups], len(draws))
    offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    values = rng.standard_normal(int(offsets[-1])).astype(np.float32)
    draw = np.repeat(np.asarray(draws, np.int32), len(groups))
    where = schema(Table.DRAWS)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.full(n, window, np.int64)),
            pa.array(draw.astype(np.int64)),
            pa.array(draw),
            pa.array(draw.astype(np.int64)),
            pa.DictionaryArray.from_arrays(
                pa.array(np.tile(np.arange(len(groups), dtype=np.int16), len(draws))),
                pa.array([group.name for group in groups]),
            ),
            pa.array([batch_size] * n, pa.int32()),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=where.field("values").type),
            pa.nulls(n, pa.float64()),
        ],
        schema=where,
    )


def without(batch: pa.RecordBatch, *absent: str) -> pa.RecordBatch:
    """Return the batch without these columns."""
    return batch.select([name for name in batch.schema.names if name not in absent])


def windows_batch(window: int, recorded: int, *, info: RunInfo = INFO, kind: str = "burst") -> pa.RecordBatch:
    """The row that closes a window of ``recorded`` draws at thetas 0, 1, ..."""
    row = {
        "window": window,
        "kind": kind,
        "first_step": 0,
        "last_step": recorded - 1,
        "first_theta": 0,
        "last_theta": recorded - 1,
        "declared": recorded,
        "recorded": recorded,
        "rows": recorded * len(info.groups),
        "non_finite": 0,
        "dropped": 0,
    }
    return pa.RecordBatch.from_pylist([row], schema=schema(Table.WINDOWS))
