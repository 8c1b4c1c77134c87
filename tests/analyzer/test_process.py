"""The analyzer as a process: killed, terminated, started twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gradnoise.client import Client
from gradnoise.v1 import ingest_pb2
from gradnoise.wire import Dump, Table

from ..servers import ServerProcess, until
from .producing import INFO, Producer, endless, reply, stamped_draws, stamped_window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gradnoise.wire import Stamped

PER_WINDOW = 4


class Sender(threading.Thread):
    """Streams batches from where the server says, 8 draws batches in flight, and remembers what was acknowledged.

    The last batch waits for ``go_on``: until then something is under way.
    """

    def __init__(self, address: str, producer: str, batches: int) -> None:
        super().__init__()
        self.producer = producer
        self.acknowledged = dict.fromkeys((Table.DRAWS, Table.WINDOWS), 0)
        self.failure: BaseException | None = None
        self._address = address
        self._batches = batches
        self.go_on = threading.Event()
        self._changed = threading.Condition()

    def run(self) -> None:
        try:
            with grpc.insecure_channel(self._address) as channel:
                producer = Producer(channel, producer=self.producer)
                state = producer.open()
                self._acknowledge(Table.DRAWS, state["draws"])
                self._acknowledge(Table.WINDOWS, state["windows"])
                for response in producer.stream(self._requests(producer, state)):
                    kind, table, count, *_ = reply(response)
                    if kind != "ack":
                        raise AssertionError(str(response))
                    self._acknowledge(Table(table), count)
        except (grpc.RpcError, AssertionError) as error:
            self.failure = error

    def _acknowledge(self, table: Table, count: int) -> None:
        with self._changed:
            self.acknowledged[table] = count
            self._changed.notify_all()

    def _requests(self, producer: Producer, state: dict[str, int]) -> Iterator[ingest_pb2.AppendRequest]:
        window = state["windows"]
        for count in range(state["draws"], self._batches + 1):
            while (window + 1) * PER_WINDOW <= count:
                yield producer.request(closing(window))
                window += 1
            if count == self._batches - 1:
                self.go_on.wait(60)
            if count < self._batches:
                with self._changed:
                    self._changed.wait_for(lambda count=count: count < self.acknowledged[Table.DRAWS] + 8, timeout=5)  # type: ignore[misc]
                yield producer.request(draws(count))


def draws(number: int) -> Stamped:
    return stamped_draws(number, 20, window=number // PER_WINDOW)


def closing(number: int) -> Stamped:
    return stamped_window(number, 20 * PER_WINDOW, window=number)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that does not run yet; whatever a test leaves running is killed."""
    process = ServerProcess(tmp_path / "data")
    yield process
    process.kill()


def test_sigkill_in_mid_ingest_keeps_every_acknowledged_batch_exactly_once(
    server: ServerProcess, tmp_path: Path
) -> None:
    batches, producers = 200, ["a" * 32, "b" * 32]
    acknowledged = {producer: dict.fromkeys((Table.DRAWS, Table.WINDOWS), 0) for producer in producers}
    # Acknowledgements of both producers at which the server is killed: early, late, and in between.
    for kill_at in (3, 150, 290, None):
        server.start()
        with grpc.insecure_channel(server.address) as channel:
            for producer in producers:
                known = Producer(channel, producer=producer).open()
                for table, count in acknowledged[producer].items():
                    assert known[table] >= count, "an acknowledged batch is gone"
        senders = [Sender(server.address, producer, batches) for producer in producers]
        for sender in senders:
            sender.start()
        if kill_at is not None:
            wait_for_acknowledgements(senders, kill_at)
            server.kill()
        for sender in senders:
            sender.go_on.set()
            sender.join(60)
            for table, count in sender.acknowledged.items():
                acknowledged[sender.producer][table] = max(acknowledged[sender.producer][table], count)
        assert all(isinstance(sender.failure, grpc.RpcError | None) for sender in senders), senders[0].failure
        assert [sender.failure is None for sender in senders] == [kill_at is None] * 2
    assert server.stop() == 0
    for producer in producers:
        assert acknowledged[producer] == {Table.DRAWS: batches, Table.WINDOWS: batches // PER_WINDOW}

    dump = Dump(tmp_path / "data" / "runs" / INFO.run)
    for producer in producers:
        for table, expected in ((Table.DRAWS, draws), (Table.WINDOWS, closing)):
            found = [(s.sequence, s.crc32) for s in dump.batches(table, producer)]
            assert found == [(i, expected(i).crc32) for i in range(acknowledged[producer][table])]
    assert dump.problems == []

    with server, Client(server.address) as client:
        until(lambda: client.run(INFO.run)["analysed"] == 2 * batches // PER_WINDOW, what="the analysis of all windows")
        rows = client.tail(INFO.run, form="per_parameter", group="a.weight").to_pylist()
    assert len({(row["producer"], row["window"]) for row in rows}) == len(rows) == 2 * batches // PER_WINDOW
    assert {row["draws"] for row in rows} == {20 * PER_WINDOW}
    assert {row["dropped"] for row in rows} == {0}


def wait_for_acknowledgements(senders: list[Sender], count: int) -> None:
    until(lambda: sum(sender.acknowledged[Table.DRAWS] for sender in senders) >= count, what="acknowledgements")


def test_sigterm_drains_and_the_next_start_goes_on(server: ServerProcess, tmp_path: Path) -> None:
    server.start()
    done = threading.Event()
    with grpc.insecure_channel(server.address) as channel:
        producer = Producer(channel)
        producer.open()
        stream = producer.stream(endless(producer.request(stamped_draws(0)), until=done))
        assert reply(next(stream)) == ("ack", "draws", 1)
        second = subprocess.run(_serve(tmp_path / "data"), capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert "in use by another server" in second.stderr
        assert "Traceback" not in second.stderr
        assert server.stop(signal.SIGTERM) == 0
        done.set()
        with pytest.raises(grpc.RpcError) as failure:
            next(stream)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [path.suffix for path in (tmp_path / "data" / "runs" / INFO.run).glob("draws-*")] == [".arrow"]
    with server, grpc.insecure_channel(server.address) as channel:
        assert Producer(channel, producer=producer.id).open()["draws"] == 1


def test_serve_says_where_it_listens_and_why_it_does_not(tmp_path: Path) -> None:
    command = [part for part in _serve(tmp_path / "data") if part != "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("gradnoise analyzer listening on 127.0.0.1:")
    port = line.rsplit(":", 1)[1].strip()
    taken = _serve(tmp_path / "other", port)
    other = subprocess.run(taken, capture_output=True, text=True, timeout=60, check=False)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "drained" in log
    assert other.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in other.stderr
    assert other.stdout == ""


def _serve(data: Path, port: str = "0") -> list[str]:
    command = [sys.executable, "-m", "gradnoise.cli", "serve", "--json"]
    return [*command, "--data", str(data), "--listen", f"127.0.0.1:{port}"]


def test_the_json_line_names_address_directory_and_process(tmp_path: Path) -> None:
    process = subprocess.Popen(_serve(tmp_path / "data"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    said: dict[str, Any] = json.loads(process.stdout.readline())
    process.terminate()
    process.communicate(timeout=60)
    assert said["data"] == str(tmp_path / "data")
    assert said["pid"] == process.pid
    assert said["address"].startswith("127.0.0.1:")
