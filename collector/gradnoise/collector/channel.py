"""Channels to an analyzer, encrypted and signed as the environment says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from gradnoise.collector.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["open_channel"]


def open_channel(
    endpoint: str, options: Sequence[tuple[str, Any]] = (), *, credentials: Credentials | None = None
) -> grpc.Channel:
    """Return a channel to the analyzer at ``HOST:PORT``; nothing is connected yet.

    Args:
        endpoint: the analyzer.
        options: channel options of gRPC.
        credentials: by default those of the environment.

    Raises:
        CredentialsError: the environment's cannot be used.
    """
    known = Credentials.of_environment(endpoint) if credentials is None else credentials
    if known.ca is None:
        channel = grpc.insecure_channel(endpoint, options=options)
    else:
        secure = grpc.ssl_channel_credentials(known.ca, known.key, known.cert)
        channel = grpc.secure_channel(endpoint, secure, options=options)
    return channel if known.token is None else grpc.intercept_channel(channel, _Bearer(known.token))


class _Details(NamedTuple):
    """A call's details; gRPC's own class for them cannot be made."""

    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str]]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Adds the token to each call. (gRPC's own call credentials refuse a connection without TLS, loopback too.)"""

    def __init__(self, token: str) -> None:
        self._entry = ("authorization", f"Bearer {token}")

    def _call(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        signed = _Details(
            details.method,
            details.timeout,
            [*(details.metadata or ()), self._entry],
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        return continuation(signed, request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _call  # type: ignore[assignment]
