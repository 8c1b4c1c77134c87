"""The recorder without a framework: what is handed in is what is recorded."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from gradnoise.analyzer.analysis import analyse
from gradnoise.analyzer.assembly import read_windows
from gradnoise.analyzer.stats import stable
from gradnoise.collector import CollectorError, Limits, Recorder, Sampling
from gradnoise.collector._recording.coordinates import sample_coordinates
from gradnoise.collector._recording.stepwise import Stepwise
from gradnoise.wire import Dump, RunExistsError, Table, WireError

from .loops import counted, messages, recorded, rows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WHOLE = Sampling(burst=4, every=10)
GROUPS = {"dense/kernel": (3, 5), "dense/bias": (5,)}


def gradients(draws: int, seed: int = 0, **dtypes: Any) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal((draws, *shape)).astype(dtypes.get("dtype", np.float32))
        for name, shape in GROUPS.items()
    }


def hand_in(recorder: Recorder, step: int, draws: int = 1, **options: Any) -> dict[str, NDArray[Any]]:
    given = gradients(draws, seed=step)
    for name, values in given.items():
        recorder.record(step=step, group=name, gradients=values, **options)
    return given


@pytest.mark.parametrize("groups", [GROUPS, None])
def test_a_draw_a_step_is_recorded_in_bursts(tmp_path: Path, groups: Any) -> None:
    with Recorder(run="r", dump=tmp_path, groups=groups, sampling=WHOLE, batch_size=8) as recorder:
        kept, given = [], {}
        for step in range(25):
            if recorder.wants(step):
                kept.append(step)
            given[step] = hand_in(recorder, step)  # steps outside of bursts are passed over
    assert kept == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    found = recorded(tmp_path)
    assert len(found) == 12 * 2
    for (window, draw, name), values in found.items():
        np.testing.assert_array_equal(values, given[window // 2 + draw][name].ravel())
    assert {(row["theta"], row["step"], row["batch_size"]) for row in rows(tmp_path)} == {(s, s, 8) for s in kept}
    columns = ("window", "kind", "first_step", "last_step", "declared", "recorded", "rows", "dropped")
    assert [tuple(row[c] for c in columns) for row in rows(tmp_path, Table.WINDOWS)] == [
        (2 * s, "burst", s, s + 3, 4, 4, 8, 0) for s in (0, 10, 20)
    ]
    info = Dump(tmp_path).info
    assert {group.name: group.shape for group in info.groups} == GROUPS
    assert (info.run, recorder.run, recorder.path) == ("r", "r", tmp_path)
    assert counted(tmp_path) == {}
    stats = recorder.stats()
    assert (stats.state, stats.recorded, stats.draws, stats.windows, stats.theta) == ("closed", 24, 12, 3, 23)


def test_several_draws_of_a_step_share_its_theta(tmp_path: Path) -> None:
    with Recorder(dump=tmp_path, groups=GROUPS, sampling=Sampling(burst=2, every=2)) as recorder:
        given = {step: hand_in(recorder, step, draws=6, divisor=3.0) for step in range(2)}
    for (number, draw, name), values in recorded(tmp_path).items():
        step, index = divmod(draw, 6)
        assert number == 0
        np.testing.assert_array_equal(values, 3 * given[step][name][index].ravel())
    assert {(row["theta"], row["draw"]) for row in rows(tmp_path)} == {(d // 6, d) for d in range(12)}
    (window,) = rows(tmp_path, Table.WINDOWS)
    assert (window["kind"], window["declared"], window["recorded"]) == ("microbatch", 12, 12)
    assert [row["divisor"] for row in rows(tmp_path, Table.STEPS)] == [3.0, 3.0]


def test_steps_may_share_a_theta_and_one_step_bursts_are_probes(tmp_path: Path) -> None:
    with Recorder(dump=tmp_path / "a", groups=GROUPS, sampling=WHOLE) as recorder:
        for step in range(4):
            hand_in(recorder, step, theta=step // 2)
    assert [row["theta"] for row in rows(tmp_path / "a")][::2] == [0, 0, 1, 1]
    assert rows(tmp_path / "a", Table.WINDOWS)[0]["kind"] == "microbatch"
    with Recorder(dump=tmp_path / "b", sampling=Sampling(burst=1, every=100)) as recorder:
        for step in (0, 100):
            hand_in(recorder, step, draws=8)
    windows = rows(tmp_path / "b", Table.WINDOWS)
    assert [(w["window"], w["kind"], w["declared"], w["recorded"]) for w in windows] == [
        (1, "probe", 8, 8),
        (201, "probe", 8, 8),
    ]


def test_coordinates_are_sampled_as_those_of_a_torch_model_are(tmp_path: Path) -> None:
    values = np.arange(2 * 300, dtype=np.float64).reshape(2, 10, 30)
    with Recorder(dump=tmp_path, sampling=Sampling(coordinates=16, seed=7)) as recorder:
        recorder.record(step=0, group="w", gradients=values)
    (group,) = Dump(tmp_path).info.groups
    assert (group.shape, group.dtype, len(group.indices)) == ((10, 30), "float64", 16)
    assert group.indices == sample_coordinates("w", 300, 16, 7)
    for (_, draw, _), found in recorded(tmp_path).items():
        np.testing.assert_array_equal(found, values[draw].ravel()[list(group.indices)].astype(np.float32))


class OnlyDLPack:
    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.astype(np.float16),
        lambda a: a.astype(np.float32),
        lambda a: a.astype(np.float64),
        lambda a: np.asfortranarray(a),
        lambda a: a.reshape(len(a), -1),
        lambda a: a[::-1][::-1],
        torch.tensor,
        OnlyDLPack,
        lambda a: a.tolist(),
    ],
)
def test_arrays_of_every_kind_are_taken_and_copied(tmp_path: Path, convert: Any) -> None:
    given = np.round(gradients(3)["dense/kernel"], 2).astype(np.float16).astype(np.float32)
    handed = convert(given.copy())
    with Recorder(dump=tmp_path, groups={"w": (3, 5)}) as recorder:
        recorder.record(0, "w", handed)
        if isinstance(handed, np.ndarray | torch.Tensor):
            handed[:] = 0.0  # the loop may use its buffer again
    for (_, draw, _), found in recorded(tmp_path).items():
        np.testing.assert_array_equal(found, given[draw].ravel())
    assert len(rows(tmp_path)) == 3


def test_bfloat16_is_taken_as_the_arrays_of_jax_give_it(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="numpy's own types have no bfloat16")
    with Recorder(dump=tmp_path) as recorder:
        recorder.record(0, "w", np.array([[1.5, -2.0]], ml_dtypes.bfloat16))
    assert [row["values"] for row in rows(tmp_path)] == [[1.5, -2.0]]


def test_one_draw_needs_no_axis_where_the_shape_is_known(tmp_path: Path) -> None:
    with Recorder(dump=tmp_path, groups={"w": (3, 5), "scalar": ()}) as recorder:
        recorder.record(0, "w", np.ones((3, 5)))
        recorder.record(0, "scalar", np.float32(2.0))
    assert [row["values"] for row in rows(tmp_path)] == [[1.0] * 15, [2.0]]


BAD = [
    (np.zeros((2, 4, 5)), r"'w': shape \[2, 4, 5\]: expected \[K, 3, 5\] or \[K, 15\]"),
    (np.zeros((0, 3, 5)), r"'w': shape \[0, 3, 5\]: expected"),
    (np.zeros((2, 3, 5), complex), "'w': dtype complex128: stable laws of real noise.*groups of their own"),
    (np.zeros((2, 3, 5), int), "'w': dtype int64: expected float16.*convert it"),
    (np.full((2, 3, 5), None), "'w': dtype object: expected float16"),
    (None, "'w': dtype object: expected"),
    (torch.zeros(2, 3, 5, requires_grad=True), "Tensor cannot be read as an array .*detach"),
    (torch.zeros(2, 3, 5, dtype=torch.bfloat16), "Tensor cannot be read as an array .*BFloat16"),
    ([[1.0], [1.0, 2.0]], "list cannot be read as an array"),
]


@pytest.mark.parametrize(("bad", "text"), BAD, ids=range(len(BAD)))
def test_what_is_no_gradient_is_warned_of_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: Any, text: str
) -> None:
    with Recorder(dump=tmp_path, groups={"w": (3, 5), "b": (2,)}, sampling=WHOLE) as recorder:
        for step in range(3):
            recorder.record(step, "w", bad)
            recorder.record(step, "b", np.ones((1, 2)))
    (message,) = messages(caplog)
    assert re.search(text, message), message
    assert counted(tmp_path) == {"refused": 3}
    assert [row["group"] for row in rows(tmp_path)] == ["b"] * 3
    (event,) = rows(tmp_path, Table.EVENTS)
    assert (event["group"], event["step"]) == ("w", 0)
    assert recorder.stats().state == "closed"


def test_a_group_that_comes_later_another_count_and_another_order_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(dump=tmp_path, sampling=Sampling(burst=9, every=9)) as recorder:
        hand_in(recorder, 0)
        hand_in(recorder, 1)
        recorder.record(2, "new", np.ones((1, 2)))
        recorder.record(2, "dense/kernel", np.ones((1, 3, 5)))
        recorder.record(2, "dense/bias", np.ones((4, 5)))
        recorder.record(2, "dense/kernel", np.ones((1, 3, 5)))
        hand_in(recorder, 1)
        recorder.record(3, "dense/bias", np.ones((1, 5)), theta=1)
        recorder.record(-1, "dense/bias", np.ones((1, 5)))
        recorder.record("4", "dense/bias", np.ones((1, 5)))  # type: ignore[arg-type]
        recorder.record(4, "dense/bias", np.ones((1, 5)), batch_size=0, divisor=-1)
    texts = [
        r"group 'new': it was neither given up front nor part of the first step; name every group",
        r"the 4 draws of 'dense/bias' at step 2, for its other groups have 1.*give \[K, \*shape\]",
        r"'dense/kernel' again at step 2.*as one array a group",
        r"step 1 after step 2: record steps in ascending order",
        r"theta 1 after theta 2",
        r"ignores step=-1: expected a whole number",
        r"ignores record\(batch_size=0\)",
        r"ignores record\(divisor=-1\)",
    ]
    found = messages(caplog)
    assert len(found) == len(texts), found
    for text, message in zip(texts, found, strict=True):
        assert re.search(text, message), message
    assert counted(tmp_path) == {"refused": 1 + 4 + 1 + 2 + 1 + 2}
    assert [(row["step"], row["group"]) for row in rows(tmp_path)][4:] == [(2, "dense/kernel"), (4, "dense/bias")]
    assert recorder.stats().state == "closed"


def test_a_loop_whose_steps_are_never_in_the_plan_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Recorder(dump=tmp_path, groups={"w": (2,)}) as recorder:
        for step in range(0, 5000, 500):  # 0 is in the plan, and 500 in the round of 0
            recorder.record(step, "w", np.ones((8, 2)))
    (message,) = messages(caplog)
    assert "does not record step 1500: Sampling(burst=64, every=1024) keeps the first 64 steps of every 1024" in message
    assert "Ask Recorder.wants(step)" in message
    caplog.clear()
    with Recorder(dump=tmp_path / "other", groups={"w": (2,)}, sampling=WHOLE) as recorder:
        for step in range(7, 60):  # goes on from a checkpoint
            recorder.record(step, "w", np.ones((1, 2)))
    assert messages(caplog) == []
    assert len(rows(tmp_path / "other")) == 20


def test_references_and_logged_numbers_go_with_the_draws(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Pending:
        """An array that is still being computed, as JAX has it."""

        def __init__(self, value: float | None) -> None:
            self._value = value

        def block_until_ready(self) -> None: ...

        def __float__(self) -> float:
            assert threading.current_thread().name == "gradnoise-writer"
            if self._value is None:
                raise RuntimeError("deleted")
            return self._value

    full = np.arange(15.0).reshape(3, 5)
    with Recorder(dump=tmp_path, sampling=Sampling(burst=2, every=10, coordinates=5)) as recorder:
        for step in range(4):
            recorder.log(step=step, loss=Pending(0.5 + step), lr=np.float32(0.1), gone=Pending(None), text="?")
            recorder.reference(step, "dense/kernel", full, minibatches=4, dataset_size=60, replacement=False)
            hand_in(recorder, step)
        recorder.log(step=2, loss=1.0)
        recorder.reference(11, "dense/kernel", np.ones(3))
    reference = rows(tmp_path, Table.REFERENCE)
    indices = list(Dump(tmp_path).info.group("dense/kernel").indices)
    assert [(r["window"], r["theta"], r["kind"], r["minibatches"], r["dataset_size"]) for r in reference] == [
        (0, 0, "full", 4, 60),
        (0, 1, "full", 4, 60),
    ]
    assert reference[0]["values"] == full.ravel()[indices].tolist()
    assert reference[0]["norm2"] == float((full**2).sum())
    steps = rows(tmp_path, Table.STEPS)
    assert [row["step"] for row in steps] == [0, 1, 2, 3]
    assert [row["loss"] for row in steps] == [0.5, 1.5, 2.5, 3.5]
    assert {row["lr"] for row in steps} == {float(np.float32(0.1))}
    assert {tuple(row["metrics"]) for row in steps} == {(("gone", None),)}
    found = messages(caplog)
    assert len(found) == 3
    assert "log(text='?')" in found[0]
    assert "step 2 after step 3" in found[1]
    assert "the reference of 'dense/kernel': shape [3]: expected [3, 5]" in found[2]


def test_what_is_flushed_is_in_the_dump_and_ends_the_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Recorder(dump=tmp_path, sampling=WHOLE) as recorder:
        recorder.record(0, "dense/kernel", np.ones((2, 3, 5)))
        recorder.record(0, "dense/bias", np.ones((2, 5)))
        assert not (tmp_path / "run.json").exists(), "until the groups are known"
        assert recorder.flush()
        assert len(rows(tmp_path)) == 4
        recorder.record(1, "dense/kernel", np.ones((2, 3, 5)))
        assert recorder.flush()
        recorder.record(1, "dense/bias", np.ones((2, 5)))
    assert "every group before flush()" in messages(caplog)[0]
    assert len(rows(tmp_path)) == 6
    assert not recorder.flush()


def test_nothing_is_written_of_a_recorder_that_saw_nothing(tmp_path: Path) -> None:
    with Recorder(dump=tmp_path / "d", run="r") as recorder:
        recorder.log(step=0, loss=1.0)
        assert repr(recorder) == f"<Recorder recording run='r' path='{tmp_path / 'd'}'>"
        assert not recorder.flush()
    assert recorder.stats().state == "closed"
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"groups": {}}, CollectorError, r"Recorder\(groups={}\)"),
        ({"groups": {"w": (2, -1)}}, CollectorError, "expected a shape"),
        ({"groups": {"w": "big"}}, CollectorError, "expected a shape"),
        ({"groups": {"w": (0, 3)}}, CollectorError, "has no parameters"),
        ({"groups": {"": (3,)}}, CollectorError, "expected a name"),
        ({"groups": [1]}, CollectorError, "expected the name and shape"),
        ({"sampling": 3}, CollectorError, r"expected a Sampling"),
        ({"sampling": Sampling(burst=0)}, CollectorError, "records nothing"),
        ({"limits": 3}, CollectorError, "expected Limits"),
        ({"groups": {"\udc80": (3,)}}, CollectorError, "that UTF-8 can hold"),
        ({"batch_size": 0}, CollectorError, "expected a positive whole number"),
        ({"batch_size": 2**31}, CollectorError, "expected a positive whole number"),
        ({"run": "../x"}, WireError, "not usable"),
        ({"endpoint": "nowhere"}, CollectorError, "expected HOST:PORT"),
    ],
)
def test_arguments_that_cannot_be_recorded_raise_at_once(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Recorder(dump=tmp_path / "d", **arguments)
    assert not (tmp_path / "d").exists()


def test_numbers_and_names_that_no_dump_can_hold_cost_no_recording(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(dump=tmp_path, groups={"w": (3, 5), "b": (2,)}, sampling=WHOLE) as recorder:
        for step in range(2):
            recorder.record(step, "w", np.ones((1, 3, 5)), batch_size=2**31)
            recorder.record(step, "b", np.ones((1, 2)))
            recorder.reference(step, "b", np.ones(2), minibatches=2**31)
            recorder.record(2**63, "b", np.ones((1, 2)))
            recorder.record(step, "\udc80", np.ones((1, 2)))
            recorder.log(step, theta=2**63)
            recorder.log(step, loss=10**400, **{"\udc80": 1.0})  # type: ignore[arg-type]
    assert [re.findall("batch_size|minibatches|step=|theta|group|loss", text)[0] for text in messages(caplog)] == [
        "batch_size",
        "minibatches",
        "step=",
        "group",
        "theta",
        "loss",
    ]
    assert recorder.stats().state == "closed"
    assert len(rows(tmp_path)) == 4
    assert [row["metrics"] for row in rows(tmp_path, Table.STEPS)] == [[("\\udc80", 1.0)]] * 2


def test_names_made_up_a_step_are_warned_of_a_few_times_and_counted_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(dump=tmp_path, groups=GROUPS, sampling=Sampling(burst=1000, every=1000)) as recorder:
        for step in range(1000):
            recorder.record(step, f"layer {step}", np.ones((1, 2)))
            recorder.log(step, **{f"metric {step}": "none"})  # type: ignore[arg-type]
    assert len(messages(caplog)) == 20
    recorder = Recorder(dump=tmp_path / "d", groups=GROUPS, sampling=Sampling(burst=1000, every=1000))
    for step in range(1000):
        hand_in(recorder, step)
        recorder.record(step, f"layer {step}", np.ones((1, 2)))
    recorder.close()
    assert counted(tmp_path / "d") == {"refused": 1000}
    assert len(rows(tmp_path / "d", Table.EVENTS)) == 257


def test_a_dump_of_something_else_is_refused_and_late_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recorder(dump=tmp_path, run="r", groups=GROUPS) as recorder:
        hand_in(recorder, 0)
    with pytest.raises(RunExistsError, match="is finished"):
        Recorder(dump=tmp_path, run="r", groups=GROUPS)
    with pytest.raises(RunExistsError, match="other groups"):
        Recorder(dump=tmp_path, run="r", groups={"w": 3})
    late = Recorder(dump=tmp_path, run="r")
    hand_in(late, 0)
    hand_in(late, 1)
    assert late.stats().state == "off"
    assert not late.wants(2)
    (message,) = messages(caplog)
    assert "turned itself off: run 'r'" in message
    assert "is finished" in message
    late.close()
    assert len(rows(tmp_path)) == 2


@pytest.mark.parametrize("groups", [GROUPS, None])
def test_an_unwritable_place_turns_it_off_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, groups: Any
) -> None:
    (tmp_path / "file").write_text("in the way")
    with Recorder(dump=tmp_path / "file" / "d", groups=groups) as recorder:
        for step in range(3):
            hand_in(recorder, step)
        assert recorder.stats().state == "off"
        assert "cannot be written" in str(recorder.stats().error)
    assert len(messages(caplog)) == 1


def test_disabled_by_the_environment_it_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADNOISE_DISABLED", "1")
    with Recorder(dump=tmp_path / "d", groups={"w": (-1,)}) as recorder:
        assert not recorder.wants(0)
        recorder.record(0, "w", None)
        recorder.reference(0, "w", None)
        recorder.log(step=0, loss=1.0)
        assert not recorder.flush()
        assert recorder.stats().state == "disabled"
        assert (recorder.run, recorder.path) == (None, None)
    assert not (tmp_path / "d").exists()


def test_an_unexpected_error_turns_it_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    for groups in (GROUPS, None):
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Stepwise, "take", broken)
            with Recorder(dump=tmp_path / str(groups is None), groups=groups) as recorder:
                hand_in(recorder, 0)
                hand_in(recorder, 1)
                assert recorder.stats().state == "off"
                assert "a bug" in str(recorder.stats().error)
        assert len(messages(caplog)) == 1


def test_draws_too_large_for_the_memory_are_dropped_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampling = Sampling(coordinates=10_000, burst=2, every=2)
    with Recorder(dump=tmp_path, sampling=sampling, limits=Limits(memory=1 << 20)) as recorder:
        for step in range(4):
            recorder.record(step, "w", np.ones((5 if step % 2 else 20, 10_000), np.float32))
            assert recorder.flush()
    (message,) = messages(caplog)
    assert "drops the 20 draws of step 0" in message
    assert "hand in fewer at a time" in message
    windows = rows(tmp_path, Table.WINDOWS)
    assert [(w["declared"], w["recorded"], w["dropped"]) for w in windows] == [(40, 5, 20), (40, 5, 20)]
    stats = recorder.stats()
    assert (stats.recorded, stats.dropped, stats.draws) == (10, 40, 10)


def test_it_needs_no_torch(tmp_path: Path) -> None:
    code = """
    import sys
    class Block:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {"torch", "scipy", "grpc", "google"}:
                raise ImportError(name + " is blocked")
    sys.meta_path.insert(0, Block())
    import numpy as np
    from gradnoise.collector import Recorder
    recorder = Recorder(run="r", dump=sys.argv[1])
    for step in range(3):
        recorder.record(step=step, group="w", gradients=np.ones((1, 4)))
    """  # and it ends without close()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert len(rows(tmp_path)) == 3
    assert not list(tmp_path.glob("*.lock"))
    assert not list(tmp_path.glob("*.open"))


def test_copies_and_pickles_of_it_are_closed(tmp_path: Path) -> None:
    with Recorder(run="r", dump=tmp_path, groups=GROUPS) as recorder:
        for other in (copy.deepcopy(recorder), pickle.loads(pickle.dumps(recorder))):
            hand_in(other, 0)
            other.close()
            assert (other.stats().state, other.run, other.path) == ("closed", "r", tmp_path)
        hand_in(recorder, 0)
    assert len(rows(tmp_path)) == 2


def test_threads_may_share_it(tmp_path: Path) -> None:
    with Recorder(
        dump=tmp_path, groups={f"g{n}": (4,) for n in range(8)}, sampling=Sampling(burst=8, every=8)
    ) as recorder:
        for step in range(16):
            threads = [
                threading.Thread(target=recorder.record, args=(step, f"g{n}", np.full((3, 4), step * 8.0 + n)))
                for n in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    found = recorded(tmp_path)
    assert len(found) == 16 * 3 * 8
    for (window, draw, name), values in found.items():
        assert set(values.tolist()) == {(window // 2 + draw // 3) * 8 + int(name[1:])}


@pytest.mark.parametrize("alpha", [1.4, 1.8, 2.0])
@pytest.mark.parametrize("draws", [1, 4])
def test_the_analysis_finds_the_law_that_was_handed_in(tmp_path: Path, alpha: float, draws: int) -> None:
    rng = np.random.default_rng(3)
    sampling = Sampling(coordinates=64, burst=256 // draws, every=256)
    with Recorder(dump=tmp_path, groups={"w": (20, 40)}, sampling=sampling) as recorder:
        for step in range(256):
            if recorder.wants(step):
                recorder.record(step, "w", 5.0 + stable.rvs(alpha, 1.0, (draws, 20, 40), rng))
    (window,) = read_windows(Dump(tmp_path))
    assert (window.closed.declared, window.closed.recorded, window.missing) == (256, 256, 0)
    (row,) = (row for row in analyse(window).rows if (row.group, row.form) == ("w", "per_parameter"))
    assert (row.draws, row.coordinates, row.thetas) == (256, 64, 256 // draws)
    assert row.reference == "pair"
    assert row.status in ("ok", "at_boundary")
    half = (row.alpha_high - row.alpha_low) / 2
    assert abs(row.alpha - alpha) <= 1.5 * half, "three standard errors: the interval holds in 19 of 20 windows"
    assert half < 0.1
