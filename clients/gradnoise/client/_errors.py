"""Errors of the client: each message says what was asked, and what the analyzer or the network answered."""

from __future__ import annotations

from typing import NoReturn

import grpc

__all__ = [
    "ClientError",
    "InvalidInputError",
    "NotFoundError",
    "OverloadedError",
    "TooFewValuesError",
    "UnreachableError",
    "raise_typed",
]


class ClientError(Exception):
    """Base of every error raised by :mod:`gradnoise.client`."""


class UnreachableError(ClientError):
    """No analyzer answers at the target, or not in time."""


class NotFoundError(ClientError):
    """The analyzer has no such run or group; the message names those it has."""


class InvalidInputError(ClientError):
    """The analyzer cannot use what it was given."""


class TooFewValuesError(InvalidInputError):
    """Too few values for a fit."""


class OverloadedError(ClientError):
    """A limit of the analyzer is reached; try again later, or ask for less."""


_TYPES: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.UNAVAILABLE: UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnreachableError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
}


def raise_typed(error: grpc.RpcError, target: str) -> NoReturn:
    """Raise what a failed call means for the caller."""
    code, details = error.code(), error.details() or ""
    kind = _TYPES.get(code, ClientError)
    names = [str(item.value) for item in error.trailing_metadata() or () if item.key == "gradnoise-error"]
    if kind is InvalidInputError and "TooFewValues" in names:
        kind = TooFewValuesError
    if kind is UnreachableError and not names:
        raise UnreachableError(
            f"no analyzer answers at {target} ({details or code.name}): start one with 'gradnoise serve', or give "
            "another address"
        ) from error
    if kind is ClientError:
        details = f"the analyzer at {target} answered {code.name}: {details}"
    raise kind(details) from error
