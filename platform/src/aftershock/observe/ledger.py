"""The shop's ledger, read as a stranger would: through the API server's services/proxy, with the operator's token.

No answer is an error and never an empty ledger; a page without its `end` line is no page.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from typing import Any, NamedTuple
from urllib.parse import quote

from aftershock.cluster import Cluster
from aftershock.errors import ClusterError, ClusterUnreachable, FolderError
from aftershock.folder import RunFolder

PAGE, PAGES_MAX = 5_000, 400
TIMEOUT_S = 10.0
POLL_S = 0.4
SILENT_S = 3.0  # an API server that answers nothing, or refuses us, for so long will not be waited for
OPEN_STATES = frozenset({"pending", "paid"})
KINDS = frozenset({"order", "payment", "shipment", "stock", "end"})
Line = dict[str, Any]


class Settled(NamedTuple):
    """The ledger at the end of a wait.

    `lines` is the newest whole reading, None if there never was one. `error` is set if the last try brought no answer; then `lines`, if
    any, are older than that.
    """

    lines: list[Line] | None
    settled: bool
    error: str | None


class Ledger:
    """Reads one shop's ledger."""

    def __init__(
        self, cluster: Cluster, namespace: str = "shop", *, service: str = "orders", port: str = "http",
        secret: str = "operator", key: str = "token",
    ) -> None:  # fmt: skip
        self._cluster, self._namespace = cluster, namespace
        self._path = f"/api/v1/namespaces/{quote(namespace)}/services/{quote(service)}:{quote(port)}/proxy/ledger"
        self._secret, self._key = secret, key

    def read(self, since_us: int, timeout_s: float = TIMEOUT_S) -> list[Line]:
        """Every line of every page since a time, in order; the last is the end. Raises ClusterError if any page is missing."""
        headers = {"X-Operator-Token": self._token(), "Accept": "application/x-ndjson"}
        lines: list[Line] = []
        cursor, ends = "", time.monotonic() + timeout_s
        for _ in range(PAGES_MAX):
            left = ends - time.monotonic()
            if left <= 0:
                raise ClusterError(f"the ledger was not read within {timeout_s:g} s")
            query = {"since_us": since_us, "limit": PAGE, "cursor": cursor or None}
            status, content = self._cluster.raw("GET", self._path, query=query, headers=headers, timeout_s=left)
            if status != 200:
                raise ClusterError(
                    f"the ledger answered {status}: {content[:200].decode('utf-8', 'replace')}", status=status
                )
            page = _page(content)
            lines += page
            following = page[-1].get("next")
            if not following:
                return lines
            if following == cursor:
                raise ClusterError("the ledger repeats a page")
            cursor = str(following)
        raise ClusterError(f"the ledger has more than {PAGES_MAX} pages")

    def settle(self, since_us: int, deadline_s: float) -> Settled:
        """Read until no order is pending, or paid and not shipped; at the deadline, or before an API server that is gone or does not
        let us in, what there is."""  # fmt: skip
        ends, silent_s = time.monotonic() + deadline_s, 0.0
        lines: list[Line] | None = None
        while True:
            error, asked = None, time.monotonic()
            try:
                lines = self.read(since_us, max(0.5, min(TIMEOUT_S, ends - asked)))
            except ClusterError as failure:
                error = str(failure)
                silent_s += time.monotonic() - asked + POLL_S if _shut(failure) else -silent_s
                if silent_s > SILENT_S:
                    return Settled(lines, False, error)
            if error is None and lines is not None and not open_orders(lines):
                return Settled(lines, True, None)
            if time.monotonic() + POLL_S >= ends:
                return Settled(lines, False, error)
            time.sleep(POLL_S)

    def collect(self, folder: RunFolder, since_us: int, deadline_s: float) -> Settled:
        """`settle`, and write ledger.ndjson if there was an answer."""
        result = self.settle(since_us, deadline_s)
        if result.lines is None:
            return result
        try:
            folder.write_lines("ledger.ndjson", result.lines)
        except FolderError as error:
            return Settled(None, False, f"the ledger breaks its contract: {error}")
        return result

    def _token(self) -> str:
        path = f"/api/v1/namespaces/{quote(self._namespace)}/secrets/{quote(self._secret)}"
        data = self._cluster.request("GET", path, timeout_s=SILENT_S).get("data") or {}
        try:
            return base64.b64decode(data[self._key], validate=True).decode("ascii").strip()
        except (KeyError, ValueError, binascii.Error):
            raise ClusterError(f"Secret {self._namespace}/{self._secret} has no readable key {self._key}") from None


def _shut(failure: ClusterError) -> bool:
    """Whether asking again is of no use: nobody answers, or these credentials are not good (any more)."""
    return isinstance(failure, ClusterUnreachable) or failure.status in (401, 403)


def open_orders(lines: list[Line]) -> list[str]:
    """Ids of orders that the shop still has to do something about."""
    return [str(line["id"]) for line in lines if line["kind"] == "order" and line.get("state") in OPEN_STATES]


def _page(content: bytes) -> list[Line]:
    """The lines of one page, the last of kind `end`. Raises ClusterError."""
    lines: list[Line] = []
    for number, text in enumerate(content.splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError:
            raise ClusterError(f"line {number} of the ledger is no JSON") from None
        if (
            not isinstance(line, dict)
            or line.get("kind") not in KINDS
            or (line["kind"] == "order" and "id" not in line)
        ):
            raise ClusterError(f"line {number} of the ledger is of no known kind")
        lines.append(line)
    if not lines or lines[-1]["kind"] != "end" or any(line["kind"] == "end" for line in lines[:-1]):
        raise ClusterError("a page of the ledger ends too early")
    return lines
