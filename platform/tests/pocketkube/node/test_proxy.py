"""The proxy on real connections."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from pocketkube.flow import Rule
from pocketkube.proxy import Proxy
from pocketkube.proxy_control import _plain, endpoints
from tests.pocketkube.node.sockets import echo, free_port, named, run, server, until

CALLER, CALLEE = "caller-uid", "callee-uid"


class Set:
    """A proxy with one Service on one port, called by one pod."""

    def __init__(self) -> None:
        self.proxy = Proxy()
        self.port = free_port()
        self.endpoints: list[list[Any]] = []
        self.rules: list[Rule] = []
        self.source: str | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def apply(self) -> list[list[Any]]:
        return await self.proxy.apply({
            "services": {"s": self.endpoints}, "rules": [_plain(r) for r in self.rules],
            "listeners": [["127.0.0.1", self.port, "s", CALLER, self.source]],
        })  # fmt: skip

    async def to(self, *addresses: tuple[str, int]) -> None:
        self.endpoints = [[host, port, CALLEE] for host, port in addresses]
        assert await self.apply() == []

    async def under(self, *rules: Rule) -> None:
        self.rules = list(rules)
        await self.apply()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        opened = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(opened[1])
        return opened

    async def __aenter__(self) -> Set:
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        self.proxy.close()

    async def ask(self) -> bytes:
        reader, writer = await self.connect()
        data = await reader.read(100)
        writer.close()
        return data


def delay(sources: set[str] | None, targets: set[str] | None, latency_s: float = 0.15) -> Rule:
    return Rule(
        "r",
        "delay",
        frozenset(sources) if sources else None,
        frozenset(targets) if targets else None,
        latency_s=latency_s,
    )


async def round_trip_s(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    begun = time.perf_counter()
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"
    return time.perf_counter() - begun


def test_half_close_reaches_the_other_side_and_the_answer_comes_back() -> None:
    async def at_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.read())

    async def work() -> None:
        async with Set() as s, server(at_end) as address:
            await s.to(address)
            reader, writer = await s.connect()
            writer.write(b"x" * 100_000)
            writer.write_eof()
            assert await reader.read() == b"got " + b"x" * 100_000
            writer.close()
            await until(lambda: not s.proxy.connections, "the connection is forgotten")

    run(work())


def test_endpoints_take_turns_and_a_refusing_one_is_passed_over() -> None:
    async def work() -> None:
        async with Set() as s, server(named(b"a")) as a, server(named(b"b")) as b:
            await s.to(a, b)
            assert sorted([await s.ask() for _ in range(4)]) == [b"a", b"a", b"b", b"b"]
            await s.to(("127.0.0.1", free_port()), b)
            assert {await s.ask() for _ in range(4)} == {b"b"}

    run(work())


def test_without_endpoints_connections_are_refused_and_established_ones_stay() -> None:
    async def work() -> None:
        async with Set() as s, server(echo) as address:
            await s.to(address)
            reader, writer = await s.connect()
            await round_trip_s(reader, writer)
            await s.to()
            with pytest.raises(ConnectionRefusedError):
                await s.connect()
            await round_trip_s(reader, writer)
            writer.close()

    run(work())


def test_when_all_endpoints_refuse_the_client_sees_a_reset() -> None:
    async def work() -> None:
        async with Set() as s:
            await s.to(("127.0.0.1", free_port()))
            reader, writer = await s.connect()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run(work())


def test_the_callee_sees_the_callers_address() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("peername")[0].encode())

    async def work() -> None:
        async with Set() as s:
            s.source = "127.61.9.1"
            async with server(peer) as address:
                await s.to(address)
                assert await s.ask() == b"127.61.9.1"

    run(work())


def test_a_client_that_resets_is_a_reset_for_the_server() -> None:
    seen: list[str] = []

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.append(repr(await reader.read()))
        except ConnectionResetError:
            seen.append("reset")

    async def work() -> None:
        async with Set() as s, server(watch) as address:
            await s.to(address)
            _, writer = await s.connect()
            await until(
                lambda: s.proxy.connections and next(iter(s.proxy.connections))._server.transport,
                "upstream is there",
            )
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            writer.transport.abort()
            await until(lambda: seen, "the server has noticed")
            assert seen == ["reset"]

    run(work())


def test_a_slow_reader_slows_the_writer_and_nothing_is_lost() -> None:
    async def work() -> None:
        async with Set() as s:
            go = asyncio.Event()
            got = 0

            async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal got
                await go.wait()
                while data := await reader.read(1 << 20):
                    got += len(data)
                writer.write(b"done")

            async with server(slow) as address:
                await s.to(address)
                client = socket.create_connection(("127.0.0.1", s.port))
                client.setblocking(False)
                sent, loop, idle = 0, asyncio.get_running_loop(), 0
                while idle < 20:
                    try:
                        sent += client.send(b"x" * 65536)
                        idle = 0
                    except BlockingIOError:
                        idle += 1
                        await asyncio.sleep(0.01)
                    assert sent < 64 << 20, "the proxy takes everything"
                go.set()
                client.shutdown(socket.SHUT_WR)
                assert await loop.sock_recv(client, 10) == b"done"
                assert got == sent
                client.close()

    run(work())


@pytest.mark.parametrize(
    ("sources", "targets"), [({CALLER}, {CALLEE}), ({CALLEE}, {CALLER}), (None, {CALLEE}), ({CALLEE}, None)]
)
def test_delay_in_one_direction_acts_on_existing_and_new_connections(
    sources: set[str] | None, targets: set[str] | None
) -> None:
    async def work() -> None:
        async with Set() as s, server(echo) as address:
            await s.to(address)
            reader, writer = await s.connect()
            assert await round_trip_s(reader, writer) < 0.15
            await s.under(delay(sources, targets))
            assert 0.15 <= await round_trip_s(reader, writer) < 0.3
            fresh = await s.connect()
            assert 0.3 <= await round_trip_s(*fresh) < 0.6, "its handshake is late too"
            await s.under()
            assert await round_trip_s(reader, writer) < 0.15
            for end in (writer, fresh[1]):
                end.close()

    run(work())


def test_delay_both_ways_is_felt_twice_and_other_pods_feel_nothing() -> None:
    async def work() -> None:
        async with Set() as s, server(echo) as address:
            await s.to(address)
            reader, writer = await s.connect()
            await round_trip_s(reader, writer)
            await s.under(
                delay({CALLER}, {CALLEE}, 0.1),
                Rule("q", "delay", frozenset({CALLEE}), frozenset({CALLER}), latency_s=0.1),
            )
            assert 0.2 <= await round_trip_s(reader, writer) < 0.4
            await s.under(delay({"other"}, {CALLEE}), delay({CALLER}, {"other"}))
            assert await round_trip_s(reader, writer) < 0.15
            writer.close()

    run(work())


def test_partition_stalls_without_a_reset_and_a_client_that_gave_up_is_never_heard() -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            heard.append(data)
            writer.write(data)

    async def work() -> None:
        async with Set() as s, server(listen) as address:
            await s.to(address)
            reader, writer = await s.connect()
            await round_trip_s(reader, writer)
            await s.under(Rule("p", "partition", frozenset({CALLER}), frozenset({CALLEE})))
            writer.write(b"held")
            impatient = await s.connect()
            impatient[1].write(b"lost")
            patient = await s.connect()
            patient[1].write(b"late")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(reader.read(1))), 0.2)
            impatient[1].close()
            await asyncio.sleep(0.05)
            assert heard == [b"ping"]
            await s.under()
            assert await patient[0].readexactly(4) == b"late"
            await until(lambda: b"held" in heard, "bytes of the established connection arrive after the partition")
            assert b"lost" not in heard
            for end in (writer, patient[1]):
                end.close()

    run(work())


def test_an_address_that_is_taken_is_reported() -> None:
    async def work() -> None:
        async with Set() as s, server(echo) as address:
            s.port = address[1]
            s.endpoints = [["127.0.0.1", 1, None]]
            failed = await s.apply()
            assert failed[0][:2] == ["127.0.0.1", s.port]

    run(work())


def slice_of(*entries: tuple[str, dict[str, bool]]) -> dict[str, Any]:
    return {"ports": [{"name": "http", "port": 7070}],
            "endpoints": [{"addresses": [ip], "conditions": conditions, "targetRef": {"kind": "Pod", "uid": f"u{ip}"}}
                          for ip, conditions in entries]}  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([("1", {"ready": True}), ("2", {"ready": False})], ["1"]),
        ([("1", {})], ["1"]),
        ([("1", {"ready": False, "serving": True, "terminating": True})], ["1"]),
        ([("1", {"ready": False, "serving": True, "terminating": True}), ("2", {"ready": True})], ["2"]),
        ([("1", {"ready": False, "serving": False, "terminating": True})], []),
        ([], []),
    ],
)
def test_ready_endpoints_of_a_slice(entries: list[tuple[str, dict[str, bool]]], expected: list[str]) -> None:
    assert endpoints([slice_of(*entries)], "http") == [[ip, 7070, f"u{ip}"] for ip in expected]
    assert endpoints([slice_of(*entries)], "metrics") == []


def test_an_endpoint_outside_the_cluster_has_no_pod() -> None:
    outside = {"ports": [{"name": "", "port": 4318}], "endpoints": [{"addresses": ["127.0.0.1"]}]}
    assert endpoints([outside], "") == [["127.0.0.1", 4318, None]]
