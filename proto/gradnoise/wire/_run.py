"""``run.json``: what a run is, fixed when it begins."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from gradnoise.wire._errors import NotADumpError, UnknownSchemaVersionError, WireError
from gradnoise.wire._schemas import SCHEMA_VERSION, SUPPORTED_VERSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Group", "RunInfo", "check_run_id"]

_LONGEST_NAME = 512
_LARGEST_SIZE = 1 << 48
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_run_id(run: str) -> str:
    """Return ``run`` if it can name a run (and so a directory); raise :class:`WireError` otherwise."""
    if not _RUN_ID.fullmatch(run):
        raise WireError(
            f"run id {run!r} is not usable: expected 1 to 128 of letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit; choose another run name"
        )
    return run


@dataclass(frozen=True, slots=True)
class Group:
    """One named parameter tensor and the coordinates of it that are recorded.

    Attributes:
        name: the parameter's name in ``model.named_parameters()``.
        shape: its shape.
        dtype: its dtype, as text.
        indices: the sampled flat (row-major) indices, ascending.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    indices: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements of the whole tensor: the group's weight in whole-model figures."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Identity of a run: the content of ``run.json``.

    Attributes:
        run: the run id.
        model: class name of the model.
        created: ISO 8601 time of creation.
        groups: the parameter groups in model order.
        plan: the sampling and probe plan, as plain numbers for the reader's information.
        versions: versions of the software that recorded it.
        schema_version: version of the dump's tables.
    """

    run: str
    model: str
    created: str
    groups: tuple[Group, ...]
    plan: Mapping[str, float | int | None] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def fingerprint(self) -> str:
        """Hash of the groups and coordinates: equal for producers that may share a run."""
        groups = [[group.name, group.shape, group.indices] for group in self.groups]
        return hashlib.sha256(json.dumps(groups).encode()).hexdigest()

    def group(self, name: str) -> Group:
        """Return the group of that name; :class:`KeyError` names the known ones."""
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.groups)
        raise KeyError(f"no group {name!r} in run {self.run!r}; its groups are: {known}")

    def to_json(self) -> str:
        """Return the text of ``run.json``."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "run.json") -> RunInfo:
        """Parse and check the text of ``run.json``.

        Raises:
            NotADumpError: the text is not a run description.
            UnknownSchemaVersionError: it is of a version this gradnoise does not read.
            WireError: the run id is not usable.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            version = int(data["schema_version"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise NotADumpError(
                f"{source} does not describe a gradnoise run ({error!r}): expected the JSON that the collector writes; "
                "give the directory of a dump"
            ) from error
        if version not in SUPPORTED_VERSIONS:
            raise UnknownSchemaVersionError(
                f"{source} is of schema version {version}; this gradnoise reads {sorted(SUPPORTED_VERSIONS)}: "
                "upgrade gradnoise"
            )
        try:
            groups = tuple(
                Group(
                    name=str(item["name"]),
                    shape=tuple(int(n) for n in item["shape"]),
                    dtype=str(item["dtype"]),
                    indices=tuple(int(n) for n in item["indices"]),
                )
                for item in data["groups"]
            )
            info = cls(
                run=str(data["run"]),
                model=str(data["model"]),
                created=str(data["created"]),
                groups=groups,
                plan=dict(data["plan"]),
                versions=dict(data["versions"]),
                schema_version=version,
            )
            _check_groups(groups)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise NotADumpError(f"{source} is incomplete or malformed: {error!r}") from error
        check_run_id(info.run)
        return info


def _check_groups(groups: tuple[Group, ...]) -> None:
    """Hold groups against what a model can have; raise :class:`ValueError` naming the first that cannot be."""
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise ValueError("two groups have the same name")
    for group in groups:
        if not (0 < len(group.name) <= _LONGEST_NAME and group.name.isprintable()) or group.name == "*":
            raise ValueError(f"a group cannot be named {group.name[:40]!r}")
        if any(extent < 0 for extent in group.shape) or not 0 < group.size <= _LARGEST_SIZE:
            raise ValueError(f"group {group.name!r} cannot have that shape")
        indices = group.indices
        ascending = all(low < high for low, high in itertools.pairwise(indices))
        if not (indices and ascending and indices[0] >= 0 and indices[-1] < group.size):
            raise ValueError(f"the sampled indices of group {group.name!r} are not ascending within it")
