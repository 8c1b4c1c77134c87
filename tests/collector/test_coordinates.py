from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradnoise.collector import CollectorError, Limits, Probe, Sampling
from gradnoise.collector._recording.coordinates import sample_coordinates


@given(st.text(max_size=20), st.integers(1, 5000), st.integers(1, 300), st.integers(0, 2**31))
def test_coordinates_are_ascending_distinct_and_within(name: str, size: int, count: int, seed: int) -> None:
    chosen = sample_coordinates(name, size, count, seed)
    assert len(chosen) == min(count, size)
    assert list(chosen) == sorted(set(chosen))
    assert chosen[0] >= 0
    assert chosen[-1] < size
    assert chosen == sample_coordinates(name, size, count, seed)


def test_coordinates_differ_between_seeds_and_names() -> None:
    base = sample_coordinates("0.weight", 10_000, 64, 0)
    assert base != sample_coordinates("0.weight", 10_000, 64, 1)
    assert base != sample_coordinates("1.weight", 10_000, 64, 0)


def test_coordinates_are_the_same_in_another_process() -> None:
    code = (
        "from gradnoise.collector._recording.coordinates import sample_coordinates as s; print(s('a.b', 10**6, 8, 3))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert other.stdout.strip() == str(sample_coordinates("a.b", 10**6, 8, 3))


def test_coordinates_cover_the_group_evenly() -> None:
    counts = [0] * 10
    for seed in range(200):
        for index in sample_coordinates("g", 1000, 50, seed):
            counts[index // 100] += 1
    assert all(abs(count - 1000) < 150 for count in counts), counts


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"coordinates": 0}, "coordinates=0"),
        ({"burst": -1}, "burst=-1"),
        ({"every": 0, "burst": 0}, "every=0"),
        ({"burst": 65, "every": 64}, "use burst=every"),
        ({"seed": -1}, "seed=-1"),
        ({"burst": 1.5}, "burst=1.5"),
        ({"coordinates": True}, "coordinates=True"),
        ({"norms": 1}, "norms=1"),
    ],
)
def test_a_sampling_out_of_range_is_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(CollectorError, match=text):
        Sampling(**arguments)


def test_a_probe_out_of_range_is_refused() -> None:
    with pytest.raises(CollectorError, match="closure=3"):
        Probe(3)  # type: ignore[arg-type]
    with pytest.raises(CollectorError, match="draws=1"):
        Probe(lambda: 0, draws=1)
    with pytest.raises(CollectorError, match="every=0"):
        Probe(lambda: 0, every=0)


@pytest.mark.parametrize("arguments", [{"memory": 0}, {"spool": 1000}, {"memory": 1e9}])
def test_limits_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(CollectorError, match=r"Limits\((memory|spool)="):
        Limits(**arguments)
