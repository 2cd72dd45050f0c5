"""What every service is: one ASGI application with health, metrics, traces, problem+json and an end that finishes what was accepted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from opentelemetry.sdk.trace import TracerProvider
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop import metrics, tracing
from shop.database import Connection, Database
from shop.errors import Problem
from shop.peer import Peers
from shop.settings import Settings

__all__ = ["Connection", "Observed", "Service", "application", "make", "now_us", "span_of"]

Background = Callable[[], Awaitable[None]]
AGAIN_S = 0.5
BODY_BYTES_MAX = 65_536
UNOBSERVED = frozenset({"/healthz", "/readyz", "/metrics"})


@dataclass
class Service:
    """One running service; `draining` turns true once, at SIGTERM."""

    settings: Settings
    provider: TracerProvider
    peers: Peers
    database: Database | None
    draining: bool = False
    background: list[Background] = field(default_factory=list)

    @property
    def db(self) -> Database:
        """The database of a service that has one."""
        assert self.database is not None, f"{self.settings.role} has no database"
        return self.database

    def weak(self, name: str) -> bool:
        """True if this weakness is switched on."""
        return name in self.settings.weaknesses


def make(settings: Settings) -> Service:
    """Put a service together; opens nothing yet."""
    provider = tracing.provider(settings)
    tracer = tracing.tracer(provider)
    database = Database(settings.database, settings.pool_max, tracer) if settings.database else None
    return Service(settings, provider, Peers(settings, tracer), database)


def application(service: Service, router: APIRouter) -> FastAPI:
    """The ASGI application around the routes of one role."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.peers.open()
        if service.database:
            await service.database.open()
        tasks = [asyncio.ensure_future(_kept_up(work)) for work in service.background]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await service.peers.close()
        if service.database:
            await service.database.close()
        await asyncio.to_thread(service.provider.shutdown)

    app = FastAPI(title=f"shop {service.settings.role}", lifespan=lifespan, openapi_url=None)
    app.include_router(router)
    app.include_router(_operations(service))
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _crash)
    app.add_middleware(Observed, service=service)
    return app


def span_of(request: Request) -> tracing.Span:
    """The server span of the request under way."""
    span: tracing.Span = request.scope["shop.span"]
    return span


def now_us() -> int:
    """Wall clock, microseconds since the epoch."""
    return time.time_ns() // 1000


async def _kept_up(work: Background) -> None:
    """Work in the background must outlive its own mistakes: a parcel that is never sent is worse than a noisy log."""
    while True:
        try:
            await work()
        except Exception:
            logging.getLogger("shop").exception("background work failed, starting again")
            await asyncio.sleep(AGAIN_S)


def _operations(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> Response:
        return Response("ok\n", media_type="text/plain")

    @router.get("/readyz")
    async def readyz() -> Response:
        lies = service.weak("readiness-lies")
        if service.draining and not lies:
            return Response("draining\n", 503, media_type="text/plain")
        if service.database and not await service.database.ready() and not lies:
            return Response("no database\n", 503, media_type="text/plain")
        return Response("ready\n", media_type="text/plain")

    @router.get("/metrics")
    async def exposed() -> Response:
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4")

    return router


class Observed:
    """Middleware: one server span and two metrics per request, and `Connection: close` while draining."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._tracer = tracing.tracer(service.provider)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or scope["path"] in UNOBSERVED:
            await self._app(scope, receive, send)
            return
        header = next((v for k, v in scope["headers"] if k == b"traceparent"), b"").decode("latin-1")
        span = self._tracer.start_span(scope["method"], tracing.parent_of(header), tracing.SpanKind.SERVER)
        scope["shop.span"] = span
        started, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._service.draining:
                    message.setdefault("headers", []).append((b"connection", b"close"))
            await send(message)

        try:
            await self._app(scope, _limited(receive), sent)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                tracing.fail(span, str(status))
            span.end()
            role = self._service.settings.role
            metrics.REQUESTS.labels(role, route, scope["method"], status).inc()
            metrics.DURATION.labels(role, route, scope["method"]).observe(time.perf_counter() - started)


def _limited(receive: Receive) -> Receive:
    """Refuse a body that no request of this API needs, before it is in memory."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > BODY_BYTES_MAX:
            raise HTTPException(413, "body too large")
        return message

    return limited


def _body(status: int, title: str, detail: Any, retry_after_s: int | None = None) -> JSONResponse:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
    return JSONResponse({"type": "about:blank", "title": title, "status": status, "detail": detail}, status, headers,
                        media_type="application/problem+json")  # fmt: skip


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _body(error.status, error.title, error.detail, error.retry_after_s)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    where = [{"field": ".".join(map(str, e["loc"])), "what": e["msg"]} for e in error.errors()[:10]]
    return _body(422, "invalid request", where)


async def _crash(_: Request, error: Exception) -> Response:
    return _body(500, "internal error", type(error).__name__)


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _body(error.status_code, str(error.detail), "")
