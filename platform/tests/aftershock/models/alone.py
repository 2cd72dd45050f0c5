"""`python -m tests.aftershock.models.alone REPORTS RUN up|away|absent`, in a network namespace of its own.

Words a postmortem and prints one JSON document with all that it contacted. Three witnesses: what Python connects to and looks up
(audit hook), the kernel's count of packets for which there was no way out (native code is in it too), and a trap at which the proxies
of the environment point.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from tests.aftershock.models.small_ollama import serving

SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP, IFF_RUNNING = 0x8914, 0x8916, 0x1, 0x40
AWAY, OUT, OUT6 = "192.0.2.9", "203.0.113.1", "2001:db8::1"  # RFC 5737 and 3849: addresses of nobody
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
WATCHED = (
    "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
    "subprocess.Popen",
)  # fmt: skip


def loopback_up() -> None:
    """What `ip link set lo up` does, and an address that is not of loopback, but answered here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING))
        place = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(AWAY))
        fcntl.ioctl(any_socket, SIOCSIFADDR, place)


def no_way_out() -> int:
    """How often this namespace wanted to send something and had no route for it."""
    names, values = (
        line.split()[1:] for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")
    )
    six = Path("/proc/net/snmp6")
    lines = six.read_text().splitlines() if six.exists() else []
    more = sum(int(line.split()[1]) for line in lines if line.startswith("Ip6OutNoRoutes"))
    return int(dict(zip(names, values, strict=True))["OutNoRoutes"]) + more


@contextmanager
def recorded() -> Iterator[list[list[Any]]]:
    """What Python contacts, looks up and starts meanwhile."""
    seen: list[list[Any]] = []
    on = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if on[0] and event in WATCHED:
            seen.append([event, repr(arguments[1 if event in WATCHED[:3] else 0])])

    sys.addaudithook(hook)
    yield seen
    on[0] = False


def goes_out(family: socket.AddressFamily, host: str) -> bool:
    """Whether the namespace lets a connection leave it."""
    try:
        with socket.socket(family) as out:
            out.settimeout(1)
            out.connect((host, 80))
    except OSError:
        return False
    return True


def main(reports: str, run: str, server: str) -> None:
    """Word the postmortem of a run; `absent` leaves OLLAMA_HOST unset."""
    loopback_up()
    with ExitStack() as stack:
        small = stack.enter_context(serving(AWAY if server == "away" else "127.0.0.1"))
        trap = stack.enter_context(serving())
        os.environ |= dict.fromkeys(PROXIES, f"http://{trap.host}")
        if server != "absent":
            os.environ["OLLAMA_HOST"] = small.host
        from aftershock import cli

        before = no_way_out()
        with redirect_stdout(StringIO()), recorded() as seen:
            code = cli.main(
                ["postmortem", run, "--reports", reports, "--graph", f"{reports}/g.lbug", "--model", "ollama:small"]
            )
        tried = no_way_out() - before
        out = [goes_out(socket.AF_INET, OUT), goes_out(socket.AF_INET6, OUT6)]
        counted = no_way_out() - before - tried
        print(json.dumps({"code": code, "seen": seen, "no_way_out": tried, "control": {"out": out, "counted": counted},
                          "trap": len(trap.seen), "asked": len(small.questions), "at": [small.address, small.port]}))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
