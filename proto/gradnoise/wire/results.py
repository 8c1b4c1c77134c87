"""Arrow schemas of what an analysis returns: the columns of ``tail``, ``alignment``, ``runs`` and ``fit`` tables.

Every field carries its description as metadata (``field.metadata[b"description"]``).
"""

from __future__ import annotations

import pyarrow as pa

from gradnoise.wire._curvature import CurvatureKind

__all__ = [
    "ALIGNMENT_SCHEMA",
    "CURVATURE_KINDS",
    "FIT_SCHEMA",
    "FORMS",
    "FULL_FORMS",
    "MODEL_GROUP",
    "RUNS_SCHEMA",
    "TAIL_SCHEMA",
    "Steps",
    "from_ipc",
    "overlaps",
    "to_ipc",
]

Steps = tuple[int | None, int | None]
"""The first and the last step asked for, both included; None leaves an end open."""

MODEL_GROUP = "*"
"""The group name of a whole-model row: every group, weighted by its number of parameters."""

FORMS = ("per_parameter", "across_parameter", "standardized")
"""The forms that every plan reads a window in."""

FULL_FORMS = (*FORMS, "pooled", "vector", "projection")
"""Those of the full plan."""

_TIME = pa.timestamp("us", tz="UTC")


def _field(name: str, kind: pa.DataType, text: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": text})


def _null(name: str, text: str) -> pa.Field:
    return _field(name, pa.float64(), text, null=True)


TAIL_SCHEMA = pa.schema(
    [
        _field("row", pa.int64(), "row number in the store, rising with every analysed window; resumes a watch"),
        _field("run", pa.utf8(), "run id"),
        _field("producer", pa.utf8(), "id of the process that recorded the window"),
        _field("window", pa.int64(), "window id, unique within a producer"),
        _field("kind", pa.utf8(), "burst, probe or microbatch"),
        _field("first_step", pa.int64(), "first optimiser step of the window"),
        _field("last_step", pa.int64(), "last optimiser step of the window"),
        _field("thetas", pa.int64(), "parameter vectors the window spans (1: all draws at one theta)"),
        _field("group", pa.utf8(), "parameter group (a named parameter tensor); '*' is the whole model"),
        _field("size", pa.int64(), "parameters in the group: its weight in the whole-model row"),
        _field(
            "form",
            pa.utf8(),
            "per_parameter, across_parameter or standardized; by the full plan also pooled, vector or projection",
        ),
        _field("reference", pa.utf8(), "what the noise is measured against: pair, full, mean, difference or ema"),
        _field("draws", pa.int64(), "draws (minibatch gradients) recorded in the window"),
        _field("coordinates", pa.int64(), "coordinates of the group that were fitted"),
        _null(
            "alpha",
            "stable index, 1 / mean(1 / alpha_hat) over columns (rows for across_parameter, standardized)",
        ),
        _null("alpha_se", "its standard error, by delete-a-group jackknife over draws"),
        _null("alpha_low", "lower end of the 95 % interval"),
        _null("alpha_high", "upper end of the 95 % interval"),
        _null("null_alpha", "what exactly Gaussian noise reads in this form at this size"),
        _null("alpha_sum4", "alpha of sums of 4 draws"),
        _null("alpha_sum4_low", "lower end of its 95 % interval"),
        _null("alpha_sum4_high", "upper end of its 95 % interval"),
        _null("null_alpha_sum4", "what Gaussian noise reads there"),
        _null("alpha_sum16", "alpha of sums of 16 draws"),
        _null("alpha_sum16_low", "lower end of its 95 % interval"),
        _null("alpha_sum16_high", "upper end of its 95 % interval"),
        _null("null_alpha_sum16", "what Gaussian noise reads there"),
        _field(
            "sums",
            pa.utf8(),
            "from single draws to sums of 16: flat (as a stable law), climbing (as finite variance) or unclear; "
            "across parameters always unclear, for there a spread of scales survives every sum",
        ),
        _null("scale", "median stable scale sigma of one draw's noise (no standard deviation); null for standardized"),
        _null("scale_se", "its standard error"),
        _null("rejected_share", "share of the tests that reject Gaussian at a false-discovery rate of 5 %"),
        _field("tested", pa.int64(), "columns or rows tested"),
        _field(
            "gaussian_rejected",
            pa.bool_(),
            "whether the interval of alpha lies below null_alpha and more than 5 % of the tests reject",
        ),
        _null("stable_rejected_share", "per_parameter, full plan: share of columns that reject the stable law itself"),
        _null("alpha_spread", "per_parameter: standard deviation of alpha over columns beyond sampling error"),
        _null("alpha_spread_low", "lower end of its 95 % interval"),
        _null("alpha_spread_high", "upper end of its 95 % interval"),
        _field(
            "alpha_quantiles",
            pa.list_(pa.float64()),
            "per_parameter: 5, 25, 50, 75 and 95 % points of alpha over columns, sampling error included; else empty",
        ),
        _null("heaviness", "across_parameter, full plan: 1 / alpha - 1/2, freed of the bias at alpha = 2"),
        _null("scale_share", "share of it that a spread of scales over the parameters alone brings"),
        _null("scale_share_low", "lower end of its 95 % interval"),
        _null("scale_share_high", "upper end of its 95 % interval"),
        _null("tail_share", "share of it that tails alone bring; what is missing to 1 is what the two do together"),
        _null("tail_share_low", "lower end of its 95 % interval"),
        _null("tail_share_high", "upper end of its 95 % interval"),
        _null("log_scale_sd", "standard deviation of ln(scale) over the parameters beyond sampling error"),
        _field("verdict", pa.utf8(), "gaussian, stable, heavy_finite_variance, scale_mixture or undecided"),
        _field(
            "status",
            pa.utf8(),
            "ok; at_boundary: a value at the end of its range, as alpha = 2 is; else why not to take the row as it is",
        ),
        _field("reason", pa.utf8(), "the status in words; empty for ok"),
        _field(
            "zeros",
            pa.float64(),
            "share of exact zeros among the noise samples; the laws are fitted to the rest",
        ),
        _field("non_finite", pa.int64(), "draws with NaN or infinity, left out"),
        _field("dropped", pa.int64(), "draws that a full queue or spool lost"),
        _null(
            "drift",
            "standard deviation over the window's draws of the log row scale, beyond what noise explains",
        ),
        _null("row_scaled_alpha", "alpha after dividing each draw by its own scale, where draws drift"),
        _field("warnings", pa.list_(pa.utf8()), "what else the reader must know"),
        _field("plan", pa.utf8(), "plan of the analysis: live or full"),
        _field("analysed_at", _TIME, "when the window was analysed"),
    ]
)

ALIGNMENT_SCHEMA = pa.schema(
    [
        _field("row", pa.int64(), "row number in the store, of one counter with the tail rows; resumes a watch"),
        _field("run", pa.utf8(), "run id"),
        _field("producer", pa.utf8(), "id of the process that recorded the window"),
        _field("window", pa.int64(), "window id, unique within a producer"),
        _field(
            "kind",
            pa.utf8(),
            "what the number is made of. Of a measurement of the curvature: hessian, gauss_newton, sharpness or "
            "barrier. Of the draws of a window: burst, probe or microbatch",
        ),
        _field("first_step", pa.int64(), "first optimiser step of the window"),
        _field("last_step", pa.int64(), "last optimiser step of the window"),
        _field(
            "part",
            pa.utf8(),
            "which parameters: a pattern of group names, as the measurement was asked for, or a group; '*' is the "
            "whole model",
        ),
        _field("dimension", pa.int64(), "parameters in the part: d"),
        _field("draws", pa.int64(), "minibatch gradients behind the noise; 0 where none were taken"),
        _field("metric", pa.utf8(), "what was estimated; docs/alignment.md has the formulas"),
        _field("index", pa.int64(), "of a metric that each eigenvector has: which one, from 0; else null", null=True),
        _null("value", "the estimate"),
        _null("se", "its standard error"),
        _null("low", "lower end of the 95 % interval"),
        _null("high", "upper end of the 95 % interval"),
        _null("null_value", "what the metric reads where there is nothing to find: its null, which null_method names"),
        _null("null_low", "lower end of the middle 95 % of what it reads there"),
        _null("null_high", "upper end of the middle 95 % of what it reads there"),
        _field("null_method", pa.utf8(), "which null, and how it was worked out; empty where there is none"),
        _field("n", pa.int64(), "draws, probe vectors or values that the estimate rests on"),
        _field("method", pa.utf8(), "how value and interval were made"),
        _field("reference", pa.utf8(), "published source, by author, year and equation; empty where there is none"),
        _field(
            "status",
            pa.utf8(),
            "ok; at_boundary: a value at the end of its range; else why there is no value or why not to take it as it "
            "is",
        ),
        _field("reason", pa.utf8(), "the status in words; empty for ok"),
        _field("warnings", pa.list_(pa.utf8()), "what else the reader must know"),
        _field("analysed_at", _TIME, "when the window was analysed"),
    ]
)

CURVATURE_KINDS = tuple(map(str, CurvatureKind))
"""The kinds of rows of ``ALIGNMENT_SCHEMA`` that come from measurements of the curvature."""

RUNS_SCHEMA = pa.schema(
    [
        _field("run", pa.utf8(), "run id"),
        _field("model", pa.utf8(), "class name of the model"),
        _field("created", pa.utf8(), "when the run began (ISO 8601)"),
        _field("groups", pa.int64(), "parameter groups"),
        _field("parameters", pa.int64(), "parameters in all groups"),
        _field("producers", pa.int64(), "processes that recorded"),
        _field("windows", pa.int64(), "windows closed"),
        _field("analysed", pa.int64(), "windows analysed"),
        _field("draws", pa.int64(), "draws recorded in closed windows"),
        _field("bytes", pa.int64(), "bytes stored"),
        _field("problems", pa.int64(), "gaps, torn or corrupt pieces found"),
    ]
)

FIT_SCHEMA = pa.schema(
    [
        _field(
            "law",
            pa.utf8(),
            "stable (symmetric alpha-stable), gaussian, or a finite-variance rival: student_t, laplace, "
            "generalised_gaussian, gaussian_mixture",
        ),
        _field(
            "parameter",
            pa.utf8(),
            "stable: alpha, scale; gaussian: sd; student_t: nu, scale; laplace: scale; generalised_gaussian: beta, "
            "scale; gaussian_mixture: share, narrow, wide; with a location also location, gaussian: mean",
        ),
        _null("value", "maximum-likelihood estimate"),
        _null("se", "standard error"),
        _null("low", "lower end of the 95 % interval"),
        _null("high", "upper end of the 95 % interval"),
        _field("n", pa.int64(), "values the law was fitted to"),
        _field("method", pa.utf8(), "how it was estimated"),
        _null("loglik", "maximised log-likelihood of the law, natural logarithm"),
        _null("aic", "Akaike's criterion of the law; smaller is better"),
        _null("bic", "Schwarz's criterion of the law; smaller is better"),
        _null("likelihood_ratio", "2 (loglik stable - loglik gaussian)"),
        _null("p_value", "of the Gaussian law, by the simulated null at this n"),
        _field("gaussian_rejected", pa.bool_(), "whether the p-value is below 0.01"),
        _field("verdict", pa.utf8(), "gaussian, stable, heavy_finite_variance or undecided"),
        _field("reason", pa.utf8(), "why the verdict is what it is"),
        _field("zeros", pa.float64(), "share of exact zeros, left out of the fits"),
        _field(
            "status",
            pa.utf8(),
            "ok; at_boundary: a value at the end of its range, as alpha = 2 is; else why not to take the row as it is",
        ),
        _field("warnings", pa.list_(pa.utf8()), "what else the reader must know"),
    ]
)


def overlaps(steps: Steps | None, first: int, last: int) -> bool:
    """Return whether a window from step ``first`` to ``last`` is among the steps asked for; None asks for all."""
    begin, end = steps or (None, None)
    return (begin is None or last >= begin) and (end is None or first <= end)


def to_ipc(table: pa.Table) -> bytes:
    """Return a table as one Arrow IPC stream, as it goes over the network."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> pa.Table:
    """Read back what :func:`to_ipc` wrote."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all()
