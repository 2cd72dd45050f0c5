"""The Neo4j server that tests are given, runs on it that are theirs alone, and a wire to it that can be cut."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from aftershock import graph
from aftershock.folder import RunFolder
from aftershock.graph.neo4j import Neo4j
from aftershock.graph.rows import Rows
from tests.aftershock import runs

GOLDEN = Path(__file__).parents[1] / "golden" / "payments-pod-kill"
DEADLINE_S = 30.0  # a busy machine is slow


def url() -> str:
    """Where it is; without it a test that was asked for has failed."""
    found = os.environ.get("NEO4J_URI")
    if not found:
        pytest.fail("NEO4J_URI names no Neo4j server: set it, with NEO4J_USER and NEO4J_PASSWORD", pytrace=False)
    return found


class Place:
    """A corner of the server: run ids that nobody else has, taken away at the end."""

    def __init__(self) -> None:
        self.url = url()
        self._token = secrets.token_hex(3)
        self.ids: list[str] = []
        self.graph: Neo4j = graph.open_server(self.url, DEADLINE_S)

    def run_id(self) -> str:
        """One more run, of a time in which nobody ran anything."""
        number = len(self.ids)
        self.ids.append(f"19700101T{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}Z-{self._token}")
        return self.ids[-1]

    @property
    def experiment(self) -> str:
        """An experiment that only this place has runs of."""
        return f"payments-pod-kill-{self._token}"

    def write(self, reports: Path, change: Callable[[runs.Json], None] | None = None) -> RunFolder:
        """A run folder of its own."""

        def named(files: runs.Json) -> None:
            if change:
                change(files)
            files["run.json"]["experiment"] = self.experiment

        return runs.write(reports, named, run_id=self.run_id())

    def golden(self) -> Rows:
        """The golden run as one of its own."""
        return renamed(graph.rows_of(RunFolder.open(GOLDEN)), self.run_id())

    def golden_folder(self, reports: Path) -> RunFolder:
        """The golden run's folder as one of its own."""
        return golden_copy(reports, self.experiment, self.run_id())

    def count(self, run: str) -> tuple[int, int]:
        """Nodes and edges that the server holds of a run, whether or not the schema knows them."""
        nodes = self.graph.ask("MATCH (n {run_id: $run}) RETURN count(n) AS n", {"run": run})[0]["n"]
        edges = self.graph.ask("MATCH ()-[e {run_id: $run}]->() RETURN count(e) AS n", {"run": run})[0]["n"]
        return nodes, edges

    def close(self) -> None:
        """Take its runs away."""
        for run in self.ids:
            self.graph.remove_run(run)
        self.graph.close()


def golden_copy(
    reports: Path, experiment: str = "payments-pod-kill", run: str = "19700101T000000Z-00c0de"
) -> RunFolder:
    """The golden run's folder as another run's."""
    path = Path(shutil.copytree(GOLDEN, reports / experiment / run))
    known = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(known | {"run_id": run, "experiment": experiment}))
    return RunFolder.open(path)


@contextmanager
def place() -> Iterator[Place]:
    """A corner of the server for as long as it is needed."""
    corner = Place()
    try:
        yield corner
    finally:
        corner.close()


def renamed(rows: Rows, run: str) -> Rows:
    """The same run under another id."""
    old, copy = rows.run_id, Rows(run)

    def new(text: str) -> str:
        return run + text.removeprefix(old)

    copy.nodes = {label: {new(key): row | {"id": new(key), "run_id": run} for key, row in table.items()}
                  for label, table in rows.nodes.items()}  # fmt: skip
    copy.edges = {kind: {(new(a), new(b)): row | {"run_id": run} for (a, b), row in edges.items()}
                  for kind, edges in rows.edges.items()}  # fmt: skip
    return copy


class Wire:
    """A relay to the server that does something to its first connection once so many bytes have gone to the server.

    `cut` ends it, `deaf` ends it once the server has answered to these bytes (so that what was asked for is done and nobody learns
    it), `freeze` carries nothing more; with `for_good` later connections are refused too.
    """

    def __init__(self, target: str, after: int | None = None, how: str = "cut", *, for_good: bool = False) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 7687)
        self._after, self._how, self._for_good = after, how, for_good
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"bolt://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0  # bytes to the server, over all connections
        self.connections = 0
        self.struck = threading.Event()
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.struck.is_set() and self._for_good:
                client.close()
                continue
            self.connections += 1
            try:
                server = socket.create_connection(self._target, 10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._sockets += [client, server]
            for work in (self._up, self._down):
                thread = threading.Thread(target=work, args=(client, server), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self._after is not None and not self.struck.is_set() and self.sent + len(data) >= self._after:
                    data = data[: self._after - self.sent]
                    self.sent += len(data)
                    server.sendall(data)
                    self._strike(client, server)
                    if self._how != "freeze":
                        return
                    self._ended.wait()
                    return
                self.sent += len(data)
                server.sendall(data)
        _end(server)

    def _strike(self, client: socket.socket, server: socket.socket) -> None:
        self.struck.set()
        if self._how == "cut":
            _end(client), _end(server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if self.struck.is_set() and self.connections == 1:
                    if self._how == "freeze":
                        self._ended.wait()
                    break
                client.sendall(data)
        _end(client)
        _end(server)

    def close(self) -> None:
        """End all connections and threads."""
        self._ended.set()
        _end(self._listener)
        for one in self._sockets:
            _end(one)
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Armour:
    """TLS in front of the server, with a certificate for 127.0.0.1 that nobody vouches for; one connection after the other."""

    def __init__(self, target: str, folder: Path) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 7687)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(_certificate(folder))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.refused = 0  # handshakes that the client broke off
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                with (
                    self._context.wrap_socket(client, server_side=True) as inner,
                    socket.create_connection(self._target, 10) as server,
                ):
                    self._carry(inner, server)
            except OSError:
                self.refused += 1
                client.close()

    def _carry(self, inner: ssl.SSLSocket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(inner, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, inner)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    while inner.pending():
                        data += inner.recv(65536)
                    if not data:
                        return
                    key.data.sendall(data)

    def __enter__(self) -> Armour:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._listener)
        self._thread.join(10)


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "graph")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = folder / "graph.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + made.public_bytes(Encoding.PEM))
    return path


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
