"""One PostgreSQL, a bounded pool per process, and the schema.

All services share one database, so that the ledger is one consistent read; each table is written by one service only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from shop.errors import Problem
from shop.metrics import POOL_WAITING
from shop.tracing import Span, SpanKind, Tracer, fail, in_context

Connection = AsyncConnection[TupleRow]

WAIT_S = 1.0  # for a free connection; longer than this and the customer has gone
READY_S = 0.5
SEEDED = 20
INITIAL_STOCK = 1_000_000
LOCK = 7070  # advisory lock number of migrations

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS product (sku text PRIMARY KEY, name text NOT NULL, price_cents bigint NOT NULL CHECK (price_cents >= 0));
CREATE TABLE IF NOT EXISTS stock (sku text PRIMARY KEY REFERENCES product, initial bigint NOT NULL, available bigint NOT NULL)
  WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS cart (id uuid PRIMARY KEY, items jsonb NOT NULL, total_cents bigint NOT NULL, created_us bigint NOT NULL);
CREATE TABLE IF NOT EXISTS orders (id uuid PRIMARY KEY, idempotency_key text NOT NULL UNIQUE, cart_id uuid NOT NULL, state text NOT NULL,
  reason text, customer text NOT NULL, total_cents bigint NOT NULL, items jsonb NOT NULL,
  created_us bigint NOT NULL, updated_us bigint NOT NULL, traceparent text);
CREATE INDEX IF NOT EXISTS orders_created ON orders (created_us, id);
CREATE INDEX IF NOT EXISTS orders_pending ON orders (updated_us) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS outbox (order_id uuid PRIMARY KEY, traceparent text, tries int NOT NULL DEFAULT 0, due_us bigint NOT NULL);
CREATE TABLE IF NOT EXISTS payment (id uuid PRIMARY KEY, order_id uuid NOT NULL, state text NOT NULL, amount_cents bigint NOT NULL,
  idempotency_key text NOT NULL UNIQUE, created_us bigint NOT NULL);
CREATE INDEX IF NOT EXISTS payment_order ON payment (order_id);
CREATE INDEX IF NOT EXISTS payment_created ON payment (created_us, id);
CREATE TABLE IF NOT EXISTS shipment (id uuid PRIMARY KEY, order_id uuid NOT NULL UNIQUE, state text NOT NULL, created_us bigint NOT NULL);
CREATE INDEX IF NOT EXISTS shipment_created ON shipment (created_us, id);
INSERT INTO product SELECT 'sku-' || lpad(n::text, 3, '0'), 'Article ' || n, 100 * n + 99 FROM generate_series(1, {SEEDED}) n
  ON CONFLICT DO NOTHING;
INSERT INTO stock SELECT sku, {INITIAL_STOCK}, {INITIAL_STOCK} FROM product ON CONFLICT DO NOTHING;
"""


class Database:
    """A pool that opens in the background, so that a pod may start before its database."""

    def __init__(self, conninfo: str, pool_max: int, tracer: Tracer) -> None:
        self._tracer = tracer
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo, min_size=1, max_size=pool_max, open=False, timeout=WAIT_S, reconnect_timeout=5.0,
            kwargs={"autocommit": True, "connect_timeout": 2, "tcp_user_timeout": 3000}, configure=_configure,
        )  # fmt: skip
        self._migrated = False
        self._check: asyncio.Task[bool] | None = None

    async def open(self) -> None:
        """Start connecting; returns at once."""
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close the pool after what is under way."""
        await self._pool.close(timeout=2.0)

    async def ready(self) -> bool:
        """True if a query is answered in time; migrates first, and again should the database have lost its schema.

        The query is not cancelled when its time is over: psycopg would wait for the server even then, and so would whoever asks.
        """
        if self._check is None or self._check.done():
            self._check = asyncio.ensure_future(self._answers())
        done, _ = await asyncio.wait({self._check}, timeout=READY_S if self._migrated else 5.0)
        return bool(done) and self._check.result()

    async def _answers(self) -> bool:
        try:
            async with self._pool.connection(timeout=READY_S) as connection:
                if not (self._migrated and await _is_migrated(connection)):  # it may come back empty, too
                    await migrate(connection)
                    self._migrated = True
        except (psycopg.Error, PoolTimeout):
            return False
        return True

    @asynccontextmanager
    async def connection(self, operation: str, parent: Span | None = None) -> AsyncIterator[Connection]:
        """A connection for one transaction's worth of work, with one span around it.

        Raises Problem 503 when the database cannot be had or breaks.
        """
        span = self._tracer.start_span(
            f"{operation} postgres", in_context(parent) if parent else None, SpanKind.CLIENT,
            {"peer.service": "postgres", "db.operation": operation},
        )  # fmt: skip
        POOL_WAITING.set(self._pool.get_stats().get("requests_waiting", 0))
        try:
            async with self._pool.connection() as connection:
                yield connection
        except PoolTimeout:
            fail(span, "timeout")
            raise Problem(503, "database busy", "no connection became free in time", retry_after_s=1) from None
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            fail(span, "connection_reset")
            raise Problem(503, "database away", type(error).__name__, retry_after_s=1) from None
        finally:
            span.end()


async def migrate(connection: Connection) -> None:
    """Bring the schema up; safe when many processes start at once."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        if not await _is_migrated(connection):
            await connection.execute(SCHEMA.encode())


async def _is_migrated(connection: Connection) -> bool:
    present = await (await connection.execute("SELECT to_regclass('shipment_created') IS NOT NULL")).fetchone()
    return bool(present and present[0])


async def _configure(connection: Connection) -> None:
    connection.prepare_threshold = 3
    await connection.execute("SET statement_timeout = '3s'")
