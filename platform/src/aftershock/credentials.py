"""What a request says to prove who asks, and where fresh ones come from when the server no longer believes it (401)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aftershock.errors import BadInput


class Credentials(Protocol):
    """Headers of each request; `renew` after a 401, True if what was `sent` then is not what would be sent now."""

    def headers(self) -> Mapping[str, str]:
        """As of now."""

    def renew(self, sent: Mapping[str, str]) -> bool:
        """Look for fresh ones."""


@dataclass(frozen=True)
class Fixed:
    """A token that nobody renews, or none."""

    said: Mapping[str, str]

    def headers(self) -> Mapping[str, str]:
        """The same each time."""
        return self.said

    def renew(self, sent: Mapping[str, str]) -> bool:
        """Never."""
        return False


class TokenFile:
    """A token in a file that somebody rewrites (kubeconfig's `tokenFile`, a projected ServiceAccount token).

    While the file cannot be read the last token serves, as in client-go.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._token, self._seen = path, "", (0, 0, 0)
        self._read()
        if not self._token:
            raise BadInput(f"tokenFile {path}: there is no token in it", hint="write a token to it, mode 0600")

    def headers(self) -> Mapping[str, str]:
        """With the token that is in the file now."""
        self._read()
        return {"authorization": f"Bearer {self._token}"}

    def renew(self, sent: Mapping[str, str]) -> bool:
        """True if the file was rewritten since, even within one tick of its clock."""
        self._seen = (0, 0, 0)
        return self.headers()["authorization"] != sent.get("authorization")

    def _read(self) -> None:
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen == self._seen:
                return
            text = self._path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return
        if text:  # a file that is just being written is empty
            self._token, self._seen = text, seen


class Plugin:
    """What a program of the user's says (kubeconfig's `exec`), or another source that is asked anew after a 401."""

    def __init__(
        self, ask: Callable[[], Callable[[], Mapping[str, str]]], first: Callable[[], Mapping[str, str]]
    ) -> None:
        self._ask, self._now = ask, first

    def headers(self) -> Mapping[str, str]:
        """The source itself asks again once what it got says that it has expired."""
        return self._now()

    def renew(self, sent: Mapping[str, str]) -> bool:
        """Ask again, whatever the expiry says: the server does not believe it."""
        self._now = self._ask()
        return self._now().get("authorization") != sent.get("authorization")
