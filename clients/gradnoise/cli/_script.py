"""What a user's script gives to ``gradnoise measure``: its factory, called, and a checkpoint in its model."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from gradnoise.cli._exit import CommandError, Exit, code_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from torch import nn

__all__ = ["from_factory", "load_checkpoint", "one_line"]

_NAMED = ("model", "loss_fn", "data")


def from_factory(where: str) -> dict[str, Any]:
    """Return the arguments of ``measure_curvature`` that the factory ``SCRIPT:NAME`` returns.

    Raises:
        CommandError: there is no such script or factory, it fails, or returns something else.
    """
    script, colon, name = where.rpartition(":")
    if not colon or not script or not name.isidentifier():
        raise CommandError(
            Exit.USAGE, f"{where!r}: expected SCRIPT:FACTORY, such as train.py:factory or package.module:factory"
        )
    with one_line(script):
        factory = getattr(_module(script), name, None)
    if not callable(factory):
        raise CommandError(Exit.FAILED, f"{script} has no function {name!r}")
    with one_line(where):
        found = factory()
    if isinstance(found, tuple) and len(found) == len(_NAMED):
        found = dict(zip(_NAMED, found, strict=True))
    if not isinstance(found, Mapping) or not {"model", "data"} <= found.keys():
        kind = f"a mapping of {sorted(map(str, found))}" if isinstance(found, Mapping) else type(found).__name__
        raise CommandError(
            Exit.FAILED,
            f"{where} returned {kind}: expected (model, loss_fn, data), or a mapping of the arguments of "
            "gradnoise.collector.curvature.measure_curvature",
        )
    from torch import nn

    if not isinstance(found["model"], nn.Module):
        kind = type(found["model"]).__name__
        raise CommandError(Exit.FAILED, f"{where} returned as its model a {kind}: expected a torch.nn.Module")
    return {"loss_fn": None} | dict(found)


def load_checkpoint(model: nn.Module, path: Path, key: str | None) -> None:
    """Load a state dict, or the entry ``key`` of a checkpoint, into the model.

    Raises:
        CommandError: it cannot be read, holds no state dict there, or that of another model.
    """
    import torch

    if not path.is_file():
        raise CommandError(Exit.FAILED, f"--checkpoint: there is no file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CommandError(
            Exit.CORRUPT,
            f"--checkpoint {path} cannot be read: it is none, or holds Python objects, whose code is not run "
            "here; save model.state_dict() alone",
        ) from error
    except Exception as error:  # torch says it with a dozen types
        raise CommandError(Exit.CORRUPT, f"--checkpoint {path} cannot be read: {_first_line(error)}") from error
    if key is not None:
        if not isinstance(state, Mapping) or key not in state:
            raise CommandError(Exit.FAILED, f"--key {key}: {path} has no such entry; {_entries(state)}")
        state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CommandError(
            Exit.FAILED, f"{path} holds no state dict here; {_entries(state)}: say with --key which one is it"
        )
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise CommandError(Exit.FAILED, f"{path} does not fit the model: {detail}") from error


@contextmanager
def one_line(where: str) -> Iterator[None]:
    """Make whatever the user's code raises one line that says where.

    Raises:
        CommandError: it did.
    """
    try:
        yield
    except CommandError:
        raise
    except (Exception, SystemExit) as error:
        if code_of(error) is not None and type(error).__module__.startswith("gradnoise."):
            raise  # ours: its message says what to do
        frames = traceback.extract_tb(error.__traceback__)
        script = where.rpartition(":")[0] or where
        file = Path(script).name if script.endswith(".py") else f"{script.rpartition('.')[2]}.py"
        frame = next((each for each in reversed(frames) if Path(each.filename).name == file), frames[-1])
        raise CommandError(
            Exit.FAILED,
            f"{where} failed: {type(error).__name__}: {_first_line(error)} "
            f"({Path(frame.filename).name}, line {frame.lineno})",
        ) from error


def _module(script: str) -> ModuleType:
    if not script.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        return importlib.import_module(script)
    path = Path(script).resolve()
    if not path.is_file():
        raise CommandError(Exit.FAILED, f"there is no script {script}")
    sys.path.insert(0, str(path.parent))  # as `python script.py` does
    # Processes of a DataLoader find it by its name, which must not be that of something else.
    name = path.stem if path.stem not in sys.modules else f"_gradnoise_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # of the suffix .py there is one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look there
    spec.loader.exec_module(module)
    return module


def _entries(state: object) -> str:
    if isinstance(state, Mapping):
        names = [str(name) for name in state]
        return f"its entries are: {', '.join(names[:20])}" + (" and more" if len(names) > 20 else "")
    return f"it holds a {type(state).__name__}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
