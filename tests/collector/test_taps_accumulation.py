"""Gradient accumulation: each microbatch a draw, and what the loop divides by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradnoise.collector import Sampling, attach
from gradnoise.wire import Table

from .loops import Data, assert_recorded, counted, loss_of, messages, mlp, recorded, rows, sampled
from .test_bursts import by_hand_unseen
from .test_taps_scaler import plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALL = Sampling(burst=8, every=8)
PARTS = 3


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("said", [None, "before", "first"])
def test_what_the_loop_divides_by_is_undone_if_it_says_so(tmp_path: Path, said: str | None, to_none: bool) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    expected: dict[tuple[int, int], Any] = {}
    parts_said: Any = torch.tensor(PARTS)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL) as handle:
        for step in range(4):
            if said == "first":
                handle.log(divisor=PARTS)
            for part in range(PARTS):
                loss = loss_of(model, data()) / PARTS
                expected[0, PARTS * step + part] = by_hand_unseen(model, loss)
                loss.backward()
            if said == "before":
                handle.log(divisor=parts_said, batch_size=8)
            optimizer.step()
            optimizer.zero_grad(set_to_none=to_none)
    factor = np.float32(1 if said is None else PARTS)
    assert_recorded(tmp_path, {k: {n: v * factor for n, v in each.items()} for k, each in expected.items()})
    found = rows(tmp_path, Table.STEPS)
    assert [row["divisor"] for row in found] == [None if said is None else float(PARTS)] * 4
    assert [row["clip_factor"] for row in found] == [1.0] * 4
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["kind"], window["recorded"], window["scope"]) == ("microbatch", 12, "process")
    assert counted(tmp_path) == {}


class Unseen(nn.Module):
    """Its loss is not asked for by a call of the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return loss_of(self.inner, batch)


@pytest.mark.parametrize("divisor", [None, PARTS - 1, PARTS, PARTS + 1])
def test_where_no_forward_pass_is_seen_the_loops_word_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, divisor: int | None
) -> None:
    model, data = Unseen(), Data()
    optimizer = plain(model)
    expected: dict[tuple[int, int], Any] = {}
    with attach(model, optimizer, dump=tmp_path, sampling=ALL) as handle:
        for step in range(2):
            optimizer.zero_grad()
            for part in range(PARTS):
                loss = model.loss(data())
                expected[0, PARTS * step + part] = by_hand_unseen(model, loss)
                loss.backward()
            if divisor is not None:
                handle.log(divisor=divisor)
            optimizer.step()
    if divisor is not None and divisor >= PARTS:  # less than it says where the data end
        whole = {k: {n: v * np.float32(divisor) for n, v in each.items()} for k, each in expected.items()}
        assert_recorded(tmp_path, whole)
        assert messages(caplog) == []
    else:
        assert rows(tmp_path) == []
        assert counted(tmp_path) == {"ambiguous_backwards": 6}
        assert len(messages(caplog)) == 1


def test_two_losses_on_one_forward_pass_are_none_whatever_the_loop_says(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL) as handle:
        for _ in range(2):
            optimizer.zero_grad()
            out = model(data()[0])
            out.square().mean().backward(retain_graph=True)
            out.abs().mean().backward()
            handle.log(divisor=2)
            optimizer.step()
    assert rows(tmp_path) == []
    assert counted(tmp_path) == {"ambiguous_backwards": 4}


@pytest.mark.parametrize("bad", [0, -2, "four", float("nan"), float("inf"), torch.ones(3), [2], True])
def test_an_impossible_divisor_is_ignored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: Any
) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    expected = {}
    with attach(model, optimizer, dump=tmp_path, sampling=ALL) as handle:
        for step in range(3):
            loss = loss_of(model, data())
            expected[0, step] = by_hand_unseen(model, loss)
            loss.backward()
            handle.log(divisor=bad)
            optimizer.step()
            optimizer.zero_grad()
        assert handle.stats().state == "recording"
    assert_recorded(tmp_path, expected)
    assert {row["divisor"] for row in rows(tmp_path, Table.STEPS)} == {None}
    (message,) = messages(caplog)
    assert "log(divisor=" in message
    assert "positive number by which the loss is divided" in message


@pytest.mark.parametrize("bad", ["text", 0, -1, 2.5, 2**31, torch.ones(2), object(), True])
def test_an_impossible_batch_size_is_ignored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: Any
) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=ALL, batch_size=8) as handle:
        for _ in range(3):
            loss_of(model, data()).backward()
            handle.log(batch_size=bad)
            optimizer.step()
        assert handle.stats().state == "recording"
    assert {row["batch_size"] for row in rows(tmp_path)} == {8}
    (message,) = messages(caplog)
    assert "log(batch_size=" in message
    assert "positive whole number" in message


def test_a_divisor_that_comes_too_late_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    expected: dict[tuple[int, int], Any] = {}
    with attach(model, optimizer, dump=tmp_path, sampling=ALL) as handle:
        for step in range(3):
            optimizer.zero_grad()
            for part in range(2):
                loss = loss_of(model, data()) / 2
                expected[0, 2 * step + part] = by_hand_unseen(model, loss)
                loss.backward()
            optimizer.step()
            handle.log(loss=loss, divisor=2)
    assert_recorded(tmp_path, expected)
    assert {row["divisor"] for row in rows(tmp_path, Table.STEPS)} == {None}
    (message,) = messages(caplog)
    assert "before optimizer.step()" in message


def microbatch_in_the_step(optimizer: Any, backward: Callable[[], torch.Tensor]) -> None:
    for _ in range(PARTS - 1):
        backward()
    optimizer.step(backward)


def first_alone(optimizer: Any, backward: Callable[[], torch.Tensor]) -> None:
    optimizer.step(backward)


def by_name(optimizer: Any, backward: Callable[[], torch.Tensor]) -> None:
    optimizer.step(closure=backward)


@pytest.mark.parametrize(
    ("body", "draws"), [(microbatch_in_the_step, PARTS), (first_alone, 1), (by_name, 1)], ids=lambda x: str(x)
)
def test_a_closure_of_a_plain_optimizer_is_a_microbatch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: Callable[..., None], draws: int
) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    expected: dict[tuple[int, int], Any] = {}
    with attach(model, optimizer, dump=tmp_path, sampling=ALL):

        def backward() -> torch.Tensor:
            loss = loss_of(model, data())
            expected[0, len(expected)] = by_hand_unseen(model, loss)
            loss.backward()
            return loss

        for _ in range(4):
            optimizer.zero_grad()
            body(optimizer, backward)
    assert len(expected) == 4 * draws
    assert_recorded(tmp_path, expected)
    assert counted(tmp_path) == {}
    assert messages(caplog) == []


class ClosureSam(torch.optim.SGD):
    """Perturbs the parameters by the present gradient, evaluates there, and steps from where it was."""

    def step(self, closure: Any = None) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        with torch.no_grad():
            shifts = [0.05 * p.grad for p in parameters]
            torch._foreach_add_(parameters, shifts)
        self.zero_grad()
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            torch._foreach_sub_(parameters, shifts)
        super().step()
        return loss


@pytest.mark.parametrize("parts", [1, 3])
def test_of_sam_by_closure_the_unperturbed_gradients_are_draws(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, parts: int
) -> None:
    model, data = mlp(), Data()
    optimizer = ClosureSam(model.parameters(), lr=0.1)
    expected: dict[tuple[int, int], Any] = {}
    with attach(model, optimizer, dump=tmp_path, sampling=ALL) as handle:
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(parts):
                batch = data()
                loss = loss_of(model, batch)
                expected[0, len(expected)] = by_hand_unseen(model, loss)
                loss.backward()

            def closure(batch: Any = batch) -> torch.Tensor:
                loss = loss_of(model, batch)
                loss.backward()
                return loss

            optimizer.step(closure)
        assert handle.stats().theta >= 3
    found = recorded(tmp_path)
    assert {draw for _, draw, _ in found} == set(range(3 * parts))
    for (window, draw), gradients in expected.items():
        for name, values in sampled(tmp_path, gradients).items():
            np.testing.assert_array_equal(found[window, draw, name], values)
    assert messages(caplog) == []
