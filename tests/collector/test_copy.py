"""Copies to the host that nothing waits for: their order, on a device that only writes down what it is asked."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
import torch

from gradnoise.collector import Sampling, _copy, _taps, attach
from gradnoise.collector._copy import is_captured, to_device, to_host

from .loops import Data, assert_recorded, counted, messages, mlp, train
from .test_bursts import sgd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Device:
    """Stands for ``torch.cuda``."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.current = "main"
        self.streams = 0

    def Stream(self, device: torch.device) -> Any:
        self.streams += 1
        name = f"side of {device}"
        return SimpleNamespace(name=name, wait_stream=lambda other: self.asked.append(f"{name} waits for {other.name}"))

    def Event(self, *, blocking: bool) -> Any:
        assert blocking
        return SimpleNamespace(
            record=lambda stream: self.asked.append(f"event on {stream.name}"),
            synchronize=lambda: self.asked.append("the event is waited for"),
        )

    def current_stream(self, device: torch.device) -> Any:
        return SimpleNamespace(name=f"main of {device}")

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before

    def is_current_stream_capturing(self) -> bool:
        self.asked.append("is it capturing?")
        return True


class Values:
    """Stands for a tensor on such a device."""

    is_cuda = True
    dtype = torch.float32
    shape = (2,)

    def __init__(self, device: Device, number: int) -> None:
        self._device = device
        self.device = torch.device("cuda", number)

    def detach(self) -> Self:
        return self

    def record_stream(self, stream: Any) -> None:
        self._device.asked.append(f"kept for {stream.name}")


class Pinned:
    """Stands for pinned memory."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def copy_(self, values: Values, *, non_blocking: bool) -> None:
        assert non_blocking
        self._device.asked.append(f"copy on {self._device.current}")

    def numpy(self) -> Any:
        return np.ones(2, np.float32)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    fake = Device()

    def empty(shape: tuple[int, ...], *, dtype: torch.dtype, device: str, pin_memory: bool) -> Pinned:
        assert (shape, dtype, device, pin_memory) == ((2,), torch.float32, "cpu", True)
        return Pinned(fake)

    monkeypatch.setattr(_copy, "_streams", {})
    monkeypatch.setattr(_copy, "torch", SimpleNamespace(cuda=fake, empty=empty))
    return fake


def test_a_copy_is_made_on_a_side_stream_and_waited_for_by_who_asks_for_it(device: Device) -> None:
    for number in (0, 1, 0):
        device.asked.clear()
        values: Any = Values(device, number)
        fetch = to_host(values)
        assert device.asked == [
            f"side of cuda:{number} waits for main of cuda:{number}",
            f"copy on side of cuda:{number}",
            f"event on side of cuda:{number}",
            f"kept for side of cuda:{number}",
        ]
        device.asked.clear()
        assert fetch().tolist() == [1.0, 1.0]
        assert device.asked == ["the event is waited for"]
    assert device.streams == 2  # one a device


def test_only_a_device_is_asked_whether_it_captures(device: Device) -> None:
    values: Any = Values(device, 0)
    assert is_captured(values)
    assert not is_captured(torch.ones(2))
    assert device.asked == ["is it capturing?"]


def test_copies_on_the_host_and_to_devices_without_streams_are_plain() -> None:
    values = torch.randn(3, requires_grad=True)
    assert to_host(values)().tolist() == values.tolist()
    array = np.arange(3)
    tensor = to_device(array, torch.device("cpu"))
    array[:] = 7
    assert tensor.tolist() == [0, 1, 2]
    assert to_device(array, torch.device("meta")).shape == (3,)


def test_a_backward_pass_that_is_captured_is_named_once_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def final(path: Path | None) -> tuple[list[Any], list[torch.Tensor]]:
        torch.manual_seed(0)
        model, data = mlp(), Data()
        optimizer = sgd(model)
        handle = None if path is None else attach(model, optimizer, dump=path, sampling=Sampling(burst=4, every=4))
        with monkeypatch.context() as patch:
            patch.setattr(_taps, "is_captured", lambda gradient: True)
            taken = train(model, optimizer, data, 2)
        taken += train(model, optimizer, data, 2)
        if handle is not None:
            handle.close()
        return taken, list(model.parameters())

    taken, with_hook = final(tmp_path)
    _, without = final(None)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(with_hook, without, strict=True))
    assert_recorded(tmp_path, {(0, 0): taken[2], (0, 1): taken[3]})
    assert counted(tmp_path) == {"captured_backward": 1}
    (message,) = messages(caplog)
    assert "CUDA graph" in message
    assert "Probe(closure)" in message
