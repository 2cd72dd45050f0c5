"""Probes against real servers: what they say, and when a verdict changes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pocketkube import probes
from pocketkube.probes import Report, Result, Target
from tests.pocketkube.node.sockets import echo, free_port, run, server, until


async def no_exec(argv: list[str]) -> tuple[int, str]:
    return (0, "") if argv == ["true"] else (1, "sick\n")


def target(port: int) -> Target:
    return Target("127.0.0.1", "127.0.0.1", {"http": port}, no_exec)


def http(status: bytes) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(status)

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize(
    ("serve", "handler", "expected"),
    [
        (http(b"HTTP/1.1 200 OK\r\n\r\n"), {"httpGet": {"port": "http", "path": "/"}}, Result(True)),
        (http(b"HTTP/1.1 503 No\r\n\r\n"), {"httpGet": {"port": "http"}}, Result(False, "HTTP probe failed with statuscode: 503")),
        (http(b"HTTP/1.1 302 Go\r\n\r\n"), {"httpGet": {"port": "http"}}, Result(True)),
        (echo, {"tcpSocket": {"port": "http"}}, Result(True)),
        (echo, {"exec": {"command": ["true"]}}, Result(True)),
        (echo, {"exec": {"command": ["false"]}}, Result(False, "sick")),
    ],
)  # fmt: skip
def test_what_a_probe_says(serve: Any, handler: dict[str, Any], expected: Result) -> None:
    async def work() -> None:
        async with server(serve) as (_, port):
            assert await probes.check(handler, target(port), 1.0) == expected

    run(work())


@pytest.mark.parametrize(
    ("handler", "words"),
    [({"httpGet": {"port": "http", "path": "/x"}}, 'Get "http://127.0.0.1:{}/x": dial tcp 127.0.0.1:{}: connect: connection refused'),
     ({"tcpSocket": {"port": "http"}}, "dial tcp 127.0.0.1:{}: connect: connection refused"),
     ({"grpc": {"port": 1}}, "no handler among ['grpc']")],
)  # fmt: skip
def test_why_it_failed(handler: dict[str, Any], words: str) -> None:
    async def work() -> None:
        port = free_port()
        assert await probes.check(handler, target(port), 1.0) == Result(False, words.replace("{}", str(port)))

    run(work())


def test_no_answer_in_time_is_a_failure() -> None:
    async def work() -> None:
        async with server(silent) as (_, port):
            result = await probes.check({"httpGet": {"port": "http"}}, target(port), 0.1)
            assert not result.success
            assert "context deadline exceeded" in result.message

    run(work())


def test_a_startup_probe_asks_often_counts_once_a_period_and_ends_with_its_success() -> None:
    async def work() -> None:
        told: list[Report] = []
        port = free_port()
        probe = {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 60}
        watching = asyncio.create_task(probes.watch("startup", probe, target(port), told.append))
        await until(lambda: told, "the first failure")
        await asyncio.sleep(0.3)
        assert len(told) == 1, "three more tries within the period do not count"
        async with server(echo, port=port):
            await asyncio.wait_for(watching, 0.6)
        assert told[-1] == Report("startup", True)

    run(work())


def test_verdicts_change_only_at_their_thresholds() -> None:
    answers = iter([True, False, True, False, False, False, True, True, True])

    async def scripted(argv: list[str]) -> tuple[int, str]:
        return (0, "") if next(answers) else (1, "no")

    async def work() -> None:
        told: list[Report] = []
        probe = {"exec": {"command": []}, "periodSeconds": 0.02, "failureThreshold": 2, "successThreshold": 2}
        watching = asyncio.create_task(
            probes.watch("liveness", probe, Target("", "", {}, scripted), told.append)
        )  # fmt: skip
        with pytest.raises(RuntimeError, match="StopIteration"):
            await watching
        assert [r.success for r in told if r.success is not None] == [False, True]
        assert len([r for r in told if r.success is None]) == 4, "each failure is told"

    run(work())


def test_a_network_fault_makes_a_probe_fail_without_asking() -> None:
    async def work() -> None:
        told: list[Report] = []

        async def cut() -> bool:
            await asyncio.sleep(0)
            return True

        probe = {"tcpSocket": {"port": "http"}, "periodSeconds": 0.01, "failureThreshold": 1}
        async with server(echo) as (_, port):
            watching = asyncio.create_task(probes.watch("readiness", probe, target(port), told.append, disturbed=cut))
            await until(lambda: told, "a failure")
            assert "i/o timeout" in told[0].failure
            watching.cancel()

    run(work())
