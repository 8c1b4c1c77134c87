"""The configuration says at once what cannot be measured, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from gradnoise.collector import CollectorError, Curvature, CurvatureError

DATA: list[Any] = [(1, 2)]


def test_what_is_not_given_has_its_default() -> None:
    plan = Curvature(DATA)
    assert (plan.every, plan.top, plan.draws, plan.probes) == (5000, 20, 128, 16)
    assert plan.parts == ("*",)
    assert plan.held(2**30) == 26
    assert Curvature(DATA, top=3, vectors=11).held(4) == 11


def test_all_draws_are_held_where_that_is_64_mib_at_most() -> None:
    plan = Curvature(DATA, top=20, draws=128)
    most = 64 * 2**20 // 151
    assert plan.held(most) == 20 + 128 + 3
    assert plan.held(most + 1) == 20 + 6
    assert Curvature(DATA, top=20, draws=0).held(4) == 20 + 6


def test_one_pattern_alone_is_one_part() -> None:
    assert Curvature(DATA, parts="layers.*").parts == ("layers.*",)  # type: ignore[arg-type]
    assert Curvature(DATA, parts=["a", "b"]).parts == ("a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0.*at least 1"),
        ({"top": -1}, "top=-1.*at least 0"),
        ({"top": 2.0}, r"top=2\.0.*whole number"),
        ({"draws": True}, "draws=True"),
        ({"probes": -1}, "probes=-1"),
        ({"density_steps": -1}, "density_steps"),
        ({"dense": -1}, "dense"),
        ({"top": 1025}, "top=1025.*at most 1024"),
        ({"draws": 2049}, "draws=2049.*at most 2048"),
        ({"dense": 1025}, "dense=1025.*at most 1024"),
        ({"seed": -1}, "seed"),
        ({"vectors": 25}, "vectors=25.*at least 26"),
        ({"max_products": 0}, "max_products=0"),
        ({"tolerance": 0.0}, r"tolerance=0\.0.*positive"),
        ({"tolerance": float("nan")}, "tolerance=nan"),
        ({"order": "largest"}, "order='largest'.*algebraic, magnitude"),
        ({"matrix": "fisher"}, "matrix='fisher'.*hessian, gauss_newton"),
        ({"matrix": "barrier"}, "matrix='barrier'"),
        ({"method": "loss"}, "method='loss'.*auto, double_backward, finite_differences"),
        ({"mode": "test"}, "mode='test'.*eval, train, as_is"),
        ({"parts": ()}, r"parts=\(\).*patterns"),
        ({"parts": ("*", 3)}, "3 is neither a pattern"),
        ({"parts": (("name", "pattern"),)}, "neither a pattern"),
        ({"parts": ("", "*")}, "neither a pattern"),
        ({"parts": ("*", "*")}, "same name"),
        ({"draw": 3}, "draw=3.*fresh"),
        ({"loss_fn": 3}, "loss_fn=3.*function"),
    ],
)
def test_a_value_out_of_its_range_is_named_with_what_was_expected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CollectorError, match=message):
        Curvature(DATA, **options)


def test_data_must_be_iterable_or_callable() -> None:
    with pytest.raises(CollectorError, match=r"data=3.*iterable of minibatches"):
        Curvature(3)


def test_the_error_is_one_of_the_collectors() -> None:
    assert issubclass(CurvatureError, CollectorError)


def test_the_configuration_loads_no_torch() -> None:
    code = "import sys; from gradnoise.collector import Curvature; Curvature([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
