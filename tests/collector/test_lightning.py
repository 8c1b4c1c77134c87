"""The Lightning callback, in real trainings; what is recorded is compared with gradients of a copy of the network."""

from __future__ import annotations

import importlib
import os
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.data import DataLoader, TensorDataset

from gradnoise.collector import Sampling
from gradnoise.wire import Dump, RunExistsError, Table

from ..servers import free_port
from .loops import assert_recorded, counted, hooks_left, messages, mlp, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Lightning's own imports
    import lightning.pytorch as pl

    from gradnoise.collector.lightning import GradNoise

Gradients = dict[str, "NDArray[Any]"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


def copied_gradients(network: nn.Module, loss_of: Callable[[Callable[..., Any]], torch.Tensor]) -> Gradients:
    """Gradients of a loss at the present parameters, with respect to copies of them: no hook sees them."""
    copies = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    loss = loss_of(lambda *inputs: torch.func.functional_call(network, copies, inputs))
    found = torch.autograd.grad(loss, list(copies.values()))
    return {f"net.{name}": g.float().numpy().ravel().copy() for name, g in zip(copies, found, strict=True)}


def module(base: Any = pl, **options: Any) -> Any:
    """A LightningModule that keeps the gradient of every minibatch."""

    class Module(base.LightningModule):  # type: ignore[misc]
        def __init__(self, optimizer: str = "SGD") -> None:
            super().__init__()
            self.net = mlp()
            self.optimizer_name = optimizer
            self.expected: list[Gradients] = []
            self.losses: list[float] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.net(x)
            return result

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            self.expected.append(copied_gradients(self.net, lambda f: nn.functional.cross_entropy(f(x), y)))
            loss = nn.functional.cross_entropy(self.net(x), y)
            self.losses.append(loss.item())
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            kind: type[torch.optim.Optimizer] = getattr(torch.optim, self.optimizer_name)
            return kind(self.parameters(), lr=0.05)  # type: ignore[call-arg]

    torch.manual_seed(1)
    return Module(**options)


def loader(examples: int = 48, batch: int = 8) -> DataLoader[Any]:
    rng = torch.Generator().manual_seed(2)
    x, y = torch.randn(examples, 6, generator=rng), torch.randint(0, 3, (examples,), generator=rng)
    return DataLoader(TensorDataset(x, y), batch_size=batch)


def trainer(*callbacks: Any, base: Any = pl, **options: Any) -> Any:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 1,
    }
    return base.Trainer(callbacks=list(callbacks), **(quiet | options))


def flat(expected: list[Gradients]) -> dict[tuple[int, int], Gradients]:
    """The draws of one window that began at step 0."""
    return {(0, draw): gradients for draw, gradients in enumerate(expected)}


@pytest.fixture
def callback(tmp_path: Path) -> GradNoise:
    return GradNoise(run="lit", dump=tmp_path / "dump", sampling=Sampling(burst=64, every=1024))


@pytest.fixture
def unhooked() -> Callable[..., dict[str, torch.Tensor]]:
    """The parameters after the same training without the callback."""

    def run(data: DataLoader[Any], *fit: Any, options: dict[str, Any] | None = None, **kind: Any) -> Any:
        model = module(**kind)
        trainer(**(options or {})).fit(model, data, *fit)
        return model.state_dict()

    return run


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_a_plain_training(package: str, callback: GradNoise, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = importlib.import_module(package)
    model = module(base)
    trainer(callback, base=base).fit(model, loader())
    assert_recorded(tmp_path / "dump", flat(model.expected))
    steps = rows(tmp_path / "dump", Table.STEPS)
    assert [row["step"] for row in steps] == list(range(6))
    assert [row["loss"] for row in steps] == pytest.approx(model.losses)
    assert {row["lr"] for row in steps} == {0.05}
    assert {row["batch_size"] for row in steps} == {8}
    assert {row["divisor"] for row in steps} == {1.0}
    assert [dict(row["metrics"])["global_step"] for row in steps] == list(range(6))
    assert {row["batch_size"] for row in rows(tmp_path / "dump")} == {8}
    assert hooks_left(model) == 0
    assert callback.handle is not None
    assert callback.handle.stats().state == "closed"


def test_training_is_bit_equal_to_one_without_the_callback(callback: GradNoise, unhooked: Any) -> None:
    model = module()
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}
    trainer(callback, **options).fit(model, loader(), loader())
    assert_same(model.state_dict(), unhooked(loader(), loader(), options=options))


def test_accumulated_batches_are_draws_of_one_theta_and_are_multiplied_back(
    callback: GradNoise, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = module()
    trainer(callback, accumulate_grad_batches=4).fit(model, loader(48))  # 6 batches: the last step has 2
    assert_recorded(tmp_path / "dump", flat(model.expected))
    assert [row["theta"] for row in rows(tmp_path / "dump") if row["group"] == "net.0.bias"] == [0] * 4 + [1] * 2
    (window,) = rows(tmp_path / "dump", Table.WINDOWS)
    assert (window["kind"], window["recorded"]) == ("microbatch", 6)
    first, last = rows(tmp_path / "dump", Table.STEPS)
    assert (first["divisor"], last["divisor"]) == (4.0, 4.0)
    assert first["loss"] == pytest.approx(sum(model.losses[:4]) / 4)
    assert last["loss"] == pytest.approx(sum(model.losses[4:]) / 2)
    assert messages(caplog) == []


def test_a_forward_method_that_training_step_calls_is_no_second_forward_pass(
    callback: GradNoise, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = module()
    plain = model.training_step

    def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
        plain(batch, batch_idx)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    model.training_step = training_step
    trainer(callback, accumulate_grad_batches=2).fit(model, loader())
    assert_recorded(tmp_path / "dump", flat(model.expected))
    assert messages(caplog) == []


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_draws_are_taken_before_clipping(algorithm: str, callback: GradNoise, tmp_path: Path, unhooked: Any) -> None:
    model = module()
    options = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}
    trainer(callback, **options).fit(model, loader())
    assert_recorded(tmp_path / "dump", flat(model.expected))
    assert_same(model.state_dict(), unhooked(loader(), options=options))
    assert (model.expected[0]["net.2.bias"] ** 2).sum() > 0.01**2  # it did clip


def test_validation_and_the_sanity_check_are_not_recorded(callback: GradNoise, tmp_path: Path) -> None:
    model = module()
    trainer(callback, num_sanity_val_steps=2, val_check_interval=2, max_epochs=2).fit(model, loader(), loader())
    assert len(model.expected) == 12
    assert_recorded(tmp_path / "dump", flat(model.expected))
    assert len(rows(tmp_path / "dump", Table.STEPS)) == 12


def test_batches_of_different_sizes(callback: GradNoise, tmp_path: Path) -> None:
    model = module()
    trainer(callback).fit(model, loader(20))
    assert [row["batch_size"] for row in rows(tmp_path / "dump", Table.STEPS)] == [8, 8, 4]
    assert_recorded(tmp_path / "dump", flat(model.expected))


def test_bfloat16_autocast(callback: GradNoise, tmp_path: Path) -> None:
    model = module()
    trainer(callback, precision="bf16-mixed").fit(model, loader())
    assert_recorded(tmp_path / "dump", flat(model.expected))


def test_a_loss_scaler_is_divided_out(callback: GradNoise, tmp_path: Path, unhooked: Any) -> None:
    def plugin() -> dict[str, Any]:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        return {"plugins": [pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)]}

    model = module()
    model.training_step = _without_autocast(model)
    trainer(callback, gradient_clip_val=0.01, **plugin()).fit(model, loader())
    assert_recorded(tmp_path / "dump", flat(model.expected))
    steps = rows(tmp_path / "dump", Table.STEPS)
    assert [row["loss"] for row in steps] == pytest.approx(model.losses)
    assert [row["loss_scale"] for row in steps] == [1024.0, 1024.0, 2048.0, 2048.0, 4096.0, 4096.0]


def _without_autocast(model: Any) -> Callable[..., torch.Tensor]:
    """A step in 32 bits: powers of two of the scale leave no rounding then."""
    plain = model.training_step

    def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            loss: torch.Tensor = plain(batch, batch_idx)
            return loss

    return training_step


def test_manual_optimisation_with_two_optimizers(callback: GradNoise, tmp_path: Path) -> None:
    class Pair(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])
            self.expected: list[Gradients] = []
            self.losses: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            for number, (part, optimizer) in enumerate(zip(self.net, self.optimizers(), strict=True)):
                found = copied_gradients(part, lambda f: nn.functional.cross_entropy(f(x), y))
                named = {f"net.{number}.{name.removeprefix('net.')}": g for name, g in found.items()}
                self.expected.append(named)
                loss = nn.functional.cross_entropy(part(x), y)
                self.losses.append(loss.item())
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=0.1 * (1 + i)) for i, part in enumerate(self.net)]

    model = Pair()
    trainer(callback).fit(model, loader())
    assert_recorded(tmp_path / "dump", flat(model.expected))
    steps = rows(tmp_path / "dump", Table.STEPS)
    assert [row["loss"] for row in steps] == pytest.approx(model.losses)
    assert [row["lr"] for row in steps] == [0.1, 0.2] * 6
    assert {row["divisor"] for row in steps} == {None}
    assert {row["batch_size"] for row in steps} == {8}


def test_manual_accumulation_takes_the_loops_word_for_the_divisor(callback: GradNoise, tmp_path: Path) -> None:
    class Manual(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = mlp()
            self.expected: list[Gradients] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            self.expected.append(copied_gradients(self.net, lambda f: nn.functional.cross_entropy(f(x), y)))
            self.manual_backward(nn.functional.cross_entropy(self.net(x), y) / 2)
            if batch_idx % 2:
                assert callback.handle is not None
                callback.handle.log(divisor=2)
                optimizer: Any = self.optimizers()
                optimizer.step()
                optimizer.zero_grad()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model = Manual()
    trainer(callback).fit(model, loader())
    assert_recorded(tmp_path / "dump", flat(model.expected))
    steps = rows(tmp_path / "dump", Table.STEPS)
    # Which of the backward passes made up the loss is the loop's to say.
    assert [(row["divisor"], row["loss"]) for row in steps] == [(2.0, None)] * 3


def test_lbfgs_gives_one_draw_a_step(callback: GradNoise, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = module(optimizer="LBFGS")
    trainer(callback).fit(model, loader(24))
    assert len(model.expected) > 3  # closures are evaluated again and again
    steps = rows(tmp_path / "dump", Table.STEPS)
    firsts = [model.losses.index(pytest.approx(row["loss"])) for row in steps]
    assert_recorded(tmp_path / "dump", flat([model.expected[first] for first in firsts]))
    assert firsts[0] == 0
    assert len(firsts) == 3
    assert messages(caplog) == []


def test_fast_dev_run_and_a_second_fit(callback: GradNoise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    callback = GradNoise(sampling=Sampling(burst=64, every=1024))
    model = module()
    for _ in range(2):
        model.expected.clear()
        trainer(callback, fast_dev_run=True).fit(model, loader(), loader())
        assert callback.handle is not None
        assert callback.handle.path is not None
        assert_recorded(callback.handle.path, flat(model.expected))
    assert len(list((tmp_path / "gradnoise").iterdir())) == 2


def test_an_exception_in_the_loop_closes_the_dump(callback: GradNoise, tmp_path: Path) -> None:
    model = module()
    plain = model.training_step

    def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 3:
            raise RuntimeError("the user's own")
        loss: torch.Tensor = plain(batch, batch_idx)
        return loss

    model.training_step = training_step
    with pytest.raises(RuntimeError, match="the user's own"):
        trainer(callback).fit(model, loader())
    assert_recorded(tmp_path / "dump", flat(model.expected))
    assert hooks_left(model) == 0
    assert not Dump(tmp_path / "dump").problems


def test_a_training_goes_on_from_its_checkpoint_with_or_without_the_callback(
    callback: GradNoise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = module()
    first = trainer(callback, max_epochs=1)
    first.fit(model, loader())
    first.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=False)
    assert not any("GradNoise" in key for key in checkpoint["callbacks"])
    without = module()
    trainer(max_epochs=2).fit(without, loader(), ckpt_path=tmp_path / "one.ckpt")
    # The same name again would merge two trainings; it is one only where the user says so.
    with pytest.raises(RunExistsError):
        trainer(callback, max_epochs=2).fit(module(), loader(), ckpt_path=tmp_path / "one.ckpt")
    monkeypatch.setenv("GRADNOISE_RESUME", "1")
    resumed = module()
    trainer(callback, max_epochs=2).fit(resumed, loader(), ckpt_path=tmp_path / "one.ckpt")
    assert_same(resumed.state_dict(), without.state_dict())
    dump = Dump(tmp_path / "dump")
    assert len(dump.producers()) == 2
    steps = sorted(dict(row["metrics"])["global_step"] for row in rows(tmp_path / "dump", Table.STEPS))
    assert steps == list(range(12))


def test_deepspeed_is_refused_with_one_warning(callback: GradNoise, caplog: pytest.LogCaptureFixture) -> None:
    class DeepSpeedStrategy:
        pass

    class Trainer:
        strategy = DeepSpeedStrategy()

    callback.on_train_start(Trainer(), module())
    assert callback.handle is None
    (message,) = messages(caplog)
    assert "DeepSpeed" in message
    assert "strategy='ddp'" in message


def test_a_disabled_collector_changes_nothing(
    callback: GradNoise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADNOISE_DISABLED", "1")
    trainer(callback).fit(module(), loader())
    assert not (tmp_path / "dump").exists()


def test_a_copy_of_the_callback_is_closed(callback: GradNoise) -> None:
    trainer(callback).fit(module(), loader())
    del callback.log, callback.log_dict  # Lightning puts them there: they hold the model
    copy = pickle.loads(pickle.dumps(callback))
    assert copy.handle.stats().state == "closed"
    assert copy._options == callback._options


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A job of one process, of which nothing is left."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for variable in ("LOCAL_RANK", "NODE_RANK"):  # which Lightning sets, and by which others take it for a launched job
        os.environ.pop(variable, None)


@pytest.mark.usefixtures("one_process")
def test_sharded_modules_that_training_step_calls_are_recorded(
    callback: GradNoise, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = module()

    def configure_model() -> None:
        if not isinstance(model.net, FSDPModule):
            fully_shard(model.net, mesh=model.device_mesh["data_parallel"])

    def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        twin: nn.Module = mlp()
        twin.load_state_dict({name: p.to_local() for name, p in model.net.named_parameters()})
        nn.functional.cross_entropy(twin(x), y).backward()
        model.expected.append(
            {name: p.grad.numpy().ravel() for name, p in twin.named_parameters() if p.grad is not None}
        )
        return nn.functional.cross_entropy(model.net(x), y)

    model.configure_model = configure_model
    model.training_step = training_step
    strategy = pl.strategies.ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    trainer(callback, strategy=strategy).fit(model, loader())
    assert_recorded(tmp_path / "dump", flat([{f"net.{n}": g for n, g in each.items()} for each in model.expected]))
    assert len(model.expected) == 6
    assert {window["scope"] for window in rows(tmp_path / "dump", Table.WINDOWS)} == {"global"}
    assert messages(caplog) == []


def test_outside_bursts_nothing_is_logged(tmp_path: Path) -> None:
    callback = GradNoise(dump=tmp_path / "dump", sampling=Sampling(burst=2, every=4))
    model = module()
    trainer(callback, max_epochs=2).fit(model, loader())
    taken = [step for step in range(12) if step % 4 < 2]
    expected = {(8 * (step // 4), step % 4): model.expected[step] for step in taken}
    assert_recorded(tmp_path / "dump", expected)
    steps = rows(tmp_path / "dump", Table.STEPS)
    assert [(row["step"], row["loss"]) for row in steps] == [(s, pytest.approx(model.losses[s])) for s in taken]


def test_no_event_says_that_anything_went_wrong(callback: GradNoise, tmp_path: Path) -> None:
    trainer(callback, max_epochs=2).fit(module(), loader(), loader())
    assert counted(tmp_path / "dump") == {}
