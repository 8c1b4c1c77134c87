"""What is measured over whole gradients: norms and sketches, as the training goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from gradnoise.analyzer.stats import sketch
from gradnoise.collector import Sampling, attach
from gradnoise.wire import Table

from .loops import Data, loss_of, messages, mlp, rows
from .test_bursts import by_hand_unseen
from .test_taps_scaler import plain

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Gradients = dict[str, "NDArray[np.float32]"]


def trained(path: Path, sampling: Sampling, *, scaled: bool = False, parts: int = 1, steps: int = 4) -> list[Gradients]:
    """Train; return the gradients by hand, before any division."""
    model, data = mlp(), Data()
    optimizer = plain(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0, enabled=scaled)
    taken = []
    with attach(model, optimizer, scaler=scaler, dump=path, sampling=sampling) as handle:
        for _ in range(steps):
            optimizer.zero_grad()
            for _ in range(parts):
                loss = loss_of(model, data())
                taken.append(by_hand_unseen(model, loss))
                scaler.scale(loss / parts).backward()
            if parts > 1:
                handle.log(divisor=parts)
            scaler.step(optimizer)
            scaler.update()
    return taken


@pytest.mark.parametrize(("scaled", "parts"), [(False, 1), (True, 1), (False, 4), (True, 2)])
def test_norms_are_of_whole_unscaled_gradients(tmp_path: Path, scaled: bool, parts: int) -> None:
    sampling = Sampling(coordinates=2, burst=8, every=8, norms=True)
    taken = trained(tmp_path, sampling, scaled=scaled, parts=parts)
    found = rows(tmp_path)
    assert len(found) == 4 * len(taken)
    for row in found:
        values = taken[row["draw"]][row["group"]].astype(np.float64)
        assert row["norm2"] == pytest.approx(float(values @ values), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_norms_of_other_float_types(tmp_path: Path, dtype: torch.dtype) -> None:
    model, data = mlp(dtype=dtype), Data(dtype=dtype)
    with attach(model, plain(model), dump=tmp_path, sampling=Sampling(burst=1, every=9, norms=True)) as handle:
        loss_of(model, data()).backward()
        wanted = {name: float(p.grad.double().square().sum()) for name, p in model.named_parameters()}
    assert handle.stats().state == "closed"
    assert {row["group"]: row["norm2"] for row in rows(tmp_path)} == pytest.approx(wanted, rel=1e-5)


def test_without_being_asked_for_norms_are_unknown(tmp_path: Path) -> None:
    trained(tmp_path, Sampling(burst=8, every=8))
    assert {row["norm2"] for row in rows(tmp_path)} == {None}
    assert rows(tmp_path, Table.SKETCHES) == []


def counts_of(row: dict[str, Any]) -> NDArray[np.int64]:
    counts = np.zeros(1 << 16, np.int64)
    counts[row["cells"]] = row["counts"]
    return counts


@pytest.mark.parametrize(("scaled", "parts"), [(False, 1), (True, 1), (False, 2), (True, 4)])
def test_sketches_are_of_pairs_of_successive_draws(tmp_path: Path, scaled: bool, parts: int) -> None:
    taken = trained(tmp_path, Sampling(coordinates=2, burst=3, every=4, sketch=True), scaled=scaled, parts=parts)
    recorded = 3 * parts
    found = rows(tmp_path, Table.SKETCHES)
    assert [row["draw"] for row in found] == list(range(1, recorded, 2))
    assert [row["same_theta"] for row in found] == [draw % parts != 0 for draw in range(1, recorded, 2)]
    for row in found:
        one, two = taken[row["draw"] - 1], taken[row["draw"]]
        expected = sketch.zero()
        for name in one:
            expected = sketch.update(expected, one[name] / 2 - two[name] / 2)
        np.testing.assert_array_equal(counts_of(row), expected.counts)
        assert row["theta"] == row["draw"] // parts


def test_draws_of_different_divisors_are_no_pair(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=8, every=8, sketch=True)) as handle:
        for divisor in (1, 2, 2, 2, 4, 1, None, 1):  # pairs of two, of which the first and the third differ
            (loss_of(model, data()) / (divisor or 1)).backward()
            handle.log(divisor=divisor)
            optimizer.step()
    assert [row["draw"] for row in rows(tmp_path, Table.SKETCHES)] == [3, 7]


def test_a_discarded_draw_is_in_no_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, data = mlp(), Data()
    optimizer = plain(model)
    taken = []
    with attach(model, optimizer, dump=tmp_path, sampling=Sampling(burst=8, every=8, sketch=True)):
        for step in range(4):
            optimizer.zero_grad()
            if step == 1:
                out = model(data()[0])
                out.square().mean().backward(retain_graph=True)
                out.abs().mean().backward()
            else:
                loss = loss_of(model, data())
                taken.append(by_hand_unseen(model, loss))
                loss.backward()
            optimizer.step()
    (row,) = rows(tmp_path, Table.SKETCHES)
    expected = sketch.zero()
    for name in taken[1]:
        expected = sketch.update(expected, taken[1][name] / 2 - taken[2][name] / 2)
    np.testing.assert_array_equal(counts_of(row), expected.counts)
    assert row["draw"] == 2
    assert len(messages(caplog)) == 1
