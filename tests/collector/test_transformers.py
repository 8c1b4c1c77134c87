"""The callback of transformers' Trainer, in real trainings of models made here; gradients by hand from a copy."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from gradnoise.collector import Sampling
from gradnoise.wire import Table

from .loops import assert_recorded, counted, hooks_left, messages, recorded, rows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the library's own imports
    import transformers

    from gradnoise.collector.transformers import GradNoiseCallback, _batch_size

Gradients = dict[str, "NDArray[Any]"]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


class Classifier(nn.Module):
    """Takes no further arguments: the trainer divides its loss by the number of microbatches."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.net(x)
        given = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return given | {"logits": logits}


def language_model() -> Any:
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=17,
        n_positions=8,
        n_embd=8,
        n_layer=1,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


class Examples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, count: int) -> None:
        rng = torch.Generator().manual_seed(4)
        self._x, self._y = torch.randn(count, 6, generator=rng), torch.randint(0, 3, (count,), generator=rng)

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self._x[index], "labels": self._y[index]}


class Texts(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Of 8 tokens each, of which differently many count."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(0, 17, (8,), generator=torch.Generator().manual_seed(index))
        labels = tokens.clone()
        labels[: index % 5] = -100
        return {"input_ids": tokens, "labels": labels}


class Trainer(transformers.Trainer):
    """Keeps the gradient of every minibatch's own mean loss, and what a language model's loss is divided by."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        twin = copy.deepcopy(model)
        twin.zero_grad()
        if isinstance(model, Classifier):
            loss = nn.functional.cross_entropy(twin.net(inputs["x"]), inputs["labels"])
        else:
            logits, labels = twin(input_ids=inputs["input_ids"]).logits[:, :-1], inputs["labels"][:, 1:]
            total = nn.functional.cross_entropy(logits.reshape(-1, 17), labels.reshape(-1), reduction="sum")
            loss = total / num_items_in_batch
        loss.backward()
        self.__dict__.setdefault("expected", []).append(
            {name: p.grad.float().numpy().ravel() for name, p in twin.named_parameters()}
        )
        self.__dict__.setdefault("losses", []).append(loss.item())
        return super().training_step(model, inputs, num_items_in_batch)


def trainer(tmp_path: Path, model: Any, examples: Any, **options: Any) -> Any:
    made = options.pop("kind", Trainer)
    arguments: dict[str, Any] = {
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "max_grad_norm": 0.0,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
    } | options
    return made(model, transformers.TrainingArguments(**arguments), train_dataset=examples, eval_dataset=examples)


def classifier() -> Classifier:
    torch.manual_seed(3)
    return Classifier()


def callback(tmp_path: Path, its: Any = None) -> GradNoiseCallback:
    return GradNoiseCallback(its, run="hf", dump=tmp_path / "dump", sampling=Sampling(burst=64, every=1024))


def numbered(expected: list[Gradients]) -> dict[tuple[int, int], Gradients]:
    """The draws of one window that began at step 0."""
    return {(0, draw): gradients for draw, gradients in enumerate(expected)}


def test_a_plain_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    its = trainer(tmp_path, classifier(), Examples(24))
    mine = callback(tmp_path, its)
    its.add_callback(mine)
    its.train()
    assert len(its.expected) == 6
    assert_recorded(tmp_path / "dump", numbered(its.expected))
    steps = rows(tmp_path / "dump", Table.STEPS)
    assert [row["loss"] for row in steps] == pytest.approx(its.losses, rel=1e-5)
    assert {row["lr"] for row in steps} == {0.1}
    assert {row["batch_size"] for row in steps} == {4}
    assert {row["divisor"] for row in steps} == {1.0}
    assert [dict(row["metrics"])["global_step"] for row in steps] == list(range(6))
    assert hooks_left(its.model) == 0
    assert mine.handle is not None
    assert mine.handle.stats().state == "closed"
    assert messages(caplog) == []
    assert counted(tmp_path / "dump") == {}


def test_training_is_bit_equal_to_one_without_the_callback(tmp_path: Path) -> None:
    states = []
    for hooked in (True, False):
        options = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.05, "optim": "adamw_torch"}
        its = trainer(tmp_path, classifier(), Examples(24), kind=transformers.Trainer, **options)
        if hooked:
            its.add_callback(callback(tmp_path, its))
        its.train()
        states.append(its.model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_microbatches_are_multiplied_back_where_the_trainer_divides_by_their_number(tmp_path: Path) -> None:
    its = trainer(tmp_path, classifier(), Examples(24), gradient_accumulation_steps=4, num_train_epochs=2)
    its.add_callback(callback(tmp_path, its))
    its.train()
    assert_recorded(tmp_path / "dump", numbered(its.expected))
    thetas = [row["theta"] for row in rows(tmp_path / "dump") if row["group"] == "net.bias"]
    assert thetas == [0] * 4 + [1] * 2 + [2] * 4 + [3] * 2
    steps = rows(tmp_path / "dump", Table.STEPS)
    assert [row["divisor"] for row in steps] == [4.0, 2.0, 4.0, 2.0]
    assert steps[0]["loss"] == pytest.approx(sum(its.losses[:4]) / 4, rel=1e-5)


@pytest.mark.parametrize("known", [True, False], ids=["trainer known", "trainer unknown"])
def test_a_loss_divided_by_the_items_of_all_microbatches_has_no_divisor(
    known: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    its = trainer(tmp_path, language_model(), Texts(), gradient_accumulation_steps=3)
    its.add_callback(callback(tmp_path, its if known else None))
    its.train()
    # The items counted by the trainer are those of all microbatches: the draws add up to the step's gradient.
    counts = [int((Texts()[i]["labels"][1:] != -100).sum()) for i in range(12)]
    assert len(set(counts)) > 1
    found = {(row["draw"], row["group"]): row["values"] for row in rows(tmp_path / "dump")}
    assert len(its.expected) == 3
    for draw, gradients in enumerate(its.expected):
        for name, values in gradients.items():
            assert found[draw, name] == pytest.approx(values.tolist(), rel=1e-4, abs=1e-7), (draw, name)
    (window,) = rows(tmp_path / "dump", Table.WINDOWS)
    assert (window["kind"], window["recorded"]) == ("microbatch", 3)
    (step,) = rows(tmp_path / "dump", Table.STEPS)
    assert step["divisor"] is None
    assert step["batch_size"] == 4
    assert step["loss"] == (pytest.approx(sum(its.losses), rel=1e-5) if known else None)
    assert messages(caplog) == []


def test_without_the_trainer_microbatches_stay_as_they_were_added_up(tmp_path: Path) -> None:
    its = trainer(tmp_path, classifier(), Examples(24), gradient_accumulation_steps=2)
    its.add_callback(callback(tmp_path))
    its.train()
    halves = [{name: values / 2 for name, values in gradients.items()} for gradients in its.expected]
    assert_recorded(tmp_path / "dump", numbered(halves))
    steps = rows(tmp_path / "dump", Table.STEPS)
    assert {(row["divisor"], row["loss"]) for row in steps} == {(None, None)}


def test_a_loss_function_of_the_users_own_has_no_divisor(tmp_path: Path) -> None:
    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        total = nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
        return total / int(num_items_in_batch)

    its = trainer(tmp_path, classifier(), Examples(24), gradient_accumulation_steps=2)
    its.compute_loss_func = loss
    its.add_callback(callback(tmp_path, its))
    its.train()
    assert {row["divisor"] for row in rows(tmp_path / "dump", Table.STEPS)} == {None}


def test_draws_are_taken_before_clipping(tmp_path: Path) -> None:
    its = trainer(tmp_path, classifier(), Examples(24), max_grad_norm=0.01)
    its.add_callback(callback(tmp_path, its))
    its.train()
    assert_recorded(tmp_path / "dump", numbered(its.expected))
    steps = rows(tmp_path / "dump", Table.STEPS)
    norm = sum((g.astype("float64") ** 2).sum() for g in its.expected[0].values()) ** 0.5
    assert norm > 0.01
    assert steps[0]["clip_factor"] == pytest.approx(0.01 / norm, rel=1e-3)


def test_evaluation_in_between_is_not_recorded(tmp_path: Path) -> None:
    its = trainer(tmp_path, classifier(), Examples(24), eval_strategy="steps", eval_steps=2, num_train_epochs=2)
    its.add_callback(callback(tmp_path, its))
    its.train()
    assert len(its.expected) == 12
    assert_recorded(tmp_path / "dump", numbered(its.expected))


def test_outside_bursts_nothing_is_logged(tmp_path: Path) -> None:
    its = trainer(tmp_path, classifier(), Examples(24), num_train_epochs=2)
    its.add_callback(GradNoiseCallback(its, dump=tmp_path / "dump", sampling=Sampling(burst=2, every=4)))
    its.train()
    taken = [step for step in range(12) if step % 4 < 2]
    assert_recorded(tmp_path / "dump", {(8 * (step // 4), step % 4): its.expected[step] for step in taken})
    steps = rows(tmp_path / "dump", Table.STEPS)
    losses = [pytest.approx(its.losses[step], rel=1e-5) for step in taken]
    assert [(row["step"], row["loss"]) for row in steps] == list(zip(taken, losses, strict=True))


@pytest.mark.parametrize(
    ("examples", "options", "sizes"),
    [
        (22, {}, [4, 4, 4, 4, 4, None] * 2),
        (22, {"dataloader_drop_last": True}, [4] * 10),
        (22, {"gradient_accumulation_steps": 4}, [4, None] * 2),
        (24, {}, [4] * 12),
    ],
)
def test_the_batch_size_is_null_where_it_is_not_certain(
    examples: int, options: dict[str, Any], sizes: list[int | None], tmp_path: Path
) -> None:
    its = trainer(tmp_path, classifier(), Examples(examples), num_train_epochs=2, **options)
    its.add_callback(callback(tmp_path, its))
    its.train()
    assert [row["batch_size"] for row in rows(tmp_path / "dump", Table.STEPS)] == sizes


def test_the_batch_size_is_null_where_processes_share_a_batch() -> None:
    arguments = SimpleNamespace(
        world_size=2, accelerator_config=SimpleNamespace(split_batches=True), dataloader_drop_last=True
    )
    state = SimpleNamespace(train_batch_size=8)
    assert _batch_size(arguments, state, None) is None
    arguments.accelerator_config.split_batches = False
    assert _batch_size(arguments, state, None) == 8


def test_a_compiled_model_is_recorded_as_it_is_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taken: list[dict[Any, list[float]]] = []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        place = tmp_path / str(len(taken))
        arguments = {"gradient_accumulation_steps": 3, "kind": transformers.Trainer} | options
        its = trainer(place, language_model(), Texts(), **arguments)
        its.add_callback(callback(place, its))
        its.train()
        taken.append({key: values.tolist() for key, values in recorded(place / "dump").items()})
        (window,) = rows(place / "dump", Table.WINDOWS)
        assert (window["kind"], window["recorded"]) == ("microbatch", 3)
    assert taken[0] == taken[1]
    assert messages(caplog) == []


def test_an_exception_in_the_loop_leaves_a_dump_that_the_next_training_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    its = trainer(tmp_path, classifier(), Examples(24))
    mine = GradNoiseCallback(its, sampling=Sampling(burst=64, every=1024))
    its.add_callback(mine)
    plain = its.compute_loss
    calls = 0

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("the user's own")
        return plain(*args, **kwargs)

    its.compute_loss = compute_loss
    with pytest.raises(RuntimeError, match="the user's own"):
        its.train()
    broken = mine.handle
    assert broken is not None
    assert broken.path is not None
    taken = its.expected[:3]
    its.expected.clear()
    its.train()
    assert broken.stats().state == "closed"
    assert_recorded(broken.path, numbered(taken))
    assert mine.handle is not None
    assert mine.handle.path is not None
    assert_recorded(mine.handle.path, numbered(its.expected))
    assert hooks_left(its.model) == 0


def test_deepspeed_is_refused_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Arguments:
        deepspeed = "zero3.json"

    mine = callback(tmp_path)
    mine.on_train_begin(Arguments(), None, None, model=classifier(), optimizer=None)
    assert mine.handle is None
    (message,) = messages(caplog)
    assert "DeepSpeed" in message
    assert "with DDP or FSDP2" in message


def test_a_disabled_collector_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADNOISE_DISABLED", "1")
    its = trainer(tmp_path, classifier(), Examples(24))
    its.add_callback(callback(tmp_path, its))
    its.train()
    assert not (tmp_path / "dump").exists()
