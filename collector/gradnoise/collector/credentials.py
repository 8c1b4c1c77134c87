"""Who we are to an analyzer, and which analyzer we trust: read from the environment. Loads no gRPC.

``GRADNOISE_TLS_CA`` (a PEM file, or ``system``) turns TLS on; ``GRADNOISE_TLS_CERT`` and ``GRADNOISE_TLS_KEY`` add a
client certificate; ``GRADNOISE_TOKEN`` is sent with each call as ``authorization: Bearer``. Only the environment
carries them: what a process was started with and what it writes can be read by others.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gradnoise.collector._errors import CollectorError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SYSTEM", "TLS_CA", "TLS_CERT", "TLS_KEY", "TOKEN", "Credentials", "CredentialsError", "is_loopback"]

TOKEN = "GRADNOISE_TOKEN"
TLS_CA = "GRADNOISE_TLS_CA"
TLS_CERT = "GRADNOISE_TLS_CERT"
TLS_KEY = "GRADNOISE_TLS_KEY"
SYSTEM = "system"

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token of RFC 6750, section 2.1
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]", re.IGNORECASE)
# Where systems keep their roots in one file, should Python not know of any.
_ROOTS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


class CredentialsError(CollectorError):
    """The environment's certificates or token cannot be used; the message names the variable and what to do."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a channel to an analyzer needs; without ``ca`` it is not encrypted.

    Attributes:
        ca: the trusted roots, PEM.
        cert, key: the client's certificate chain and its private key, PEM.
        token: the bearer token; never shown.
    """

    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of_environment(cls, endpoint: str, environment: Mapping[str, str] = os.environ) -> Credentials:
        """Read and check what the environment says for ``endpoint`` (``HOST:PORT``).

        Raises:
            CredentialsError: a file is missing or not what it should be, half of a pair is missing, or a token would
                travel unencrypted to another machine.
        """
        ca, cert, key, token = (environment.get(name, "").strip() for name in (TLS_CA, TLS_CERT, TLS_KEY, TOKEN))
        for name, given, other in ((TLS_CERT, cert, TLS_KEY), (TLS_KEY, key, TLS_CERT)):
            if given and not environment.get(other, "").strip():
                raise CredentialsError(f"{name} is set without {other}: a client certificate needs both files")
            if given and not ca:
                raise CredentialsError(
                    f"{name} is set without {TLS_CA}: set {TLS_CA} to the PEM file of the authority to trust, "
                    f"or to '{SYSTEM}'"
                )
        if token and not _TOKEN.fullmatch(token):
            raise CredentialsError(f"{TOKEN} has characters that a bearer token cannot have: set it to the token alone")
        if token and not ca and not is_loopback(endpoint):
            raise CredentialsError(
                f"{TOKEN} would travel unencrypted to {endpoint}: set {TLS_CA} to the PEM file of the authority to "
                f"trust, or to '{SYSTEM}', or use an analyzer on this machine"
            )
        return cls(
            ca=_roots(ca) if ca else None,
            cert=_read(TLS_CERT, cert) if cert else None,
            key=_pair(cert, key) if key else None,
            token=token or None,
        )

    def hide(self, text: str) -> str:
        """Return ``text`` without the token, should whoever wrote it have repeated it."""
        return text if self.token is None else text.replace(self.token, "…")


def is_loopback(endpoint: str) -> bool:
    """Whether ``HOST:PORT`` is on this machine, whoever answers names."""
    return _LOOPBACK.fullmatch(endpoint.rpartition(":")[0]) is not None


def _read(variable: str, name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise CredentialsError(
            f"{variable}={name} cannot be read ({error.strerror or error}): set it to a PEM file"
        ) from error


def _roots(name: str) -> bytes:
    pem = _system_roots() if name == SYSTEM else _read(TLS_CA, name)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise CredentialsError(
            f"{TLS_CA}={name} holds no certificate that can be read ({_reason(error)}): expected a PEM file with "
            "'-----BEGIN CERTIFICATE-----'"
        ) from error
    return pem


def _system_roots() -> bytes:
    known = ssl.get_default_verify_paths().cafile
    for name in (known, *_ROOTS):
        if name is not None and Path(name).is_file():
            return _read(TLS_CA, name)
    raise CredentialsError(
        f"{TLS_CA}={SYSTEM}, but this system keeps no file of trusted roots (looked at SSL_CERT_FILE and "
        f"{', '.join(_ROOTS)}): install its ca-certificates, or set {TLS_CA} to a PEM file"
    )


def _pair(cert: str, key: str) -> bytes:
    """Return the key, held against its certificate."""
    pem = _read(TLS_KEY, key)
    try:
        # A key with a passphrase must not ask for it on the terminal: nobody sits there.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError, OSError) as error:
        raise CredentialsError(
            f"{TLS_CERT}={cert} and {TLS_KEY}={key} are no certificate with its key ({_reason(error)}): expected PEM "
            "files that belong together, the key without a passphrase"
        ) from error
    return pem


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error)
