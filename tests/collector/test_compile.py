"""``torch.compile``: the hooks come and go, and the graphs stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters

from gradnoise.collector import Sampling, attach
from gradnoise.collector._taps.dynamo import uncompiled
from gradnoise.wire import Table

from .loops import Data, assert_recorded, counted, hooks_left, loss_of, messages, mlp, recorded, rows, sampled
from .test_bursts import sgd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Gradients = dict[str, NDArray[np.float32]]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*script_method:DeprecationWarning",
    "ignore:.*torch.jit:DeprecationWarning",  # of its own imports
)

BURSTS = Sampling(burst=2, every=4)
STEPS = 12


@pytest.fixture(autouse=True)
def dynamo() -> Iterator[None]:
    """A fresh compiler that takes any recompilation for an error."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


class Own(nn.Module):
    """Its forward is a frame of its own; that of a Sequential, or of a module inside, is inlined."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.second(torch.relu(self.first(x)))


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x) * 2


def outer(model: Any, backend: str) -> tuple[Any, Any]:
    """What is called, and what is attached to."""
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    return compiled, compiled


def inner(model: Any, backend: str) -> tuple[Any, Any]:
    return torch.compile(model, backend=backend, fullgraph=True), model


def in_place(model: Any, backend: str) -> tuple[Any, Any]:
    model.compile(backend=backend)
    return model, model


def inside(model: Any, backend: str) -> tuple[Any, Any]:
    return torch.compile(Around(model), backend=backend, fullgraph=True), model


def gradients(model: nn.Module) -> Gradients:
    return {n: p.grad.numpy().ravel().copy() for n, p in model.named_parameters() if p.grad is not None}


def train_compiled(
    called: Any, model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, steps: int
) -> list[Gradients]:
    taken = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(called, data()).backward()
        taken.append(gradients(model))
        optimizer.step()
    return taken


def in_bursts(taken: list[Gradients]) -> dict[tuple[int, int], Gradients]:
    return {(2 * (s - s % 4), s % 4): taken[s] for s in range(len(taken)) if s % 4 < 2}


@pytest.mark.parametrize("make", [Own, mlp])
@pytest.mark.parametrize("how", [outer, inner, in_place, inside])
@pytest.mark.parametrize("attached", ["before", "after"])
def test_hooks_that_come_and_go_break_no_graph_and_compile_none_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[], Any], how: Any, attached: str
) -> None:
    model, data = make(), Data()
    called, target = how(model, "eager")
    optimizer = sgd(model)
    if attached == "after":  # the first forward pass
        train_compiled(called, model, optimizer, data, 2)
    frames = counters["frames"]["total"]
    with attach(target, optimizer, dump=tmp_path, sampling=BURSTS):
        taken = train_compiled(called, model, optimizer, data, STEPS)
        assert counters["graph_break"] == {}
        # A Sequential compiled in place is run as it is, unless its first forward pass finds a hook on it.
        left_alone = (make, how, attached) == (mlp, in_place, "after")
        assert counters["stats"]["unique_graphs"] == (0 if left_alone else 1)
        assert attached == "before" or counters["frames"]["total"] == frames  # no frame of ours was compiled
    assert_recorded(tmp_path, in_bursts(taken))
    assert hooks_left(model) + hooks_left(target) == 0
    assert counted(tmp_path) == {}
    assert messages(caplog) == []


@pytest.mark.parametrize(("make", "how"), [(Own, outer), (Own, inner), (Own, in_place), (mlp, outer)])
def test_microbatches_of_a_compiled_model_are_draws_of_one_theta(tmp_path: Path, make: Any, how: Any) -> None:
    model, data = make(), Data()
    called, target = how(model, "eager")
    assert accumulated(called, target, model, data, tmp_path, say=False) == {"microbatch": 6}


@pytest.mark.parametrize(("make", "how"), [(mlp, inner), (Own, inside), (mlp, inside)])
def test_microbatches_whose_forward_passes_are_not_seen_need_the_loops_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, how: Any
) -> None:
    for say in (True, False):
        torch._dynamo.reset()
        model, data = make(), Data()
        called, target = how(model, "eager")
        found = accumulated(called, target, model, data, tmp_path / str(say), say=say)
        assert found == ({"microbatch": 6} if say else {"burst": 0})
        assert len(messages(caplog)) == (0 if say else 1)


def accumulated(called: Any, target: Any, model: nn.Module, data: Data, path: Path, *, say: bool) -> dict[str, int]:
    """Train on three microbatches an update; return the windows: kind -> draws."""
    optimizer = sgd(model)
    expected = {}
    with attach(target, optimizer, dump=path, sampling=Sampling(burst=2, every=2)) as handle:
        for step in range(2):
            optimizer.zero_grad()
            before: Gradients = {}
            for part in range(3):
                (loss_of(called, data()) / 3).backward()
                now = gradients(model)
                expected[0, 3 * step + part] = {
                    n: 3 * (now[n] - before.get(n, 0)) if say else now[n] - before.get(n, 0) for n in now
                }
                before = now
            if say:
                handle.log(divisor=3)
            optimizer.step()
    for key, values in recorded(path).items():
        window, draw, name = key
        np.testing.assert_allclose(values, sampled(path, expected[window, draw])[name], rtol=1e-4, atol=1e-6)
    return {row["kind"]: row["recorded"] for row in rows(path, Table.WINDOWS)}


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_every_backend_gives_the_gradients_it_accumulates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    model, data = Own(), Data()
    called, target = outer(model, backend)
    optimizer = sgd(model)
    with attach(target, optimizer, dump=tmp_path / "d", sampling=BURSTS):
        taken = train_compiled(called, model, optimizer, data, 6)
    assert_recorded(tmp_path / "d", in_bursts(taken))
    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 1


def test_training_a_compiled_model_is_bit_equal_with_and_without_the_hook(tmp_path: Path) -> None:
    def final(path: Path | None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        torch._dynamo.reset()
        model, data = Own(), Data()
        called, target = outer(model, "aot_eager")
        optimizer = sgd(model)
        handle = None if path is None else attach(target, optimizer, dump=path, sampling=BURSTS)
        train_compiled(called, model, optimizer, data, STEPS)
        if handle is not None:
            handle.close()
            assert handle.stats().draws == 6
        return list(model.parameters())

    for with_hook, without in zip(final(tmp_path), final(None), strict=True):
        assert torch.equal(with_hook, without)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # dynamo's own
def test_a_compiled_step_with_its_backward_pass_inside_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = Own(), Data()
    optimizer = sgd(model)
    handle = attach(model, optimizer, dump=tmp_path, sampling=BURSTS)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        handle.log(loss=loss)
        taken.append(gradients(model))
        losses.append(loss.item())
        optimizer.step()

    taken: list[Gradients] = []
    losses: list[float] = []
    with torch._dynamo.config.patch(error_on_recompile=False):  # it compiles such a step in pieces, more than once
        compiled = torch.compile(step, backend="eager")
        for _ in range(STEPS):
            compiled(data())
    handle.close()
    assert_recorded(tmp_path, in_bursts(taken))
    assert [row["loss"] for row in rows(tmp_path, Table.STEPS)] == losses
    assert messages(caplog) == []


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # dynamo's own
@pytest.mark.parametrize("parts", [1, 2])
def test_compiled_autograd_calls_the_hooks(tmp_path: Path, caplog: pytest.LogCaptureFixture, parts: int) -> None:
    model, data = Own(), Data()
    optimizer = sgd(model)
    with (
        torch._dynamo.config.patch(error_on_recompile=False, compiled_autograd=True),
        attach(model, optimizer, dump=tmp_path, sampling=BURSTS),
    ):
        called: Any = torch.compile(model, backend="aot_eager")

        @torch.compile(backend="eager")
        def backward(loss: torch.Tensor) -> None:
            loss.backward()

        taken = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            before: Gradients = {}
            for _ in range(parts):
                backward(loss_of(called, data()))
                now = gradients(model)
                taken.append({name: now[name] - before.get(name, 0) for name in now})
                before = now
            optimizer.step()
    found = recorded(tmp_path)
    assert len(found) == 4 * parts * STEPS // 2
    for (window, draw, name), values in found.items():
        wanted = sampled(tmp_path, taken[parts * window // 2 + draw])[name]
        if draw % parts == 0:
            np.testing.assert_array_equal(values, wanted)
        else:  # differences of running sums
            np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-6)
    assert messages(caplog) == []


def test_a_compiled_optimizer_step_still_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = Own(), Data()
    optimizer = sgd(model)
    with torch._dynamo.config.patch(error_on_recompile=False):
        step: Any = torch.compile(optimizer.step, backend="eager")
        taken = []
        with attach(model, optimizer, dump=tmp_path, sampling=BURSTS) as handle:
            for _ in range(STEPS):
                optimizer.zero_grad()
                loss_of(model, data()).backward()
                taken.append(gradients(model))
                step()
            assert handle.stats().theta == STEPS
    assert_recorded(tmp_path, in_bursts(taken))
    assert messages(caplog) == []


def test_what_runs_uncompiled_is_not_compiled_below_a_compiled_function_either() -> None:
    ran = []

    def below(x: torch.Tensor) -> None:
        ran.append(torch.compiler.is_compiling())

    def raises(x: torch.Tensor) -> None:
        raise ZeroDivisionError("mine")

    def call(hook: Callable[..., None], x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        hook(x)
        return x + 1

    with torch._dynamo.config.patch(error_on_recompile=False):
        compiled = torch.compile(call, backend="eager")
        assert torch.equal(compiled(uncompiled(below), torch.ones(2)), torch.full((2,), 2.0))
        assert ran == [False]
        with pytest.raises(ZeroDivisionError, match="mine"):
            compiled(uncompiled(raises), torch.ones(2))
        graphs = counters["stats"]["unique_graphs"]
        torch.compile(lambda x: x * 3, backend="eager")(torch.ones(2))  # the compiler works as before
        assert counters["stats"]["unique_graphs"] == graphs + 1
