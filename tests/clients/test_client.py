from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

import gradnoise.client
from gradnoise.analyzer import handlers
from gradnoise.analyzer.config import Limits, ServerConfig
from gradnoise.analyzer.server import Server
from gradnoise.client import (
    Client,
    ClientError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    TooFewValuesError,
    UnreachableError,
)
from gradnoise.wire.results import ALIGNMENT_SCHEMA, FIT_SCHEMA, RUNS_SCHEMA, TAIL_SCHEMA

from ..analyzer.measuring import hessian, send_curvature
from ..analyzer.producing import INFO, Producer, idle
from ..servers import free_port
from .conftest import add_windows

if TYPE_CHECKING:
    from pathlib import Path

    from ..analyzer.conftest import Serve

Analyzer = tuple[str, Server]


def test_runs_and_tail_are_tables_of_documented_columns(analyzer: Analyzer) -> None:
    address, _ = analyzer
    with Client(address) as client:
        runs = client.runs()
        assert runs.schema.equals(RUNS_SCHEMA, check_metadata=True)
        assert client.run("wide") == runs.to_pylist()[0]
        tail = client.tail("wide")
        assert tail.schema.equals(TAIL_SCHEMA, check_metadata=True)
        # Each window has nine rows here and nine of alignment, numbered as one.
        assert tail.column("row").to_pylist() == [*range(1, 10), *range(19, 28)]
        assert client.tail("wide", form="across_parameter", group="*").num_rows == 2
        assert client.tail("wide", steps=(0, 0)).num_rows == 18
        assert client.tail("wide", steps=(1000, None)).equals(TAIL_SCHEMA.empty_table())


def test_a_run_is_known_from_its_registration_on(serve: Serve) -> None:
    server, channel = serve()
    Producer(channel, INFO).open()
    with Client(server.address) as client:
        assert client.info(INFO.run) == INFO
        row = client.run(INFO.run)
        assert list(row) == RUNS_SCHEMA.names
        assert (row["groups"], row["producers"], row["windows"], row["analysed"]) == (2, 1, 0, 0)


def test_the_target_comes_from_the_environment(analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        assert client.target == analyzer[0]
        assert client.runs().num_rows == 1
    monkeypatch.delenv("GRADNOISE_ENDPOINT")
    with Client() as client:
        assert client.target == "localhost:50051"


def test_what_is_not_there_is_named(analyzer: Analyzer) -> None:
    with Client(analyzer[0]) as client:
        for ask in (client.run, client.info):
            with pytest.raises(NotFoundError, match="the runs here are: wide"):
                ask("x")
        with pytest.raises(NotFoundError, match="the runs here are: wide"):
            client.tail("x")
        with pytest.raises(NotFoundError, match="its groups are"):
            client.tail("wide", group="x")
        with pytest.raises(InvalidInputError, match="the forms are"):
            client.tail("wide", form="x")
        with pytest.raises(NotFoundError):
            next(client.watch("x"))
        with pytest.raises(InvalidInputError, match="behind"):
            client.tail("wide", steps=(5, 1))


def test_fits_and_what_cannot_be_fitted(analyzer: Analyzer) -> None:
    values = np.random.default_rng(0).standard_normal(300)
    with Client(analyzer[0]) as client:
        table = client.fit(values)
        assert table.schema.equals(FIT_SCHEMA, check_metadata=True)
        assert "location" in table.column("parameter").to_pylist()
        assert "location" not in client.fit(list(values), location=False).column("parameter").to_pylist()
        with pytest.raises(TooFewValuesError, match="at least 30"):
            client.fit(values[:29])
        for bad in (["a"] * 40, np.ones((2, 30)), np.ones(40), np.full(40, np.nan)):
            with pytest.raises(InvalidInputError):
                client.fit(bad)


def test_an_address_where_nobody_answers() -> None:
    with Client(f"127.0.0.1:{free_port()}", timeout=5) as client:
        for call in (
            client.runs,
            lambda: client.tail("x"),
            lambda: next(client.watch("x")),
            lambda: client.fit(np.arange(30.0)),
            lambda: client.wait_ready(0.1),
        ):
            with pytest.raises(UnreachableError, match="gradnoise serve"):
                call()


def test_an_answer_that_does_not_come_in_time(analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    answer = handlers.runs

    def slow(service: handlers.Service) -> object:
        go_on.wait(30)
        return answer(service)

    monkeypatch.setattr(handlers, "runs", slow)
    with Client(analyzer[0], timeout=0.2) as client, pytest.raises(UnreachableError, match="Deadline"):
        client.runs()
    go_on.set()


def test_other_failures_are_client_errors(analyzer: Analyzer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(service: handlers.Service) -> None:
        raise RuntimeError("inside")

    monkeypatch.setattr(handlers, "runs", broken)
    with Client(analyzer[0]) as client, pytest.raises(ClientError, match="answered INTERNAL") as failure:
        client.runs()
    assert type(failure.value) is ClientError


def test_a_limit_is_an_error_of_its_own(serve: Serve) -> None:
    server, channel = serve(limits=Limits(watchers=0))
    add_windows(server, channel, range(1))
    with Client(server.address) as client, pytest.raises(OverloadedError, match="watch calls"):
        next(client.watch("wide"))


def test_watching_yields_what_there_is_and_then_what_comes(analyzer: Analyzer) -> None:
    address, server = analyzer
    with Client(address) as client, grpc.insecure_channel(address) as channel:
        watching = client.watch("wide", form="per_parameter", group="*")
        first = [next(watching) for _ in range(2)]
        assert [row["window"] for row in first] == [0, 1]
        assert list(first[0]) == TAIL_SCHEMA.names
        arrived = threading.Event()
        later: list[int] = []

        def wait() -> None:
            later.append(next(watching)["window"])
            arrived.set()

        thread = threading.Thread(target=wait)
        thread.start()
        add_windows(server, channel, range(2, 3))
        assert arrived.wait(30)
        thread.join()
        assert later == [2]
        watching.close()
        resumed = client.watch("wide", after_row=first[1]["row"], form="per_parameter", group="*")
        assert next(resumed)["window"] == 2
        resumed.close()


def test_watching_goes_on_over_restarts_without_gap_or_repeat(tmp_path: Path) -> None:
    port = free_port()
    config = ServerConfig(tmp_path / "data", f"127.0.0.1:{port}", drain_seconds=5)
    rows: list[int] = []
    with Client(f"127.0.0.1:{port}", timeout=30) as client:
        server = Server(config)
        server.start()
        with grpc.insecure_channel(client.target) as channel:
            add_windows(server, channel, range(1))
        watching = client.watch("wide")
        rows += [next(watching)["row"] for _ in range(5)]
        for number in (1, 2):
            assert server.stop()
            server = Server(config)
            server.start()
            with grpc.insecure_channel(client.target) as channel:
                add_windows(server, channel, range(number, number + 1))
            rows += [next(watching)["row"] for _ in range(9)]
        rows += [next(watching)["row"] for _ in range(4)]
        assert rows == client.tail("wide").column("row").to_pylist()
        assert len(set(rows)) == 27
        assert server.stop()
        client._timeout = 0.3
        with pytest.raises(UnreachableError):
            next(watching)


@pytest.fixture
def measured(serve: Serve) -> tuple[Client, Producer]:
    """A client of an analyzer that has one measurement of two parts, and its producer."""
    server, channel = serve()
    producer = Producer(channel)
    producer.open()
    send_curvature(producer, 0, 100, [hessian(100, "a.*"), hessian(100)])
    idle(server.service.store, server.service.catalog)
    return Client(server.address), producer


def test_alignment_is_a_table_of_documented_columns_that_can_be_asked_for_in_part(
    measured: tuple[Client, Producer],
) -> None:
    client, _ = measured
    with client:
        table = client.alignment(INFO.run)
        assert table.schema.equals(ALIGNMENT_SCHEMA, check_metadata=True)
        assert set(table.column("part").to_pylist()) == {"a.*", "*"}
        assert client.alignment(INFO.run, part="a.*", metric="gamma").num_rows == 1
        assert client.alignment(INFO.run, steps=(100, 100)).num_rows == table.num_rows
        assert client.alignment(INFO.run, steps=(101, None)).equals(ALIGNMENT_SCHEMA.empty_table())
        assert client.tail(INFO.run).num_rows == 0
        with pytest.raises(NotFoundError, match="its parts are: "):
            client.alignment(INFO.run, part="x")
        with pytest.raises(InvalidInputError, match="the metrics are: loss, gamma"):
            client.alignment(INFO.run, metric="x")
        with pytest.raises(InvalidInputError, match="behind"):
            client.alignment(INFO.run, steps=(2, 1))
        with pytest.raises(NotFoundError, match="its parts are: "):
            next(client.watch_alignment(INFO.run, part="x"))


def test_alignment_is_watched_as_it_comes_and_resumed(measured: tuple[Client, Producer]) -> None:
    client, producer = measured
    with client:
        rows = client.watch_alignment(INFO.run, part="*", metric="gamma")
        first = next(rows)
        send_curvature(producer, 1, 200, [hessian(200)])
        second = next(rows)
        rows.close()
        assert [row["first_step"] for row in (first, second)] == [100, 200]
        resumed = client.watch_alignment(INFO.run, metric="gamma", steps=(150, None), after_row=first["row"])
        assert next(resumed) == second
        resumed.close()


def test_every_name_is_exported() -> None:
    assert gradnoise.client.__all__ == [
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
