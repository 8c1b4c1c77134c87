"""Leading eigenpairs of the Hessian beside hessian-eigenthings, curvlinops with ARPACK, and PyHessian.

Every peer is taken to the same residual: the largest |H v - lambda v| / |lambda| of its pairs, measured afterwards with
products of our own. Products are counted by wrapping the peer's, and the time is that of the whole call.

 - gradnoise and ARPACK (scipy's ``eigsh`` on curvlinops' operator) stop by themselves at that residual; gradnoise once
   with as many vectors as it takes by default, and once with as many as ARPACK and its result.
 - hessian-eigenthings runs a given number of steps without restarts: the smallest number that reaches the residual is
   found beforehand, not timed, which no user has.
 - PyHessian's power iteration stops by the change of the eigenvalue, has no residual, and finds the largest magnitudes.
   It is stopped where it takes longer than ``PATIENCE`` times as long as gradnoise.

None of them but gradnoise can differentiate the default attention of PyTorch twice: they are given the MATH backend.
Products of curvlinops 3.0.1 through LayerNorm are wrong under PyTorch 2.13 (a third of their norm, against differences
of the gradient in double precision); its residual on the Transformer may show it.

Peers that are not installed are left out and named. curvlinops needs ``pip install --no-deps``, beside einconv, einops,
linear-operator, opt-einsum and backpack-for-pytorch, where PyTorch is a build for the CPU: BackPACK asks for a
torchvision that does not load beside it.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradnoise.collector._curvature.data import Passes
from gradnoise.collector._curvature.lanczos import eigenpairs
from gradnoise.collector._curvature.products import Products
from gradnoise.collector._curvature.space import Space

from .networks import training

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

TOP, TOLERANCE, PATIENCE = 20, 1e-3, 5.0
STEPS = 40  # of Adam, so that the spectrum is a trained network's
LONGEST = 160  # Lanczos steps of hessian-eigenthings that are tried

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Problem:
    """A trained network in eval mode and minibatches; and products of our own to judge by."""

    model: nn.Module
    batches: Batches
    top: int
    loss: nn.Module = field(default_factory=nn.CrossEntropyLoss)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [each for each in self.model.parameters() if each.requires_grad]

    def products(self) -> tuple[Space, Products]:
        space = Space(self.parameters)
        passes = Passes(self.model, self.loss, self.batches)
        passes.check()
        return space, Products(space, passes, method="double_backward")

    def residual(self, values: NDArray[Any], vectors: torch.Tensor) -> float:
        """The largest residual relative to its |lambda|, the vectors brought to norm 1."""
        _, products = self.products()
        worst = 0.0
        for value, vector in zip(values, vectors, strict=True):
            unit = nn.functional.normalize(vector.double(), dim=0).float()
            worst = max(worst, float((products(unit) - float(value) * unit).norm()) / abs(float(value)))
        return worst


@dataclass
class Found:
    """What a peer found."""

    seconds: float
    products: int
    values: NDArray[Any]
    vectors: torch.Tensor
    held: str
    note: str = ""


class _StoppedError(Exception):
    """A peer took longer than it was given."""


class _Counted:
    """A product that is counted, and refused after a time."""

    def __init__(self, product: Callable[..., Any], until: float = float("inf")) -> None:
        self.count = 0
        self._product = product
        self._until = until

    def __call__(self, *args: Any, **options: Any) -> Any:
        if time.perf_counter() > self._until:
            raise _StoppedError
        self.count += 1
        return self._product(*args, **options)


def _gradnoise(problem: Problem, tolerance: float, vectors: int) -> Found:
    start = time.perf_counter()
    space, products = problem.products()
    pairs = eigenpairs(
        products,
        space.dimension,
        problem.top,
        order="algebraic",
        basis=vectors - 1,
        tolerance=tolerance,
        max_products=None,
        generator=torch.Generator(space.device).manual_seed(0),
        dtype=space.dtype,
        device=space.device,
    )
    seconds = time.perf_counter() - start
    note = "" if pairs.converged else "not converged"
    return Found(seconds, pairs.products, pairs.values, pairs.vectors, f"{vectors}", note)


def smallest(problem: Problem, tolerance: float, _: float) -> Found:
    """With the vectors that it takes by default."""
    return _gradnoise(problem, tolerance, problem.top + 6)


def roomy(problem: Problem, tolerance: float, _: float) -> Found:
    """With as many vectors as ARPACK and its result take."""
    return _gradnoise(problem, tolerance, 3 * problem.top + 1)


def eigenthings(problem: Problem, tolerance: float, _: float) -> Found:
    from hessian_eigenthings import HessianOperator, lanczos, lanczos_tridiagonal, supervised_loss

    def operator() -> Any:
        made = HessianOperator(problem.model, problem.batches, supervised_loss(problem.loss))
        made.matvec = _Counted(made.matvec)
        return made

    start_vector = torch.randn(operator().size, generator=torch.Generator().manual_seed(0))
    trial = lanczos_tridiagonal(operator(), start_vector, LONGEST)
    steps = _enough(trial.alphas.double().numpy(), trial.betas.double().numpy(), problem.top, tolerance)
    begun, counted = time.perf_counter(), operator()
    result = lanczos(counted, k=problem.top, max_iter=steps, which="LA", reorthogonalize=True, seed=0)
    seconds = time.perf_counter() - begun
    note = "number of steps told beforehand" if steps < LONGEST else "not converged"
    return Found(
        seconds, counted.matvec.count, result.eigenvalues.numpy(), result.eigenvectors, f"{steps + problem.top}", note
    )


def _enough(diagonal: NDArray[Any], beside: NDArray[Any], top: int, tolerance: float) -> int:
    """The least number of steps after which all residuals are small."""
    for steps in range(top, len(diagonal)):
        off = beside[: steps - 1]
        values, states = np.linalg.eigh(np.diag(diagonal[:steps]) + np.diag(off, 1) + np.diag(off, -1))
        if (np.abs(states[-1, -top:] * beside[steps - 1]) <= tolerance * np.abs(values[-top:])).all():
            return steps
    return len(diagonal)


def curvlinops(problem: Problem, tolerance: float, _: float) -> Found:
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    start = time.perf_counter()
    made = HessianLinearOperator(
        problem.model, problem.loss, problem.parameters, problem.batches, check_deterministic=False
    ).to_scipy(dtype=np.dtype(np.float32))
    counted = _Counted(made.matvec)
    operator = LinearOperator(made.shape, matvec=counted, dtype=made.dtype)
    begin = np.random.default_rng(0).normal(size=made.shape[0]).astype(np.float32)
    values, vectors = eigsh(operator, problem.top, which="LA", tol=tolerance, v0=begin)
    seconds = time.perf_counter() - start
    return Found(
        seconds, counted.count, values[::-1], torch.from_numpy(vectors.T[::-1].copy()), f"{3 * problem.top + 1}"
    )


def pyhessian(problem: Problem, tolerance: float, budget: float) -> Found:
    # The package's class of the same name hides its module from ``import ... as``.
    module: Any = importlib.import_module("pyhessian.hessian")
    problem.model.zero_grad()
    start = time.perf_counter()
    one = len(problem.batches) == 1
    data = {"data": problem.batches[0]} if one else {"dataloader": problem.batches}
    made = module.hessian(problem.model, problem.loss, cuda=False, **data)
    counted = _Counted(module.hessian_vector_product if one else made.dataloader_hv_product, start + budget)
    before = module.hessian_vector_product
    values: list[float] = []
    vectors: list[list[torch.Tensor]] = []
    found = module.hessian.eigenvalues
    if one:
        module.hessian_vector_product = counted
    else:
        made.dataloader_hv_product = counted
    # One pair more a call would begin anew: it is asked for all, and what it had when it was stopped is lost.
    try:
        with suppress(_StoppedError):
            values, vectors = found(made, maxIter=1000, tol=tolerance**2, top_n=problem.top)
    finally:
        module.hessian_vector_product = before
        problem.model.zero_grad()  # it leaves gradients with their graphs
    seconds = time.perf_counter() - start
    flat = [torch.cat([part.reshape(-1) for part in vector]) for vector in vectors]
    note = (
        "largest magnitudes"
        if values
        else f"stopped: not all {problem.top} pairs in {PATIENCE:g} times gradnoise's time"
    )
    return Found(
        seconds, counted.count, np.array(values), torch.stack(flat) if flat else torch.empty(0), f"{problem.top}", note
    )


PEERS: dict[str, tuple[str | None, Callable[[Problem, float, float], Found]]] = {
    "gradnoise, default": (None, smallest),
    "gradnoise, roomy": (None, roomy),
    "hessian-eigenthings": ("hessian_eigenthings", eigenthings),
    "curvlinops + eigsh": ("curvlinops", curvlinops),
    "PyHessian": ("pyhessian", pyhessian),
}


def problem_of(name: str, minibatches: int, batch: int | None, steps: int, top: int) -> Problem:
    """The network after some steps of Adam, on the first minibatches of its training, cut to ``batch`` examples."""
    work = training(name)
    optimizer = torch.optim.Adam(work.model.parameters(), lr=1e-3)
    batches = [(x[:batch], y[: len(y) if batch is None else batch * (len(y) // len(x))]) for x, y in work.batches]
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        work.loss(work.model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return Problem(work.model.eval(), batches[:minibatches], top)


def eigenpairs_against_peers(
    networks: tuple[str, ...] = ("3c3d", "Transformer"),
    *,
    minibatches: tuple[int, ...] = (1, 4),
    batch: int | None = None,
    steps: int = STEPS,
    top: int = TOP,
    tolerance: float = TOLERANCE,
) -> None:
    """Print time, products and residuals of every peer, on a pass of one minibatch and on one of several."""
    for name in networks:
        for count in minibatches:
            problem = problem_of(name, count, batch, steps, top)
            d = sum(each.numel() for each in problem.parameters)
            print(
                f"{name}, {d} parameters, {count} minibatches of {len(problem.batches[0][0])}; top {top}, residual "
                f"{tolerance:g}; {torch.get_num_threads()} threads"
            )
            own = 0.0
            for peer, (package, run) in PEERS.items():
                if package is not None and importlib.util.find_spec(package) is None:
                    print(f"  {peer:<20} not installed")
                    continue
                try:
                    with sdpa_kernel(SDPBackend.MATH):
                        found = run(problem, tolerance, PATIENCE * own)
                except Exception as error:
                    print(f"  {peer:<20} fails: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
                    continue
                own = min(own, found.seconds) if own else found.seconds
                residual = problem.residual(found.values, found.vectors) if len(found.values) else float("nan")
                print(
                    f"  {peer:<20} {found.seconds:7.2f} s  {found.seconds / own:5.2f} x  {found.products:4d} products  "
                    f"residual {residual:.1e}  {found.held:>3} vectors  {found.note}",
                    flush=True,
                )


def main() -> None:
    eigenpairs_against_peers()


if __name__ == "__main__":
    main()
