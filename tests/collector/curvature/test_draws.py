"""The noise of minibatch gradients in whatever memory there is, from losses whose gradients are given."""

from __future__ import annotations

import errno
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from gradnoise.collector._curvature import scratch
from gradnoise.collector._curvature.config import CurvatureError
from gradnoise.collector._curvature.data import Minibatch, Passes
from gradnoise.collector._curvature.draws import BESIDE, Noise, take
from gradnoise.collector._curvature.loaders import alike, own, preserved_generators
from gradnoise.collector._curvature.sources import OfFunction, OfPasses
from gradnoise.collector._curvature.space import Space

from .test_stochastic import Matrix, orthonormal, symmetric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradnoise.collector._curvature.sources import Source

D = 14


class Theta(nn.Module):
    """Parameters in two tensors, of which losses are linear functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.ones(2, 5, dtype=torch.float64))
        self.second = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def dot(self, gradient: torch.Tensor) -> torch.Tensor:
        return self.first.reshape(-1) @ gradient[:10] + self.second @ gradient[10:]


class Linear:
    """Minibatches whose gradients are the rows of a matrix; counts those that are asked for."""

    sampling = "independent"
    replacement: bool | None = None
    ended = "the rows ended"

    def __init__(self, model: Theta, gradients: torch.Tensor, size: Callable[[int], int | None] = lambda _: 4) -> None:
        self.notes: list[str] = ["from the source"]
        self.model = model
        self.gradients = gradients
        self.size = size
        self.closed = 0

    def minibatches(self, begin: int = 0) -> Iterator[Minibatch]:
        try:
            for number in range(begin, len(self.gradients)):
                yield Minibatch(self.model.dot(self.gradients[number]), self.size(number), None, number)
        finally:
            self.closed += 1


def gradients_of(count: int) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def taken(source: Source, model: Theta, matrix: torch.Tensor, pairs: int, room: int, draws: int) -> Noise:
    """With ``room`` vectors of work space beside the eigenvectors."""
    free = torch.full((room, D), torch.nan, dtype=torch.float64)
    free[0] = torch.linspace(-1, 1, D, dtype=torch.float64)
    space = Space(list(model.parameters()))
    vectors = orthonormal(pairs, D)
    released: list[int] = []
    found = take(
        source,
        space,
        model,
        Matrix(matrix),
        vectors,
        free,
        draws=draws,
        coordinates=np.array([0, 3, 12]),
        release=lambda: released.append(1),
    )
    assert released == [1]
    return found


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 17), pairs=st.integers(0, 5), room=st.integers(BESIDE, 22), extra=st.integers(0, 2))
def test_everything_is_exact_in_whatever_memory_there_is(count: int, pairs: int, room: int, extra: int) -> None:
    model, gradients, matrix = Theta(), gradients_of(count), symmetric(D)
    found = taken(Linear(model, gradients), model, matrix, pairs, room, count + extra)
    noise = (torch.linspace(-1, 1, D, dtype=torch.float64) - gradients).numpy()
    h = matrix.numpy()
    np.testing.assert_allclose(found.gram, noise @ noise.T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.projections, noise @ orthonormal(pairs, D).numpy().T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.quadratic, np.einsum("kd,de,ke->k", noise, h, noise), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found.block, noise[:, [0, 3, 12]])
    assert (found.draws, found.batch_size, found.notes) == (count, 4, ("from the source",))
    assert found.gradients >= count
    if room >= count + BESIDE - 1:
        assert found.gradients == count  # nothing is taken twice


@pytest.fixture
def no_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No temporary file is small enough."""
    monkeypatch.setattr(scratch, "_MOST", 0)


def test_no_gradient_is_taken_again_while_there_is_a_file_for_the_draws() -> None:
    model, gradients = Theta(), gradients_of(128)
    source = Linear(model, gradients)
    assert taken(source, model, symmetric(D), 14, 12, 128).gradients == 128
    assert source.closed == 1


@pytest.mark.parametrize("fails", ["write", "readinto", "seek"])
@pytest.mark.parametrize("after", [0, 3, 20])
def test_a_disk_that_fails_on_the_way_has_the_gradients_taken_again(
    monkeypatch: pytest.MonkeyPatch, fails: str, after: int
) -> None:
    class Failing(io.FileIO):
        calls = 0

        def _count(self, name: str) -> None:
            if name == fails:
                Failing.calls += 1
                if Failing.calls > after:
                    raise OSError(errno.ENOSPC, "no space left")

        def write(self, data: Any, /) -> int:
            self._count("write")
            return super().write(bytes(data)[: max(1, len(data) // 2)])  # a part at a time

        def readinto(self, buffer: Any, /) -> int:
            self._count("readinto")
            return super().readinto(buffer)

        def seek(self, *place: int) -> int:
            self._count("seek")
            return super().seek(*place)

    def failing(**_: Any) -> Failing:
        number, name = tempfile.mkstemp()
        Path(name).unlink()
        return Failing(number, "r+b")

    model, gradients, matrix = Theta(), gradients_of(16), symmetric(D)
    monkeypatch.setattr(tempfile, "TemporaryFile", failing)
    found = taken(Linear(model, gradients), model, matrix, 2, 5, 16)
    noise = (torch.linspace(-1, 1, D, dtype=torch.float64) - gradients).numpy()
    np.testing.assert_allclose(found.gram, noise @ noise.T, rtol=1e-12, atol=1e-12)
    assert found.gradients > 16
    assert Failing.calls > after, "the disk never failed"


def test_gradients_are_taken_again_block_by_block_where_there_is_no_file(no_scratch: None) -> None:
    """128 draws, 14 eigenvectors and room for 12: nine columns at first, then blocks of 24."""
    model, gradients = Theta(), gradients_of(128)
    source = Linear(model, gradients)
    found = taken(source, model, symmetric(D), 14, 12, 128)
    begins = range(12 - BESIDE, 127, 14 + 12 - 2)
    assert found.gradients == 128 + sum(128 - begin for begin in begins)
    assert source.closed == 1 + len(begins)


def test_minibatches_that_come_out_differently_leave_the_gram_matrix_out(no_scratch: None) -> None:
    model = Theta()
    source = Linear(model, gradients_of(9))
    calls = iter((gradients_of(9), gradients_of(9).flip(0)))
    fresh = source.minibatches

    def again(begin: int = 0) -> Iterator[Minibatch]:
        source.gradients = next(calls)
        return fresh(begin)

    source.minibatches = again  # type: ignore[method-assign]
    found = taken(source, model, symmetric(D), 2, 5, 9)
    assert found.gram.size == 0
    assert found.projections.shape == (9, 2)
    assert np.isfinite(found.quadratic).all()
    assert any("no Gram matrix" in note and "vectors=14" in note for note in found.notes)


def test_fewer_minibatches_at_the_second_time_leave_it_out_too(no_scratch: None) -> None:
    model = Theta()
    source = Linear(model, gradients_of(9))
    counts = iter((9, 8))
    fresh = source.minibatches

    def shorter(begin: int = 0) -> Iterator[Minibatch]:
        source.gradients = gradients_of(9)[: next(counts)]
        return fresh(begin)

    source.minibatches = shorter  # type: ignore[method-assign]
    assert taken(source, model, symmetric(D), 2, 5, 9).gram.size == 0


def test_sizes_that_differ_are_no_batch_size() -> None:
    model = Theta()
    found = taken(Linear(model, gradients_of(4), lambda number: 4 + number), model, symmetric(D), 1, 8, 4)
    assert found.batch_size is None
    assert any("4 different sizes" in note for note in found.notes)


def test_a_gradient_of_nan_is_named() -> None:
    model, gradients = Theta(), gradients_of(5)
    gradients[3, 2] = torch.nan
    with pytest.raises(CurvatureError, match="draw 3 holds NaN"):
        taken(Linear(model, gradients), model, symmetric(D), 1, 8, 5)


class _Raising(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, error: Exception) -> torch.Tensor:
        ctx.error = error
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        raise ctx.error


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (RuntimeError("why"), CurvatureError, "gradient of draw 0 raised RuntimeError: why"),
        (KeyError("why"), CurvatureError, "gradient of draw 0 raised KeyError: 'why'"),
        (torch.OutOfMemoryError("much"), torch.OutOfMemoryError, "much"),
    ],
)
def test_what_a_backward_pass_raises_names_the_draw_and_lack_of_memory_stays_itself(
    raised: Exception, expected: type[Exception], message: str
) -> None:
    model = Theta()
    through: Any = _Raising
    ones = torch.ones(D, dtype=torch.float64)
    source = OfFunction(model, lambda: through.apply(model.dot(ones), raised), seed=0)
    with pytest.raises(expected, match=message):
        taken(source, model, symmetric(D), 1, 8, 5)


def test_draws_that_never_change_are_said() -> None:
    model = Theta()
    found = taken(Linear(model, gradients_of(1).expand(5, D)), model, symmetric(D), 1, 8, 5)
    assert any("every draw has the same loss" in note for note in found.notes)


# --- sources ---------------------------------------------------------------------------------------------------------


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x.sum()


def first(outputs: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return outputs


def loader(n: int = 24, batch: int = 4, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(2.0 ** torch.arange(n), torch.zeros(n)), batch_size=batch, **options)


def losses(source: OfPasses | OfFunction, count: int, begin: int = 0) -> list[float]:
    """Sums of powers of two: they say which examples a minibatch has."""
    minibatches = source.minibatches(begin)
    return [float(next(minibatches).loss.detach()) for _ in range(count)]


def passes_over(data: Any, **options: Any) -> OfPasses:
    return OfPasses(Passes(Sums(), first, data), data, **({"seed": 0, "shuffles": True} | options))


@pytest.mark.parametrize("own_generator", [False, True])
def test_shuffled_passes_are_others_and_come_again_alike_from_any_place(own_generator: bool) -> None:
    generator = torch.Generator() if own_generator else None
    source = passes_over(loader(shuffle=True, generator=generator))
    found = losses(source, 16)
    assert len(set(found)) == 16
    assert sum(found[:6]) == sum(found[6:12]) == 2**24 - 1  # whole passes
    for begin in (0, 3, 6, 7, 14):
        assert losses(source, 16 - begin, begin) == found[begin:]


def test_another_seed_gives_other_minibatches() -> None:
    assert losses(passes_over(loader(shuffle=True)), 3) != losses(passes_over(loader(shuffle=True), seed=9), 3)


@pytest.mark.parametrize("order", [range(6), (3, 1, 0, 5, 2, 4)])
def test_a_second_pass_of_the_same_minibatches_ends_the_draws(order: Any) -> None:
    """In whatever order they come: a loader that shuffles fixed minibatches has no others."""
    batches = list(loader())
    count = iter(range(99))

    class Turning(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([batches[i] for i in (range(6) if next(count) == 0 else order)])

    source = passes_over(Turning())
    assert len(list(source.minibatches())) == 6
    assert "same 6 minibatches" in source.ended


def test_a_smaller_last_minibatch_is_left_out_of_every_pass() -> None:
    source = passes_over(loader(22, shuffle=True))
    minibatches = source.minibatches()
    assert {next(minibatches).size for _ in range(12)} == {4}
    assert source.notes == ["a minibatch of another size than the first (the last one of a pass) is no draw"]


def test_sampling_with_replacement_is_known() -> None:
    data = TensorDataset(torch.ones(4), torch.ones(4))
    sampler = RandomSampler(data, replacement=True)
    assert passes_over(DataLoader(data, batch_size=2, sampler=sampler)).replacement is True
    assert passes_over(loader()).replacement is False


def test_draws_of_a_function_begin_anywhere() -> None:
    model = Sums()
    source = OfFunction(model, lambda: (model(torch.randn(3)), 3), seed=4)
    found = losses(source, 5)
    assert len(set(found)) == 5
    assert losses(source, 2, begin=3) == found[3:]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: 3.0, r"draw\(\) number 0"),
        (lambda: torch.ones(2, requires_grad=True), "scalar"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: iter([torch.ones(1, requires_grad=True)] * 2), "2 losses"),
    ],
)
def test_a_draw_that_is_none_is_named(draw: Any, message: str) -> None:
    with pytest.raises(CurvatureError, match=message):
        next(OfFunction(Sums(), draw, seed=0).minibatches())


# --- loaders ---------------------------------------------------------------------------------------------------------


def test_a_loaders_generator_stands_as_it_was_and_passes_are_alike() -> None:
    generator = torch.Generator().manual_seed(5)
    data = loader(shuffle=True, generator=generator)
    before = generator.get_state()
    with preserved_generators(data):
        same = alike(data)
        orders = [[float(x.sum()) for x, _ in same] for _ in range(3)]
        assert orders[0] == orders[1] == orders[2]
        assert not torch.equal(generator.get_state(), before)
    assert torch.equal(generator.get_state(), before)


def test_persistent_workers_of_the_trainings_own_loader_are_left_alone() -> None:
    data = loader(num_workers=1, persistent_workers=True)
    training = iter(data)
    seen = [float(next(training)[0].sum()) for _ in range(2)]
    mine = own(data)
    assert mine is not data
    assert [float(x.sum()) for x, _ in mine] == [float(x.sum()) for x, _ in loader()]
    assert seen + [float(x.sum()) for x, _ in training] == [float(x.sum()) for x, _ in loader()]
    assert own([1]) == [1]
