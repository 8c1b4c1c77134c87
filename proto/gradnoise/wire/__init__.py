"""The wire contract: Arrow schemas, and the dump, the one format for live, stored and shipped samples.

A dump is a directory per run: ``run.json`` and, per producer (a process of the training job, with an id of its
own) and table, numbered segments ``<table>-<producer>-<number>.arrow``. See :mod:`gradnoise.wire.results` for the
tables that an analysis returns.
"""

from gradnoise.wire._columns import completed
from gradnoise.wire._curvature import (
    MAX_COORDINATES,
    MAX_DRAWS,
    MAX_EIGENVALUES,
    CurvatureKind,
    CurvatureRow,
    Mode,
    Order,
    ProductMethod,
    curvature_batch,
    curvature_rows,
)
from gradnoise.wire._errors import (
    CorruptBatchError,
    NotADumpError,
    RunExistsError,
    SyncError,
    UnknownSchemaVersionError,
    WireError,
)
from gradnoise.wire._reader import Dump, Problem, ProblemKind
from gradnoise.wire._recovery import Recovery, recover
from gradnoise.wire._run import Group, RunInfo, check_run_id
from gradnoise.wire._schemas import (
    GROUP_TYPE,
    SCHEMA_VERSION,
    SUPPORTED_VERSIONS,
    Scope,
    Table,
    WindowKind,
    schema,
    version_of,
)
from gradnoise.wire._segment import Place, Segment
from gradnoise.wire._stamp import Stamped, pack, unpack
from gradnoise.wire._tailer import Tailer
from gradnoise.wire._trim import Front, fronts, write_fronts
from gradnoise.wire._writer import DumpWriter, TableLog, create_dump, producer_is_alive

__all__ = [
    "GROUP_TYPE",
    "MAX_COORDINATES",
    "MAX_DRAWS",
    "MAX_EIGENVALUES",
    "SCHEMA_VERSION",
    "SUPPORTED_VERSIONS",
    "CorruptBatchError",
    "CurvatureKind",
    "CurvatureRow",
    "Dump",
    "DumpWriter",
    "Front",
    "Group",
    "Mode",
    "NotADumpError",
    "Order",
    "Place",
    "Problem",
    "ProblemKind",
    "ProductMethod",
    "Recovery",
    "RunExistsError",
    "RunInfo",
    "Scope",
    "Segment",
    "Stamped",
    "SyncError",
    "Table",
    "TableLog",
    "Tailer",
    "UnknownSchemaVersionError",
    "WindowKind",
    "WireError",
    "check_run_id",
    "completed",
    "create_dump",
    "curvature_batch",
    "curvature_rows",
    "fronts",
    "pack",
    "producer_is_alive",
    "recover",
    "schema",
    "unpack",
    "version_of",
    "write_fronts",
]
