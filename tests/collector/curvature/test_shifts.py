"""The arithmetic of implicit restarts, on small matrices."""

from __future__ import annotations

import numpy as np
import pytest

from gradnoise.collector._curvature.shifts import leja, shifted, tridiagonal


@pytest.mark.parametrize("size", [2, 3, 7, 20])
def test_the_tridiagonal_form_is_a_rotation_that_ends_with_the_vector_given(size: int) -> None:
    rng = np.random.default_rng(size)
    for last in (rng.normal(size=size), np.eye(size)[0], -np.eye(size)[-1]):
        values, last = rng.normal(size=size), last / np.linalg.norm(last)
        small, turn = tridiagonal(values, last)
        np.testing.assert_allclose(turn.T @ turn, np.eye(size), atol=1e-12)
        np.testing.assert_allclose(turn[:, -1], last, atol=1e-15)
        np.testing.assert_allclose(turn @ small @ turn.T, np.diag(values), atol=1e-12)
        assert not np.triu(small, 2).any()


def test_a_step_at_an_eigenvalue_splits_it_off() -> None:
    values = np.array([3.0, 1.0, -0.5, -2.0])
    small, turn = tridiagonal(values, np.full(4, 0.5))
    after, turned = shifted(small, turn, 1.0)
    np.testing.assert_allclose(turned @ after @ turned.T, np.diag(values), atol=1e-12)
    np.testing.assert_allclose(after[-1], [0, 0, 0, 1.0], atol=1e-12)


def test_leja_points_fill_an_interval_from_its_ends() -> None:
    found: list[float] = []
    for _ in range(40):
        found.append(leja(found, (-1.0, 3.0)))
    assert found[:2] == [3.0, -1.0]
    assert found[2] == pytest.approx(1.0, abs=0.01)  # the middle
    # Their law is that of Chebyshev points, (1 + cos of what is uniform) / 2: as many near the ends.
    angles = np.sort(np.arccos((np.array(found) - 1.0) / 2.0))
    np.testing.assert_allclose(angles, np.linspace(0, np.pi, 40), atol=0.1)
