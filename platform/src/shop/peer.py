"""Calls to other services: a timeout per try, bounded retries with full jitter, and errors that say whether the peer may have acted.

The retry budget is short on purpose (about 0.1 s of waiting): it bridges a pod that dies while others serve, not an outage.
Backoff with full jitter after M. Brooker, "Exponential Backoff and Jitter" (2015).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from shop import metrics
from shop.errors import PeerRefused, PeerUnknown
from shop.settings import Settings
from shop.tracing import Span, SpanKind, Tracer, fail, in_context, traceparent

TRIES = 3
BACKOFF_S = 0.04  # upper end of the first wait; doubles
CONNECTIONS_MAX = 100
IMPATIENT_S = 0.2  # what a caller with the weakness `impatient` waits at most
RETRIED_STATUS = frozenset({502, 503, 504})


@dataclass(frozen=True)
class Answer:
    """What a peer said; `body` is parsed JSON, or None if the caller only passes `content` on."""

    status: int
    content: bytes
    body: Any


class Peers:
    """All peers of one service over one connection pool."""

    def __init__(self, settings: Settings, tracer: Tracer) -> None:
        self._service = settings.role
        self._urls = settings.peers
        self._tracer = tracer
        self._tries = 1 if "no-retries" in settings.weaknesses else TRIES
        self._no_timeout = "no-timeout" in settings.weaknesses
        self._patience_s = IMPATIENT_S if "impatient" in settings.weaknesses else float("inf")
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the connection pool; needs a running loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=5.0, use_dns_cache=False),
            auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(),
        )  # fmt: skip

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()

    async def call(
        self, peer: str, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None,
        parent: Span | None = None, timeout_s: float = 0.6, deadline_s: float = 1.6, retry_status: bool = True, tries: int = TRIES,
        parse: bool = True,
    ) -> Answer:  # fmt: skip
        """Ask a peer, again where that is safe: every call of this shop is idempotent.

        `timeout_s` is per try, `deadline_s` over all. Raises PeerRefused (did not happen), PeerUnknown (may have happened).
        """
        ends = time.monotonic() + deadline_s
        reached = False
        last: PeerRefused | PeerUnknown | None = None
        answer: Answer | None = None
        for attempt in range(min(tries, self._tries)):
            if attempt:
                await asyncio.sleep(random.uniform(0, BACKOFF_S * 2 ** (attempt - 1)))
            left = ends - time.monotonic()
            if left <= 0.01:
                break
            try:
                limit = None if self._no_timeout else min(timeout_s, left, self._patience_s)
                answer = await self._once(peer, method, path, body, headers, parent, limit, parse)
            except PeerRefused as error:
                last = error
                continue
            except PeerUnknown as error:
                last, reached = error, True
                continue
            if not (retry_status and answer.status in RETRIED_STATUS):
                return answer
            reached = True
        if answer is not None:
            return answer
        assert last is not None
        raise (
            last
            if reached == isinstance(last, PeerUnknown)
            else PeerUnknown(peer, "error", "an earlier try may have been done")
        )

    async def _once(
        self, peer: str, method: str, path: str, body: Any, headers: Mapping[str, str] | None, parent: Span | None,
        timeout_s: float | None, parse: bool,
    ) -> Answer:  # fmt: skip
        assert self._session is not None, "open() first"
        span = self._tracer.start_span(
            f"{method} {peer}", in_context(parent) if parent else None, SpanKind.CLIENT, {"peer.service": peer}
        )
        outcome = "error"
        try:
            async with self._session.request(
                method, self._urls[peer] + path, json=body,
                headers={**(headers or {}), "traceparent": traceparent(span)},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:  # fmt: skip
                content = await response.read()
                parsed = json.loads(content) if parse and content else None
                span.set_attribute("http.response.status_code", response.status)
                if response.status >= 500:
                    fail(span, str(response.status))
                else:
                    outcome = "ok"
                return Answer(response.status, content, parsed)
        except aiohttp.ClientConnectorError as error:
            outcome = "refused"
            fail(span, "connection_refused")
            raise PeerRefused(peer, outcome, type(error).__name__) from None
        except TimeoutError:
            outcome = "timeout"
            fail(span, "timeout")
            raise PeerUnknown(peer, outcome, f"no answer within {timeout_s} s") from None
        except (aiohttp.ClientError, ValueError, ConnectionError) as error:
            fail(span, "connection_reset")
            raise PeerUnknown(peer, outcome, type(error).__name__) from None
        finally:
            metrics.CALLS.labels(self._service, peer, outcome).inc()
            span.end()
