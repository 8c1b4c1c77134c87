"""What to measure of the curvature: the configuration, checked without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gradnoise.collector._errors import CollectorError
from gradnoise.wire import MAX_COORDINATES, MAX_DRAWS, MAX_EIGENVALUES, CurvatureKind, Mode, Order, ProductMethod

__all__ = ["AUTO", "Curvature", "CurvatureError", "Part", "parts_of"]

AUTO = "auto"
_SPARE = 6  # vectors beside the eigenvectors, where no number is given
_BESIDE = 3  # vectors beside eigenvectors and draws, where all of them are held: grad F, u, H u
_SMALL = 64 * 2**20  # bytes that are nothing to a device

# A pattern of parameter names, or a name and a function (parameter's name, parameter) -> whether it belongs.
Part = str | tuple[str, Callable[[str, Any], bool]]


class CurvatureError(CollectorError):
    """The curvature cannot be measured as asked; the message says what was found and what to do.

    Raised by the functions of :mod:`gradnoise.collector.curvature`. Inside a training it is one warning and an event
    ``curvature_failed``.
    """


@dataclass(frozen=True, slots=True)
class Curvature:
    """The curvature probe: eigenpairs and traces of the Hessian at frozen parameters, and the noise along them.

    First at update number ``every`` and then every ``every`` parameter updates. F is the mean loss over ``data``; the
    noise of a draw is u = grad F - g, g the gradient of one minibatch. Parameters, buffers, gradients, train/eval
    flags, hooks and random number generators are put back bit for bit afterwards.

    Attributes:
        data: an iterable of minibatches, ``(inputs, targets)`` or mappings; or a function without arguments that
            returns an iterator over the losses of one whole pass (as :class:`Probe` takes it for ``full``), or one
            scalar loss over fixed data.
        loss_fn: ``loss_fn(model(inputs), targets)``, the mean over the examples; None where ``data`` is a function or
            mappings of which the model makes its loss itself (``model(**batch).loss``).
        draw: returns the loss of a fresh minibatch, or (loss, batch size); None takes the minibatches of passes over
            ``data`` as draws.
        every: parameter updates between two measurements, and before the first.
        top: eigenpairs, k, at most 1024; 0 takes none.
        draws: minibatch gradients, K, at most 2048; 0 takes none.
        parts: which parameters, each a part of its own: patterns of parameter names (as for :mod:`fnmatch`), or pairs
            of a name and a function ``(parameter's name, parameter) -> bool``.
        order: of the eigenvalues, ``algebraic`` (largest first) or ``magnitude``.
        matrix: ``hessian`` or ``gauss_newton``.
        method: of the products with it: ``double_backward``, ``finite_differences``, or ``auto``, which takes the
            first where the model allows it.
        mode: of the modules meanwhile: ``eval``, ``train`` or ``as_is``.
        probes: random vectors for the traces.
        density_steps: Lanczos steps a vector for the spectral density, from the first ``min(4, probes)`` of them; 0
            takes none.
        dense: the dense blocks of H and of the noise at so many coordinates, at most 1024; 0 takes none.
        vectors: how many vectors of the part's dimension d may be held on the device, beside the model and what its
            double backward takes. With more of them, fewer products are needed, and with ``top + draws + 3`` the draws
            need no temporary file: that is the default where it is at most 64 MiB, and else ``top + 6``.
        tolerance: residual, relative to |lambda|, of each eigenpair.
        max_products: for the eigenpairs; default ``300 + 10 top``.
        seed: of every random choice.

    Raises:
        CollectorError: a value out of its range.
    """

    data: Any
    loss_fn: Callable[[Any, Any], Any] | None = None
    draw: Callable[[], Any] | None = field(default=None, kw_only=True)
    every: int = field(default=5000, kw_only=True)
    top: int = field(default=20, kw_only=True)
    draws: int = field(default=128, kw_only=True)
    parts: tuple[Part, ...] = field(default=("*",), kw_only=True)
    order: str = field(default=Order.ALGEBRAIC.value, kw_only=True)
    matrix: str = field(default=CurvatureKind.HESSIAN.value, kw_only=True)
    method: str = field(default=AUTO, kw_only=True)
    mode: str = field(default=Mode.EVAL.value, kw_only=True)
    probes: int = field(default=16, kw_only=True)
    density_steps: int = field(default=0, kw_only=True)
    dense: int = field(default=0, kw_only=True)
    vectors: int | None = field(default=None, kw_only=True)
    tolerance: float = field(default=1e-3, kw_only=True)
    max_products: int | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        _check_functions(self)
        for name, least in _LEAST.items():
            _whole(name, getattr(self, name), least, _MOST.get(name))
        for name, allowed in _CHOICES.items():
            given = getattr(self, name)
            if given not in allowed:
                raise CollectorError(f"Curvature({name}={given!r}): expected one of {', '.join(allowed)}")
        if self.vectors is not None:
            _whole("vectors", self.vectors, self.top + _SPARE)
        if self.max_products is not None:
            _whole("max_products", self.max_products, 1)
        tolerance = self.tolerance
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 < tolerance < math.inf:
            raise CollectorError(f"Curvature(tolerance={tolerance!r}): expected a positive number")
        object.__setattr__(self, "parts", parts_of(self.parts))

    def held(self, size: int) -> int:
        """Return how many vectors of the part's dimension may be held on the device; one takes ``size`` bytes."""
        if self.vectors is not None:
            return self.vectors
        least, all_draws = self.top + _SPARE, self.top + self.draws + _BESIDE
        return max(least, all_draws) if all_draws * size <= _SMALL else least


_LEAST = {"every": 1, "top": 0, "draws": 0, "probes": 0, "density_steps": 0, "dense": 0, "seed": 0}
_MOST = {"top": MAX_EIGENVALUES, "draws": MAX_DRAWS, "dense": MAX_COORDINATES}
_CHOICES = {
    "order": tuple(map(str, Order)),
    "matrix": (str(CurvatureKind.HESSIAN), str(CurvatureKind.GAUSS_NEWTON)),
    "method": (AUTO, str(ProductMethod.DOUBLE_BACKWARD), str(ProductMethod.FINITE_DIFFERENCES)),
    "mode": tuple(map(str, Mode)),
}


def _whole(name: str, value: object, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise CollectorError(f"Curvature({name}={value!r}): expected a whole number of at least {least}")
    if most is not None and value > most:
        raise CollectorError(f"Curvature({name}={value!r}): expected at most {most}, which one message can hold")


def _check_functions(plan: Curvature) -> None:
    if not callable(plan.data) and not isinstance(plan.data, Iterable):
        raise CollectorError(
            f"Curvature(data={plan.data!r}): expected an iterable of minibatches (a DataLoader, a list), or a function "
            "without arguments that returns the losses of one pass over the data"
        )
    if plan.loss_fn is not None and not callable(plan.loss_fn):
        raise CollectorError(
            f"Curvature(loss_fn={plan.loss_fn!r}): expected a function (outputs, targets) -> loss, or None"
        )
    if plan.draw is not None and not callable(plan.draw):
        raise CollectorError(
            f"Curvature(draw={plan.draw!r}): expected a function without arguments that returns the loss of a fresh "
            "minibatch, or None"
        )


def parts_of(given: object) -> tuple[Part, ...]:
    """Return the parts as a tuple; one pattern alone is one part.

    Raises:
        CollectorError: there are none, one is neither a pattern nor a pair, or two have one name.
    """
    parts = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple) else ()
    if not parts:
        raise CollectorError(f"Curvature(parts={given!r}): expected patterns of parameter names, such as ('*',)")
    for part in parts:
        pair = isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], str) and callable(part[1])
        if not (isinstance(part, str) and part) and not (pair and part[0]):
            raise CollectorError(
                f"Curvature(parts={given!r}): {part!r} is neither a pattern of parameter names nor a pair of a name "
                "and a function (parameter's name, parameter) -> bool"
            )
    names = [part if isinstance(part, str) else part[0] for part in parts]
    if len(set(names)) < len(names):
        raise CollectorError(f"Curvature(parts={given!r}): two parts have the same name")
    return parts
