"""Where a graph server is and who asks: its URL, which carries no secret, and user and password from the environment or a file."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from aftershock.errors import BadInput
from aftershock.settings import Settings

SCHEMES = ("neo4j", "neo4j+s", "neo4j+ssc", "bolt", "bolt+s", "bolt+ssc")
FORMS = "neo4j://HOST[:PORT] or bolt://HOST[:PORT], with +s for TLS and +ssc for TLS with a certificate of one's own"
PASSWORD_MAX = 4096


def is_server(text: str) -> bool:
    """True if a graph is named by a URL and not by a path."""
    return "://" in text


def checked(text: str) -> str:
    """The URL of a graph server, as it may be shown. Raises BadInput, which never repeats what could be a secret."""
    scheme, _, rest = text.partition("://")
    if "@" in rest:
        raise BadInput("the URL of a graph must not carry a user or a password: others can read command lines",
                       hint="put them into NEO4J_USER and NEO4J_PASSWORD, or name a file by NEO4J_PASSWORD_FILE")  # fmt: skip
    if scheme.lower() not in SCHEMES:
        raise BadInput("this is no URL of a graph server", hint=f"give a path, or {FORMS}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise BadInput("the URL of the graph server is malformed", hint=FORMS) from None
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BadInput("the URL of a graph server is a scheme, a host and perhaps a port",
                       hint=f"{FORMS}; a database other than the default one is named by NEO4J_DATABASE")  # fmt: skip
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


@dataclass(frozen=True)
class Login:
    """Who asks a graph server; without a user the server must not want one."""

    user: str | None
    password: str | None = field(repr=False)
    database: str | None = None  # None is the user's home database

    @classmethod
    def of(cls, settings: Settings) -> Login:
        """From the settings. Raises BadInput if they contradict each other or others can read the file."""
        if settings.neo4j_password and settings.neo4j_password_file:
            raise BadInput("both NEO4J_PASSWORD and NEO4J_PASSWORD_FILE are set", hint="unset one of them")
        password = settings.neo4j_password
        if settings.neo4j_password_file:
            password = _read(Path(settings.neo4j_password_file))
        if settings.neo4j_user and password is None:
            raise BadInput("NEO4J_USER is set, but no password", hint="set NEO4J_PASSWORD or NEO4J_PASSWORD_FILE")
        user = settings.neo4j_user or ("neo4j" if password is not None else None)
        return cls(user, password, settings.neo4j_database)


def _read(path: Path) -> str:
    """The password in a file that its owner alone can read, or root's group too, as Kubernetes mounts secrets for a group."""
    try:
        found = path.stat()
        allowed = 0o640 if found.st_uid == 0 else 0o600
        if stat.S_IMODE(found.st_mode) & 0o777 & ~(allowed | 0o100):
            raise BadInput(f"{path}: others can read or change this password file", hint=f"chmod 600 {path}")
        with path.open(encoding="utf-8") as file:
            text = file.read(PASSWORD_MAX + 1)
    except OSError as error:
        raise BadInput(
            f"NEO4J_PASSWORD_FILE {path}: {error.strerror}", hint="name a file that holds the password"
        ) from None
    except UnicodeDecodeError:
        raise BadInput(
            f"NEO4J_PASSWORD_FILE {path}: this is no text", hint="name a file that holds the password"
        ) from None
    password = text.rstrip("\r\n")
    if not password or len(password) > PASSWORD_MAX or "\n" in password:
        raise BadInput(
            f"NEO4J_PASSWORD_FILE {path}: this is not one line", hint="the file holds the password, and nothing else"
        )
    return password
