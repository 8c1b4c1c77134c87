"""Measurements of scripts and checkpoints as a dump, like those of a training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gradnoise.collector._config import Sampling
from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._recording.opening import versions_of
from gradnoise.collector._recording.records import CurvatureAt, WindowEnd, curvature_window_id
from gradnoise.collector._recording.tables import TableBuilder
from gradnoise.collector._taps.groups import groups_of
from gradnoise.wire import (
    CurvatureRow,
    Dump,
    DumpWriter,
    NotADumpError,
    RunExistsError,
    RunInfo,
    WindowKind,
    check_run_id,
)

if TYPE_CHECKING:
    import os

    import torch

    from gradnoise.wire import Group

__all__ = ["record"]


def record(
    rows: CurvatureRow | Iterable[CurvatureRow],
    dump: str | os.PathLike[str],
    *,
    run: str | None,
    step: int | None,
    model: torch.nn.Module | str | None,
) -> Path:
    """Write measurements into a dump; see ``record_curvature``."""
    given = (rows,) if isinstance(rows, CurvatureRow) else tuple(rows) if isinstance(rows, Iterable) else ()
    wrong = next((each for each in given if not isinstance(each, CurvatureRow)), None)
    if not given or wrong is not None:
        raise CurvatureError(
            f"rows={rows if wrong is None else wrong!r}: expected what measure_curvature, expected_sharpness or "
            "loss_barrier returned"
        )
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 0):
        raise CurvatureError(f"step={step!r}: expected a whole number of at least 0, or None for the rows' own")
    path = Path(dump).absolute()
    windows: dict[int, list[CurvatureRow]] = {}
    for row in given:
        at = row.step if step is None else step
        windows.setdefault(at, []).append(replace(row, step=at, theta=at, window=curvature_window_id(at)))
    info = _info(path, run, model)
    writer = DumpWriter(path, info)
    try:
        tables = TableBuilder(info, writer.append)
        for at, measured in sorted(windows.items()):
            tables.add_curvature(CurvatureAt(tuple(measured)))
            tables.end_window(WindowEnd(curvature_window_id(at), WindowKind.CURVATURE, at, at, 0, 0))
    finally:
        writer.close()
    return path


def _info(path: Path, run: str | None, model: torch.nn.Module | str | None) -> RunInfo:
    """Return what the run is: the one that lies there, or a new one.

    Raises:
        RunExistsError: another one than ``run`` lies there.
    """
    try:
        there = Dump(path).info
    except NotADumpError:
        if (path / "run.json").exists():
            raise
        there = None
    if there is not None:
        if run not in (None, there.run):
            raise RunExistsError(f"{path} holds run {there.run!r}; give run={there.run!r} or None, or another dump=")
        return there
    if model is None or isinstance(model, str):
        name: str = model or ""
        groups: tuple[Group, ...] = ()
    else:
        name, groups = type(model).__name__, groups_of(model, Sampling())
    return RunInfo(
        run=check_run_id(path.name if run is None else run),
        model=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        groups=groups,
        versions=versions_of(),
    )
