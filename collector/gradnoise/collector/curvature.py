"""Curvature of a loss from scripts and checkpoints: what ``attach(curvature=...)`` measures during a training.

::

    rows = measure_curvature(model, loss_fn, loader, top=20, draws=128)
    record_curvature(rows, "dumps/mine", run="mine", step=1000, model=model)  # then: gradnoise align dumps/mine

Everything of the model is put back bit for bit after each function, also after an exception: parameters, buffers,
gradients, train/eval flags, hooks, random number generators. Importing this module imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradnoise.collector._curvature.config import Curvature, CurvatureError
from gradnoise.collector._curvature.landscape import barrier, sharpness
from gradnoise.collector._curvature.measure import measure
from gradnoise.collector._curvature.record import record
from gradnoise.wire import CurvatureRow

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import torch

    from gradnoise.collector._curvature.config import Part

__all__ = [
    "CurvatureError",
    "CurvatureRow",
    "expected_sharpness",
    "loss_barrier",
    "measure_curvature",
    "record_curvature",
]


def measure_curvature(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, Any], Any] | None,
    data: Any,
    *,
    draw: Callable[[], Any] | None = None,
    top: int = 20,
    draws: int = 128,
    parts: tuple[Part, ...] = ("*",),
    order: str = "algebraic",
    matrix: str = "hessian",
    method: str = "auto",
    mode: str = "eval",
    probes: int = 16,
    density_steps: int = 0,
    dense: int = 0,
    vectors: int | None = None,
    tolerance: float = 1e-3,
    max_products: int | None = None,
    seed: int = 0,
) -> tuple[CurvatureRow, ...]:
    """Measure eigenpairs and traces of the Hessian of F, and the noise of minibatch gradients along them.

    F is the mean loss over ``data`` at the model's present parameters.

    Args:
        model: the network; sharded ones (FSDP) are refused, of a DistributedDataParallel one the module of this rank is
            measured, without any collective.
        loss_fn: ``loss_fn(model(inputs), targets)``, the mean over the examples; None where ``data`` gives losses.
        data: minibatches, or a function that gives their losses; see :class:`gradnoise.collector.Curvature`, which
            says what each further argument is.
        draw, top, draws, parts, order, matrix, method, mode, probes, density_steps, dense, vectors, tolerance,
        max_products, seed: likewise.

    Returns:
        A row a part. Its ``notes`` say what is not as asked for: fewer draws or eigenpairs, products by finite
        differences, pairs that have not converged.

    Raises:
        CurvatureError: the loss is no scalar, not finite, differs from one pass to the next or depends on none of the
            parameters; a product is NaN or infinite; a pattern matches nothing; the model is sharded.
        CollectorError: an argument out of its range.
    """
    plan = Curvature(
        data,
        loss_fn,
        draw=draw,
        top=top,
        draws=draws,
        parts=parts,
        order=order,
        matrix=matrix,
        method=method,
        mode=mode,
        probes=probes,
        density_steps=density_steps,
        dense=dense,
        vectors=vectors,
        tolerance=tolerance,
        max_products=max_products,
        seed=seed,
    )
    return measure(model, plan)


def expected_sharpness(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, Any], Any] | None,
    data: Any,
    *,
    radius: float,
    samples: int = 32,
    part: Part = "*",
    mode: str = "eval",
    seed: int = 0,
) -> CurvatureRow:
    """Evaluate F at random distances: E F(theta + epsilon) - F(theta), epsilon ~ N(0, radius^2 I).

    The measure of minima of Xie et al. 2022 (figure 14). The epsilon come in opposite pairs: ``losses[2 i]`` is at
    +epsilon_i and ``losses[2 i + 1]`` at -epsilon_i, so that the gradient's share cancels. ``loss`` is F(theta).

    Args:
        model, loss_fn, data, mode, seed: as for :func:`measure_curvature`. Running statistics of BatchNorm stay as they
            are in mode ``eval``.
        radius: standard deviation of each parameter's change.
        samples: evaluations of F, an even number.
        part: of which parameters; the others stay.

    Raises:
        CurvatureError: an argument out of its range, or as in :func:`measure_curvature`.
    """
    return sharpness(model, loss_fn, data, radius=radius, samples=samples, part=part, mode=mode, seed=seed)


def loss_barrier(
    model: torch.nn.Module,
    begin: Mapping[str, Any],
    end: Mapping[str, Any],
    loss_fn: Callable[[Any, Any], Any] | None,
    data: Any,
    *,
    points: int = 21,
    buffers: str = "interpolate",
    mode: str = "eval",
    seed: int = 0,
) -> CurvatureRow:
    """Evaluate F on the straight segment between two checkpoints (Zhou et al. 2020, figure 3).

    ``positions`` go from 0 (the begin, bit for bit) to 1 (the end, bit for bit) in equal steps; ``losses`` are F there
    and ``loss`` is that of the begin.

    Args:
        model: of the checkpoints' architecture; its own parameters do not matter.
        begin, end: state dicts of the model, on any device.
        loss_fn, data, mode, seed: as for :func:`measure_curvature`.
        points: positions, the ends among them.
        buffers: ``interpolate`` them as parameters are (counters stay those of the begin until the end), or
            ``recompute`` BatchNorm's running statistics by a pass over the data at every position, the ends included.
            The row's notes say which.

    Raises:
        CurvatureError: a state dict lacks entries, has others or other shapes; an argument out of its range; or as in
            :func:`measure_curvature`.
    """
    return barrier(model, begin, end, loss_fn, data, points=points, buffers=buffers, mode=mode, seed=seed)


def record_curvature(
    rows: CurvatureRow | Iterable[CurvatureRow],
    dump: str | os.PathLike[str],
    *,
    run: str | None = None,
    step: int | None = None,
    model: torch.nn.Module | str | None = None,
) -> Path:
    """Write measurements into a dump, for ``gradnoise align`` or an analyzer; return its path.

    The dump may be new, or that of a training: each call adds one more producer to it. Rows of one step make one
    window.

    Args:
        rows: what the functions above returned.
        dump: its directory.
        run: the run's id; default that of the dump, and for a new one the directory's name.
        step: optimiser step at which they were measured; None takes each row's own, which is 0.
        model: for a new dump, the network or its name.

    Raises:
        CurvatureError: there is no row, or something else among them.
        RunExistsError: the dump holds another run.
        WireError: the directory holds something else, or the run id is not usable.
        OSError: it cannot be written.
    """
    return record(rows, dump, run=run, step=step, model=model)
