from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from gradnoise.collector import Probe, Sampling, attach
from gradnoise.collector._taps.gather import Gatherer
from gradnoise.collector._taps.probe import ProbeError, probe_seed, run_probe
from gradnoise.collector._taps.torch_state import preserved, preserved_modes, preserved_random
from gradnoise.wire import Dump, Group, Table

from .loops import Data, assert_recorded, by_hand, counted, hooks_left, loss_of, messages, mlp, recorded, rows, train
from .test_bursts import sgd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROBES_ONLY = Sampling(burst=0)


def test_a_probe_records_gradients_of_the_closures_losses_at_frozen_parameters(tmp_path: Path) -> None:
    model, data, fresh = mlp(), Data(), Data(seed=2)
    optimizer = sgd(model)
    taken: list[dict[str, Any]] = []

    def closure() -> torch.Tensor:
        loss = loss_of(model, fresh())
        taken.append(by_hand(model, loss))
        return loss

    with attach(
        model, optimizer, dump=tmp_path, sampling=PROBES_ONLY, probe=Probe(closure, draws=4, every=3), batch_size=8
    ) as handle:
        train(model, optimizer, data, 7)
        assert handle.stats().theta == 7
    assert len(taken) == 8
    assert_recorded(
        tmp_path, {(2 * theta + 1, d): taken[4 * i + d] for i, theta in enumerate((3, 6)) for d in range(4)}
    )
    assert {(row["window"], row["theta"], row["step"]) for row in rows(tmp_path)} == {(7, 3, 3), (13, 6, 6)}
    assert {row["batch_size"] for row in rows(tmp_path)} == {8}
    assert [(w["window"], w["kind"], w["declared"], w["recorded"]) for w in rows(tmp_path, Table.WINDOWS)] == [
        (7, "probe", 4, 4),
        (13, "probe", 4, 4),
    ]
    assert Dump(tmp_path).info.plan["probe_draws"] == 4


def test_a_probe_within_a_burst_leaves_the_burst_as_it_is(tmp_path: Path) -> None:
    model, data, fresh = mlp(), Data(), Data(seed=2)
    optimizer = sgd(model)
    probe = Probe(lambda: loss_of(model, fresh()), draws=3, every=2)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=5, every=5), probe=probe):
        taken = train(model, optimizer, data, 5)
    found = {key: values for key, values in recorded(tmp_path).items() if key[0] % 2 == 0}
    assert len(found) == 20
    for (_, draw, name), values in found.items():
        np.testing.assert_array_equal(values, taken[draw][name])
    assert hooks_left(model) == 0


class Rough(nn.Module):
    """Everything a probe could disturb."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        self.register_buffer("calls", torch.zeros(1))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        self.calls = self.calls + 1  # a buffer replaced, not only changed
        out: torch.Tensor = self.body(x)
        return out


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "parameters": [(id(p), p.detach().clone(), p._version) for p in model.parameters()],
        "gradients": [(id(p.grad), p.grad.clone()) if p.grad is not None else None for p in model.parameters()],
        "buffers": [(id(b), b.clone()) for b in model.buffers()],
        "modes": [module.training for module in model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "python": random.getstate(),
    }


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def disturb(model: Any) -> None:
    model.eval()
    model(torch.randn(4, 6))
    model.train()
    model(torch.randn(4, 6)).sum().backward()
    random.random()
    np.random.rand(3)  # noqa: NPY002
    model.body[1].eval()


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_everything_is_put_back_bit_for_bit(error: type[BaseException] | None) -> None:
    model: Any = Rough()
    model(torch.randn(4, 6)).sum().backward()
    model.body[4].bias.grad = None
    before = snapshot(model)

    def visit() -> None:
        with preserved(model), preserved_random(5):
            disturb(model)
            if error is not None:
                raise error

    if error is None:
        visit()
    else:
        with pytest.raises(error):
            visit()
    assert_same(before, snapshot(model))


def test_parameters_changed_or_replaced_inside_are_put_back() -> None:
    model: Any = Rough()
    before = snapshot(model)["parameters"]
    with preserved(model):
        with torch.no_grad():
            model.body[0].weight.add_(1.0)
            model.frozen.weight.data.zero_()
        model.body[4].bias = nn.Parameter(torch.ones(3))
    after = snapshot(model)["parameters"]
    assert [(i, v.tolist()) for i, v, _ in before] == [(i, v.tolist()) for i, v, _ in after]


def moving(model: Any) -> None:
    weight = model.body[0].weight
    weight.data = torch.empty(0)


def narrowing(model: Any) -> None:
    model.half()


def freeing(model: Any) -> None:
    model.body[0].weight.untyped_storage().resize_(0)


@pytest.mark.parametrize("take_away", [moving, narrowing, freeing])
def test_parameters_lie_where_they_lay_whatever_is_done_to_their_storage(take_away: Callable[[Any], None]) -> None:
    model: Any = Rough()
    tensors = list(model.state_dict(keep_vars=True).values())
    tensors[0].grad = gradient = torch.ones_like(tensors[0])
    views = [tensor.detach() for tensor in tensors]  # as into a flat buffer of all parameters
    values = [view.clone() for view in views]
    with preserved(model):
        take_away(model)
    assert tensors[0].grad is gradient
    for tensor, view, value in zip(tensors, views, values, strict=True):
        assert tensor.dtype == value.dtype
        assert tensor.is_set_to(view)
        assert torch.equal(tensor, value)


def broken(model: nn.Module, data: Data) -> torch.Tensor:
    raise ValueError("no more data")


def exhausted(model: nn.Module, data: Data) -> torch.Tensor:
    return next(iter([]))


def vector(model: nn.Module, data: Data) -> Any:
    return model(data()[0])


def number(model: nn.Module, data: Data) -> float:
    return loss_of(model, data()).item()


def detached(model: nn.Module, data: Data) -> torch.Tensor:
    return loss_of(model, data()).detach()


def foreign(model: nn.Module, data: Data) -> torch.Tensor:
    return torch.ones((), requires_grad=True) * 2


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (broken, "ValueError: no more data"),
        (exhausted, "iterator is exhausted"),
        (vector, r"shape \(8, 3\)"),
        (number, "returned float"),
        (detached, "requires_grad=False"),
        (foreign, "depends on no recorded parameter"),
    ],
)
def test_a_failing_closure_ends_the_probes_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: Callable[..., Any], text: str
) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    calls = []

    def closure() -> Any:
        calls.append(1)
        return loss_of(model, data()) if len(calls) < 3 else body(model, data)

    with attach(
        model, optimizer, dump=tmp_path, sampling=Sampling(burst=6, every=6), probe=Probe(closure, draws=5, every=2)
    ):
        taken = train(model, optimizer, data, 6)
    assert len(calls) == 3
    (message,) = messages(caplog)
    assert "stops probing" in message
    assert pytest.raises(AssertionError, match=text).matches(AssertionError(message))
    assert counted(tmp_path) == {"probe_failed": 1}
    assert [(w["kind"], w["recorded"]) for w in rows(tmp_path, Table.WINDOWS)] == [("probe", 2), ("burst", 6)]
    assert len(taken) == 6


def test_successive_probes_see_other_minibatches_also_if_training_draws_no_random_number(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batch = data()
    seen: list[list[int]] = []

    def closure() -> torch.Tensor:
        chosen = torch.randint(0, 64, (4,))
        seen.append([*chosen.tolist(), random.randrange(10**6), int(np.random.randint(10**6))])  # noqa: NPY002
        return loss_of(model, (data.x[chosen], data.y[chosen]))

    state = torch.get_rng_state()
    with attach(model, optimizer, dump=tmp_path, sampling=PROBES_ONLY, probe=Probe(closure, draws=2, every=1)):
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
    assert len(seen) == 6
    assert len({tuple(one) for one in seen}) == 6
    assert len({one[4] for one in seen}) == len({one[5] for one in seen}) == 6
    assert torch.equal(state, torch.get_rng_state())


def test_the_ranks_of_a_job_see_other_minibatches() -> None:
    seeds = [probe_seed(0, theta, rank) for theta in (1, 2) for rank in (None, 1, 2)]
    assert len(set(seeds)) == 6
    assert probe_seed(0, 1, 0) == probe_seed(0, 1, None)
    assert probe_seed(1, 1, 0) != probe_seed(0, 1, 0)


def test_a_probe_works_with_gradients_switched_off_around_the_step(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    probe = Probe(lambda: loss_of(model, data()), draws=2, every=1)
    with attach(model, optimizer, dump=tmp_path, sampling=PROBES_ONLY, probe=probe):
        loss_of(model, data()).backward()
        with torch.no_grad():
            optimizer.step()
    assert [w["recorded"] for w in rows(tmp_path, Table.WINDOWS)] == [2]


@pytest.mark.parametrize(("updates", "warnings"), [(2, 1), (3, 0)])
def test_a_probe_that_never_came_is_mentioned_at_close(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, updates: int, warnings: int
) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    handle = attach(model, optimizer, dump=tmp_path, probe=Probe(lambda: loss_of(model, data()), draws=2, every=3))
    train(model, optimizer, data, updates)
    handle.close()
    text = "gradnoise: no probe ran: the first comes at update 3; 2 updates were seen"
    assert messages(caplog) == [text] * warnings


def settings() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "autocast": [
            (kind, torch.is_autocast_enabled(kind), str(torch.get_autocast_dtype(kind))) for kind in ("cpu", "cuda")
        ],
        "cache": torch.is_autocast_cache_enabled(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": [cudnn.enabled, cudnn.benchmark, cudnn.deterministic],
    }


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_settings_of_torch_are_put_back(error: type[BaseException] | None) -> None:
    before = settings()

    def visit() -> None:
        with preserved_modes():
            torch.set_autocast_enabled("cpu", True)
            torch.set_autocast_dtype("cpu", torch.float16)
            torch.set_autocast_cache_enabled(False)
            torch.set_grad_enabled(False)
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
            torch.backends.cudnn.deterministic = not torch.backends.cudnn.deterministic
            assert all(settings()[name] != before[name] for name in before)
            if error is not None:
                raise error

    if error is None:
        visit()
    else:
        with pytest.raises(error):
            visit()
    assert settings() == before


def test_hooks_modules_and_flags_are_put_back() -> None:
    model: Any = Rough()
    weight, bias = model.body[0].weight, model.body[0].bias
    mine = weight.register_hook(lambda gradient: None)
    forward = model.body[1].register_forward_hook(lambda *_: None)
    hooks, inside, module = dict(weight._backward_hooks), dict(model.body[1]._forward_hooks), model.body[4]
    with preserved(model):
        mine.remove()
        forward.remove()
        weight.register_hook(lambda gradient: gradient * 0)
        bias.register_hook(lambda gradient: gradient * 0)
        bias.register_post_accumulate_grad_hook(lambda tensor: None)
        model.register_forward_pre_hook(lambda *_: None)
        model.body[4] = nn.Linear(8, 4)
        model.frozen.requires_grad_(True)
        weight.requires_grad_(False)
    assert dict(weight._backward_hooks) == hooks
    assert bias._backward_hooks is None
    assert bias._post_accumulate_grad_hooks is None
    assert dict(model.body[1]._forward_hooks) == inside
    assert not model._forward_pre_hooks
    assert model.body[4] is module
    assert weight.requires_grad
    assert not model.frozen.weight.requires_grad


def test_a_parameter_of_nan_stays_as_it_is() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    before = model[0].weight.detach().clone()
    with preserved(model):
        pass
    assert torch.equal(before.nan_to_num(7.0), model[0].weight.detach().nan_to_num(7.0))


def trained(
    path: Path, closure_of: Callable[[nn.Module, torch.optim.Optimizer, Data], Callable[[], Any]] | None
) -> list[torch.Tensor]:
    """Parameters and optimiser states after a training, with probes or without."""
    torch.manual_seed(0)
    model, data = mlp(), Data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    probe = None if closure_of is None else Probe(closure_of(model, optimizer, Data(seed=2)), draws=3, every=2)
    with attach(model, optimizer, dump=path, sampling=Sampling(burst=2, every=3), probe=probe):
        train(model, optimizer, data, 6)
    state = [value for entry in optimizer.state_dict()["state"].values() for value in entry.values()]
    return [*(p.detach() for p in model.parameters()), *state]


def stepping(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> Callable[[], Any]:
    def closure() -> Any:
        loss = loss_of(model, data())
        loss.backward()
        optimizer.step()
        return loss

    return closure


def going_back(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> Callable[[], Any]:
    def closure() -> Any:
        loss = loss_of(model, data())
        loss.backward()
        return loss

    return closure


def writing(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> Callable[[], Any]:
    def closure() -> Any:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.data.mul_(0.5)
        optimizer.zero_grad()
        return loss_of(model, data())

    return closure


@pytest.mark.parametrize(
    ("body", "text"),
    [(stepping, "takes an optimizer step"), (going_back, "backward through the graph a second time"), (writing, "")],
)
def test_a_closure_that_trains_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: Any, text: str
) -> None:
    plain, probed = trained(tmp_path / "plain", None), trained(tmp_path / "probed", body)
    assert len(plain) == len(probed) == 16
    assert all(torch.equal(a, b) for a, b in zip(plain, probed, strict=True))
    assert [text in message for message in messages(caplog)] == [True] * bool(text)


def test_an_interrupt_within_a_probe_reaches_the_user_and_leaves_everything_in_place(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    calls: list[Any] = []

    def closure() -> torch.Tensor:
        calls.append([p.detach().clone() for p in model.parameters()])
        model.eval()
        torch.rand(3)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss_of(model, data())

    with attach(
        model, optimizer, dump=tmp_path, sampling=PROBES_ONLY, probe=Probe(closure, draws=3, every=1)
    ) as handle:
        state = torch.get_rng_state()
        with pytest.raises(KeyboardInterrupt):
            train(model, optimizer, data, 1)
        assert torch.equal(state, torch.get_rng_state())
        assert model.training
        assert all(torch.equal(a, b) for a, b in zip(calls[0], model.parameters(), strict=True))
        assert all(parameter.grad is not None for parameter in model.parameters())
        train(model, optimizer, data, 1)  # the next update is probed as ever
        assert handle.stats().error is None
    assert [(w["declared"], w["recorded"]) for w in rows(tmp_path, Table.WINDOWS)] == [(3, 1), (3, 3)]


def checkpointed(model: Any, data: Data, *, reentrant: bool) -> torch.Tensor:
    x, y = data()
    out = torch.utils.checkpoint.checkpoint(model[2], model[1](model[0](x)), use_reentrant=reentrant)
    return nn.functional.cross_entropy(out, y)


def test_checkpointed_models_are_probed_unless_reentrant(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for reentrant in (False, True):
        model, data = mlp(), Data()
        fresh, same = Data(seed=2), Data(seed=2)
        optimizer = sgd(model)
        path = tmp_path / str(reentrant)
        probe = Probe(lambda m=model, d=fresh, r=reentrant: checkpointed(m, d, reentrant=r), draws=2, every=1)  # type: ignore[misc]
        with attach(model, optimizer, dump=path, sampling=PROBES_ONLY, probe=probe):
            train(model, optimizer, data, 1)
        if not reentrant:
            assert_recorded(path, {(3, d): by_hand(model, loss_of(model, same())) for d in range(2)})
    (message,) = messages(caplog)
    assert "the probe" in message
    assert "reentrant" in message


def test_compiled_models_are_probed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = mlp(), Data()
    fresh, same = Data(seed=2), Data(seed=2)
    compiled: Any = torch.compile(model, backend="aot_eager")
    optimizer = sgd(model)
    probe = Probe(lambda: loss_of(compiled, fresh()), draws=2, every=2)
    with attach(model, optimizer, dump=tmp_path, sampling=PROBES_ONLY, probe=probe):
        train(compiled, optimizer, data, 2)
    assert_recorded(tmp_path, {(5, d): by_hand(model, loss_of(model, same())) for d in range(2)})


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A job of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'job'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def counting(seen: list[int], values: torch.Tensor) -> Any:
    seen.append(1)
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(values)
    return future


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("inner", [False, True])
def test_a_probe_of_a_data_parallel_model_sends_nothing(tmp_path: Path, inner: bool) -> None:
    """Neither gradients nor buffers, and the wrapper goes on as if nothing had been."""
    ends, sent = [], []
    for probing in (False, True):
        torch.manual_seed(0)
        inside = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        model = nn.parallel.DistributedDataParallel(inside)
        optimizer, data, fresh = sgd(model), Data(), Data(seed=2)
        reduced: list[int] = []
        model.register_comm_hook(reduced, lambda seen, bucket: counting(seen, bucket.buffer()))
        probe = Probe(lambda m=model, d=fresh: loss_of(m, d()), draws=3, every=2)  # type: ignore[misc]
        with attach(
            inside if inner else model,
            optimizer,
            dump=tmp_path / str(probing),
            sampling=Sampling(burst=1, every=8),
            probe=probe if probing else None,
        ):
            train(model, optimizer, data, 5)
        ends.append([value.clone() for value in model.state_dict().values()])
        sent.append(len(reduced))
    assert sent[0] == sent[1] == 5
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert [w["recorded"] for w in rows(tmp_path / "True", Table.WINDOWS) if w["kind"] == "probe"] == [3, 3]


@pytest.mark.usefixtures("alone")
def test_a_sharded_model_is_not_probed() -> None:
    from torch.distributed.fsdp import fully_shard

    model = mlp()
    fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))
    gatherer = Gatherer([Group("0.weight", (8, 6), "float32", (0, 1))])
    arguments: dict[str, Any] = {"sink": None, "theta": 0, "sampling": PROBES_ONLY, "batch_size": None}
    with pytest.raises(ProbeError, match="sharded"):
        run_probe(Probe(lambda: None, every=1), model=model, parameters={}, gatherer=gatherer, **arguments)
