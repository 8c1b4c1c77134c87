"""Products of a vector with the Hessian or the Gauss-Newton matrix of the mean loss over a pass."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from gradnoise.collector._curvature.config import AUTO, CurvatureError
from gradnoise.collector._curvature.data import blaming
from gradnoise.collector._curvature.differences import Trial, calibrated, displaced
from gradnoise.collector._curvature.differentiable import differentiable
from gradnoise.collector._curvature.graphs import NotTwiceError, OfLoss, OfOutputs, outputs_of
from gradnoise.wire import CurvatureKind, ProductMethod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradnoise.collector._curvature.data import Minibatch, Passes
    from gradnoise.collector._curvature.graphs import Graph, Tensors
    from gradnoise.collector._curvature.space import Space

__all__ = ["Products"]

_ALIKE = 0.05  # relative difference of exact products from finite differences that kinks of a loss explain


class Products:
    """Products with the matrix of F, the mean loss over a pass, at the present parameters.

    The Hessian of F, or its Gauss-Newton matrix: the mean over minibatches of J^T L'' J, with J the derivative of the
    outputs by the parameters and L'' that of the loss by the outputs (Schraudolph 2002, eq. 5). By double backward
    (Pearlmutter 1994), or by central differences of the gradient,

        H v = (grad F(theta + e v) - grad F(theta - e v)) / 2e + O(e^2),

    with a step e that is tried out (see :func:`calibrated`); for Gauss-Newton of the outputs. The parameters move for
    that and are put back bit for bit.

    Of a pass of at most ``graphs`` minibatches the graph of the gradient is kept between products, so that each costs
    the second backward only; for that time the memory of one forward and one differentiable backward pass of each kept
    minibatch stays taken (:meth:`release` gives it back). Of longer passes one minibatch at a time is in memory, and a
    product costs forward, backward and double backward of each. Products are summed up in ``space.dtype`` in one
    vector; ``out`` is that vector.

    Args:
        space: the parameters.
        passes: the data.
        matrix: ``hessian`` or ``gauss_newton``.
        method: ``double_backward``, ``finite_differences``, or ``auto``: the first unless it turns out not to be
            implemented for the model, then the second.
        seed: of the direction in which the step is tried out.
        graphs: minibatches of which the graph may be kept.

    Attributes:
        count: products so far; those that tried out a step are not among them.
        method: how they are made; with ``auto`` final after the first product.
        notes: why not by double backward, and how far products of finite differences can be trusted.
    """

    def __init__(
        self,
        space: Space,
        passes: Passes,
        *,
        matrix: str = CurvatureKind.HESSIAN,
        method: str = AUTO,
        seed: int = 0,
        graphs: int = 1,
    ) -> None:
        self.count = 0
        self.notes: list[str] = []
        self.method = ProductMethod.DOUBLE_BACKWARD if method == AUTO else ProductMethod(method)
        self._space = space
        self._passes = passes
        self._gauss_newton = CurvatureKind(matrix) is CurvatureKind.GAUSS_NEWTON
        self._may_change = method == AUTO
        self._seed = seed
        self._graphs = graphs
        self._kept: list[Graph] = []
        self._versions: list[int] = []
        self._step = 0.0

    def __call__(self, vector: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the product with a vector (d,), in ``out`` where given; ``out`` must not be ``vector``.

        Raises:
            CurvatureError: the data or the model fails (see :class:`Passes`); the loss depends on none of the
                parameters; the product is not finite, naming the minibatch; the loss cannot be differentiated as asked.
        """
        out = self._space.zeros() if out is None else out
        if self.method is ProductMethod.DOUBLE_BACKWARD:
            try:
                with differentiable(self._passes.model):
                    custom = self._double_backward(vector, out)
                    if custom and self._may_change:
                        self._judge(custom)
            except NotTwiceError as error:
                self.release()
                if not self._may_change:
                    raise CurvatureError(
                        f"the loss cannot be differentiated twice: {error}; use method='finite_differences' or 'auto'"
                    ) from error
                self.method = ProductMethod.FINITE_DIFFERENCES
                self.notes.append(f"products by finite differences, because double backward failed: {error}")
        if self.method is ProductMethod.FINITE_DIFFERENCES:
            with differentiable(self._passes.model):
                self._differences(vector, out)
        self._may_change = False
        self.count += 1
        return out

    def gradient(self, out: torch.Tensor | None = None) -> tuple[float, torch.Tensor]:
        """Return F and its gradient (d,), in ``out`` where given.

        Raises:
            CurvatureError: as a product's.
        """
        out = self._space.zeros() if out is None else out
        with differentiable(self._passes.model):
            mean = _Mean(self._space, out)
            losses: list[tuple[torch.Tensor, int]] = []
            if self._kept:
                for graph in self._graphs_of_pass():
                    mean.add(graph.index, graph.weight, graph.gradient())
                    losses.append((graph.loss, graph.weight))
            else:
                with self._passes.steady():
                    for minibatch in self._passes:
                        gradient = self._first(minibatch)
                        losses.append((minibatch.loss.detach(), minibatch.weight))
                        mean.add(minibatch.index, minibatch.weight, gradient)
                        del minibatch, gradient
            total = mean.total()
            out.div_(total)
            return sum(float(loss) * weight for loss, weight in losses) / total, out

    def release(self) -> None:
        """Give back the memory of graphs that are kept between products; the next product makes them anew."""
        self._kept.clear()

    def _graphs_of_pass(self) -> Iterator[Graph]:
        """Yield the graphs of a pass, those that are kept or new ones."""
        parameters = self._space.parameters
        if self._kept:
            if [each._version for each in parameters] != self._versions:
                raise CurvatureError("parameters were changed between two products; expected frozen parameters")
            yield from self._kept
            return
        keep = self._passes.minibatches is not None and self._passes.minibatches <= self._graphs
        kept: list[Graph] = []
        for minibatch in self._passes:
            graph = (OfOutputs if self._gauss_newton else OfLoss)(
                minibatch, parameters, keep=keep, look=self.count == 0
            )
            del minibatch
            yield graph
            if keep:
                kept.append(graph)
            del graph
        self._versions = [each._version for each in parameters]
        self._kept = kept

    def _double_backward(self, vector: torch.Tensor, out: torch.Tensor) -> tuple[str, ...]:
        """Write the product into ``out``, and return which autograd functions are in it that are to be judged."""
        tangents = self._space.tangents(vector)
        mean = _Mean(self._space, out)
        custom: set[str] = set()
        with nullcontext() if self._kept else self._passes.steady():
            for graph in self._graphs_of_pass():
                mean.add(graph.index, graph.weight, graph.product(tangents), depends=graph.depends)
                custom.update(graph.custom)
                del graph
        out.div_(mean.total())
        return tuple(sorted(custom))

    def _judge(self, custom: tuple[str, ...]) -> None:
        """Compare double backward with finite differences once, where a backward pass may hide something from autograd.

        Raises:
            NotTwiceError: they differ.
        """
        names = ", ".join(custom)
        try:
            trial = self._calibrated()
        except CurvatureError as error:
            self.notes.append(f"double backward through {names} could not be checked: {error}")
            return
        product = self._space.zeros()
        self._double_backward(trial.direction, product)
        size = float(torch.linalg.vector_norm(trial.product))
        apart = float(torch.linalg.vector_norm(product.sub_(trial.product))) / (size or 1.0)
        if apart > max(_ALIKE, 10 * trial.error):
            raise NotTwiceError(
                f"products differ by {apart:.2g} of their norm from finite differences; the backward pass of {names} "
                "seems to do what autograd does not see"
            )

    def _differences(self, vector: torch.Tensor, out: torch.Tensor) -> None:
        if not self._step:
            trial = self._calibrated()
            self._step = trial.step
            self.notes.append(
                f"finite differences with a step of {trial.step:.3g} in the parameters; products differ by "
                f"{trial.error:.2g} of their norm from those with a step four times as long"
            )
        norm = float(torch.linalg.vector_norm(vector))
        if norm:
            self._difference(vector, self._step / norm, out)
        else:
            out.zero_()

    def _calibrated(self) -> Trial:
        generator = torch.Generator(self._space.device).manual_seed(self._seed)
        return calibrated(self._difference, self._space, generator)

    def _difference(self, vector: torch.Tensor, step: float, out: torch.Tensor) -> torch.Tensor:
        """Write the central difference with a step in units of ``vector`` into ``out``, and return it."""
        mean = _Mean(self._space, out)
        if self._gauss_newton:
            self._add_outputs(mean, vector, step)
            return out.div_(mean.total())
        for sign in (1, -1):
            with self._passes.steady(), displaced(self._space, vector, sign * step):
                for minibatch in self._passes.moved():
                    gradient = self._first(minibatch)
                    mean.add(minibatch.index, sign * minibatch.weight, gradient)
                    del minibatch, gradient
        return out.div_(mean.total() * step)

    def _add_outputs(self, mean: _Mean, vector: torch.Tensor, step: float) -> None:
        """Add J^T L'' (difference of the outputs): three passes side by side, at two places and between them."""
        sides = self._passes.moved(), self._passes.moved()
        for minibatch in self._passes:
            values = []
            for sign, side in zip((1, -1), sides, strict=True):
                with displaced(self._space, vector, sign * step):
                    values.append(outputs_of(next(side))[0].detach())
            try:
                outputs, slope = outputs_of(minibatch)
            except NotTwiceError as error:
                raise CurvatureError(f"the loss cannot be differentiated twice by the outputs: {error}") from error
            forward = (values[0] - values[1]) / (2 * step)
            inner = None
            if slope.requires_grad:
                (inner,) = torch.autograd.grad(slope, outputs, forward, retain_graph=True, allow_unused=True)
            if inner is None:
                inner = torch.zeros_like(outputs)
            with blaming(f"the gradient of minibatch {minibatch.index}"):
                product = torch.autograd.grad(outputs, self._space.parameters, inner, allow_unused=True)
            mean.add(minibatch.index, minibatch.weight, product)

    def _first(self, minibatch: Minibatch) -> Tensors:
        with blaming(f"the gradient of minibatch {minibatch.index}"):
            return torch.autograd.grad(minibatch.loss, self._space.parameters, allow_unused=True)


class _Mean:
    """The weighted mean of derivatives over minibatches, summed up in a vector."""

    def __init__(self, space: Space, out: torch.Tensor) -> None:
        self._space = space
        self._out = out.zero_()
        self._weight = 0
        self._depends = False
        self._finite: list[tuple[int, torch.Tensor]] = []

    def add(self, index: int, weight: int, tensors: Tensors, *, depends: bool | None = None) -> None:
        """Add the derivatives of a minibatch; a weight may be negative."""
        self._weight += abs(weight)
        self._depends |= any(each is not None for each in tensors) if depends is None else depends
        self._space.add(self._out, tensors, weight)
        self._finite.append((index, self._out.sum().isfinite()))

    def total(self) -> int:
        """Return the sum of the weights' absolute values; waits for the device.

        Raises:
            CurvatureError: nothing depended on the parameters, or something was not finite.
        """
        if not self._depends:
            raise CurvatureError(
                "the loss depends on none of the chosen parameters; choose others, or make the loss with them"
            )
        flags = torch.stack([flag for _, flag in self._finite]).tolist()
        if not all(flags):
            raise CurvatureError(
                f"minibatch {self._finite[flags.index(False)][0]}: NaN or infinity in a derivative of the loss; look "
                "for square roots or norms at zero, logarithms, or overflow"
            )
        return self._weight
