"""A guest's manners among processes and threads: forks, spawns, copies."""

from __future__ import annotations

import copy
import pickle
import threading
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.multiprocessing  # makes its pickler fit for tensors

from gradnoise.collector import attach

from .guests import EVERY, assert_sealed, run
from .loops import Data, assert_recorded, hooks_left, mlp, rows, train
from .test_bursts import sgd

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_child_forked_while_the_writer_holds_its_lock_goes_on(tmp_path: Path) -> None:
    code = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads, as data loaders do it
    handle = attach(model, optimizer, dump=path, run="r", sampling=every)
    held, done = threading.Event(), threading.Event()
    def hold():
        with handle._sink._wake:
            held.set()
            done.wait(30)
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a deadlock would end it
        train(model, optimizer, data, 3)
        handle.log(loss=1.0)
        handle._sink.warn_once("key", "not said")
        handle._sink.fail("not said")
        handle.flush()
        handle.stats()
        handle.close()
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    done.set()
    thread.join()
    train(model, optimizer, data, 2)
    handle.close()
    """
    assert run(code, tmp_path) == (0, "7\n", "")
    assert len(rows(tmp_path)) == 4 * 2


def test_a_child_may_attach_for_itself(tmp_path: Path) -> None:
    code = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    handle = attach(model, optimizer, dump=path / "parent", run="r", sampling=every)
    train(model, optimizer, data, 2)
    child = os.fork()
    if child == 0:
        with attach(model, optimizer, dump=path / "child", run="r", sampling=every):
            train(model, optimizer, data, 3)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    train(model, optimizer, data, 2)
    """
    assert run(code, tmp_path) == (0, "7\n", "")
    assert len(rows(tmp_path / "parent")) == 4 * 4
    assert len(rows(tmp_path / "child")) == 4 * 3


def test_the_handle_may_be_copied_and_pickled_with_what_holds_it(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    model.recorder = attach(model, optimizer, dump=tmp_path, run="r", sampling=EVERY)
    train(model, optimizer, data, 2)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.recorder.stats().state == "closed"
        assert (other.recorder.run, other.recorder.path) == ("r", tmp_path)
        other.recorder.log(loss=1.0)
        other.recorder.close()
        train(other, sgd(other), data, 1)
    train(model, optimizer, data, 2)
    model.recorder.close()
    assert len(rows(tmp_path)) == 4 * 4


def test_a_model_may_be_sent_to_a_spawned_process_in_the_middle_of_a_burst(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY) as handle:
        train(model, optimizer, data, 2)
        assert hooks_left(model) > 0
        # As torch.multiprocessing sends it; a warning would be an error here.
        there = pickle.loads(ForkingPickler.dumps((model, handle)))
        train(there[0], sgd(there[0]), data, 1)
        assert there[1].stats().state == "closed"
        train(model, optimizer, data, 2)
    assert len(rows(tmp_path)) == 4 * 4


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_training_in_another_thread_than_attach(tmp_path: Path) -> None:
    model, data = mlp(), Data()
    optimizer = sgd(model)
    taken: list[Any] = []
    with attach(model, optimizer, dump=tmp_path, sampling=EVERY):
        in_thread(lambda: taken.extend(train(model, optimizer, data, 12))).join()
    assert_recorded(tmp_path, {(20 * (s // 10), s % 10): taken[s] for s in range(12)})


def test_two_threads_train_two_models(tmp_path: Path) -> None:
    taken: dict[int, Any] = {}

    def work(number: int) -> None:
        torch.manual_seed(number)
        model, data = mlp(), Data(seed=number)
        optimizer = sgd(model)
        with attach(model, optimizer, dump=tmp_path / str(number), sampling=EVERY):
            taken[number] = train(model, optimizer, data, 40)

    for thread in [in_thread(lambda number=number: work(number)) for number in range(2)]:  # type: ignore[misc]
        thread.join()
    for number in range(2):
        assert_recorded(tmp_path / str(number), {(20 * (s // 10), s % 10): taken[number][s] for s in range(40)})


def test_a_process_forked_to_train_leaves_a_sealed_dump(tmp_path: Path) -> None:
    code = """
    import multiprocessing, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    def work():
        attach(model, optimizer, dump=path, run="r", sampling=every)
        train(model, optimizer, data, 3)
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    print(child.exitcode)
    """
    assert run(code, tmp_path) == (0, "0\n", "")
    assert len(rows(tmp_path)) == 4 * 3
    assert_sealed(tmp_path)
