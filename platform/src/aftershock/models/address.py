"""Where an Ollama server is: the forms of OLLAMA_HOST, as Ollama's own programs read them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from aftershock.errors import BadInput

PORT = 11434
_PORTS = {"http": 80, "https": 443}
_FORMS = "HOST, HOST:PORT, :PORT, [IPV6]:PORT or http(s)://HOST[:PORT][/PATH]"
_PARTS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*))(?::([0-9]*))?")
_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a server listens on is no address to call


@dataclass(frozen=True)
class Address:
    """One server; `host` has no brackets, `path` no slash at its end."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """Host and port, as people write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What the client is given."""
        return f"{self.scheme}://{self.netloc}{self.path}"

    @property
    def loopback(self) -> bool:
        """True if what is sent there stays on this machine; a name is not trusted to mean it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse(text: str | None) -> Address:
    """The address that OLLAMA_HOST means; loopback without one, and for `localhost` and addresses that mean "all of mine".

    Raises BadInput for what cannot be meant, such as a port that is none, and for a password, which would be shown.
    """
    given = (text or "").strip().strip("\"'").strip()
    scheme, found, rest = given.partition("://")
    if not found:
        scheme, rest = "http", given
    hostport, _, path = rest.partition("/")
    if "@" in rest:
        raise BadInput(
            "OLLAMA_HOST has a user or a password in it", hint="name the host only; OLLAMA_API_KEY is for keys"
        )
    try:  # an IPv6 address may come without brackets if no port follows it
        bare = str(ipaddress.IPv6Address(hostport))
    except ValueError:
        bare = ""
    match = _PARTS.fullmatch(f"[{bare}]" if bare else hostport)
    if scheme not in _PORTS or match is None or not re.fullmatch(r"[A-Za-z0-9._~/-]*", path):
        raise BadInput(f"OLLAMA_HOST is no address: {given[:80]!r}", hint=f"forms: {_FORMS}")
    six, name, digits = match.groups()
    port = int(digits) if digits else _PORTS[scheme] if found else PORT
    host = (six or name or "127.0.0.1").lower()
    if not 0 < port < 65536:
        raise BadInput(f"OLLAMA_HOST has no port: {digits}", hint="ports go from 1 to 65535")
    if six is not None:
        try:
            host = str(ipaddress.IPv6Address(six))
        except ValueError:
            raise BadInput(f"OLLAMA_HOST is no address: {given[:80]!r}", hint=f"forms: {_FORMS}") from None
    host = "127.0.0.1" if host == "localhost" else _ALL.get(host, host)
    return Address(scheme, host, port, f"/{path.rstrip('/')}" if path.strip("/") else "")
