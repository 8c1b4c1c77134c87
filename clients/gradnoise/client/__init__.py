"""Python client of the analyzer: tail indices of runs as Arrow tables, live or on request."""

from gradnoise.client._client import DEFAULT_TARGET, Client, default_target
from gradnoise.client._errors import (
    ClientError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    TooFewValuesError,
    UnreachableError,
)

__all__ = [
    "DEFAULT_TARGET",
    "Client",
    "ClientError",
    "InvalidInputError",
    "NotFoundError",
    "OverloadedError",
    "TooFewValuesError",
    "UnreachableError",
    "default_target",
]
