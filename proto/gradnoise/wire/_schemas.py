"""Arrow schemas of a dump's tables, versioned.

Readers accept every version up to :data:`SCHEMA_VERSION`; a newer one is refused by name. Columns are only ever
added, nullable, at the end: what reads a column of a later version takes its absence for null. A reader ignores files
of tables it does not know, so that a new table is no new version.

Of version 2 any nullable column may be absent, the others keeping their order; who reads takes its absence for null
(:func:`gradnoise.wire.completed` puts it back). An empty column would cost its width a row, whatever it holds. So the
segments of one table may differ in their columns; each has those of its first batch.
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
    CURVATURE = "curvature"
    STEPS = "steps"
    EVENTS = "events"
    WINDOWS = "windows"


class WindowKind(StrEnum):
    """How the draws of a window came about, as the column ``kind`` of the table ``windows`` says it.

    ``BURST``: one draw a theta, over consecutive steps of the training. ``PROBE``: extra minibatches at one frozen
    theta. ``MICROBATCH``: the draws of a training that accumulates gradients, several at each theta. ``CURVATURE``: no
    draws at sampled coordinates, but measurements of the curvature at one theta, with noise on their own directions.
    """

    BURST = "burst"
    PROBE = "probe"
    MICROBATCH = "microbatch"
    CURVATURE = "curvature"


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


def _reals(name: str, text: str) -> pa.Field:
    """Return a nullable column of lists of numbers."""
    return _field(name, pa.list_(_REAL), text, null=True)


_REAL = pa.field("item", pa.float64(), nullable=False)
_WHOLE = pa.field("item", pa.int64(), nullable=False)
_TEXTS = pa.list_(pa.field("item", pa.utf8(), nullable=False))
_WINDOW = _field(
    "window",
    pa.int64(),
    "window id, unique within a producer: 2 * first step + (1 for a probe); -1 - step for curvature",
)
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
    Table.CURVATURE: pa.schema(
        [
            _WINDOW,
            _THETA,
            _STEP,
            _field("part", pa.utf8(), "which parameters: a pattern of group names, '*' for the whole model"),
            _field("kind", pa.utf8(), "hessian, gauss_newton, sharpness or barrier"),
            _field("dimension", pa.int64(), "parameters in the part: d"),
            _field(
                "method", pa.utf8(), "of the products: double_backward or finite_differences; loss without products"
            ),
            _field("mode", pa.utf8(), "of the modules: eval, train, or as_is"),
            _field("loss", pa.float64(), "F, the mean loss over the data, at theta"),
            _field("examples", pa.int64(), "examples behind the loss; null where unknown", null=True),
            _field("minibatches", pa.int32(), "minibatches of one pass over the data"),
            _field("products", pa.int64(), "products with the matrix H that were taken"),
            _field("seconds", pa.float64(), "wall time of the measurement"),
            _field("notes", _TEXTS, "what the measurement says of itself"),
            _reals("eigenvalues", "lambda_i, in the order that column order says"),
            _reals("residuals", "|H v_i - lambda_i v_i|, one an eigenvalue; |v_i| = 1"),
            _field(
                "order", pa.utf8(), "algebraic (largest first) or magnitude (largest absolute value first)", null=True
            ),
            _field("draws", pa.int32(), "minibatch gradients g_k taken as draws", null=True),
            _field("batch_size", pa.int32(), "examples in the minibatch of a draw; null where unknown", null=True),
            _field("sampling", pa.utf8(), "of the draws: epoch (minibatches of whole passes), independent", null=True),
            _field(
                "replacement", pa.bool_(), "examples of a minibatch drawn with replacement; null if unknown", null=True
            ),
            _reals("gram", "u_i . u_j of the noise u_k = grad F - g_k: upper triangle with diagonal, row by row"),
            _reals("projections", "u_k . v_i, row by row: draws x eigenvalues"),
            _reals("quadratic", "u_k . H u_k, one a draw"),
            _field("gradient_norm2", pa.float64(), "|grad F|^2", null=True),
            _field("gradient_quadratic", pa.float64(), "grad F . H grad F", null=True),
            _reals("gradient_projections", "grad F . v_i, one an eigenvalue"),
            _reals("trace_samples", "z . H z, one a probe vector z of independent signs, made orthogonal to the v_i"),
            _reals("square_samples", "|H z|^2, one a probe vector"),
            _reals("density_nodes", "Lanczos quadrature from the first probe vectors: nodes, density_steps a vector"),
            _reals("density_weights", "weights of the nodes; those of a vector sum to 1"),
            _field("density_steps", pa.int32(), "nodes a vector", null=True),
            _field(
                "coordinates", pa.list_(_WHOLE), "of the dense blocks: ascending flat indices in the part", null=True
            ),
            _reals("block", "H at those coordinates, row by row"),
            _reals("block_noise", "u_k at those coordinates, row by row: draws x coordinates"),
            _field("radius", pa.float64(), "sharpness: standard deviation of each parameter's change", null=True),
            _reals("positions", "barrier: places on the segment, 0 its begin and 1 its end"),
            _reals("losses", "sharpness: F(theta + epsilon), one a draw of epsilon; barrier: F at the positions"),
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
            _field("kind", pa.utf8(), "burst, probe, microbatch or curvature"),
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
    """Return the version at which ``table`` may have the schema ``found``; None if it is none of the table's.

    It is the latest version with exactly these columns, or else version 2 where only nullable columns are absent.
    """
    for version in sorted(SUPPORTED_VERSIONS, reverse=True):
        if found.equals(schema(table, version), check_metadata=False):
            return version
    present = set(found.names)
    allowed = pa.schema([field for field in schema(table) if not field.nullable or field.name in present])
    return SCHEMA_VERSION if found.equals(allowed, check_metadata=False) else None
