"""Copies to the host that nothing waits for: their order, on a device that only writes down what it is asked."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
import torch

from gradnoise.collector import Sampling, attach
from gradnoise.collector._taps import copy as _copy
from gradnoise.collector._taps import taps as _taps
from gradnoise.collector._taps.copy import is_captured, to_device, to_host

from .loops import Data, assert_recorded, counted, messages, mlp, train
from .test_bursts import sgd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Device:
    """Stands for ``torch.cuda``: what is queued on its streams is done when :meth:`deliver` is called."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.current = "main"
        self.streams = 0
        self.queue: list[Callable[[], object]] = []

    def Stream(self, device: torch.device) -> Any:
        self.streams += 1
        name = f"side of {device}"

        def synchronize() -> None:
            self.asked.append(f"{name} is waited for")
            raise RuntimeError("CUDA error: device-side assert triggered")

        return SimpleNamespace(
            name=name,
            wait_stream=lambda other: self.asked.append(f"{name} waits for {other.name}"),
            synchronize=synchronize,
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

    def deliver(self) -> None:
        for each in self.queue:
            each()
        self.queue.clear()


class Values:
    """Stands for a tensor on such a device."""

    is_cuda = True
    dtype = torch.float32

    def __init__(self, device: Device, number: int, values: torch.Tensor) -> None:
        self._device = device
        self.values = values
        self.shape = values.shape
        self.device = torch.device("cuda", number)

    def detach(self) -> Self:
        return self

    def numel(self) -> int:
        return self.values.numel()

    def reshape(self, size: int) -> Self:
        self.values = self.values.reshape(size)
        return self

    def record_stream(self, stream: Any) -> None:
        self._device.asked.append(f"kept for {stream.name}")


class Pinned:
    """Stands for pinned memory."""

    def __init__(self, device: Device, memory: torch.Tensor) -> None:
        self._device = device
        self._memory = memory

    def __getitem__(self, part: slice) -> Pinned:
        return Pinned(self._device, self._memory[part])

    def copy_(self, values: Any, *, non_blocking: bool) -> None:
        assert non_blocking
        what = values.values if isinstance(values, Values) else values
        self._device.asked.append(f"copy of {what.numel()} on {self._device.current}")
        self._device.queue.append(lambda: self._memory.copy_(what))

    def numpy(self) -> Any:
        return self._memory.numpy()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    fake = Device()

    def empty(count: int, *, dtype: torch.dtype, device: str, pin_memory: bool) -> Pinned:
        assert (dtype, device, pin_memory) == (torch.float32, "cpu", True)
        return Pinned(fake, torch.full((count,), 9.0))  # what lay there before

    def ones(count: int, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        assert device.type == "cuda"
        return torch.ones(count, dtype=dtype)

    monkeypatch.setattr(_copy, "_sides", {})
    monkeypatch.setattr(_copy, "torch", SimpleNamespace(cuda=fake, empty=empty, ones=ones))
    return fake


def test_a_copy_is_made_on_a_side_stream_and_waited_for_by_who_asks_for_it(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1, 0):
        device.asked.clear()
        wanted = torch.randn(2, 3)
        values: Any = Values(device, number, wanted)
        fetch = to_host(values)
        assert device.asked == [
            f"side of cuda:{number} waits for main of cuda:{number}",
            f"copy of 6 on side of cuda:{number}",
            f"copy of 1 on side of cuda:{number}",
            f"kept for side of cuda:{number}",
        ]
        device.asked.clear()
        looks: list[float] = []

        def sleep(seconds: float, looks: list[float] = looks) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                device.deliver()

        monkeypatch.setattr(_copy, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=sleep))
        np.testing.assert_array_equal(fetch(), wanted.numpy())
        np.testing.assert_array_equal(fetch(), wanted.numpy())
        assert len(looks) == 3
        assert device.asked == []  # nothing of the device's own is asked, even by who waits
    assert device.streams == 2  # one a device


def test_a_device_that_delivers_nothing_is_asked_why(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    values: Any = Values(device, 0, torch.ones(2))
    fetch = to_host(values)
    now = iter(range(0, 1000, 3))
    monkeypatch.setattr(_copy, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=lambda seconds: None))
    device.asked.clear()
    with pytest.raises(RuntimeError, match="device-side assert"):
        fetch()
    assert device.asked == ["side of cuda:0 is waited for"]


def test_only_a_device_is_asked_whether_it_captures(device: Device) -> None:
    values: Any = Values(device, 0, torch.ones(2))
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
