"""The shop for real: one PostgreSQL, six services forked from one parent, each at an address of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.shop.collector import Collector

ROLES = ("catalog", "cart", "payments", "shipping", "orders", "storefront")
PORT, DATABASE_PORT = 7070, 6432
TOKEN = "operator-token-of-the-tests"
PASSWORD = "password-of-the-tests"
# One client with a connection per request: making a client costs 20 ms, and a kept connection hides a service that is gone.
ONCE = httpx.Client(verify=False, trust_env=False, timeout=5, limits=httpx.Limits(max_keepalive_connections=0))
HEADERS = {"X-Operator-Token": TOKEN}


def until(condition: Callable[[], Any], what: str, deadline_s: float = 12.0) -> Any:
    """Wait for a condition and return its value, or fail saying which."""
    ends = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < ends, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
    return value


@dataclass
class Process:
    """One service."""

    role: str
    pid: int
    url: str
    herd: Herd
    log: Path

    def kill(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, with_signal)

    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        found: int | None = self.herd.ask(poll=self.pid)["code"]
        return found

    def gone(self) -> int:
        """Wait for its end."""
        until(lambda: self.code() is not None, f"{self.role} ends")
        code = self.code()
        assert code is not None
        return code

    def get(self, path: str) -> httpx.Response:
        """One request on a connection of its own."""
        return ONCE.get(self.url + path)

    def ready(self) -> bool:
        """True if /readyz answers 200."""
        try:
            return self.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def metrics(self) -> str:
        """The text of /metrics."""
        return self.get("/metrics").text


class Herd:
    """The parent that forks services."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("herd.py"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, **command: Any) -> dict[str, Any]:
        """One command, one answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End it, and with it what it forked."""
        self._process.kill()
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            stream.close()


class Town:
    """Everything that runs; `start` adds a service, `close` ends all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.herd = Herd()
        self.net = self._claim()
        self.database_host = f"{self.net}.200"
        self.collector = Collector()
        self._next = 0
        self._database = self._postgres()
        self.main: dict[str, Process] = {}
        for role in ROLES:
            self.main[role] = self.start(role, ready=False)
        until(lambda: all(p.ready() for p in self.main.values()), "six services are ready", 30)

    def close(self) -> None:
        """End everything."""
        self.herd.close()
        self._database.terminate()
        self._database.wait(20)
        self.collector.close()
        self._lock.close()

    def start(self, role: str, weaknesses: str = "", *, ready: bool = True, **environment: str) -> Process:
        """One more service; peers are the first ones of their role unless `environment` says otherwise."""
        self._next += 1
        host = f"{self.net}.{self._next}"
        peers = {f"SHOP_{r.upper()}_URL": self.main[r].url for r in self.main}
        told = {
            "PATH": os.environ["PATH"], "POD_NAME": f"{role}-{self._next}", "NODE_NAME": "body", "SHOP_LISTEN_HOST": host,
            "SHOP_LISTEN_PORT": str(PORT), "SHOP_DATABASE_HOST": self.database_host, "SHOP_DATABASE_PORT": str(DATABASE_PORT),
            "SHOP_DATABASE_NAME": "shop", "SHOP_DATABASE_USER": "shop", "SHOP_DATABASE_PASSWORD": PASSWORD,
            "SHOP_OPERATOR_TOKEN": TOKEN, "SHOP_WEAKNESSES": weaknesses, "SHOP_DRAIN_S": "0.3",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url, **peers, **environment,
        }  # fmt: skip
        log = self.folder / f"{role}-{self._next}.log"
        pid = self.herd.ask(start=role, environment=told, log=str(log))["pid"]
        process = Process(role, pid, f"http://{host}:{PORT}", self.herd, log)
        if ready:
            until(process.ready, f"{role} is ready")
        return process

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What the database says."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    @property
    def conninfo(self) -> str:
        """How to reach the database."""
        return f"host={self.database_host} port={DATABASE_PORT} dbname=shop user=shop password={PASSWORD}"

    def ledger(self, since_us: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """All pages of the ledger."""
        lines: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            query = {"cursor": cursor, "limit": str(limit), "since_us": str(since_us)}
            answer = ONCE.get(self.main["orders"].url + "/ledger", params=query, headers=HEADERS)
            assert answer.status_code == 200, answer.text
            lines += [json.loads(line) for line in answer.text.splitlines()]
            cursor = lines[-1]["next"]
        return lines

    def _claim(self) -> str:
        """A 127.x.y that nobody else uses, held by a socket on its last address."""
        rng = random.Random(os.getpid())
        for _ in range(100):
            net = f"127.{rng.randrange(180, 220)}.{rng.randrange(256)}"
            self._lock = socket.socket()
            try:
                self._lock.bind((f"{net}.254", PORT))
            except OSError:
                self._lock.close()
                continue
            return net
        raise AssertionError("no free 127.x.y")

    def _postgres(self) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.environ["PATH"], "POSTGRES_USER": "shop", "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "shop",
            "PGDATA": str(self.folder / "pgdata"), "PGPORT": str(DATABASE_PORT), "PGHOST_LISTEN": self.database_host,
        }  # fmt: skip
        with (self.folder / "postgres.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pocketkube.postgres_image"], env=environment, stdout=log, stderr=log
            )

        def up() -> bool:
            assert process.poll() is None, (self.folder / "postgres.log").read_text()
            try:
                psycopg.connect(self.conninfo).close()
            except psycopg.OperationalError:
                return False
            return True

        until(up, "PostgreSQL answers", 30)
        return process


class Customer:
    """Somebody who buys at a storefront (or straight at an orders service)."""

    def __init__(self, town: Town, storefront: str | None = None) -> None:
        self.town = town
        self.client = httpx.Client(
            base_url=storefront or town.main["storefront"].url, timeout=5, verify=False, trust_env=False
        )

    def cart(self, sku: str = "sku-001", quantity: int = 1) -> str:
        """A cart with one line."""
        answer = self.client.post("/carts", json={"items": [{"sku": sku, "quantity": quantity}]})
        assert answer.status_code == 201, answer.text
        cart_id: str = answer.json()["cart_id"]
        return cart_id

    def checkout(self, cart_id: str, key: str, at: str | None = None) -> httpx.Response:
        """Check out; `at` goes straight to an orders service."""
        return self.client.post(
            f"{at or ''}/checkout", json={"cart_id": cart_id, "customer": "ada"}, headers={"Idempotency-Key": key}
        )

    def order(self, order_id: str) -> dict[str, Any]:
        """The order as the shop tells it."""
        answer = self.client.get(f"/orders/{order_id}")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


def keys(prefix: str) -> Iterator[str]:
    """Fresh idempotency keys."""
    stamp = f"{prefix}-{time.monotonic_ns()}"
    n = 0
    while True:
        n += 1
        yield f"{stamp}-{n}"
