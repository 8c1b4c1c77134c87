"""Arrow schemas of a dump's tables, versioned.

Readers accept every version up to :data:`SCHEMA_VERSION`; a newer one is refused by name. Columns are only ever
added, nullable, at the end: what reads a column of a later version takes its absence for null. A reader ignores files
of tables it does not know, so that a new table is no new version.
"""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa

__all__ = ["GROUP_TYPE", "SCHEMA_VERSION", "SUPPORTED_VERSIONS", "Scope", "Table", "WindowKind", "schema", "version_of"]

SCHEMA_VERSION = 2
SUPPORTED_VERSIONS = frozenset({1, 2})


class Table(StrEnum):
    """The tables of a dump. The order is the order of shipping: ``windows`` closes what came before it."""

    DRAWS = "draws"
    REFERENCE = "reference"
    SKETCHES = "sketches"
    STEPS = "steps"
    EVENTS = "events"
    WINDOWS = "windows"


class WindowKind(StrEnum):
    """How the draws of a window came about, as the column ``kind`` of the table ``windows`` says it.

    ``BURST``: one draw a theta, over consecutive steps of the training. ``PROBE``: extra minibatches at one frozen
    theta. ``MICROBATCH``: the draws of a training that accumulates gradients, several at each theta.
    """

    BURST = "burst"
    PROBE = "probe"
    MICROBATCH = "microbatch"


class Scope(StrEnum):
    """Whose minibatch a draw is, as the column ``scope`` of the table ``windows`` says it.

    ``PROCESS``: of one process, before anything is averaged over the ranks of a job. ``GLOBAL``: of the job, averaged
    over its ranks (what sharded training leaves to see).
    """

    PROCESS = "process"
    GLOBAL = "global"


# 16-bit codes into the run's group names: two bytes a row instead of a repeated name.
GROUP_TYPE = pa.dictionary(pa.int16(), pa.utf8())
_VALUES = pa.list_(pa.field("item", pa.float32(), nullable=False))
_TIME = pa.timestamp("us", tz="UTC")  # nanoseconds would need pandas to become Python values


def _field(name: str, kind: pa.DataType, text: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": text})


_WINDOW = _field("window", pa.int64(), "window id, unique within a producer: 2 * first step + (1 for a probe)")
_THETA = _field("theta", pa.int64(), "parameter updates since attach; equal theta means equal parameters")
_STEP = _field("step", pa.int64(), "optimiser step being taken, from 0")

_SCHEMAS: dict[Table, pa.Schema] = {
    Table.DRAWS: pa.schema(
        [
            _WINDOW,
            _THETA,
            _field("draw", pa.int32(), "index of the draw within its window, from 0"),
            _STEP,
            _field("group", GROUP_TYPE, "parameter group: one named parameter tensor of the model"),
            _field("batch_size", pa.int32(), "examples in the minibatch; null where unknown", null=True),
            _field("values", _VALUES, "unscaled, unclipped minibatch gradient at the group's sampled coordinates"),
            _field("norm2", pa.float64(), "squared norm of the group's whole gradient, if measured", null=True),
        ]
    ),
    Table.REFERENCE: pa.schema(
        [
            _WINDOW,
            _THETA,
            _field("group", GROUP_TYPE, "parameter group"),
            _field("kind", pa.utf8(), "full (a pass over the data) or mean (of the window's draws)"),
            _field("values", _VALUES, "the reference gradient at the group's sampled coordinates"),
            _field("norm2", pa.float64(), "squared norm of the group's whole reference gradient", null=True),
            _field("dataset_size", pa.int64(), "examples behind the reference; null where unknown", null=True),
            _field("replacement", pa.bool_(), "minibatches drawn with replacement; null if unknown", null=True),
        ]
    ),
    Table.SKETCHES: pa.schema(
        [
            _WINDOW,
            _THETA,
            _field("draw", pa.int32(), "index of the later draw of the pair within its window"),
            _field("cells", pa.list_(pa.field("item", pa.uint16(), nullable=False)), "bfloat16 patterns that occur"),
            _field("counts", pa.list_(pa.field("item", pa.uint32(), nullable=False)), "how often, one a cell"),
            _field("inexact", pa.int64(), "values that are no bfloat16 numbers and were truncated to one"),
            _field("same_theta", pa.bool_(), "both draws of the pair are of one theta"),
        ]
    ),
    Table.STEPS: pa.schema(
        [
            _STEP,
            _THETA,
            _field("loss", pa.float64(), "as logged by the user", null=True),
            _field("lr", pa.float64(), "learning rate of the optimiser's first parameter group", null=True),
            _field("beta1", pa.float64(), "Adam's beta1, or SGD's momentum", null=True),
            _field("beta2", pa.float64(), "Adam's beta2", null=True),
            _field("batch_size", pa.int32(), "examples in the minibatch; null where unknown", null=True),
            _field("wall_time", _TIME, "when the row was recorded"),
            _field("metrics", pa.map_(pa.utf8(), pa.float64()), "further logged metrics", null=True),
        ]
    ),
    Table.EVENTS: pa.schema(
        [
            _field("step", pa.int64(), "optimiser step, where the event has one", null=True),
            _field("wall_time", _TIME, "when it happened"),
            _field("kind", pa.utf8(), "non_finite, dropped, ambiguous_backwards, probe_failed, ..."),
            _field("group", pa.utf8(), "parameter group, where the event has one", null=True),
            _field("count", pa.int64(), "how many samples the event concerns"),
            _field("detail", pa.utf8(), "in words"),
        ]
    ),
    Table.WINDOWS: pa.schema(
        [
            _WINDOW,
            _field("kind", pa.utf8(), "burst, probe or microbatch"),
            _field("first_step", pa.int64(), "first step of the window"),
            _field("last_step", pa.int64(), "last step of the window"),
            _field("first_theta", pa.int64(), "theta of the first draw"),
            _field("last_theta", pa.int64(), "theta of the last draw"),
            _field("declared", pa.int32(), "draws the plan asked for"),
            _field("recorded", pa.int32(), "draws written to the draws table"),
            _field("rows", pa.int64(), "rows of the draws table that belong to the window (draws x groups)"),
            _field("non_finite", pa.int32(), "recorded draws that hold NaN or infinity"),
            _field("dropped", pa.int32(), "draws lost to a full queue"),
        ]
    ),
}


# Columns that version 2 has and version 1 had not.
_ADDED: dict[Table, tuple[pa.Field, ...]] = {
    Table.REFERENCE: (
        _field("minibatches", pa.int32(), "minibatches behind the reference; null where unknown", null=True),
    ),
    Table.STEPS: (
        _field("divisor", pa.float64(), "what the loop divided its loss by; undone in the draws' values", null=True),
        _field("loss_scale", pa.float64(), "scale of the loss scaler; undone in the draws' values", null=True),
        _field(
            "clip_factor", pa.float64(), "norm of the gradient as stepped with, over its norm as recorded", null=True
        ),
    ),
    Table.WINDOWS: (
        _field("scope", pa.utf8(), "whose minibatches: process (this process's) or global (the job's)", null=True),
        _field("job", pa.utf8(), "id of the distributed job of which the producer is a rank", null=True),
        _field("rank", pa.int32(), "the producer's rank in its job", null=True),
        _field("world_size", pa.int32(), "ranks of the job that record", null=True),
        _field("thetas", pa.int64(), "hash of samples of the parameters at the window's thetas", null=True),
    ),
}


def schema(table: Table, version: int = SCHEMA_VERSION) -> pa.Schema:
    """Return the Arrow schema of ``table`` at a version, field descriptions in the metadata."""
    basic = _SCHEMAS[table]
    return basic if version == 1 else pa.schema([*basic, *_ADDED.get(table, ())])


def version_of(table: Table, found: pa.Schema) -> int | None:
    """Return the latest supported version at which ``table`` has exactly the schema ``found``; None if none."""
    for version in sorted(SUPPORTED_VERSIONS, reverse=True):
        if found.equals(schema(table, version), check_metadata=False):
            return version
    return None
