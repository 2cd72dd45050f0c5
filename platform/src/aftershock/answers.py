"""What an API server answers: one body, or the lines of a watch; and what has gone wrong, as an error that says so."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import urllib3
from urllib3.exceptions import HTTPError, ReadTimeoutError

from aftershock.errors import ClusterError, ClusterUnreachable, Forbidden, NotFound

Object = dict[str, Any]
BYTES_MAX = 64_000_000


class Watch(Iterator[Object]):
    """Events of one watch: `{"type", "object"}`; ends when the server ends it or when another thread calls `close`."""

    def __init__(self, response: urllib3.BaseHTTPResponse, path: str) -> None:
        self._response, self._path = response, path
        self._lines: list[bytes] = []
        self._rest = b""
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._response.close()

    def __next__(self) -> Object:
        while not self._lines:
            try:
                chunk = self._response.read1(65_536)
            except (HTTPError, OSError, ValueError, AttributeError) as error:  # the last two: closed while reading
                if self._closed:
                    raise StopIteration from None
                raise silent(f"watch {self._path}", error, True) from None
            if not chunk:
                raise StopIteration
            *self._lines, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > BYTES_MAX:
                raise ClusterError(f"watch {self._path}: an event larger than {BYTES_MAX // 1_000_000} MB")
        event = parsed(self._lines.pop(0), "watch", self._path)
        if event.get("type") == "ERROR":
            status = event.get("object") or {}
            raise _error("watch", self._path, int(status.get("code") or 500), status, definite=True)
        return event

    def close(self) -> None:
        """End the watch; a thread that waits in it sees its end."""
        self._closed = True
        try:
            self._response.shutdown()
        except (OSError, ValueError, RuntimeError):
            return  # it ended by itself


def read(response: urllib3.BaseHTTPResponse, ends: float, what: str, definite: bool = True) -> bytes:
    """The whole body, or an error once the deadline is over; the connection goes back to the pool."""
    content = bytearray()
    try:
        while chunk := response.read1(65_536):
            content += chunk
            if len(content) > BYTES_MAX or time.monotonic() > ends:
                response.close()
                why = "is too large" if len(content) > BYTES_MAX else "did not end in time"
                raise ClusterUnreachable(f"{what}: the answer {why}", definite=definite)
    except (HTTPError, OSError) as error:
        response.close()
        raise silent(what, error, definite) from None
    response.release_conn()
    return bytes(content)


def parsed(content: bytes, method: str, path: str) -> Object:
    try:
        value = json.loads(content) if content else {}
    except ValueError:
        raise ClusterError(f"{method} {path}: the answer is no JSON: {content[:100]!r}") from None
    if not isinstance(value, dict):
        raise ClusterError(f"{method} {path}: the answer is no object")
    return value


def refused(method: str, path: str, status: int, content: bytes, *, definite: bool) -> ClusterError:
    try:
        told = json.loads(content)
    except ValueError:
        told = {"message": content[:200].decode("utf-8", "replace").strip()}
    return _error(method, path, status, told if isinstance(told, dict) else {}, definite=definite)


def _error(method: str, path: str, status: int, told: Mapping[str, Any], *, definite: bool) -> ClusterError:
    message = f"{method} {path}: {status} {told.get('message') or told.get('reason') or ''}".rstrip()
    kind, hint = ClusterError, None
    if status == 404:
        kind = NotFound
    elif status == 401:
        kind, hint = Forbidden, "these credentials have expired or were revoked: get fresh ones, then `aftershock undo`"
    elif status == 403:
        kind, hint = Forbidden, "are these credentials valid and allowed to do this? kubectl auth can-i"
    elif not definite:
        message += " (it may have been done all the same)"
    return kind(message, hint=hint, status=status, reason=told.get("reason"), body=told, definite=definite)


def silent(what: str, error: Exception, definite: bool) -> ClusterUnreachable:
    why = "no answer in time" if isinstance(error, ReadTimeoutError | TimeoutError) else f"no answer: {cause(error)}"
    if not definite:
        why += " (it may have been done all the same)"
    return ClusterUnreachable(f"{what}: {why}", definite=definite)


def cause(error: Exception) -> str:
    text = str(error)
    return text.rpartition(">: ")[2] or type(error).__name__
