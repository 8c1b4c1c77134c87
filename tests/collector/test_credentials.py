"""Certificates and tokens of the environment: what is sent, to whom, and what is never shown."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from gradnoise.collector import Sampling, attach
from gradnoise.collector._errors import EndpointError, RefusedError, UnreachableError
from gradnoise.collector.channel import open_channel
from gradnoise.collector.credentials import Credentials, CredentialsError, is_loopback
from gradnoise.collector.shipper import main, ship
from gradnoise.wire import Dump

from .fake import FakeIngest, FakeServer, TokenCheck
from .loops import Data, messages, mlp, train
from .test_bursts import sgd
from .test_shipper import assert_stored, dump_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "s3cret-Token.of_many~chars+/=="
THERE = "analyzer.example:443"


class Pki:
    """An authority, a server's certificate for loopback, and a client's, as files."""

    def __init__(self, path: Path) -> None:
        self.authority = trustme.CA()
        self.server = self.authority.issue_cert("127.0.0.1", "localhost")
        client = self.authority.issue_cert("rank-0.example")
        self.ca, self.cert, self.key = path / "ca.pem", path / "client.pem", path / "client.key"
        self.authority.cert_pem.write_to_path(str(self.ca))
        client.cert_chain_pems[0].write_to_path(str(self.cert))
        client.private_key_pem.write_to_path(str(self.key))

    def credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        pair = (self.server.private_key_pem.bytes(), self.server.cert_chain_pems[0].bytes())
        return grpc.ssl_server_credentials(
            [pair], self.authority.cert_pem.bytes() if mutual else None, require_client_auth=mutual
        )


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"GRADNOISE_{name}", raising=False)


@pytest.fixture
def serve(pki: Pki) -> Iterator[Callable[..., FakeServer]]:
    servers: list[FakeServer] = []

    def start(*, tls: bool = False, mutual: bool = False, check: TokenCheck | None = None) -> FakeServer:
        credentials = pki.credentials(mutual=mutual) if tls or mutual else None
        servers.append(FakeServer(FakeIngest(), credentials=credentials, check=check))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def read(endpoint: str = THERE, **environment: object) -> Credentials:
    return Credentials.of_environment(
        endpoint, {f"GRADNOISE_{name}": str(value) for name, value in environment.items()}
    )


# --- what the environment may say


def test_without_anything_set_there_is_neither_encryption_nor_token() -> None:
    assert read() == read(TLS_CA=" ", TLS_CERT="", TLS_KEY="", TOKEN=" ") == Credentials()


def test_files_are_read_and_a_token_trimmed(pki: Pki) -> None:
    found = read(TLS_CA=pki.ca, TLS_CERT=pki.cert, TLS_KEY=pki.key, TOKEN=f"{SECRET}\n")
    assert found == Credentials(pki.ca.read_bytes(), pki.cert.read_bytes(), pki.key.read_bytes(), SECRET)
    assert SECRET not in repr(found)
    assert "PRIVATE KEY" not in repr(found)


def test_what_cannot_be_used_is_named_with_a_remedy(pki: Pki, tmp_path: Path) -> None:
    none, text = tmp_path / "none.pem", tmp_path / "text.pem"
    text.write_text("hello")
    other = tmp_path / "other.key"
    trustme.CA().issue_cert("x.example").private_key_pem.write_to_path(str(other))
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(pki.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pass"),
        )
    )
    for environment, said in (
        ({"TLS_CA": none}, f"GRADNOISE_TLS_CA={none} cannot be read (No such file or directory): set it to a PEM file"),
        ({"TLS_CA": text}, f"GRADNOISE_TLS_CA={text} holds no certificate"),
        ({"TLS_CA": tmp_path}, f"GRADNOISE_TLS_CA={tmp_path} cannot be read (Is a directory)"),
        ({"TLS_CA": pki.ca, "TLS_CERT": pki.cert}, "GRADNOISE_TLS_CERT is set without GRADNOISE_TLS_KEY"),
        ({"TLS_CA": pki.ca, "TLS_KEY": pki.key}, "GRADNOISE_TLS_KEY is set without GRADNOISE_TLS_CERT"),
        ({"TLS_CERT": pki.cert, "TLS_KEY": pki.key}, "GRADNOISE_TLS_CERT is set without GRADNOISE_TLS_CA"),
        ({"TLS_CA": pki.ca, "TLS_CERT": none, "TLS_KEY": pki.key}, f"GRADNOISE_TLS_CERT={none} cannot be read"),
        ({"TLS_CA": pki.ca, "TLS_CERT": pki.cert, "TLS_KEY": other}, f"and GRADNOISE_TLS_KEY={other} are no certif"),
        ({"TLS_CA": pki.ca, "TLS_CERT": pki.cert, "TLS_KEY": text}, "expected PEM files that belong together"),
        ({"TLS_CA": pki.ca, "TLS_CERT": pki.cert, "TLS_KEY": locked}, "the key without a passphrase"),
        ({"TLS_CA": pki.ca, "TOKEN": f"{SECRET} two"}, "GRADNOISE_TOKEN has characters that a bearer token cannot"),
        ({"TOKEN": SECRET}, f"GRADNOISE_TOKEN would travel unencrypted to {THERE}: set GRADNOISE_TLS_CA"),
    ):
        with pytest.raises(CredentialsError) as failure:
            read(**environment)
        assert said in str(failure.value)
        assert SECRET not in str(failure.value)


@pytest.mark.parametrize(
    ("endpoint", "loopback"),
    [
        ("localhost:1", True),
        ("LocalHost:1", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("127.0.0.1.evil.example:1", False),
        ("localhost.example:1", False),
        ("10.0.0.1:1", False),
        ("[::2]:1", False),
    ],
)
def test_a_token_travels_unencrypted_on_this_machine_only(endpoint: str, loopback: bool) -> None:
    assert is_loopback(endpoint) is loopback
    if loopback:
        assert read(endpoint, TOKEN=SECRET).token == SECRET
    else:
        with pytest.raises(CredentialsError):
            read(endpoint, TOKEN=SECRET)


def test_the_systems_roots_are_those_of_the_system(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.ca))
    assert read(TLS_CA="system").ca == pki.ca.read_bytes()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setattr("gradnoise.collector.credentials._ROOTS", (str(tmp_path / "nor-this"),))
    with pytest.raises(CredentialsError, match=r"this system keeps no file .* install its ca-certificates, or set"):
        read(TLS_CA="system")


# --- shipping with them


def test_tls_is_spoken_with_an_analyzer_whose_authority_is_trusted(
    tmp_path: Path, pki: Pki, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    dump_of(tmp_path)
    server = serve(tls=True)
    monkeypatch.setenv("GRADNOISE_TLS_CA", str(pki.ca))
    assert ship(tmp_path, server.endpoint).complete
    assert_stored(server.ingest, tmp_path)


def test_the_systems_roots_serve_too(
    tmp_path: Path, pki: Pki, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    dump_of(tmp_path)
    server = serve(tls=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.ca))
    monkeypatch.setenv("GRADNOISE_TLS_CA", "system")
    assert ship(tmp_path, server.endpoint).complete


def test_another_authority_is_not_trusted_and_named(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    dump_of(tmp_path / "d")
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    server = serve(tls=True)
    monkeypatch.setenv("GRADNOISE_TLS_CA", str(other))
    with pytest.raises(UnreachableError, match="is GRADNOISE_TLS_CA the authority that signed"):
        ship(tmp_path / "d", server.endpoint, grace=0.3)
    assert server.ingest.opens == 0


def test_a_client_without_a_certificate_is_kept_out_and_one_with_it_let_in(
    tmp_path: Path, pki: Pki, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    dump_of(tmp_path)
    server = serve(mutual=True)
    monkeypatch.setenv("GRADNOISE_TLS_CA", str(pki.ca))
    with pytest.raises(UnreachableError):
        ship(tmp_path, server.endpoint, grace=0.3)
    assert server.ingest.opens == 0
    monkeypatch.setenv("GRADNOISE_TLS_CERT", str(pki.cert))
    monkeypatch.setenv("GRADNOISE_TLS_KEY", str(pki.key))
    assert ship(tmp_path, server.endpoint).complete
    assert_stored(server.ingest, tmp_path)


@pytest.mark.parametrize("tls", [False, True])
def test_the_token_goes_with_every_call(
    tmp_path: Path, pki: Pki, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    dump_of(tmp_path)
    check = TokenCheck(SECRET)
    server = serve(tls=tls, check=check)
    if tls:
        monkeypatch.setenv("GRADNOISE_TLS_CA", str(pki.ca))
    monkeypatch.setenv("GRADNOISE_TOKEN", SECRET)
    assert ship(tmp_path, server.endpoint).complete
    assert check.calls == ["Open", "Append"]
    assert_stored(server.ingest, tmp_path)


def test_calls_that_stream_answers_only_carry_it_too() -> None:
    check = TokenCheck(SECRET)
    server = FakeServer(FakeIngest(), check=check)
    with open_channel(server.endpoint, credentials=Credentials(token=SECRET)) as channel:
        watch: Any = channel.unary_stream("/gradnoise.v1.Analysis/Watch")
        call = watch(b"")
        with pytest.raises(grpc.RpcError) as failure:
            next(call)
    server.stop()
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert check.calls == ["Watch"]


def test_a_refused_client_is_told_what_to_set_and_does_not_try_again(
    tmp_path: Path, serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    producer = dump_of(tmp_path)
    server = serve(check=TokenCheck(SECRET))
    with pytest.raises(EndpointError, match=r"UNAUTHENTICATED: not with None .*set GRADNOISE_TOKEN"):
        ship(tmp_path, server.endpoint)
    caplog.set_level(logging.DEBUG)
    wrong = SECRET.replace("s3", "t5")
    monkeypatch.setenv("GRADNOISE_TOKEN", wrong)
    with pytest.raises(RefusedError, match="PERMISSION_DENIED: not with Bearer … ") as failure:
        ship(tmp_path, server.endpoint)
    assert main([str(tmp_path), "--endpoint", server.endpoint, "--producer", producer]) == 1
    assert main([str(tmp_path), "--endpoint", server.endpoint]) == 1
    assert server.ingest.opens == 0
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert wrong not in str(failure.value) + caplog.text
    assert wrong.encode() not in written


def test_the_process_beside_a_training_takes_them_from_its_environment(
    tmp_path: Path,
    pki: Pki,
    serve: Callable[..., FakeServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = TokenCheck(SECRET)
    server = serve(mutual=True, check=check)
    for name, value in (("TLS_CA", pki.ca), ("TLS_CERT", pki.cert), ("TLS_KEY", pki.key), ("TOKEN", SECRET)):
        monkeypatch.setenv(f"GRADNOISE_{name}", str(value))
    model = mlp()
    optimizer = sgd(model)
    handle = attach(
        model, optimizer, endpoint=server.endpoint, dump=tmp_path, run="r", sampling=Sampling(burst=5, every=5)
    )
    train(model, optimizer, Data(), 10)
    process = handle._shipping._process  # type: ignore[union-attr]
    assert process is not None
    arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    handle.close(timeout=30)
    assert handle.stats().shipped == 40
    assert messages(caplog) == []
    assert_stored(server.ingest, tmp_path)
    everything = arguments + b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert Dump(tmp_path).producers()[0].encode() in everything
    assert SECRET.encode() not in everything
