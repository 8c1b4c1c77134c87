"""Several backward passes between two updates: microbatches of one theta, or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradnoise.collector import Sampling, attach
from gradnoise.collector._recording.records import Draw
from gradnoise.collector._taps.theta import DRAWS_PER_THETA, AtTheta
from gradnoise.wire import Table

from .loops import Data, assert_recorded, counted, hooks_left, loss_of, messages, mlp, rows, train
from .test_bursts import adam, by_hand_unseen, sgd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVERY_STEP = Sampling(burst=4, every=4)


def test_accumulated_microbatches_are_draws_of_one_theta(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = adam(model)
    expected = {}
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP):
        for step in range(4):
            optimizer.zero_grad()
            for part in range(3):
                loss = loss_of(model, data()) / 3
                expected[0, 3 * step + part] = by_hand_unseen(model, loss)
                loss.backward()
                with torch.no_grad():
                    model(data()[0])  # an evaluation in between is no forward pass of a draw
            optimizer.step()
    assert_recorded(tmp_path, expected)
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["kind"], window["recorded"], window["declared"], window["last_theta"]) == ("microbatch", 12, 12, 3)
    assert [row["theta"] for row in rows(tmp_path) if row["group"] == "0.bias"] == [s for s in range(4) for _ in "abc"]
    assert counted(tmp_path) == {}


def two_losses(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> None:
    x, y = data()
    out = model(x)
    nn.functional.cross_entropy(out, y).backward(retain_graph=True)
    out.square().mean().backward()


def two_losses_and_a_forward_pass_before(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> None:
    model(data()[0])  # an evaluation that does not switch gradients off
    two_losses(model, optimizer, data)


def two_losses_and_a_forward_pass_after(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> None:
    two_losses(model, optimizer, data)
    model(data()[0])


def sam(model: Any, optimizer: torch.optim.Optimizer, data: Data) -> None:
    batch = data()
    loss_of(model, batch).backward()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(p.grad, alpha=0.05)
    kept = [p.grad.clone() for p in model.parameters()]
    optimizer.zero_grad()
    loss_of(model, batch).backward()
    with torch.no_grad():
        for p, gradient in zip(model.parameters(), kept, strict=True):
            p.sub_(gradient, alpha=0.05)


def sam_through_data(model: Any, optimizer: torch.optim.Optimizer, data: Data) -> None:
    batch = data()
    loss_of(model, batch).backward()
    versions = [p._version for p in model.parameters()]
    for p in model.parameters():
        p.data = p.data + 0.05 * p.grad
    assert [p._version for p in model.parameters()] == versions
    loss_of(model, batch).backward()


def change_where_no_sample_is_taken(model: Any, optimizer: torch.optim.Optimizer, data: Data) -> None:
    loss_of(model, data()).backward()
    with torch.no_grad():
        model[0].bias.add_(1.0)  # neither the first, the middle nor the last of the four groups
    loss_of(model, data()).backward()


def gradient_penalty(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> None:
    loss = loss_of(model, data())
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    (loss + sum(g.square().sum() for g in gradients)).backward()


@pytest.mark.parametrize(
    "body",
    [
        two_losses,
        two_losses_and_a_forward_pass_before,
        two_losses_and_a_forward_pass_after,
        sam,
        sam_through_data,
        change_where_no_sample_is_taken,
        gradient_penalty,
    ],
)
def test_what_only_looks_like_microbatches_is_not_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: Callable[..., None]
) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP) as handle:
        for _ in range(4):
            optimizer.zero_grad()
            body(model, optimizer, data)
            optimizer.step()
        assert handle.stats().theta == 4
    assert rows(tmp_path) == []
    assert counted(tmp_path) == {"ambiguous_backwards": 8}
    (message,) = messages(caplog)
    assert "SAM" in message
    assert "Probe(closure)" in message
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["recorded"], window["rows"]) == (0, 0)


def test_parameters_that_change_before_a_step_with_a_closure_are_not_one_theta() -> None:
    at = AtTheta()
    assert at.passed(5, 1, begun=1, merged=1, again=False)
    at.begin_step(6, 1)
    assert at.passed(6, 2, begun=2, merged=1, again=False)
    assert at.doubt(2, 0, None) == "parameters changed"


def test_an_evaluation_within_a_step_that_begins_anew_is_no_further_microbatch() -> None:
    for again in (True, False):
        at = AtTheta()
        assert at.passed(5, 1, begun=1, merged=1, again=True)
        at.begin_step(5, 1)
        assert at.passed(5, 2, begun=2, merged=1, again=again) is not again
        assert at.full
        assert at.doubt(2, 0, None) is None


def test_draws_of_a_theta_end_where_the_memory_for_them_does() -> None:
    at = AtTheta()
    draw = Draw(np.zeros(1, np.int16), lambda: np.zeros(100, np.float32), 400)
    assert [at.add(draw, 1000) for _ in range(3)] == [False, False, True]


def test_reentrant_checkpoints_are_not_microbatches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.reentrant = reentrant

        def forward(self, x: torch.Tensor) -> Any:
            x = torch.tanh(self.a(x))
            x = checkpoint(lambda t: torch.tanh(self.b(t)), x, use_reentrant=self.reentrant)
            return self.c(x)

    for reentrant in (True, False):
        path = tmp_path / str(reentrant)
        model, data = Checkpointed(reentrant), Data()
        optimizer = sgd(model)
        with attach(model, optimizer, dump=path, sampling=EVERY_STEP):
            taken = train(model, optimizer, data, 4)
        assert_recorded(path, {} if reentrant else {(0, s): taken[s] for s in range(4)})
    assert len(messages(caplog)) == 1


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("known", [True, False])
def test_of_a_closure_the_first_evaluation_is_the_draw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line_search: str | None, known: bool
) -> None:
    model, data = mlp(), Data()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, line_search_fn=line_search)
    expected, evaluations = {}, []
    with attach(model, optimizer if known else None, dump=tmp_path, sampling=EVERY_STEP) as handle:
        for step in range(6):
            batch = data()
            expected[step] = by_hand_unseen(model, loss_of(model, batch))

            def closure(batch: Any = batch) -> torch.Tensor:
                evaluations.append(step)  # noqa: B023 - called at once
                optimizer.zero_grad()
                loss = loss_of(model, batch)
                loss.backward()
                return loss

            optimizer.step(closure)
        assert handle.stats().theta == 6
    assert len(evaluations) > 12
    assert_recorded(tmp_path, {(8 * (step // 4), step % 4): values for step, values in expected.items()})
    assert counted(tmp_path) == {}
    assert messages(caplog) == []


def test_a_backward_that_raises_leaves_no_draw(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)

    def fail(gradient: torch.Tensor) -> None:
        raise ValueError("mine")

    with attach(model, optimizer, dump=tmp_path, sampling=EVERY_STEP):
        taken = train(model, optimizer, data, 1)
        hook = model[0].bias.register_hook(fail)
        with pytest.raises(ValueError, match="mine"):
            loss_of(model, data()).backward()
        hook.remove()
        taken += train(model, optimizer, data, 2)
    assert_recorded(tmp_path, {(0, s): taken[s] for s in range(3)})


def test_a_loop_that_never_steps_closes_its_window_at_the_cap(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=2, every=2)):
        for _ in range(DRAWS_PER_THETA + 40):
            loss_of(model, data()).backward()
        assert hooks_left(model) == 0
        assert "no optimizer.step()" in messages(caplog)[0]
        optimizer.step()
        train(model, optimizer, data, 2)
    assert [(w["window"], w["kind"], w["recorded"]) for w in rows(tmp_path, Table.WINDOWS)] == [
        (0, "microbatch", DRAWS_PER_THETA),
        (2, "burst", 1),
        (4, "burst", 1),
    ]
    assert len(messages(caplog)) == 1


def test_parameters_updated_by_hand_are_not_taken_for_one_theta(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = mlp(), Data()
    with attach(model, dump=tmp_path):
        for _ in range(DRAWS_PER_THETA + 5):
            model.zero_grad()
            loss_of(model, data()).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(p.grad, alpha=0.1)
    assert rows(tmp_path) == []
    assert counted(tmp_path) == {"ambiguous_backwards": DRAWS_PER_THETA}
    assert len(messages(caplog)) == 2


def test_draws_at_one_theta_are_capped(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=2, every=4)):
        train(model, optimizer, data, 4)
        for _ in range(DRAWS_PER_THETA + 10):
            loss_of(model, data()).backward()
        optimizer.step()
        train(model, optimizer, data, 1)
    second = rows(tmp_path, Table.WINDOWS)[1]
    assert (second["recorded"], second["first_step"], second["last_step"]) == (DRAWS_PER_THETA + 1, 4, 5)


def test_steps_of_other_models_do_not_count(tmp_path: Path) -> None:
    model, other, data = mlp(), mlp(), Data()
    mine, theirs = sgd(model), sgd(other)
    with attach(model, dump=tmp_path, sampling=EVERY_STEP) as handle:
        for _ in range(3):
            train(other, theirs, data, 2)
            train(model, mine, data, 1)
        assert handle.stats().theta == 3
    assert [w["recorded"] for w in rows(tmp_path, Table.WINDOWS)] == [3]


def test_two_optimizers_of_one_model_make_two_thetas_a_step(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    pair = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (model[0], model[2])]
    with attach(model, dump=tmp_path, sampling=EVERY_STEP):
        for _ in range(2):
            model.zero_grad()
            loss_of(model, data()).backward()
            for optimizer in pair:
                optimizer.step()
    assert {row["theta"] for row in rows(tmp_path)} == {0, 2}


def test_an_optimizer_step_inside_the_backward_turns_the_collector_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = mlp(), Data()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def update(p: Any) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(update)
    with attach(model, dump=tmp_path) as handle:
        for _ in range(3):
            loss_of(model, data()).backward()
        assert handle.stats().state == "off"
    assert hooks_left(model) == 0
    assert "inside a backward pass" in messages(caplog)[0]
    assert len(messages(caplog)) == 1
