"""Whatever a loop does between two updates: what is recorded is what a draw is, and the training is its own."""

from __future__ import annotations

import contextlib
import tempfile
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from gradnoise.collector import Sampling, attach

from .loops import Data, assert_recorded, counted, loss_of, mlp
from .test_bursts import by_hand_unseen


class Act(Enum):
    """Something between two updates."""

    MICROBATCH = "a forward pass and its backward pass"
    TWO_LOSSES = "a forward pass with two backward passes"
    EVALUATION = "a forward pass without gradients"
    ZERO = "gradients put to zero"
    CLEAR = "gradients put away"
    FAILURE = "a backward pass that raises"
    CLIP = "gradients clipped"


class OwnError(Exception):
    pass


def failing(gradient: torch.Tensor) -> None:
    raise OwnError


def run(plan: list[list[Act]], path: Path | None) -> tuple[nn.Module, dict[tuple[int, int], Any], int]:
    """Train by a plan: the acts before each update; return model, draws expected in the dump, refused passes."""
    torch.manual_seed(0)
    model, data = mlp(), Data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    handle = None if path is None else attach(model, optimizer, dump=path, sampling=Sampling(burst=4, every=6))
    expected: dict[tuple[int, int], Any] = {}
    refused, drawn = 0, 0
    for step, acts in enumerate(plan):
        draws: list[Any] = []
        passes = 0
        for act in acts:
            if act is Act.MICROBATCH:
                loss = loss_of(model, data())
                draws.append(by_hand_unseen(model, loss))
                loss.backward()
                passes += 1
            elif act is Act.TWO_LOSSES:
                out = model(data()[0])
                out.square().mean().backward(retain_graph=True)
                out.abs().mean().backward()
                passes += 2
            elif act is Act.EVALUATION:
                with torch.no_grad():
                    model(data()[0])
            elif act in (Act.ZERO, Act.CLEAR):
                optimizer.zero_grad(set_to_none=act is Act.CLEAR)
            elif act is Act.CLIP:
                nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            else:
                hook = model[0].bias.register_hook(failing)
                with contextlib.suppress(OwnError):
                    loss_of(model, data()).backward()
                hook.remove()
        phase = step % 6
        drawn = 0 if phase == 0 else drawn
        if phase < 4:
            forwards = sum(act in (Act.MICROBATCH, Act.TWO_LOSSES) for act in acts)
            if passes == forwards:
                for gradients in draws:
                    expected[2 * (step - phase), drawn] = gradients
                    drawn += 1
            else:
                refused += passes
        optimizer.step()
    if handle is not None:
        handle.close()
        assert handle.stats().state == "closed"
        assert handle.stats().theta == len(plan)
    return model, expected, refused


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from(Act), max_size=5), min_size=1, max_size=9))
def test_whatever_happens_between_updates(plan: list[list[Act]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "d"
        watched, expected, refused = run(plan, path)
        without, *_ = run(plan, None)
        for a, b in zip(watched.parameters(), without.parameters(), strict=True):
            assert torch.equal(a, b)
        assert_recorded(path, expected)
        assert counted(path) == ({"ambiguous_backwards": refused} if refused else {})
