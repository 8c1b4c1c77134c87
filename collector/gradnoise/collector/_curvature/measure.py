"""One measurement: eigenpairs, traces, density, dense blocks and the noise on them, at frozen parameters.

What it takes of the device's memory, beside the model and what one double backward of it takes, is one block of
``vectors`` vectors of the part's dimension d, in which everything happens in turn: the Lanczos basis; then the
eigenvectors in its first k rows, with the probe vectors, the gradient, and the draws in the rest of it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradnoise.collector._curvature.at_rest import at_rest
from gradnoise.collector._curvature.data import Passes
from gradnoise.collector._curvature.dense import block_of, coordinates_of
from gradnoise.collector._curvature.dots import dots, norm2
from gradnoise.collector._curvature.draws import Noise, take
from gradnoise.collector._curvature.lanczos import eigenpairs
from gradnoise.collector._curvature.loaders import alike, own
from gradnoise.collector._curvature.parts import chosen
from gradnoise.collector._curvature.products import Products
from gradnoise.collector._curvature.sources import OfFunction, OfPasses
from gradnoise.collector._curvature.space import Space
from gradnoise.collector._curvature.stochastic import Samples, sample
from gradnoise.collector._recording.records import curvature_window_id
from gradnoise.wire import CurvatureKind, CurvatureRow, Mode, Order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradnoise.collector._curvature.config import Curvature
    from gradnoise.collector._curvature.sources import Source

__all__ = ["measure"]

_DENSITIES = 4  # probe vectors that give a spectral density, at most


def measure(model: torch.nn.Module, plan: Curvature, *, step: int = 0) -> tuple[CurvatureRow, ...]:
    """Measure the parts of a model at its present parameters: one row each.

    Args:
        model: everything of it is put back afterwards.
        plan: what to measure.
        step: that the rows name; parameter updates so far.

    Raises:
        CurvatureError: it cannot be measured so.
    """
    with at_rest(model, plan.data, plan.mode, plan.seed):
        parts = chosen(model, plan.parts)
        # The draws' passes stand open while products make theirs: their iterators are others.
        data, again = alike(plan.data), alike(plan.data)
        passes = Passes(model, plan.loss_fn, data, seed=plan.seed)
        passes.check()
        rows = [_Part(model, plan, passes, again, name, parameters).measured() for name, parameters in parts]
    return tuple(replace(row, window=curvature_window_id(step), step=step, theta=step) for row in rows)


class _Part:
    """The measurement of one part under way."""

    def __init__(
        self,
        model: torch.nn.Module,
        plan: Curvature,
        passes: Passes,
        again: Any,
        name: str,
        parameters: list[torch.nn.Parameter],
    ) -> None:
        self._begun = time.perf_counter()
        self._model = model
        self._plan = plan
        self._passes = passes
        self._again = again
        self._name = name
        self._space = Space(parameters)
        self._products = Products(self._space, passes, matrix=plan.matrix, method=plan.method, seed=plan.seed)
        self._held = plan.held(self._space.dimension * self._space.dtype.itemsize)
        self._notes: list[str] = []

    def measured(self) -> CurvatureRow:
        """Measure it."""
        plan, space, products = self._plan, self._space, self._products
        values, residuals, vectors, free = self._eigenpairs()
        samples = self._samples(vectors, free)
        coordinates = coordinates_of(space.dimension, plan.dense, plan.seed)
        block = block_of(products, coordinates, free)
        mean, product = free[0], free[1]
        loss, _ = products.gradient(out=mean)
        projections = dots(vectors, mean).cpu().numpy()
        products(mean, out=product)
        length2, quadratic = norm2(mean), float(dots(mean[None], product))
        noise = self._drawn(vectors, free, coordinates)
        return CurvatureRow(
            part=self._name,
            kind=CurvatureKind(plan.matrix),
            dimension=space.dimension,
            method=products.method,
            mode=Mode(plan.mode),
            loss=loss,
            minibatches=self._passes.minibatches or 0,
            products=products.count,
            seconds=time.perf_counter() - self._begun,
            examples=self._passes.examples,
            notes=(*products.notes, *self._notes),
            eigenvalues=values,
            residuals=residuals,
            order=Order(plan.order) if len(values) else None,
            gradient_norm2=length2,
            gradient_quadratic=quadratic,
            gradient_projections=projections,
            trace_samples=samples.traces,
            square_samples=samples.squares,
            density_nodes=samples.nodes,
            density_weights=samples.weights,
            coordinates=coordinates,
            block=block,
            draws=noise.draws,
            batch_size=noise.batch_size,
            sampling=noise.sampling,
            replacement=noise.replacement,
            gram=noise.gram,
            projections=noise.projections,
            quadratic=noise.quadratic,
            block_noise=noise.block,
        )

    def _generator(self) -> torch.Generator:
        return torch.Generator(self._space.device).manual_seed(self._plan.seed)

    def _eigenpairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64], torch.Tensor, torch.Tensor]:
        """Return eigenvalues, residuals, eigenvectors, and what is left of the work space."""
        plan, space = self._plan, self._space
        k = min(plan.top, space.dimension)
        if k < plan.top:
            self._notes.append(f"{k} eigenpairs instead of {plan.top}: there are no more dimensions")
        if not k:
            work = torch.empty(self._held, space.dimension, dtype=space.dtype, device=space.device)
            return np.empty(0), np.empty(0), work[:0], work
        pairs = eigenpairs(
            self._products,
            space.dimension,
            k,
            order=plan.order,
            basis=self._held - 1,
            tolerance=plan.tolerance,
            max_products=plan.max_products,
            generator=self._generator(),
            dtype=space.dtype,
            device=space.device,
        )
        if not pairs.converged:
            reached = pairs.residuals <= plan.tolerance * np.abs(pairs.values)
            self._notes.append(
                f"{int(reached.sum())} of {k} eigenpairs reached tolerance={plan.tolerance:g} in {pairs.products} "
                "products; see their residuals, or raise max_products or vectors"
            )
        free = pairs.spare
        if len(free) < self._held - k:  # the basis was the whole space, and that is small
            free = torch.empty(self._held - k, space.dimension, dtype=space.dtype, device=space.device)
        return pairs.values, pairs.residuals, pairs.vectors, free

    def _samples(self, vectors: torch.Tensor, work: torch.Tensor) -> Samples:
        plan, left = self._plan, self._space.dimension - len(vectors)
        if not left:  # the eigenvectors are all there is: nothing is left to be sampled
            return Samples(np.zeros(plan.probes), np.zeros(plan.probes), np.empty((0, 0)), np.empty((0, 0)))
        steps = min(plan.density_steps, left)
        if steps < plan.density_steps:
            self._notes.append(f"density_steps={steps}: beside the eigenvectors there are no more dimensions")
        return sample(
            self._products,
            vectors,
            work,
            probes=plan.probes,
            densities=min(_DENSITIES, plan.probes),
            steps=steps,
            generator=self._generator(),
        )

    def _source(self) -> Source | None:
        """Return where the draws come from; None where there are none to be had."""
        plan, passes = self._plan, self._passes
        if not plan.draws:
            return None
        if plan.draw is not None:
            return OfFunction(self._model, plan.draw, seed=plan.seed)
        if passes.minibatches == 1:
            self._notes.append(
                "no draws: a pass over the data is one minibatch, whose gradient is the mean; give draw=, a function "
                "that returns the loss of a fresh minibatch, or data of several"
            )
            return None
        shuffles = not any(module.training for module in self._model.modules())
        data = own(plan.data) if shuffles else self._again
        return OfPasses(Passes(self._model, plan.loss_fn, data), data, seed=plan.seed, shuffles=shuffles)

    def _drawn(self, vectors: torch.Tensor, free: torch.Tensor, coordinates: NDArray[np.int64]) -> Noise:
        source = self._source()
        if source is None:
            return Noise()
        wanted = self._plan.draws
        noise = take(
            source,
            self._space,
            self._model,
            self._products,
            vectors,
            free,
            draws=wanted,
            coordinates=coordinates,
            release=self._products.release,
        )
        self._notes.extend(noise.notes)
        if noise.draws < wanted:
            self._notes.append(f"{noise.draws} draws instead of {wanted}: {source.ended}")
        if noise.draws and isinstance(source, OfPasses) and source.in_order():
            self._notes.append(
                "the minibatches are the same in every pass: the draws are slices of the data as they lie, and their "
                "noise is that of random minibatches only if that order is random; shuffle the data"
            )
        if noise.draws < len(vectors):
            self._notes.append(f"fewer draws ({noise.draws}) than eigenpairs ({len(vectors)})")
        return noise
