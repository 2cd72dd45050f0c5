"""The supervisor and its forking parents, with real processes."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pocketkube import addresses, logs, processes
from pocketkube.errors import StartError
from pocketkube.supervisor import Process, SpawnError, Supervisor
from tests.pocketkube.node.sockets import run, until


@asynccontextmanager
async def supervisor(folder: Path) -> AsyncIterator[Supervisor]:
    before = signal.getsignal(signal.SIGCHLD)
    made = Supervisor(folder)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        signal.signal(signal.SIGCHLD, before)


async def start(made: Supervisor, folder: Path, *argv: str, image: str = "") -> tuple[Process, logs.ContainerLog]:
    log = logs.ContainerLog(folder / f"{len(os.listdir(folder))}.log")
    null = os.open(os.devnull, os.O_RDONLY)
    env = {"PATH": os.environ["PATH"], "GREETING": "hello"}
    try:
        streams = [null, log.write_end, log.write_end]
        if image:
            return await made.module(image, "body", argv[0], list(argv), env, folder, streams, "test"), log
        return await made.program(argv, env, folder, streams, "test"), log
    finally:
        os.close(null)
        log.started()


async def said(log: logs.ContainerLog) -> str:
    parts = [part async for part in logs.read(log._path, log, follow=True, tail=None, since_s=None, timestamps=False)]
    return b"".join(parts).decode()


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143)])
def test_exit_codes(script: str, code: int, tmp_path: Path) -> None:
    async def work() -> None:
        async with supervisor(tmp_path) as made:
            process, _ = await start(made, tmp_path, "sh", "-c", script)
            assert await process.exited == code

    run(work())


def test_a_module_runs_in_a_fork_as_python_m_would(tmp_path: Path) -> None:
    module = "import os, sys, threading\nprint(sys.argv[1:], os.environ['GREETING'], os.getcwd(), __name__, 'json' in sys.modules)\n"
    module += "threading.Thread(target=lambda: print('thread')).start()\nsys.exit(4)\n"
    (tmp_path / "greeting.py").write_text(module)

    async def work() -> None:
        async with supervisor(tmp_path) as made:
            await made.preloaded("greeter", ["json"])
            process, log = await start(made, tmp_path, "greeting", "a", "b", image="greeter")
            assert await process.exited == 4
            assert await said(log) == f"['a', 'b'] hello {tmp_path} __main__ True\nthread\n"

    run(work())


def test_what_a_module_raises_is_in_its_log_and_not_in_the_parent(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('no')\n")

    async def work() -> None:
        async with supervisor(tmp_path) as made:
            await made.preloaded("x", [])
            for _ in range(2):
                process, log = await start(made, tmp_path, "broken", image="x")
                assert await process.exited == 1
                assert "RuntimeError: no" in await said(log)

    run(work())


@pytest.mark.parametrize(
    ("program", "message"), [("absent", "not found in"), ("/absent", "not found"), ("/etc", "not found")]
)
def test_a_program_that_is_not_there(program: str, message: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with supervisor(tmp_path) as made:
            with pytest.raises(SpawnError, match=message):
                await start(made, tmp_path, program)

    run(work())


def test_too_large_an_environment_is_refused_by_name(tmp_path: Path) -> None:
    async def work() -> None:
        async with supervisor(tmp_path) as made:
            with pytest.raises(SpawnError, match="of test exceed"):
                await start(made, tmp_path, "true", "x" * 200_000)

    run(work())


def test_killing_takes_the_children_and_the_end_of_the_first_process_too(tmp_path: Path) -> None:
    async def work() -> None:
        async with supervisor(tmp_path) as made:
            for script, kill in (("sleep 100 & echo $!; wait", True), ("setsid sleep 100 & echo $!", False)):
                process, log = await start(made, tmp_path, "sh", "-c", script)
                await until(log._path.read_text, "its child")
                child = int(log._path.read_text().split()[-1])
                if kill:
                    process.kill()
                await process.exited
                await until(functools.partial(_ended, child), "the child ends")

    run(work())


def test_stop_ends_everything_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with supervisor(tmp_path) as made:
            process, _ = await start(made, tmp_path, "sh", "-c", "trap '' TERM; sleep 100 & sleep 100")
            await made.stop()
            assert process.exited.result() == 137
            assert made.living == []

    run(work())


def _ended(pid: int) -> bool:
    found = processes.stat(pid)
    return found is None or not found.alive


def test_the_record_drops_the_dead_and_keeps_the_living(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "COMPACT", 3)
    record = processes.Record(tmp_path / "processes.jsonl")
    me = processes.stat(os.getpid())
    assert me is not None
    record.add(me.pid, me.started, "me")
    for pid in range(4):
        record.add(me.pid, me.started + 1 + pid, "dead")
    assert record.living() == [(me.pid, "me")]
    assert len((tmp_path / "processes.jsonl").read_text().splitlines()) < 5


def test_a_log_is_bounded_and_read_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_MOST", 4000)

    async def read(log: logs.ContainerLog, **options: int) -> list[bytes]:
        asked: dict[str, Any] = {"tail": None, "since_s": None, **options}
        found = [part async for part in logs.read(log._path, None, follow=False, timestamps=False, **asked)]
        return b"".join(found).splitlines()

    async def work() -> None:
        log = logs.ContainerLog(tmp_path / "0.log")
        for number in range(300):
            os.write(log.write_end, b"line %d\n" % number)
            await asyncio.sleep(0)
        os.write(log.write_end, b"unfinished")
        log.close()
        kept = await read(log)
        assert kept[-2:] == [b"line 299", b"unfinished"]
        assert 50 < len(kept) < 300, "two files of 4000 bytes"
        assert await read(log, tail=2) == kept[-2:]
        assert await read(log, since_s=60) == kept

    run(work())
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= 8200


def test_following_a_log_ends_with_the_container(tmp_path: Path) -> None:
    async def work() -> None:
        async with supervisor(tmp_path) as made:
            process, log = await start(made, tmp_path, "sh", "-c", "echo a; sleep .1; echo b >&2; sleep .1; printf c")
            reading = asyncio.create_task(said(log))
            await process.exited
            log.close()
            assert await reading == "a\nb\nc\n"

    run(work())


def test_two_clusters_get_different_addresses_and_pods_their_own() -> None:
    first, bound = addresses.claim("seed")
    second, other = addresses.claim("seed")
    with bound, other:
        assert first != second
    given = addresses.Addresses(first)
    assert given.pod("a") == given.pod("a") == f"127.{first}.2.1"
    assert given.pod("b") == f"127.{first}.3.1"
    assert given.service("a", "web") == given.service("a", "web") == f"127.{first}.2.2"
    assert given.service("b", "web") == f"127.{first}.3.2"
    assert given.service("unknown", "web") is None
    given.release("a")
    assert given.pod("c") == f"127.{first}.4.1", "an address is not given again at once"
    assert given.cluster_ip({f"127.{first}.1.1"}) == f"127.{first}.1.2"
    pods = [given.pod(f"p{n}") for n in range(300)]
    assert len({p for p in pods if p}) == 251
    assert pods[-1] is None
    assert len({given.service("b", f"s{n}") for n in range(300)}) == addresses.PER_POD


def test_a_full_range_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "FIRST", 63)
    monkeypatch.setattr(addresses, "LAST", 63)
    held = [addresses.claim("x")[1] for _ in addresses.API_PORTS]
    try:
        with pytest.raises(StartError, match="no free cluster address"):
            addresses.claim("x")
    finally:
        for bound in held:
            bound.close()


def test_a_start_that_is_cancelled_leaves_no_process_and_no_answer_behind(tmp_path: Path) -> None:
    async def work() -> None:
        async with supervisor(tmp_path) as made:
            (tmp_path / "pids").touch()
            for turn in range(20):
                starting = asyncio.ensure_future(start(made, tmp_path, "sh", "-c", "echo $$ >> pids; exec sleep 100"))
                for _ in range(turn % 5):
                    await asyncio.sleep(0.0005)
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
            process, log = await start(made, tmp_path, "echo", "mine")
            assert await process.exited == 0
            assert await said(log) == "mine\n"
            await until(lambda: [p.name for p in made.living] == ["parent-root"], "the unwanted are ended")
            assert all(_ended(int(pid)) for pid in (tmp_path / "pids").read_text().split())

    run(work())
